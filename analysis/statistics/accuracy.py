"""Accuracy of instances (Equation 1) and of whole runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.counts import correct_runs
from analysis.statistics.shapes import CorrectCounts


def instance_accuracy_counts(correct: CorrectCounts, runs: int) -> NDArray[np.int64]:
    """Count the instances at each value that the instance accuracy can take.

    The instance accuracy is estimated by the fraction of correct runs, the empirical average that
    the paper gives below Equation 1.

    Parameters
    ----------
    correct : CorrectCounts
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    ndarray of int64, shape [pretrain_seed * runs + 1]
        Element j: the instances on which exactly j runs are correct (Figure 2a).

    Examples
    --------
    Two pretraining seeds with 2 runs each. On the first and the last instance all 4 runs are
    correct, on the second instance 1 run is:

    >>> instance_accuracy_counts(np.array([[2, 2], [0, 1], [2, 2]]), runs=2).tolist()
    [0, 1, 0, 0, 2]
    """
    return np.bincount(correct_runs(correct), minlength=correct.shape[1] * runs + 1)


def overall_accuracy(correct: CorrectCounts, runs: int) -> float:
    """Average the accuracy over instances and runs.

    Parameters
    ----------
    correct : CorrectCounts
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    float
        A fraction; NaN without runs or without instances.

    Examples
    --------
    Of 2 instances x 2 seeds x 2 runs = 8 predictions, 2 + 2 + 0 + 1 = 5 are correct:

    >>> overall_accuracy(np.array([[2, 2], [0, 1]]), runs=2)
    0.625
    """
    predictions = correct.size * runs
    return float(correct.sum(dtype=np.int64) / predictions) if predictions else float("nan")
