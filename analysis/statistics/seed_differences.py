"""How much predictions differ between runs of one size (Table 1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.multisets import Multisets, multisets
from analysis.statistics.shapes import CorrectCounts


@dataclass(frozen=True)
class SeedDifferences:
    """Average disagreement between two runs of one size, as fractions of the instances.

    Attributes
    ----------
    finetune : float
        Between runs that share the pretraining seed; NaN with fewer than two finetuning seeds.
    pretrain : float
        Between runs whose pretraining seeds differ; NaN with fewer than two pretraining seeds.
    """

    finetune: float
    pretrain: float


def seed_differences(correct: CorrectCounts | Multisets, runs: int) -> SeedDifferences:
    """Average the disagreement over all pairs of runs, without a loop over pairs.

    Of F runs with u correct, u (F - u) of the C(F, 2) pairs disagree; of two pretraining seeds
    with u and u' correct, u (F - u') + u' (F - u) of the F^2 pairs do. The sums are exact integers,
    so that only the final division is rounded.

    Parameters
    ----------
    correct : CorrectCounts or Multisets
        The counts, or their multisets.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    SeedDifferences
        Diff_FTune and Diff_PTrain of Table 1 of the paper.

    Examples
    --------
    Two pretraining seeds with 2 runs each. On the first instance only the runs of the first seed
    are correct: runs that share a seed agree, and all 4 pairs of runs with different seeds
    disagree. On the second instance one run of each seed is correct: the pair of each seed
    disagrees, and so do 2 of the 4 pairs with different seeds. Together 2 of 4 and 6 of 8 pairs:

    >>> seed_differences(np.array([[2, 0], [1, 1]]), runs=2)
    SeedDifferences(finetune=0.5, pretrain=0.75)
    """
    distinct = correct if isinstance(correct, Multisets) else multisets(correct)
    rows, frequency = distinct.rows, distinct.frequency
    instances, seeds = len(distinct.index), rows.shape[1]
    # Pairs of runs that disagree, by multiset: with the same pretraining seed, and with two.
    within = (rows * (runs - rows)).sum(axis=1)
    total = rows.sum(axis=1)
    between = total * (seeds * runs - total) - within
    finetune_pairs = instances * seeds * (runs * (runs - 1) // 2)
    pretrain_pairs = instances * (seeds * (seeds - 1) // 2) * runs**2
    return SeedDifferences(
        finetune=int(within @ frequency) / finetune_pairs if finetune_pairs else float("nan"),
        pretrain=int(between @ frequency) / pretrain_pairs if pretrain_pairs else float("nan"),
    )


def std_accuracy(run_accuracy: NDArray[np.float64]) -> float:
    """Compute the sample standard deviation (ddof 1) of the overall accuracy of runs.

    Parameters
    ----------
    run_accuracy : ndarray of float64, any shape
        Accuracy of each run over all instances, fractions.

    Returns
    -------
    float
        Std_all of Table 1; NaN with fewer than two runs.

    Examples
    --------
    The mean is 0.75, and the variance (0.25^2 + 0 + 0.25^2) / 2 = 0.25^2:

    >>> std_accuracy(np.array([0.5, 0.75, 1.0]))
    0.25
    """
    return float(np.std(run_accuracy, ddof=1)) if run_accuracy.size > 1 else float("nan")
