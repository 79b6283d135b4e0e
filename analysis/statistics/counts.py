"""The sufficient statistic: how many finetuning runs of each pretraining seed are correct."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.shapes import CorrectCounts, InstanceIntegers


@dataclass(frozen=True)
class Counts:
    """Correct finetuning runs by size, instance and complete pretraining seed.

    The same class serves single runs (``runs`` = F) and ensembles (``runs`` = 1).

    Attributes
    ----------
    sizes : tuple of str
        Model sizes, smallest first.
    seeds : tuple of tuple of int
        For each size, in order, the pretraining seeds all of whose runs are finished.
    correct : tuple of CorrectCounts, unsigned
        For each size, the number of correct runs, 0..`runs`.
    runs : int
        F, the finetuning runs of one pretraining seed.
    """

    sizes: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...]
    correct: tuple[NDArray[np.unsignedinteger], ...]
    runs: int

    @property
    def instances(self) -> int:
        """Number of instances."""
        return self.correct[0].shape[0] if self.correct else 0

    def common_even_seeds(self, first: int, second: int) -> int:
        """Return the largest even number of pretraining seeds that two sizes (positions) have.

        Examples
        --------
        Both sizes have 2 seeds; the third seed of ``base`` cannot be paired:

        >>> correct = np.zeros((1, 2), np.uint8), np.zeros((1, 3), np.uint8)
        >>> Counts(("mini", "base"), ((1, 2), (1, 2, 3)), correct, runs=5).common_even_seeds(0, 1)
        2
        """
        return min(len(self.seeds[first]), len(self.seeds[second])) // 2 * 2


def correct_runs(correct: CorrectCounts) -> InstanceIntegers:
    """Add up the correct runs of every instance over the pretraining seeds.

    Parameters
    ----------
    correct : CorrectCounts

    Returns
    -------
    InstanceIntegers

    Examples
    --------
    >>> correct_runs(np.array([[2, 2], [0, 1]])).tolist()
    [4, 1]
    """
    total = np.zeros(len(correct), dtype=np.int64)
    # Column by column: NumPy's sum along so short an axis takes several times as long.
    for seed in range(correct.shape[1]):
        np.add(total, correct[:, seed], out=total, casting="unsafe")
    return total


def count_dtype(runs: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest unsigned type that holds a count of 0..`runs`.

    Examples
    --------
    One byte holds 0..255:

    >>> count_dtype(255), count_dtype(256)
    (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.min_scalar_type(runs))
