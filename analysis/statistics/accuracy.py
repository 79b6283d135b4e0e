"""Instance accuracy (Equation 1) and the accuracy of whole runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def instance_accuracy(correct: NDArray[np.integer], runs: int) -> NDArray[np.float64]:
    """Estimate how often models of one size predict each instance correctly.

    Parameters
    ----------
    correct : ndarray of int, shape [instance, pretrain_seed]
        Correct finetuning runs, 0..`runs`, of at least one pretraining seed.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    ndarray of float64, shape [instance]
        Fractions in 0..1: the empirical average under Equation 1 of the paper.
    """
    return correct.sum(axis=1, dtype=np.int64) / (correct.shape[1] * runs)


def instance_accuracy_counts(correct: NDArray[np.integer], runs: int) -> NDArray[np.int64]:
    """Count the instances at each value that the instance accuracy can take.

    Parameters
    ----------
    correct : ndarray of int, shape [instance, pretrain_seed]
        Correct finetuning runs, 0..`runs`.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    ndarray of int64, shape [pretrain_seed * runs + 1]
        Element j: the instances on which exactly j runs were right (Figure 2a).
    """
    total = correct.sum(axis=1, dtype=np.int64)
    return np.bincount(total, minlength=correct.shape[1] * runs + 1)


def overall_accuracy(correct: NDArray[np.integer], runs: int) -> float:
    """Average accuracy over instances and runs, a fraction; NaN without runs or instances."""
    cells = correct.size * runs
    return float(correct.sum(dtype=np.int64) / cells) if cells else float("nan")
