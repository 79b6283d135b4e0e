"""Instances that share one multiset of counts share every statistic of one model size.

A row of n counts in 0..F is, up to the order of the seeds, one of C(n + F, F) multisets (3,003 for
n = 10, F = 5), however many instances there are. Work per instance becomes work per multiset.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from math import comb

import numpy as np
from numpy.typing import NDArray

LARGEST_TABLE = 2**23
"""Elements up to which every possible multiset of counts is listed beforehand."""

BLOCK_INSTANCES = 2**17
"""Instances looked at together, where there are many."""


@dataclass(frozen=True)
class Multisets:
    """The distinct rows of a count matrix, up to the order of the seeds.

    Attributes
    ----------
    rows : ndarray of int64, shape [distinct, seed]
        Each multiset once, its counts in ascending order.
    index : ndarray of int, shape [instance]
        Which row of `rows` each instance has.
    """

    rows: NDArray[np.int64]
    index: NDArray[np.integer]

    @property
    def frequency(self) -> NDArray[np.int64]:
        """Number of instances with each multiset, shape [distinct]."""
        return np.bincount(self.index, minlength=len(self.rows))


def multisets(correct: NDArray[np.integer]) -> Multisets:
    """Reduce a count matrix to its distinct multisets.

    Parameters
    ----------
    correct : ndarray of int, shape [instance, seed]
        Correct finetuning runs of each pretraining seed, 0..F.

    Returns
    -------
    Multisets
    """
    seeds = correct.shape[1]
    most = int(correct.max(initial=0))
    base = seeds + 1
    if base**most <= LARGEST_TABLE:
        return _coded_multisets(correct, base, most)
    ordered = np.sort(correct.astype(np.int64), axis=1)
    rows, index = np.unique(ordered, axis=0, return_inverse=True)
    return Multisets(rows=rows, index=index.astype(np.int64).reshape(-1))


def _coded_multisets(correct: NDArray[np.integer], base: int, most: int) -> Multisets:
    """Reduce a count matrix by a table of codes, in memory that instances hardly add to.

    The code's digit v - 1 in base n + 1 is how many seeds have count v: it ignores order.
    """
    value = np.array([0] + [base**v for v in range(most)], dtype=np.int64)
    blocks = [slice(i, i + BLOCK_INSTANCES) for i in range(0, len(correct), BLOCK_INSTANCES)]

    def codes(block: slice) -> NDArray[np.int64]:
        return sum(
            (value[correct[block, seed]] for seed in range(correct.shape[1])),
            np.zeros(len(correct[block]), dtype=np.int64),
        )

    first = np.full(base**most, -1, dtype=np.int64)
    for block in blocks:
        first[codes(block)] = np.arange(len(correct))[block]
    found = np.flatnonzero(first >= 0)
    place = np.zeros(len(first), dtype=np.min_scalar_type(max(len(found) - 1, 0)))
    place[found] = np.arange(len(found))
    index = np.empty_like(place, shape=len(correct))
    for block in blocks:
        index[block] = place[codes(block)]
    return Multisets(rows=np.sort(correct[first[found]].astype(np.int64), axis=1), index=index)


def resampled_multisets(
    correct: NDArray[np.integer], weights: NDArray[np.float64], runs: int
) -> tuple[NDArray[np.int64], NDArray[np.integer]]:
    """Find the multiset of every instance in every resample of the seeds.

    Parameters
    ----------
    correct : ndarray of int, shape [instance, seed]
        Correct runs of each pretraining seed, 0..`runs`.
    weights : ndarray of float64, shape [seed, replicate]
        How often each seed is drawn; columns sum to the number of seeds.
    runs : int
        Runs of one pretraining seed.

    Returns
    -------
    rows : ndarray of int64, shape [distinct, seed]
        Multisets, each once: `every_multiset` where it lists them, otherwise those that occur.
    index : ndarray of int, shape [instance, replicate]
        Which row each instance has.
    """
    seeds = correct.shape[1]
    known = every_multiset(seeds, runs)
    if known is not None:
        rows, position = known
        value = (seeds + 1.0) ** (np.arange(runs + 1) - 1)
        value[0] = 0.0
        # Whole numbers below 2^53, and so exact.
        code = value[correct] @ weights
        return rows, position[code.astype(np.int64)]
    draws = [np.repeat(np.arange(seeds), column.astype(np.int64)) for column in weights.T]
    distinct = multisets(correct[:, np.array(draws)].reshape(-1, seeds))
    return distinct.rows, distinct.index.reshape(len(correct), len(draws))


@lru_cache(maxsize=4)
def every_multiset(seeds: int, runs: int) -> tuple[NDArray[np.int64], NDArray[np.int32]] | None:
    """List every multiset of `seeds` counts in 0..`runs`; None if they are too many.

    Returns
    -------
    rows : ndarray of int64, shape [C(seeds + runs, runs), seed]
        The multisets, their counts in ascending order.
    position : ndarray of int32, shape [(seeds + 1)^runs]
        The row of each multiset by its code, whose digit v - 1 in base seeds + 1 is how many seeds
        have count v.
    """
    if max((seeds + 1) ** runs, comb(seeds + runs, runs) * seeds * runs) > LARGEST_TABLE:
        return None
    rows = np.array(list(combinations_with_replacement(range(runs + 1), seeds)))
    value = np.array([0] + [(seeds + 1) ** v for v in range(runs)])
    position = np.zeros((seeds + 1) ** runs, dtype=np.int32)
    position[value[rows].sum(axis=1)] = np.arange(len(rows))
    return rows, position
