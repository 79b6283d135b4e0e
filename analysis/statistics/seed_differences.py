"""How much predictions differ between runs of one size (Table 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.multisets import Multisets, multisets


@dataclass(frozen=True)
class SeedDifferences:
    """Average disagreement between two runs of one size, as fractions of the instances.

    Attributes
    ----------
    finetune : float
        Runs that share the pretraining seed; NaN with fewer than two finetuning seeds.
    pretrain : float
        Runs whose pretraining seeds differ; NaN with fewer than two pretraining seeds.
    """

    finetune: float
    pretrain: float


def seed_differences(correct: NDArray[np.integer] | Multisets, runs: int) -> SeedDifferences:
    """Average over all pairs of runs, without a loop over pairs.

    Of F runs with u correct, u (F - u) of the C(F, 2) pairs disagree; of two pretraining seeds
    with u and u' correct, u (F - u') + u' (F - u) of the F^2 pairs do. The sums are of integers,
    so the result is the exact fraction rounded once.

    Parameters
    ----------
    correct : ndarray of int, shape [instance, pretrain_seed], or Multisets
        Correct finetuning runs, 0..`runs`, or their multisets.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    SeedDifferences
        Diff_FTune and Diff_PTrain of Table 1 of the paper.
    """
    distinct = correct if isinstance(correct, Multisets) else multisets(correct)
    rows, frequency = distinct.rows, distinct.frequency
    instances, seeds = len(distinct.index), rows.shape[1]
    same = (rows * (runs - rows)).sum(axis=1)
    total = rows.sum(axis=1)
    other = total * (seeds * runs - total) - same
    finetune_pairs = instances * seeds * (runs * (runs - 1) // 2)
    pretrain_pairs = instances * (seeds * (seeds - 1) // 2) * runs**2
    return SeedDifferences(
        finetune=int(same @ frequency) / finetune_pairs if finetune_pairs else float("nan"),
        pretrain=int(other @ frequency) / pretrain_pairs if pretrain_pairs else float("nan"),
    )


def std_accuracy(run_accuracy: NDArray[np.float64]) -> float:
    """Sample standard deviation (ddof 1) of the overall accuracy of runs.

    Parameters
    ----------
    run_accuracy : ndarray of float64, any shape
        Accuracy of each run over all instances, fractions.

    Returns
    -------
    float
        Std_all of Table 1; NaN with fewer than two runs.
    """
    return float(np.std(run_accuracy, ddof=1)) if run_accuracy.size > 1 else float("nan")
