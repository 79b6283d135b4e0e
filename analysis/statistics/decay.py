"""Discovery, random baseline and the lower bound on decaying instances (Section 4, Theorem 1).

Every accuracy is an integer over the same number of runs, so differences are compared as integers
j on the lattice t = j / (2kF), and never as rounded floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from analysis.statistics.multisets import BLOCK_INSTANCES, Multisets

LARGEST_EXACT = 2**53


@dataclass(frozen=True)
class DecayCurves:
    """Distribution of the instance difference and of its random baseline, on one lattice.

    Attributes
    ----------
    steps : int
        2kF, the runs of one side: element j of every array belongs to the difference
        (j - steps) / steps.
    observed : ndarray of int64, shape [2 * steps + 1]
        Instances at each difference Acc[s2] - Acc[s1].
    mixed : ndarray of float64, shape [2 * steps + 1]
        Mixed differences, Acc of group A less Acc of group B, summed over instances and splits.
        Whole numbers, and exact, while `mixed_total` is below 2^53.
    instances : int
        Number of instances.
    mixed_total : float
        Instances times splits: the sum of `mixed`.
    """

    steps: int
    observed: NDArray[np.int64]
    mixed: NDArray[np.float64]
    instances: int
    mixed_total: float

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """Lattice values t from -1 to 1, shape [2 * steps + 1]."""
        return np.arange(-self.steps, self.steps + 1) / self.steps

    @property
    def discovery(self) -> NDArray[np.float64]:
        """Fraction of instances with a difference of at most t (Equation 5)."""
        return np.cumsum(self.observed) / self.instances

    @property
    def baseline(self) -> NDArray[np.float64]:
        """Fraction with a mixed difference of at most t, averaged over the splits."""
        return np.cumsum(self.mixed) / self.mixed_total

    def exchanged(self) -> DecayCurves:
        """Curves of the same pair with s1 and s2 exchanged, without computing them again."""
        return DecayCurves(
            steps=self.steps,
            observed=self.observed[::-1],
            mixed=self.mixed[::-1],
            instances=self.instances,
            mixed_total=self.mixed_total,
        )


@dataclass(frozen=True)
class DecayBound:
    """Lower bound on the fraction of instances that decay, and where it was read off.

    Attributes
    ----------
    bound : float
        Fraction of instances, `discovery` - `baseline`.
    threshold : float
        The lattice value t < 0 of the bound. NaN, with a bound of 0, where no threshold discovers
        more than the baseline does.
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
    group B. With a the sum of a k-subset of an instance's counts and S the sum of all, the mixed
    difference is (2 a1 - S1 + 2 a2 - S2) / (2kF). The number of k-subsets with each sum follows
    by dynamic programming over seeds, once per distinct multiset; with E1 and E2 those numbers
    [multiset, 2a - S] and N the joint histogram of the two sizes' multisets, the baseline is the
    sums of E1' N E2 along its anti-diagonals.

    Parameters
    ----------
    smaller, larger : Multisets
        Of [instance, 2k] counts in 0..`runs`, the same instances and an even number of seeds.
    runs : int
        Runs of one pretraining seed: F, or 1 for ensembles.

    Returns
    -------
    DecayCurves
        Of the difference Acc[larger] - Acc[smaller]; Equations 5, 9 and 10 of the paper, the
        baseline as the expectation over splits. Exact while instances * C(2k, k)^2 < 2^53,
        otherwise rounded to float64.

    Raises
    ------
    ValueError
        If the sides differ in seeds or instances, there are none, or the seeds are odd in number.
    """
    seeds, instances = smaller.rows.shape[1], len(smaller.index)
    if larger.rows.shape[1] != seeds or len(larger.index) != instances:
        raise ValueError("both sides need the same seeds and instances")
    _require_comparable(instances, seeds)
    steps = seeds * runs
    splits = comb(seeds, seeds // 2) ** 2
    exact = instances * splits < LARGEST_EXACT
    first, second = (half_differences(side.rows, runs) for side in (smaller, larger))
    if not exact:
        first, second = (half / comb(seeds, seeds // 2) for half in (first, second))
    shape = (len(smaller.rows), len(larger.rows))
    totals = smaller.rows.sum(axis=1), larger.rows.sum(axis=1)
    joint = sparse.csr_array(shape)
    observed = np.zeros(2 * steps + 1, dtype=np.int64)
    for start in range(0, instances, BLOCK_INSTANCES):
        at = tuple(side.index[start : start + BLOCK_INSTANCES] for side in (smaller, larger))
        joint = joint + sparse.coo_array((np.ones(len(at[0])), at), shape=shape).tocsr()
        difference = totals[1][at[1]] - totals[0][at[0]]
        observed += np.bincount(difference + steps, minlength=2 * steps + 1)
    pairs = first.T @ (joint @ second)
    position = np.add.outer(np.arange(steps + 1), np.arange(steps + 1))
    return DecayCurves(
        steps=steps,
        observed=observed,
        mixed=np.bincount(position.ravel(), weights=pairs.ravel()).astype(np.float64),
        instances=instances,
        mixed_total=float(instances * splits if exact else instances),
    )


def ensemble_curves(counts: NDArray[np.int64]) -> DecayCurves:
    """Compare two sizes with one 0/1 prediction per seed, as `decay_curves`, from joint counts.

    Parameters
    ----------
    counts : ndarray of int64, shape [2k + 1, 2k + 1]
        Instances by the number of right models of the smaller and of the larger size
        (`fisher.joint_correct_models`); at least one instance and an even number of models.

    Returns
    -------
    DecayCurves
    """
    seeds, instances = counts.shape[0] - 1, int(counts.sum())
    _require_comparable(instances, seeds)
    levels = np.arange(seeds + 1)
    halves = half_differences((np.arange(seeds) < levels[:, None]).astype(np.int64), 1)
    splits = comb(seeds, seeds // 2) ** 2
    exact = instances * splits < LARGEST_EXACT
    if not exact:
        halves /= comb(seeds, seeds // 2)
    pairs = halves.T @ counts @ halves
    together = np.add.outer(levels, levels).ravel()
    difference = (levels - levels[:, None]).ravel() + seeds
    width = 2 * seeds + 1
    return DecayCurves(
        steps=seeds,
        observed=np.bincount(difference, counts.ravel(), width).astype(np.int64),
        mixed=np.bincount(together, pairs.ravel(), width).astype(np.float64),
        instances=instances,
        mixed_total=float(instances * splits if exact else instances),
    )


def one_split(
    smaller: NDArray[np.integer],
    larger: NDArray[np.integer],
    runs: int,
    random: np.random.Generator,
) -> DecayCurves:
    """Compare two sizes with the baseline of a single drawn split, as the paper describes it.

    Parameters
    ----------
    smaller, larger : ndarray of int, shape [instance, 2k]
        Counts in 0..`runs`.
    runs : int
        Runs of one pretraining seed: F, or 1 for ensembles.
    random : numpy.random.Generator
        Draws which k seeds of each side go into group A; one draw for all instances.

    Returns
    -------
    DecayCurves
        With noise from the split, which `decay_curves` does not have.

    Raises
    ------
    ValueError
        If the sides differ in shape, there is nothing in them, or the seeds are odd in number.
    """
    instances, seeds = smaller.shape
    if larger.shape != smaller.shape:
        raise ValueError("both sides need the same seeds and instances")
    _require_comparable(instances, seeds)
    steps = seeds * runs
    sign = np.repeat([1, -1], seeds // 2)
    observed = larger.sum(axis=1, dtype=np.int64) - smaller.sum(axis=1, dtype=np.int64)
    mixed = smaller.astype(np.int64) @ random.permutation(sign)
    mixed += larger.astype(np.int64) @ random.permutation(sign)
    width = 2 * steps + 1
    return DecayCurves(
        steps=steps,
        observed=np.bincount(observed + steps, minlength=width),
        mixed=np.bincount(mixed + steps, minlength=width).astype(np.float64),
        instances=instances,
        mixed_total=float(instances),
    )


def decay_bound(curves: DecayCurves) -> DecayBound:
    """Lower-bound the decaying fraction by the largest gap of discovery over baseline.

    The maximum runs over the thresholds t < 0, at which every discovered instance was observed to
    be worse (Figure 4). Including t = 0 would not raise it in expectation: with independent seeds
    the mixed difference is 0 at least as often as the difference itself.

    Parameters
    ----------
    curves : DecayCurves
        Of the two sizes; of `curves.exchanged()` the bound is that of the improving instances.

    Returns
    -------
    DecayBound
        At the smallest threshold that attains the maximum (Section 4 of the paper).
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
    """Refuse what has no split into halves."""
    if instances == 0:
        raise ValueError("there are no instances to compare")
    if seeds == 0 or seeds % 2:
        raise ValueError(f"both sides need an even number of seeds, not {seeds}")


