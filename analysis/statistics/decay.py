"""Discovery, random baseline and the lower bound on decaying instances (Section 4, Theorem 1).

Every accuracy is an integer over the same number of runs, so differences are compared as integers
j on the lattice t = j / (2kF), and never as rounded floats. A difference is Acc[s2] - Acc[s1], as
in Equations 2, 3 and 27; Equations 7 and 16 of the paper print it with the opposite sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from analysis.statistics.counts import correct_runs
from analysis.statistics.multisets import BLOCK_INSTANCES, Multisets
from analysis.statistics.shapes import (
    CorrectCounts,
    JointCounts,
    LatticeCounts,
    LatticeValues,
    MultisetRows,
)

LARGEST_EXACT = 2**53
"""Whole numbers below this are exact in float64."""


@dataclass(frozen=True)
class DecayCurves:
    """Distribution of the instance difference and of its random baseline, on one lattice.

    Attributes
    ----------
    steps : int
        2kF, the runs of one size: element j of every array belongs to the difference
        (j - steps) / steps.
    observed : LatticeCounts
        Instances at each difference Acc[s2] - Acc[s1] (Equation 3).
    mixed : LatticeValues
        Instances times splits at each mixed difference, Acc of group A minus Acc of group B
        (Equation 9). Exact whole numbers while `mixed_total` is below 2^53.
    instances : int
        Number of instances.
    mixed_total : float
        Instances times splits: the sum of `mixed`.
    """

    steps: int
    observed: LatticeCounts
    mixed: LatticeValues
    instances: int
    mixed_total: float

    @property
    def thresholds(self) -> LatticeValues:
        """Lattice values t from -1 to 1."""
        return np.arange(-self.steps, self.steps + 1) / self.steps

    @property
    def discovery(self) -> LatticeValues:
        """Decay(t), the fraction of instances with a difference of at most t (Equation 5)."""
        return np.cumsum(self.observed) / self.instances

    @property
    def baseline(self) -> LatticeValues:
        """Decay'(t), the fraction with a mixed difference of at most t (Equation 10).

        Averaged over the splits.
        """
        return np.cumsum(self.mixed) / self.mixed_total

    def exchanged(self) -> DecayCurves:
        """Return the curves of the same pair with s1 and s2 exchanged, without recomputing them."""
        return DecayCurves(
            steps=self.steps,
            observed=self.observed[::-1],
            mixed=self.mixed[::-1],
            instances=self.instances,
            mixed_total=self.mixed_total,
        )


@dataclass(frozen=True)
class DecayBound:
    """Lower bound on the fraction of instances that decay, and the threshold that attains it.

    Attributes
    ----------
    bound : float
        Fraction of instances, `discovery` - `baseline`.
    threshold : float
        The lattice value t < 0 that attains the bound. NaN, with a bound of 0, if discovery exceeds
        the baseline at no threshold.
    discovery, baseline : float
        Fractions of instances at that threshold.
    """

    bound: float
    threshold: float
    discovery: float
    baseline: float


def decay_curves(smaller: Multisets, larger: Multisets, runs: int) -> DecayCurves:
    """Compare two sizes: discovery, and the baseline averaged over every split of the seeds.

    A split puts k of each side's 2k pretraining seeds, whole, into group A and the rest into
    group B. The baseline is the expectation of Equation 10 over all splits.

    Parameters
    ----------
    smaller, larger : Multisets
        Of the correct counts of both sizes: the same instances, and the same even number of
        pretraining seeds.
    runs : int
        Runs of one pretraining seed: F, or 1 for ensembles.

    Returns
    -------
    DecayCurves
        Of the difference Acc[larger] - Acc[smaller]. Exact while instances * C(2k, k)^2 < 2^53,
        otherwise rounded to float64.

    Raises
    ------
    ValueError
        If the sides differ in their numbers of seeds or instances, there are none, or the number of
        seeds is odd.

    Examples
    --------
    Two seeds of one run on each side, so that the lattice is -1, -0.5, 0, 0.5, 1. On the first
    instance both smaller models are correct and both larger ones are wrong: a difference of -1. On
    the second instance one model of each size is correct: a difference of 0.

    >>> from analysis.statistics.multisets import multisets
    >>> smaller, larger = np.array([[1, 1], [1, 0]]), np.array([[0, 0], [1, 0]])
    >>> curves = decay_curves(multisets(smaller), multisets(larger), runs=1)
    >>> curves.discovery.tolist()
    [0.5, 0.5, 1.0, 1.0, 1.0]

    Each of the 4 splits puts one model of each size into group A. On the first instance group A
    and group B then have one correct model each: a mixed difference of 0. On the second instance
    both correct models are in group B in one split, in group A in one, and in one each in two:

    >>> curves.mixed.tolist()
    [1.0, 0.0, 6.0, 0.0, 1.0]
    """
    instances = len(smaller.index)
    if larger.rows.shape[1] != smaller.rows.shape[1] or len(larger.index) != instances:
        raise ValueError("both sides need the same seeds and instances")
    shape = (len(smaller.rows), len(larger.rows))
    joint = sparse.csr_array(shape)
    for start in range(0, instances, BLOCK_INSTANCES):
        cells = tuple(side.index[start : start + BLOCK_INSTANCES] for side in (smaller, larger))
        joint = joint + sparse.coo_array((np.ones(len(cells[0])), cells), shape=shape).tocsr()
    return _curves_of_multisets(smaller.rows, larger.rows, joint, runs)


def ensemble_curves(counts: JointCounts) -> DecayCurves:
    """Compare two sizes as in `decay_curves`, for one 0/1 prediction of each seed.

    Parameters
    ----------
    counts : JointCounts
        From `fisher.joint_correct_models`; at least one instance, and an even number of models.

    Returns
    -------
    DecayCurves

    Raises
    ------
    ValueError
        If there are no instances, or the number of models is odd.

    Examples
    --------
    The two instances of the example of `decay_curves`: on one, 2 smaller models and no larger one
    are correct; on the other, one of each size.

    >>> ensemble_curves(np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0]])).mixed.tolist()
    [1.0, 0.0, 6.0, 0.0, 1.0]
    """
    models = counts.shape[0] - 1
    # Row m: the multiset of m correct models.
    rows = (np.arange(models) < np.arange(models + 1)[:, None]).astype(np.int64)
    return _curves_of_multisets(rows, rows, sparse.csr_array(counts.astype(np.float64)), 1)


def _curves_of_multisets(
    smaller: MultisetRows, larger: MultisetRows, joint: sparse.csr_array, runs: int
) -> DecayCurves:
    """Compute the curves from the joint histogram [multiset, multiset] of two sizes.

    With `a` the sum of a k-subset of an instance's counts and S the sum of all of them, the mixed
    difference is (2 a1 - S1 + 2 a2 - S2) / (2kF). With E1 and E2 the `half_differences` of the two
    sizes and N their joint histogram, its distribution is the sums of E1' N E2 along the
    anti-diagonals.
    """
    instances, seeds = int(joint.sum()), smaller.shape[1]
    _require_comparable(instances, seeds)
    steps = seeds * runs
    width = 2 * steps + 1
    subsets = comb(seeds, seeds // 2)
    exact = instances * subsets**2 < LARGEST_EXACT
    first, second = (half_differences(rows, runs) for rows in (smaller, larger))
    if not exact:
        first, second = first / subsets, second / subsets
    cells = joint.tocoo()
    difference = larger.sum(axis=1)[cells.col] - smaller.sum(axis=1)[cells.row]
    products = first.T @ (joint @ second)
    mixed = np.add.outer(np.arange(steps + 1), np.arange(steps + 1))
    return DecayCurves(
        steps=steps,
        observed=np.bincount(difference + steps, cells.data, width).astype(np.int64),
        mixed=np.bincount(mixed.ravel(), products.ravel(), width).astype(np.float64),
        instances=instances,
        mixed_total=float(instances * subsets**2 if exact else instances),
    )


def one_split(
    smaller: CorrectCounts, larger: CorrectCounts, runs: int, random: np.random.Generator
) -> DecayCurves:
    """Compare two sizes with the baseline of a single drawn split (Section 3).

    Parameters
    ----------
    smaller, larger : CorrectCounts
        Of the same instances, with the same even number of pretraining seeds.
    runs : int
        Runs of one pretraining seed: F, or 1 for ensembles.
    random : numpy.random.Generator
        Draws which k seeds of each side go into group A; one draw for all instances.

    Returns
    -------
    DecayCurves
        The baseline has noise from the split, unlike that of `decay_curves`.

    Raises
    ------
    ValueError
        If the sides differ in shape, are empty, or have an odd number of seeds.

    Examples
    --------
    Both smaller models are correct and both larger ones are wrong. Whichever models are drawn,
    groups A and B have one correct model each, a mixed difference of 0:

    >>> smaller, larger = np.array([[1, 1]]), np.array([[0, 0]])
    >>> curves = one_split(smaller, larger, runs=1, random=np.random.default_rng(0))
    >>> curves.observed.tolist(), curves.mixed.tolist()
    ([1, 0, 0, 0, 0], [0.0, 0.0, 1.0, 0.0, 0.0])
    """
    instances, seeds = smaller.shape
    if larger.shape != smaller.shape:
        raise ValueError("both sides need the same seeds and instances")
    _require_comparable(instances, seeds)
    steps = seeds * runs
    group_sign = np.repeat([1, -1], seeds // 2)
    observed = correct_runs(larger) - correct_runs(smaller)
    mixed = smaller.astype(np.int64) @ random.permutation(group_sign)
    mixed += larger.astype(np.int64) @ random.permutation(group_sign)
    width = 2 * steps + 1
    return DecayCurves(
        steps=steps,
        observed=np.bincount(observed + steps, minlength=width),
        mixed=np.bincount(mixed + steps, minlength=width).astype(np.float64),
        instances=instances,
        mixed_total=float(instances),
    )


def decay_bound(curves: DecayCurves) -> DecayBound:
    """Bound the decaying fraction from below by the largest value of discovery minus baseline.

    The maximum is over the thresholds t < 0, at which every discovered instance was observed to be
    worse (Figure 4). Including t = 0 would not raise its expectation: with independent seeds the
    mixed difference is 0 at least as often as the difference itself.

    Parameters
    ----------
    curves : DecayCurves
        Of the two sizes. `curves.exchanged()` gives the bound on the improving instances.

    Returns
    -------
    DecayBound
        At the smallest threshold that attains the maximum (Section 4 of the paper).

    Examples
    --------
    In the example of `decay_curves` half of the instances have a difference of -1, and one of 8
    mixed differences is -1:

    >>> decay_bound(ensemble_curves(np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0]])))
    DecayBound(bound=0.375, threshold=-1.0, discovery=0.5, baseline=0.125)
    """
    discovery, baseline = curves.discovery[: curves.steps], curves.baseline[: curves.steps]
    gap = discovery - baseline
    best = int(np.argmax(gap))
    if gap[best] <= 0:
        return DecayBound(bound=0.0, threshold=float("nan"), discovery=0.0, baseline=0.0)
    return DecayBound(
        bound=float(gap[best]),
        threshold=float(curves.thresholds[best]),
        discovery=float(discovery[best]),
        baseline=float(baseline[best]),
    )


def _require_comparable(instances: int, seeds: int) -> None:
    """Refuse sides without instances, or whose seeds cannot be split into halves."""
    if instances == 0:
        raise ValueError("there are no instances to compare")
    if seeds == 0 or seeds % 2:
        raise ValueError(f"both sides need an even number of seeds, not {seeds}")


def half_differences(rows: MultisetRows, runs: int) -> NDArray[np.float64]:
    """Count the k-subsets of each multiset by their sum minus the sum of the other counts.

    The number of subsets with each sum follows by dynamic programming over the seeds.

    Parameters
    ----------
    rows : MultisetRows
        Multisets of 2k counts in 0..`runs`.
    runs : int
        Largest count.

    Returns
    -------
    ndarray of float64, shape [multiset, 2kF + 1]
        Element [m, j]: the k-subsets of row m with 2 a - S = j - kF, where `a` is the sum of the
        subset and S that of the row; whole numbers.

    Examples
    --------
    Two seeds of one run, so that a half is one seed. Of the counts 0 and 1 one half is smaller
    than the other by 1, and one is larger by 1; of the counts 1 and 1 both halves are equal:

    >>> half_differences(np.array([[0, 1], [1, 1]]), runs=1).tolist()
    [[1.0, 0.0, 1.0], [0.0, 2.0, 0.0]]
    """
    multisets, seeds = rows.shape
    half = seeds // 2
    largest = half * runs
    # Element [m, n, a]: the subsets of n of the seeds seen so far whose sum is a.
    subsets = np.zeros((multisets, half + 1, largest + 1))
    subsets[:, 0, 0] = 1.0
    for seed in range(seeds):
        for count in range(runs + 1):
            chosen = np.flatnonzero(rows[:, seed] == count)
            if len(chosen):
                extended = subsets[chosen]
                extended[:, 1:, count:] += subsets[chosen, :-1, : largest + 1 - count]
                subsets[chosen] = extended
    position = 2 * np.arange(largest + 1) - rows.sum(axis=1)[:, None] + largest
    differences = np.zeros((multisets, 2 * largest + 1))
    row, subset_sum = np.nonzero(subsets[:, half])
    differences[row, position[row, subset_sum]] = subsets[row, half, subset_sum]
    return differences
