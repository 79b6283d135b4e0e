"""Momentum: correlation of successive instance differences (Section 5; Tables 6, 12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.statistics.counts import correct_runs
from analysis.statistics.multisets import BLOCK_INSTANCES

BUCKETS = 10
"""Intervals of width 0.1 of the accuracy of the middle size."""

FEWEST = 3
"""Instances that a correlation needs: between two points it is always 1 or -1."""

PAPER_TRIPLETS = (
    ("mini", "small", "medium"),
    ("small", "medium", "base"),
    ("medium", "base", "large"),
    ("mini", "medium", "large"),
)


@dataclass(frozen=True)
class Momentum:
    """Correlation of Acc[s2] - Acc[s1] with Acc[s3] - Acc[s2], by bucket of Acc[s2].

    Bucket b holds the instances with b / 10 <= Acc[s2] < (b + 1) / 10; those with Acc[s2] = 1 are
    in none.

    Attributes
    ----------
    instances : ndarray of int64, shape [bucket]
    pearson, spearman : ndarray of float64, shape [bucket]
        NaN with fewer than three instances, or where a difference is the same for all of them.
    """

    instances: NDArray[np.int64]
    pearson: NDArray[np.float64]
    spearman: NDArray[np.float64]


def momentum(correct: Sequence[NDArray[np.integer]], runs: int) -> Momentum:
    """Correlate the differences of three sizes inside buckets of the middle one's accuracy.

    Buckets and ties are decided on the integer lattice of the accuracies.

    Parameters
    ----------
    correct : sequence of three ndarray of int, each of shape [instance, pretrain_seed]
        Counts 0..`runs` of s1, s2 and s3; each has at least one pretraining seed, and they may
        differ in the number of seeds.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    Momentum
        Table 12 of the paper, and with Spearman's correlation.
    """
    s1, s2, s3 = correct
    return correlate_sizes((s1, s2, s2, s2, s3), runs)


def correlate_sizes(correct: Sequence[NDArray[np.integer]], runs: int) -> Momentum:
    """Correlate the differences of three sizes, each part of s2 from counts of its own.

    Instances that share a bucket and both differences are counted first, so that memory does not
    grow with their number.

    Parameters
    ----------
    correct : sequence of five ndarray of int, each of shape [instance, pretrain_seed]
        Counts 0..`runs` of s1; of s2 for the bucket, for the first and for the second difference;
        and of s3.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    Momentum
    """
    tallies = []
    for start in range(0, len(correct[0]), BLOCK_INSTANCES):
        block = [counts[start : start + BLOCK_INSTANCES] for counts in correct]
        (s1, in_bucket, in_first, in_second, s3), whole = common_lattice(block, runs)
        # Differences are -whole to whole.
        width = 2 * whole + 1
        key = in_bucket * BUCKETS // whole
        key *= width
        key += in_first - s1 + whole
        key *= width
        key += s3 - in_second + whole
        kept = key < BUCKETS * width**2
        index, keys = pd.factorize(key[kept])
        tallies.append(pd.Series(np.bincount(index, minlength=len(keys)), index=keys))
    if not tallies:
        tallies, width, whole = [pd.Series(dtype=np.int64, index=np.empty(0, np.int64))], 1, 0
    tally = tallies[0] if len(tallies) == 1 else pd.concat(tallies).groupby(level=0).sum()
    keys = tally.index.to_numpy(np.int64)
    rest, second = np.divmod(keys, width)
    bucket, first = np.divmod(rest, width)
    often = tally.to_numpy(np.float64)
    return correlate_by_bucket(first - whole, second - whole, bucket, BUCKETS, often)


def common_lattice(
    correct: Sequence[NDArray[np.integer]], runs: int
) -> tuple[list[NDArray[np.int64]], int]:
    """Express accuracies as integers over one denominator.

    Parameters
    ----------
    correct : sequence of ndarray of int, each of shape [instance, pretrain_seed]
        Counts 0..`runs`; each has at least one pretraining seed.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    numerators : list of ndarray of int64, each of shape [instance]
    denominator : int
    """
    seeds = [counts.shape[1] for counts in correct]
    scale = lcm(*seeds)
    numerators = [
        correct_runs(counts) * (scale // n) for counts, n in zip(correct, seeds, strict=True)
    ]
    return numerators, scale * runs


def correlate_by_bucket(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    bucket: NDArray[np.int64],
    buckets: int,
    often: NDArray[np.float64] | None = None,
) -> Momentum:
    """Correlate two integer variables inside each bucket.

    Parameters
    ----------
    first, second : ndarray of int64, each of shape [instance]
    bucket : ndarray of int64, shape [instance]
        0..`buckets` - 1.
    buckets : int
        Number of buckets.
    often : ndarray of float64, shape [instance], optional
        Whole numbers: how many copies of each instance there are; one if absent.

    Returns
    -------
    Momentum
        With `buckets` elements.
    """
    if not len(bucket):
        nothing = np.full(buckets, np.nan)
        return Momentum(np.zeros(buckets, dtype=np.int64), nothing, nothing)
    one = _Tabulated.of(first, bucket, buckets, often)
    other = _Tabulated.of(second, bucket, buckets, often)
    defined = (one.instances >= FEWEST) & ~one.constant & ~other.constant
    results = []
    for x, y, x_squares, y_squares in (
        (one.value, other.value, one.value_squares, other.value_squares),
        (one.rank, other.rank, one.rank_squares, other.rank_squares),
    ):
        products = x * y
        if often is not None:
            products *= often
        sums = np.bincount(bucket, products, buckets)
        correlation = np.full(buckets, np.nan)
        scale = np.sqrt(x_squares[defined]) * np.sqrt(y_squares[defined])
        # Rounding can put a perfect correlation a unit in the last place beyond 1.
        correlation[defined] = np.clip(sums[defined] / scale, -1.0, 1.0)
        results.append(correlation)
    return Momentum(one.instances, *results)


def triplets(sizes: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    """Choose the triplets of sizes to correlate.

    Parameters
    ----------
    sizes : sequence of str
        Smallest first.

    Returns
    -------
    tuple of (str, str, str)
        Those of Table 12 whose sizes are there; if none is, all consecutive ones, and the
        smallest, the middle and the largest size.
    """
    known = tuple(triplet for triplet in PAPER_TRIPLETS if set(triplet) <= set(sizes))
    if known or len(sizes) < 3:
        return known
    consecutive = list(zip(sizes, sizes[1:], sizes[2:], strict=False))
    ends = (sizes[0], sizes[len(sizes) // 2], sizes[-1])
    return tuple(dict.fromkeys([*consecutive, ends]))


@dataclass(frozen=True)
class _Tabulated:
    """An integer variable counted by bucket and value, so that sums need no pass over instances.

    Attributes
    ----------
    value, rank : ndarray of float64, shape [instance]
        The variable, and its doubled rank within the bucket, where ties share the mean rank; both
        less their mean over the bucket.
    value_squares, rank_squares : ndarray of float64, shape [bucket]
        Sums of their squares.
    instances : ndarray of int64, shape [bucket]
    constant : ndarray of bool, shape [bucket]
        Whether the bucket has one value at most.
    """

    value: NDArray[np.float64]
    rank: NDArray[np.float64]
    value_squares: NDArray[np.float64]
    rank_squares: NDArray[np.float64]
    instances: NDArray[np.int64]
    constant: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        values: NDArray[np.int64],
        bucket: NDArray[np.int64],
        buckets: int,
        often: NDArray[np.float64] | None,
    ) -> _Tabulated:
        """Count the values."""
        lowest = int(values.min())
        width = int(values.max()) - lowest + 1
        cell = bucket * width
        cell += values
        cell -= lowest
        tied = np.bincount(cell, often, buckets * width).reshape(buckets, width).astype(np.float64)
        upto = np.cumsum(tied, axis=1)
        total = upto[:, -1]
        steps = np.arange(width, dtype=np.float64)
        value = steps - (tied @ steps / np.maximum(total, 1.0))[:, None]
        # The doubled mean rank is 2 upto - tied + 1, and its mean over the bucket is total + 1.
        rank = 2.0 * upto - tied - total[:, None]
        return cls(
            value=value.ravel().take(cell),
            rank=rank.ravel().take(cell),
            value_squares=np.einsum("bw,bw,bw->b", tied, value, value),
            rank_squares=np.einsum("bw,bw,bw->b", tied, rank, rank),
            instances=total.astype(np.int64),
            constant=tied.max(axis=1) == total,
        )
