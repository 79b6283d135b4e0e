"""Momentum: correlation of successive instance differences (Section 5; Tables 6, 12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np
from numpy.typing import NDArray

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
    accuracy, whole = common_lattice(correct, runs)
    bucket = accuracy[1] * BUCKETS // whole
    kept = bucket < BUCKETS
    first, second = accuracy[1] - accuracy[0], accuracy[2] - accuracy[1]
    return correlate_by_bucket(first[kept], second[kept], bucket[kept], BUCKETS)


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
        counts.sum(axis=1, dtype=np.int64) * (scale // n)
        for counts, n in zip(correct, seeds, strict=True)
    ]
    return numerators, scale * runs


def correlate_by_bucket(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    bucket: NDArray[np.int64],
    buckets: int,
) -> Momentum:
    """Correlate two integer variables inside each bucket.

    Parameters
    ----------
    first, second : ndarray of int64, each of shape [instance]
    bucket : ndarray of int64, shape [instance]
        0..`buckets` - 1.
    buckets : int
        Number of buckets.

    Returns
    -------
    Momentum
        With `buckets` elements.
    """
    instances = np.bincount(bucket, minlength=buckets)
    ranks = [_twice_centred_ranks(values, bucket, buckets) for values in (first, second)]
    return Momentum(
        instances=instances,
        pearson=_correlation(first, second, bucket, instances),
        spearman=_correlation(ranks[0], ranks[1], bucket, instances),
    )


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


def _correlation(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    bucket: NDArray[np.int64],
    instances: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Pearson correlation of two integer variables in each bucket."""
    buckets = len(instances)
    total = np.maximum(instances, 1)
    deviations = []
    constant = np.zeros(buckets, dtype=bool)
    for values in (first, second):
        mean = np.bincount(bucket, weights=values, minlength=buckets) / total
        deviations.append(values - mean[bucket])
        # Any one value of each bucket, against which the others are compared exactly.
        one = np.zeros(buckets, dtype=values.dtype)
        one[bucket] = values
        constant |= np.bincount(bucket, weights=values != one[bucket], minlength=buckets) == 0
    a, b = deviations
    defined = (instances >= FEWEST) & ~constant
    products = [
        np.bincount(bucket, weights=x * y, minlength=buckets)[defined]
        for x, y in ((a, b), (a, a), (b, b))
    ]
    correlation = np.full(buckets, np.nan)
    # Rounding can put a perfect correlation a unit in the last place beyond 1.
    exact = products[0] / (np.sqrt(products[1]) * np.sqrt(products[2]))
    correlation[defined] = np.clip(exact, -1.0, 1.0)
    return correlation


def _twice_centred_ranks(
    values: NDArray[np.int64], bucket: NDArray[np.int64], buckets: int
) -> NDArray[np.int64]:
    """Rank within each bucket, ties sharing the mean rank; doubled, less its mean, an integer."""
    if not len(values):
        return values
    lowest = int(values.min())
    width = int(values.max()) - lowest + 1
    cell = bucket * width + (values - lowest)
    tied = np.bincount(cell, minlength=buckets * width).reshape(buckets, width)
    upto = np.cumsum(tied, axis=1)
    # The doubled mean rank is 2 upto - tied + 1, and its mean over the bucket is instances + 1.
    centred = 2 * upto - tied - upto[:, -1:]
    return centred.ravel()[cell]
