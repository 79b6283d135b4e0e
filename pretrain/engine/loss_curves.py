"""Loss curves of a run, as TensorBoard event files."""

from __future__ import annotations

from tensorboard.summary import Writer

from pretrain.engine.runs import Recorder, Run


def open_recorder(run: Run) -> Recorder:
    """Open event files in the run's folder."""
    return Writer(str(run.folder))
