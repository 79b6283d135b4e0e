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
from analysis.statistics.shapes import (
    BucketCounts,
    BucketValues,
    CorrectCounts,
    InstanceIntegers,
    InstanceValues,
)

BUCKETS = 10
"""Intervals of width 0.1 of the accuracy of the middle size."""

FEWEST = 3
"""Least number of instances for a correlation: between two points it is always 1 or -1."""

PAPER_TRIPLETS = (
    ("mini", "small", "medium"),
    ("small", "medium", "base"),
    ("medium", "base", "large"),
    ("mini", "medium", "large"),
)
"""The triplets of sizes in Table 12."""


@dataclass(frozen=True)
class Momentum:
    """Correlation of Acc[s2] - Acc[s1] with Acc[s3] - Acc[s2], by bucket of Acc[s2].

    Bucket b holds the instances with b / 10 <= Acc[s2] < (b + 1) / 10; those with Acc[s2] = 1 are
    in no bucket. The caption of Table 6 names closed intervals, but its numbers are those of these
    half-open ones.

    Attributes
    ----------
    instances : BucketCounts
        Number of instances.
    pearson, spearman : BucketValues
        NaN with fewer than three instances, or where a difference is the same for all of them.
    """

    instances: BucketCounts
    pearson: BucketValues
    spearman: BucketValues


def momentum(correct: Sequence[CorrectCounts], runs: int) -> Momentum:
    """Correlate the differences of three sizes inside buckets of the middle one's accuracy.

    Buckets and ties are determined on the integer lattice of the accuracies.

    Parameters
    ----------
    correct : sequence of three CorrectCounts
        Of s1, s2 and s3 on the same instances; each has at least one pretraining seed, and they
        may differ in the number of seeds.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    Momentum
        Table 12 of the paper, and with Spearman's correlation.

    Examples
    --------
    Three instances with Acc[s2] = 1/2, in bucket 5, whose accuracies change by 1/2, 0 and -1/2
    from s1 to s2. From s2 to s3 they change by -1/2, 0 and 1/2, the opposite order:

    >>> s1, s2, s3 = np.array([[0], [1], [2]]), np.ones((3, 1), int), np.array([[0], [1], [2]])
    >>> result = momentum([s1, s2, s3], runs=2)
    >>> result.instances.tolist(), result.pearson[5].round(12).item()
    ([0, 0, 0, 0, 0, 3, 0, 0, 0, 0], -1.0)
    """
    s1, s2, s3 = correct
    return correlate_sizes((s1, s2, s2, s2, s3), runs)


def correlate_sizes(correct: Sequence[CorrectCounts], runs: int) -> Momentum:
    """Correlate the differences of three sizes, with counts of s2 for each of its three roles.

    Instances that share a bucket and both differences are counted first, so that memory does not
    grow with their number.

    Parameters
    ----------
    correct : sequence of five CorrectCounts
        Of s1; of s2 for the bucket, for the first and for the second difference; and of s3.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    Momentum

    Examples
    --------
    The first group of seeds of s2 puts all three instances into bucket 5. By the other two groups
    the accuracy changes by 0, 0 and 1/2 from s1 to s2, and by 0, 0 and 1/2 from s2 to s3:

    >>> half, bucket = np.array([[1], [1], [1]]), np.array([[1], [1], [1]])
    >>> first, second, s3 = np.array([[1], [1], [2]]), half, np.array([[1], [1], [2]])
    >>> correlate_sizes([half, bucket, first, second, s3], runs=2).pearson[5].round(12).item()
    1.0
    """
    tallies = []
    for start in range(0, len(correct[0]), BLOCK_INSTANCES):
        block = [counts[start : start + BLOCK_INSTANCES] for counts in correct]
        (s1, for_bucket, for_first, for_second, s3), denominator = common_lattice(block, runs)
        # A difference is an integer in -denominator..denominator.
        width = 2 * denominator + 1
        key = for_bucket * BUCKETS // denominator
        key *= width
        key += for_first - s1 + denominator
        key *= width
        key += s3 - for_second + denominator
        in_bucket = key < BUCKETS * width**2
        index, keys = pd.factorize(key[in_bucket])
        tallies.append(pd.Series(np.bincount(index, minlength=len(keys)), index=keys))
    if not tallies:
        nothing = np.empty(0, np.int64)
        return correlate_by_bucket(nothing, nothing, nothing, BUCKETS)
    tally = tallies[0] if len(tallies) == 1 else pd.concat(tallies).groupby(level=0).sum()
    rest, second = np.divmod(tally.index.to_numpy(np.int64), width)
    bucket, first = np.divmod(rest, width)
    copies = tally.to_numpy(np.float64)
    return correlate_by_bucket(first - denominator, second - denominator, bucket, BUCKETS, copies)


