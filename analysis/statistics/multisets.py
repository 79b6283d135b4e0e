"""Multisets of counts: instances with the same multiset have the same statistics of a size.

A row of n counts in 0..F is, up to the order of the seeds, one of C(n + F, F) multisets (3,003 for
n = 10, F = 5), however many instances there are. Work per instance becomes work per multiset.

A multiset has a code, a whole number. Its digit v - 1 in base n + 1 is the number of seeds with the
count v, so that the code is a sum over seeds and does not depend on their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from math import comb

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.shapes import CorrectCounts, InstanceIntegers, MultisetRows, SeedWeights

LARGEST_TABLE = 2**23
"""Most elements of a table with an entry for every possible multiset of counts."""

BLOCK_INSTANCES = 2**17
"""Most instances that are processed at once."""


@dataclass(frozen=True)
class Multisets:
    """The distinct rows of correct counts, up to the order of the seeds.

    Attributes
    ----------
    rows : MultisetRows
        Each multiset once.
    index : InstanceIntegers
        Position in `rows` of each instance's multiset.
    """

    rows: MultisetRows
    index: InstanceIntegers

    @property
    def frequency(self) -> NDArray[np.int64]:
        """Number of instances with each multiset, shape [multiset]."""
        return np.bincount(self.index, minlength=len(self.rows))


def multisets(correct: CorrectCounts) -> Multisets:
    """Reduce correct counts to their distinct multisets.

    Parameters
    ----------
    correct : CorrectCounts

    Returns
    -------
    Multisets

    Examples
    --------
    The first two instances have the same counts in another order:

    >>> distinct = multisets(np.array([[0, 2], [2, 0], [1, 1]]))
    >>> distinct.rows.tolist(), distinct.index.tolist(), distinct.frequency.tolist()
    ([[1, 1], [0, 2]], [1, 1, 0], [1, 2])
    """
    largest = int(correct.max(initial=0))
    if (correct.shape[1] + 1) ** largest <= LARGEST_TABLE:
        return _coded_multisets(correct, largest)
    ordered = np.sort(correct.astype(np.int64), axis=1)
    rows, index = np.unique(ordered, axis=0, return_inverse=True)
    return Multisets(rows=rows, index=index.astype(np.int64).reshape(-1))


def _coded_multisets(correct: CorrectCounts, largest: int) -> Multisets:
    """Reduce correct counts by a table of codes, with little memory per instance."""
    seeds = correct.shape[1]
    value = _code_of_counts(seeds, largest)
    blocks = [slice(i, i + BLOCK_INSTANCES) for i in range(0, len(correct), BLOCK_INSTANCES)]

    def codes(block: slice) -> NDArray[np.int64]:
        return sum(
            (value[correct[block, seed]] for seed in range(seeds)),
            np.zeros(len(correct[block]), dtype=np.int64),
        )

    # By code, one instance with that code; then the row of each code that occurs.
    example = np.full((seeds + 1) ** largest, -1, dtype=np.int64)
    for block in blocks:
        example[codes(block)] = np.arange(len(correct))[block]
    occurring = np.flatnonzero(example >= 0)
    row = np.zeros(len(example), dtype=np.min_scalar_type(max(len(occurring) - 1, 0)))
    row[occurring] = np.arange(len(occurring))
    index = np.empty_like(row, shape=len(correct))
    for block in blocks:
        index[block] = row[codes(block)]
    return Multisets(
        rows=np.sort(correct[example[occurring]].astype(np.int64), axis=1), index=index
    )


def resampled_multisets(
    correct: CorrectCounts, weights: SeedWeights, runs: int
) -> tuple[MultisetRows, NDArray[np.integer]]:
    """Determine the multiset of every instance in every resample of the seeds.

    Parameters
    ----------
    correct : CorrectCounts
    weights : SeedWeights
        Columns sum to the number of seeds.
    runs : int
        Runs of one pretraining seed.

    Returns
    -------
    rows : MultisetRows
        Each multiset once: those of `every_multiset` if it lists them, otherwise those that occur.
    index : ndarray of int, shape [instance, replicate]
        Position in `rows` of each instance's multiset.

    Examples
    --------
    One instance, on which the run of the second seed is correct. The first replicate draws the
    second seed twice, the second replicate draws both seeds:

    >>> rows, index = resampled_multisets(np.array([[0, 1]]), np.array([[0.0, 1.0], [2.0, 1.0]]), 1)
    >>> rows[index[0]].tolist()
    [[1, 1], [0, 1]]
    """
    seeds = correct.shape[1]
    complete = every_multiset(seeds, runs)
    if complete is not None:
        rows, position = complete
        # Codes are whole numbers below 2^53, and so exact in float64.
        codes = _code_of_counts(seeds, runs).astype(np.float64)[correct] @ weights
        return rows, position[codes.astype(np.int64)]
    draws = [np.repeat(np.arange(seeds), column.astype(np.int64)) for column in weights.T]
    distinct = multisets(correct[:, np.array(draws)].reshape(-1, seeds))
    return distinct.rows, distinct.index.reshape(len(correct), len(draws))


@lru_cache(maxsize=4)
def every_multiset(seeds: int, runs: int) -> tuple[MultisetRows, NDArray[np.int32]] | None:
    """List every multiset of `seeds` counts in 0..`runs`; None if there are too many.

    Returns
    -------
    rows : MultisetRows
        All C(seeds + runs, runs) multisets.
    position : ndarray of int32, shape [(seeds + 1)^runs]
        The row of each multiset by its code.

    Examples
    --------
    Two seeds of one run: none, one or both are correct, and this number is also the code.

    >>> rows, position = every_multiset(2, 1)
    >>> rows.tolist(), position.tolist()
    ([[0, 0], [0, 1], [1, 1]], [0, 1, 2])
    """
    if max((seeds + 1) ** runs, comb(seeds + runs, runs) * seeds * runs) > LARGEST_TABLE:
        return None
    rows = np.array(list(combinations_with_replacement(range(runs + 1), seeds)))
    position = np.zeros((seeds + 1) ** runs, dtype=np.int32)
    position[_code_of_counts(seeds, runs)[rows].sum(axis=1)] = np.arange(len(rows))
    return rows, position


def _code_of_counts(seeds: int, largest: int) -> NDArray[np.int64]:
    """Return what one seed with each count 0..`largest` adds to the code of a multiset."""
    powers = [(seeds + 1) ** (count - 1) for count in range(1, largest + 1)]
    return np.array([0, *powers], dtype=np.int64)
