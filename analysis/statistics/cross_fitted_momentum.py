"""Momentum from disjoint pretraining seeds, without the noise that the differences share.

Acc[s2] - Acc[s1] and Acc[s3] - Acc[s2] hold the estimation error of Acc[s2] with opposite signs,
which makes their correlation too small; and the bucket is chosen by the same estimate. Here the
bucket, the first and the second difference take Acc[s2] from three disjoint groups of its
pretraining seeds, whose errors are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.momentum import BUCKETS, correlate_sizes

ROLES = 3
"""Groups of pretraining seeds: for the bucket, the first and the second difference."""


@dataclass(frozen=True)
class CrossFittedMomentum:
    """Correlations by bucket of Acc[s2], averaged over the assignments of seeds to roles.

    Attributes
    ----------
    pearson, spearman : ndarray of float64, shape [bucket]
        NaN where no assignment defines a correlation.
    """

    pearson: NDArray[np.float64]
    spearman: NDArray[np.float64]


def assignments(seeds: int) -> list[tuple[NDArray[np.int64], ...]]:
    """Assign seeds to the three roles, every seed equally often to each.

    The seeds are set in a circle and cut into three arcs, as equal as can be, the first the
    longest; the assignments are the rotations of the circle in both directions, so that each group
    serves either difference.

    Parameters
    ----------
    seeds : int
        Number of pretraining seeds of s2, at least 3.

    Returns
    -------
    list of tuple of three ndarray of int64
        Positions of the seeds for the bucket, the first and the second difference.
    """
    found = []
    for direction in (1, -1):
        circle = np.arange(seeds)[::direction]
        for turn in range(seeds):
            found.append(tuple(np.array_split(np.roll(circle, -turn), ROLES)))
    return found


def spaced_assignments(seeds: int) -> list[tuple[NDArray[np.int64], ...]]:
    """Choose six of the `assignments`: three a third of the circle apart, in both directions.

    Every seed takes every role, twice where the seeds are a multiple of three.

    Parameters
    ----------
    seeds : int
        Number of pretraining seeds of s2, at least 3.

    Returns
    -------
    list of tuple of three ndarray of int64
    """
    every = assignments(seeds)
    turns = [round(arc * seeds / ROLES) for arc in range(ROLES)]
    return [every[start + turn] for start in (0, seeds) for turn in turns]


def cross_fitted_momentum(correct: Sequence[NDArray[np.integer]], runs: int) -> CrossFittedMomentum:
    """Correlate successive differences with independent errors in Acc[s2].

    Where the two true differences are independent given Acc[s2], and their means do not depend on
    it, the expectation is 0. The groups hold a third of the seeds, so that the differences are
    noisier than the published ones, and a true correlation is drawn further towards 0.

    Parameters
    ----------
    correct : sequence of three ndarray of int, each of shape [instance, pretrain_seed]
        Counts 0..`runs` of s1, s2 and s3; s1 and s3 have at least one pretraining seed.
    runs : int
        Finetuning runs of one pretraining seed.

    Returns
    -------
    CrossFittedMomentum
        All NaN with fewer than three pretraining seeds of s2.
    """
    empty = np.full(BUCKETS, np.nan)
    first, middle, last = correct
    if middle.shape[1] < ROLES or not first.shape[1] or not last.shape[1]:
        return CrossFittedMomentum(empty, empty)
    found = []
    for groups in assignments(middle.shape[1]):
        parts = [middle[:, group] for group in groups]
        found.append(correlate_sizes([first, *parts, last], runs))
    return CrossFittedMomentum(
        pearson=_mean_of_defined([one.pearson for one in found]),
        spearman=_mean_of_defined([one.spearman for one in found]),
    )


def _mean_of_defined(values: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    stacked = np.array(values)
    defined = ~np.isnan(stacked)
    number = defined.sum(axis=0)
    result = np.full(stacked.shape[1], np.nan)
    np.divide(np.where(defined, stacked, 0.0).sum(axis=0), number, out=result, where=number > 0)
    return result
