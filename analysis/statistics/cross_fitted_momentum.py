"""Momentum from disjoint pretraining seeds, without the noise that the differences share.

Acc[s2] - Acc[s1] and Acc[s3] - Acc[s2] contain the estimation error of Acc[s2] with opposite
signs, which makes their correlation too small; and the same estimate determines the bucket. Here
the bucket, the first difference and the second difference each take Acc[s2] from a group of its
pretraining seeds of their own. The three groups are disjoint, so their errors are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.momentum import BUCKETS, correlate_sizes
from analysis.statistics.shapes import BucketValues, CorrectCounts, SeedPositions

ROLES = 3
"""Groups of pretraining seeds: for the bucket, the first and the second difference."""


@dataclass(frozen=True)
class CrossFittedMomentum:
    """Correlations by bucket of Acc[s2], averaged over the assignments of seeds to roles.

    Attributes
    ----------
    pearson, spearman : BucketValues
        NaN where no assignment defines a correlation.
    """

    pearson: BucketValues
    spearman: BucketValues


def assignments(seeds: int) -> list[tuple[SeedPositions, ...]]:
    """Assign seeds to the three roles, every seed equally often to each.

    The seeds are arranged in a circle and cut into three arcs of nearly equal length, the longest
    first. The assignments are the rotations of the circle in both directions, so that each group
    serves for either difference.

    Parameters
    ----------
    seeds : int
        Number of pretraining seeds of s2, at least 3.

    Returns
    -------
    list of tuple of three SeedPositions
        The seeds for the bucket, the first and the second difference.

    Examples
    --------
    Three seeds have 3 rotations in either direction, which are all orders of the seeds:

    >>> [[group.tolist() for group in groups] for groups in assignments(3)[:3]]
    [[[0], [1], [2]], [[1], [2], [0]], [[2], [0], [1]]]
    >>> [[group.tolist() for group in groups] for groups in assignments(3)[3:]]
    [[[2], [1], [0]], [[1], [0], [2]], [[0], [2], [1]]]
    """
    return [
        tuple(np.array_split(np.roll(np.arange(seeds)[::direction], -turn), ROLES))
        for direction in (1, -1)
        for turn in range(seeds)
    ]


def spaced_assignments(seeds: int) -> list[tuple[SeedPositions, ...]]:
    """Choose six of the `assignments`: three a third of the circle apart, in both directions.

    Every seed takes every role, twice where the seeds are a multiple of three.

    Parameters
    ----------
    seeds : int
        Number of pretraining seeds of s2, at least 3.

    Returns
    -------
    list of tuple of three SeedPositions

    Examples
    --------
    Of six seeds in arcs of two, the first three assignments start at the seeds 0, 2 and 4:

    >>> [[group.tolist() for group in groups] for groups in spaced_assignments(6)[:3]]
    [[[0, 1], [2, 3], [4, 5]], [[2, 3], [4, 5], [0, 1]], [[4, 5], [0, 1], [2, 3]]]
    """
    every = assignments(seeds)
    turns = [round(arc * seeds / ROLES) for arc in range(ROLES)]
    return [every[start + turn] for start in (0, seeds) for turn in turns]


def cross_fitted_momentum(correct: Sequence[CorrectCounts], runs: int) -> CrossFittedMomentum:
    """Correlate successive differences with independent errors in Acc[s2].

    Where the two true differences are independent given Acc[s2], and their means do not depend on
    it, the expectation is 0. Each group has a third of the seeds, so that the differences are
    noisier than the published ones, and a true correlation is biased further towards 0.

    Parameters
    ----------
    correct : sequence of three CorrectCounts
        Of s1, s2 and s3 on the same instances; s1 and s3 have at least one pretraining seed.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    CrossFittedMomentum
        All NaN with fewer than three pretraining seeds of s2.

    Examples
    --------
    Three instances on which Acc[s2] is 1/2 by every seed: they share bucket 5. The accuracy
    changes by 1/2, 0 and -1/2 from s1 to s2, and by the same from s2 to s3:

    >>> s1, s2, s3 = np.array([[0], [1], [2]]), np.ones((3, 3), int), np.array([[2], [1], [0]])
    >>> cross_fitted_momentum([s1, s2, s3], runs=2).pearson[4:7].round(12).tolist()
    [nan, 1.0, nan]
    """
    first, middle, last = correct
    if middle.shape[1] < ROLES or not first.shape[1] or not last.shape[1]:
        undefined = np.full(BUCKETS, np.nan)
        return CrossFittedMomentum(undefined, undefined)
    correlations = [
        correlate_sizes([first, *(middle[:, group] for group in groups), last], runs)
        for groups in assignments(middle.shape[1])
    ]
    return CrossFittedMomentum(
        pearson=_mean_of_defined([correlation.pearson for correlation in correlations]),
        spearman=_mean_of_defined([correlation.spearman for correlation in correlations]),
    )


def _mean_of_defined(values: list[BucketValues]) -> BucketValues:
    """Average the values that are not NaN, by bucket; NaN where all are."""
    stacked = np.array(values)
    defined = ~np.isnan(stacked)
    number = defined.sum(axis=0)
    mean = np.full(stacked.shape[1], np.nan)
    np.divide(np.where(defined, stacked, 0.0).sum(axis=0), number, out=mean, where=number > 0)
    return mean