def half_differences(rows: NDArray[np.int64], runs: int) -> NDArray[np.float64]:
    """Count the k-subsets by how much they exceed the rest of their multiset.

    Parameters
    ----------
    rows : ndarray of int64, shape [distinct, 2k]
        Multisets of counts in 0..`runs`.
    runs : int
        Largest count.

    Returns
    -------
    ndarray of float64, shape [distinct, 2kF + 1]
        Element [m, j]: the k-subsets of row m with 2 a - S = j - kF, as whole numbers.
    """
    distinct, seeds = rows.shape
    half = seeds // 2
    largest = half * runs
    subsets = np.zeros((distinct, half + 1, largest + 1))
    subsets[:, 0, 0] = 1.0
    for seed in range(seeds):
        for count in range(runs + 1):
            having = np.flatnonzero(rows[:, seed] == count)
            if len(having):
                table = subsets[having]
                table[:, 1:, count:] += subsets[having, :-1, : largest + 1 - count]
                subsets[having] = table
    position = 2 * np.arange(largest + 1) - rows.sum(axis=1)[:, None] + largest
    differences = np.zeros((distinct, 2 * largest + 1))
    row, sum_ = np.nonzero(subsets[:, half])
    differences[row, position[row, sum_]] = subsets[row, half, sum_]
    return differences