def common_lattice(
    correct: Sequence[CorrectCounts], runs: int
) -> tuple[list[InstanceIntegers], int]:
    """Express accuracies as integers over one denominator.

    Parameters
    ----------
    correct : sequence of CorrectCounts
        Each has at least one pretraining seed.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    numerators : list of InstanceIntegers
    denominator : int

    Examples
    --------
    One correct run of 2 seeds, and one of 3 seeds: 1/2 = 3/6 and 1/3 = 2/6.

    >>> numerators, denominator = common_lattice([np.array([[0, 1]]), np.array([[0, 0, 1]])], 1)
    >>> [numerator.tolist() for numerator in numerators], denominator
    ([[3], [2]], 6)
    """
    seeds = [counts.shape[1] for counts in correct]
    scale = lcm(*seeds)
    numerators = [
        correct_runs(counts) * (scale // number)
        for counts, number in zip(correct, seeds, strict=True)
    ]
    return numerators, scale * runs


def correlate_by_bucket(
    first: InstanceIntegers,
    second: InstanceIntegers,
    bucket: InstanceIntegers,
    buckets: int,
    copies: InstanceValues | None = None,
) -> Momentum:
    """Correlate two integer variables inside each bucket.

    Parameters
    ----------
    first, second : InstanceIntegers
        The variables.
    bucket : InstanceIntegers
        Bucket of each instance, 0..`buckets` - 1.
    buckets : int
        Number of buckets.
    copies : InstanceValues, optional
        Whole numbers: how many times each instance is counted; once by default.

    Returns
    -------
    Momentum
        With `buckets` elements.

    Examples
    --------
    In bucket 0 both variables rise by 1. In bucket 1 the second falls where the first rises, a
    rank correlation of -1. The deviations from the means are -1, 0, 1 and 3, -1, -2 there, so that
    Pearson's correlation is (-1 * 3 + 0 * -1 + 1 * -2) / sqrt(2 * 14):

    >>> first, second = np.array([0, 1, 2, 0, 1, 2]), np.array([3, 4, 5, 6, 2, 1])
    >>> result = correlate_by_bucket(first, second, np.array([0, 0, 0, 1, 1, 1]), buckets=2)
    >>> result.spearman.round(12).tolist(), result.pearson.round(4).tolist()
    ([1.0, -1.0], [1.0, -0.9449])
    """
    if not len(bucket):
        undefined = np.full(buckets, np.nan)
        return Momentum(np.zeros(buckets, dtype=np.int64), undefined, undefined)
    x = _Centred.of(first, bucket, buckets, copies)
    y = _Centred.of(second, bucket, buckets, copies)
    defined = (x.instances >= FEWEST) & ~x.constant & ~y.constant
    correlations = []
    for x_values, y_values, x_squares, y_squares in (
        (x.value, y.value, x.value_squares, y.value_squares),
        (x.rank, y.rank, x.rank_squares, y.rank_squares),
    ):
        products = x_values * y_values
        if copies is not None:
            products *= copies
        sums = np.bincount(bucket, products, buckets)
        correlation = np.full(buckets, np.nan)
        scale = np.sqrt(x_squares[defined]) * np.sqrt(y_squares[defined])
        # Rounding can put a perfect correlation a unit in the last place beyond 1.
        correlation[defined] = np.clip(sums[defined] / scale, -1.0, 1.0)
        correlations.append(correlation)
    return Momentum(x.instances, *correlations)


def triplets(sizes: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    """Choose the triplets of sizes to correlate.

    Parameters
    ----------
    sizes : sequence of str
        Smallest first.

    Returns
    -------
    tuple of (str, str, str)
        The triplets of Table 12 whose sizes are all among `sizes`. If there are none, all
        consecutive triplets, and the smallest, the middle and the largest size.

    Examples
    --------
    >>> triplets(["mini", "medium", "large"])
    (('mini', 'medium', 'large'),)
    >>> triplets(["1B", "3B", "8B", "70B"])
    (('1B', '3B', '8B'), ('3B', '8B', '70B'), ('1B', '8B', '70B'))
    """
    published = tuple(triplet for triplet in PAPER_TRIPLETS if set(triplet) <= set(sizes))
    if published or len(sizes) < 3:
        return published
    consecutive = list(zip(sizes, sizes[1:], sizes[2:], strict=False))
    ends = (sizes[0], sizes[len(sizes) // 2], sizes[-1])
    return tuple(dict.fromkeys([*consecutive, ends]))


@dataclass(frozen=True)
class _Centred:
    """An integer variable and its ranks, each minus its mean over the bucket.

    Equal values of a bucket are counted first, so that the sums need no pass over instances.

    Attributes
    ----------
    value, rank : InstanceValues
        The variable, and twice its rank within the bucket, where ties share the mean rank.
    value_squares, rank_squares : BucketValues
        Sums of their squares.
    instances : BucketCounts
    constant : ndarray of bool, shape [bucket]
        Whether all values in the bucket are equal.
    """

    value: InstanceValues
    rank: InstanceValues
    value_squares: BucketValues
    rank_squares: BucketValues
    instances: BucketCounts
    constant: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        values: InstanceIntegers,
        bucket: InstanceIntegers,
        buckets: int,
        copies: InstanceValues | None,
    ) -> _Centred:
        """Count the values by bucket, and centre them."""
        lowest = int(values.min())
        width = int(values.max()) - lowest + 1
        cell = bucket * width
        cell += values
        cell -= lowest
        tied = np.bincount(cell, copies, buckets * width).reshape(buckets, width).astype(np.float64)
        at_most = np.cumsum(tied, axis=1)
        total = at_most[:, -1]
        steps = np.arange(width, dtype=np.float64)
        value = steps - (tied @ steps / np.maximum(total, 1.0))[:, None]
        # Twice the mean rank of ties is 2 at_most - tied + 1, with the mean total + 1.
        rank = 2.0 * at_most - tied - total[:, None]
        return cls(
            value=value.ravel().take(cell),
            rank=rank.ravel().take(cell),
            value_squares=np.einsum("bw,bw,bw->b", tied, value, value),
            rank_squares=np.einsum("bw,bw,bw->b", tied, rank, rank),
            instances=total.astype(np.int64),
            constant=tied.max(axis=1) == total,
        )
