"""Seconds that a training step takes on the devices present, from a few timed steps."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.atomic import write_text
from configs.reading import read_json
from configs.schema import Experiment, Size
from pretrain.engine.devices import training_strategy
from pretrain.jobs.sharing import Advance, Work, share_out

TIMED_STEPS = 3
TIMED_SECONDS = 0.5
# A step that would take more seconds is timed with fewer rows, and its time is scaled up.
LONGEST_STEP = 3.0


@dataclass(frozen=True)
class Timing:
    """What to time.

    Attributes
    ----------
    size : str
        Name of a size of the experiment.
    rows : int
        Sequences of a batch.
    vocabulary, labels : int
        Entries of the vocabulary, and a classifier's labels.
    result : Path
        Where the seconds are written.
    """

    size: str
    rows: int
    vocabulary: int
    labels: int
    result: Path


class TimingSession:
    """What a worker process keeps between the sizes that it times.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment

    @cached_property
    def strategy(self) -> Any:
        """How devices share batches; see `pretrain.engine.devices.training_strategy`."""
        return training_strategy()


def seconds_per_step(step: Callable[[int], None], rows: int, least_rows: int = 1) -> float:
    """Time steps of a number of rows.

    Parameters
    ----------
    step : callable
        Takes one step of as many rows as it is given.
    rows : int
        Rows of a step; a multiple of `least_rows`.
    least_rows : int
        The number of rows of any step must be a multiple of this.

    Returns
    -------
    float
        Seconds per step: the mean of a few steps after the first, which compiles. If a step of
        all rows would take longer than three seconds, that of fewer rows is timed and scaled up.
    """
    seconds = _mean_seconds(step, least_rows)
    multiple = max(1, min(rows // least_rows, int(LONGEST_STEP / seconds)))
    if multiple > 1:
        seconds = _mean_seconds(step, multiple * least_rows)
    return seconds * rows / (multiple * least_rows)


def _mean_seconds(step: Callable[[int], None], rows: int) -> float:
    step(rows)
    begun, taken, elapsed = time.perf_counter(), 0, 0.0
    while taken < TIMED_STEPS or elapsed < TIMED_SECONDS:
        step(rows)
        taken, elapsed = taken + 1, time.perf_counter() - begun
    return elapsed / taken


def time_sizes(
    work: Work[TimingSession, Timing],
    experiment: Experiment,
    sizes: Sequence[Size],
    *,
    rows: dict[str, int],
    vocabulary: int,
    labels: int = 0,
    label: str,
) -> dict[str, float]:
    """Time a step of each size in a worker process of the kind that trains the runs.

    Parameters
    ----------
    work : callable
        Times one `Timing` by `time_steps`.
    experiment : Experiment
        The whole experiment; nothing is written to its folder.
    sizes : sequence of Size
        Sizes to time.
    rows : dict of str to int
        Sequences of a batch by size.
    vocabulary, labels : int
        Entries of the vocabulary, and a classifier's labels.
    label : str
        Name of the progress bar.

    Returns
    -------
    dict of str to float
        Seconds a step by size.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = [
            Timing(size.name, rows[size.name], vocabulary, labels, folder / f"{size.name}.json")
            for size in sizes
        ]
        elsewhere = experiment.model_copy(update={"output": folder})
        share_out(
            work,
            TimingSession,
            elsewhere,
            items,
            is_done=is_timed,
            claim=lambda item: item.size,
            steps=lambda item: 1,
            workers=1,
            label=label,
            unit="size",
        )
        return {
            item.size: float(read_json(item.result, "run the same command again")) for item in items
        }


def is_timed(experiment: Experiment, timing: Timing) -> bool:
    """Whether the result of a timing has been written."""
    return timing.result.is_file()


def time_steps(
    timing: Timing, step: Callable[[int], None], advance: Advance, least_rows: int = 1
) -> str:
    """Time steps by `seconds_per_step`, and write the result.

    Returns
    -------
    str
        What was timed, with the seconds.
    """
    seconds = seconds_per_step(step, timing.rows, least_rows)
    write_text(timing.result, json.dumps(seconds))
    advance(1)
    return f"timed {timing.size}: {seconds:.4g} s a step of {timing.rows} rows"
