"""Runs that diverge: when to stop a run, and how to record it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.atomic import write_text
from configs.schema import Divergence

logger = logging.getLogger(__name__)

_RECORD = "diverged.json"


class Diverged(Exception):
    """A run was stopped because it diverges.

    Parameters
    ----------
    run : str
        Name of the run.
    step : int
        Steps done when it was stopped.
    loss : float
        Its loss then.
    reason : str
        Why, such as `the loss is nan`.
    """

    def __init__(self, run: str, step: int, loss: float, reason: str) -> None:
        super().__init__(run, step, loss, reason)
        self.run = run
        self.step = step
        self.loss = loss
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.run}: {self.reason} at step {self.step}"


@dataclass(frozen=True)
class Watch:
    """When to stop a run.

    Stop a run at once when its loss or a weight is not finite, and stop a run whose loss stays
    above `limit` for `steps` steps in a row. A run that learns nothing, whose loss is that of
    guessing, continues: such runs are part of the variance under study.

    Attributes
    ----------
    limit : float
        In nats; several times the loss of guessing.
    steps : int
        Stop a run whose loss is above the limit for so many steps in a row.
    """

    limit: float = float("inf")
    steps: int = 1

    @classmethod
    def beyond_guessing(cls, settings: Divergence, guessing: float) -> Watch:
        """Make the watch of a stage from its settings and the loss of guessing, in nats."""
        return cls(settings.factor * guessing, settings.steps)

    def check_losses(self, run: str, first: int, loss: NDArray[np.float32], above: int) -> int:
        """Check the losses of some steps.

        Parameters
        ----------
        run : str
            Name of the run.
        first : int
            Number of steps before these.
        loss : float32 array [step]
            The loss at each of these steps.
        above : int
            For how many steps in a row, up to `first`, the loss has been above the limit.

        Returns
        -------
        int
            The same count after these steps.

        Raises
        ------
        Diverged
        """
        for i, value in enumerate(loss.tolist(), start=first + 1):
            if not np.isfinite(value):
                raise Diverged(run, i, value, f"the loss is {value}")
            above = above + 1 if value > self.limit else 0
            if above >= self.steps:
                reason = f"the loss, {value:.3g}, has been above {self.limit:.3g} for {above} steps"
                raise Diverged(run, i, value, reason)
        return above

    def check_weights(
        self,
        run: str,
        step: int,
        loss: NDArray[np.float32],
        weights: Mapping[str, NDArray[Any]],
    ) -> None:
        """Check the weights after a step; its loss was computed from the weights before it.

        Raises
        ------
        Diverged
            If a weight is not finite.
        """
        for path, value in weights.items():
            if not np.isfinite(value).all():
                raise Diverged(run, step, float(loss[-1]), f"{path} is not finite")


def divergence_file(folder: Path) -> Path:
    """Path of the record that a run diverged; without this file, the run is trained again."""
    return folder / _RECORD


def record_divergence(folder: Path, diverged: Diverged, learning_rate: float) -> None:
    """Record in a run's folder that it diverged, at which step, and why."""
    record = {
        "run": diverged.run,
        "step": diverged.step,
        # JSON has no NaN.
        "loss": diverged.loss if np.isfinite(diverged.loss) else str(diverged.loss),
        "reason": diverged.reason,
        "learning_rate": learning_rate,
    }
    write_text(divergence_file(folder), json.dumps(record, indent=2) + "\n")


def has_diverged(folder: Path) -> bool:
    """Whether the run of a folder diverged."""
    return divergence_file(folder).is_file()


def log_skipped_runs(stage: str, folders: Iterable[Path]) -> None:
    """Log in one line which runs a stage skips because they diverged before.

    Parameters
    ----------
    stage : str
        Name of the stage, with which the line begins.
    folders : iterable of Path
        Folders of the runs that are not finished.
    """
    diverged = [divergence_file(folder) for folder in folders if has_diverged(folder)]
    if diverged:
        logger.info(
            "%s: %d runs diverged before and are skipped; to train one on from its last good "
            "checkpoint, remove its record: %s",
            stage,
            len(diverged),
            " ".join(map(str, diverged)),
        )
