"""Upward bias of the adaptive threshold (Appendix E, Table 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from analysis.bootstrap.draws import weights_of
from analysis.statistics.counts import Counts
from analysis.statistics.decay import LARGEST_EXACT, half_differences
from analysis.statistics.multisets import every_multiset, resampled_multisets
from configs.processes import Workers

BLOCK_INSTANCES = 2**16
"""Instances whose resamples are held at once."""

COMPARISONS_PER_SECOND = 8e7
"""Roughly how many instances one process compares, times samples and pairs."""

LARGEST_CODE = 2**63
"""Up to this many possible rows of counts are told apart by a number."""


@dataclass(frozen=True)
class AdaptiveThreshold:
    """The bound at the threshold tuned on the sample itself, and on another one.

    Attributes
    ----------
    tuned : float
        E[L*], the fraction of instances that the bound claims at its own best threshold.
    fresh : float
        E[L], the same at the best threshold of an independent sample.
    """

    tuned: float
    fresh: float

    @property
    def relative_bias(self) -> float:
        """E[L* - L] / E[L]; NaN where E[L] is not above 0."""
        return (self.tuned - self.fresh) / self.fresh if self.fresh > 0 else float("nan")


def adaptive_threshold(gaps: NDArray[np.float64]) -> AdaptiveThreshold:
    """Estimate both expectations from independent samples of seeds.

    Every sample is the development set of every other one: of R samples, E[L] is the average over
    all R (R - 1) ordered pairs, which has far less noise than R separate pairs. A sample whose
    baseline exceeds its discovery at every threshold claims nothing, on itself or elsewhere.

    Parameters
    ----------
    gaps : ndarray of float64, shape [sample, threshold]
        Discovery less baseline at each threshold t < 0, fractions; at least two samples.

    Returns
    -------
    AdaptiveThreshold
    """
    samples = len(gaps)
    best = np.argmax(gaps, axis=1)
    own = gaps[np.arange(samples), best]
    claims = own > 0
    # The bounds of all samples at the threshold that each of them tuned: by threshold, as there
    # are fewer of these than of pairs of samples.
    tuned = float(own[claims].sum())
    at_all = float(gaps.sum(axis=0)[best[claims]].sum())
    return AdaptiveThreshold(
        tuned=tuned / samples, fresh=(at_all - tuned) / (samples * (samples - 1))
    )


def draw_seeds(seeds: int, samples: int, key: Sequence[int]) -> NDArray[np.int64]:
    """Draw pretraining seeds with replacement, as many as there are.

    Parameters
    ----------
    seeds : int
        Number of pretraining seeds.
    samples : int
        Number of bootstrap samples.
    key : sequence of two int
        Key of the random numbers, each at least 0.

    Returns
    -------
    ndarray of int64, shape [sample, seed]
        Positions of seeds.
    """
    random = np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))
    return random.integers(seeds, size=(samples, seeds))


def bootstrap_gaps(
    counts: Counts, samples: int, seed: int, workers: Workers | None = None
) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Compute discovery less baseline in bootstrap samples of the pretraining seeds.

    Both directions of a pair, and all pairs that a size is in, share the draws of that size. The
    baseline is the average over all splits of the sampled seeds.

    Parameters
    ----------
    counts : Counts
        Of one split.
    samples : int
        Number of bootstrap samples.
    seed : int
        Seed of the draws.
    workers : Workers, optional
        Processes that share out the instances; this one alone where not given.

    Returns
    -------
    dict of (int, int) to ndarray of float64, shape [sample, threshold]
        By s1 and s2 (positions of sizes), the gap for instances that improve from s1 to s2, at the
        lattice values t < 0 of Acc[s1] - Acc[s2]. Pairs with fewer than two seeds a side are left
        out.
    """
    by_seeds: dict[int, list[tuple[int, int]]] = {}
    for pair in combinations(range(len(counts.sizes)), 2):
        seeds = counts.common_even_seeds(*pair)
        if seeds and counts.instances:
            by_seeds.setdefault(seeds, []).append(pair)
    gaps: dict[tuple[int, int], NDArray[np.float64]] = {}
    for seeds, pairs in by_seeds.items():
        steps = seeds * counts.runs
        used = sorted({size for pair in pairs for size in pair})
        draws = {size: draw_seeds(seeds, samples, (seed, size)) for size in used}
        of_all = _Bootstrap(
            runs=counts.runs,
            seeds=seeds,
            pairs=tuple(pairs),
            weights={size: weights_of(of_size, seeds) for size, of_size in draws.items()},
            samples=samples,
            instances=counts.instances,
        )
        observed, mixed = _differences(of_all, counts, workers or Workers())
        for pair in pairs:
            baseline = np.cumsum(mixed[pair], axis=1)[:, :steps]
            for ordered, found in ((pair[::-1], observed[pair]), (pair, observed[pair][:, ::-1])):
                discovery = np.cumsum(found, axis=1)[:, :steps] / counts.instances
                gaps[ordered] = discovery - baseline
    return gaps


@dataclass(frozen=True)
class _Bootstrap:
    """The samples of some pairs of sizes that share their seeds.

    Attributes
    ----------
    runs, seeds : int
        Finetuning seeds, and pretraining seeds of each size.
    pairs : tuple of (int, int)
        Positions of sizes.
    weights : dict of int to ndarray of float64, shape [seed, sample]
        How often each seed of a size is drawn.
    samples : int
    instances : int
        Of the split.
    """

    runs: int
    seeds: int
    pairs: tuple[tuple[int, int], ...]
    weights: dict[int, NDArray[np.float64]]
    samples: int
    instances: int

    @property
    def steps(self) -> int:
        """Runs of a size: k seeds on either side are 2kF."""
        return self.seeds * self.runs

    @property
    def splits(self) -> int:
        """Number of ways to split the seeds of a size in two."""
        return comb(self.seeds, self.seeds // 2)

    @property
    def unit(self) -> int:
        """What counts of subsets are divided by: they are whole, and exact while their sums fit."""
        return 1 if self.instances * self.splits**2 < LARGEST_EXACT else self.splits


def _differences(
    bootstrap: _Bootstrap, counts: Counts, workers: Workers
) -> tuple[dict[tuple[int, int], NDArray[np.float64]], ...]:
    """Instances at each difference, and the distribution of the mixed one.

    Both by pair, shape [sample, 2 * steps + 1], of the second size less the first.
    """
    samples, steps = bootstrap.samples, bootstrap.steps
    width = 2 * (steps // 4 + 1)
    observed = {pair: np.zeros((samples, 2 * steps + 1)) for pair in bootstrap.pairs}
    folded = {pair: np.zeros((samples, width, width)) for pair in bootstrap.pairs}
    blocks = (
        (
            bootstrap,
            {
                size: counts.correct[size][start : start + BLOCK_INSTANCES, : bootstrap.seeds]
                for size in bootstrap.weights
            },
        )
        for start in range(0, counts.instances, BLOCK_INSTANCES)
    )
    seconds = counts.instances * samples * len(bootstrap.pairs) / COMPARISONS_PER_SECOND
    for found, halves in workers.map(_compare_block, blocks, seconds):
        for pair in bootstrap.pairs:
            observed[pair] += found[pair]
            folded[pair] += halves[pair]
    unfold = _unfolding(steps)
    scale = counts.instances * (bootstrap.splits // bootstrap.unit) ** 2
    mixed = {pair: of.reshape(samples, -1) @ unfold / scale for pair, of in folded.items()}
    return observed, mixed


def _compare_block(
    block: tuple[_Bootstrap, dict[int, NDArray[np.unsignedinteger]]],
) -> tuple[dict[tuple[int, int], NDArray[np.float64]], ...]:
    """Compare the sizes of a block of instances, whose counts are given by size, in all samples.

    By pair, shapes [sample, 2 * steps + 1] and [sample, 2 * width, 2 * width], as `_compare` has
    them.
    """
    bootstrap, correct = block
    runs, seeds, samples = bootstrap.runs, bootstrap.seeds, bootstrap.samples
    rows = {size: _distinct_rows(of_size, runs) for size, of_size in correct.items()}
    joint = {pair: _joint_rows(rows[pair[0]], rows[pair[1]]) for pair in bootstrap.pairs}
    observed: dict[tuple[int, int], list[NDArray[np.float64]]] = {
        pair: [] for pair in bootstrap.pairs
    }
    folded: dict[tuple[int, int], list[NDArray[np.float64]]] = {
        pair: [] for pair in bootstrap.pairs
    }
    # One table serves all samples where it lists every multiset, and would be too long otherwise.
    batch = samples if every_multiset(seeds, runs) is not None else 1
    for first in range(0, samples, batch):
        chosen = slice(first, first + batch)
        sides = {
            size: _Resampled.of(of_size.rows, weights[:, chosen], runs, bootstrap.unit)
            for (size, weights), of_size in zip(
                bootstrap.weights.items(), rows.values(), strict=True
            )
        }
        for sample in range(min(batch, samples - first)):
            looked_up = {size: side.at(sample) for size, side in sides.items()}
            for pair in bootstrap.pairs:
                found, halves = _compare(looked_up[pair[0]], looked_up[pair[1]], joint[pair])
                observed[pair].append(found)
                folded[pair].append(halves)
    return (
        {pair: np.stack(found) for pair, found in observed.items()},
        {pair: np.stack(halves) for pair, halves in folded.items()},
    )


@dataclass(frozen=True)
class _Rows:
    """The distinct rows of counts, in any order, and which one each instance has."""

    rows: NDArray[np.unsignedinteger]
    index: NDArray[np.int64]


def _distinct_rows(correct: NDArray[np.unsignedinteger], runs: int) -> _Rows:
    seeds = correct.shape[1]
    if (runs + 1) ** seeds < LARGEST_CODE:
        keys = np.zeros(len(correct), dtype=np.int64)
        for seed in range(seeds):
            keys *= runs + 1
            keys += correct[:, seed]
        index, found = pd.factorize(keys)
    else:
        plain = np.ascontiguousarray(correct)
        texts = plain.view(np.dtype((np.void, plain.dtype.itemsize * seeds))).ravel()
        found, index = np.unique(texts, return_inverse=True)
    first = np.zeros(len(found), dtype=np.int64)
    first[index] = np.arange(len(correct))
    return _Rows(correct[first], index.astype(np.int64))


@dataclass(frozen=True)
class _JointRows:
    """The pairs of rows that occur, and the instances that have each; all of shape [pair]."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    instances: NDArray[np.float64]


def _joint_rows(smaller: _Rows, larger: _Rows) -> _JointRows:
    keys = smaller.index * len(larger.rows) + larger.index
    found, instances = np.unique(keys, return_counts=True)
    first, second = np.divmod(found, len(larger.rows))
    return _JointRows(first, second, instances.astype(np.float64))


@dataclass(frozen=True)
class _Halves:
    """The halves of multisets, those with an even sum S first.

    Halves are symmetric, and their differences 2 a - S are even where S is: a quarter of the
    lattice of 4kF + 1 differences tells them.

    Attributes
    ----------
    place : ndarray of int32, shape [multiset]
        Which row each multiset has here.
    total : ndarray of int32, shape [multiset]
        S, the sum of the counts.
    even : int
        How many sums are even.
    halves : ndarray of float64, shape [multiset, kF // 2 + 1]
        k-subsets (their number over `unit`) with 2 a - S = 0, 2, 4, ... where S is even, and with
        1, 3, 5, ... where it is odd.
    steps : int
        2kF.
    """

    place: NDArray[np.int32]
    total: NDArray[np.int32]
    even: int
    halves: NDArray[np.float64]
    steps: int


def _halves(rows: NDArray[np.int64], runs: int, unit: int) -> _Halves:
    steps = rows.shape[1] * runs
    order = np.argsort(rows.sum(axis=1) % 2, kind="stable")
    place = np.empty(len(order), dtype=np.int32)
    place[order] = np.arange(len(order))
    rows = rows[order]
    total = rows.sum(axis=1)
    # From 0 to kF, and one more, as the last odd difference may be kF + 1.
    halves = np.pad(half_differences(rows, runs)[:, steps // 2 :] / unit, ((0, 0), (0, 1)))
    difference = 2 * np.arange(steps // 4 + 1) + total[:, None] % 2
    return _Halves(
        place=place,
        total=total.astype(np.int32),
        even=int(np.count_nonzero(total % 2 == 0)),
        halves=np.take_along_axis(halves, difference, axis=1),
        steps=steps,
    )


@lru_cache(maxsize=4)
def _all_halves(seeds: int, runs: int, unit: int) -> _Halves:
    known = every_multiset(seeds, runs)
    assert known is not None
    return _halves(known[0], runs, unit)


@dataclass(frozen=True)
class _LookedUp:
    """The rows of one size in one sample.

    `multiset` is which multiset each row has, `total` the sum S of its counts, and `odd` is S % 2,
    each an ndarray of int32, shape [row].
    """

    multiset: NDArray[np.int32]
    total: NDArray[np.int32]
    odd: NDArray[np.int32]
    table: _Halves


@dataclass(frozen=True)
class _Resampled:
    """The rows of one size in several samples: which multiset each has, [sample, row]."""

    multiset: NDArray[np.int32]
    table: _Halves

    @classmethod
    def of(
        cls,
        correct: NDArray[np.integer],
        weights: NDArray[np.float64],
        runs: int,
        unit: int,
    ) -> _Resampled:
        rows, index = resampled_multisets(correct, weights, runs)
        seeds = correct.shape[1]
        known = every_multiset(seeds, runs)
        table = _halves(rows, runs, unit) if known is None else _all_halves(seeds, runs, unit)
        return cls(np.ascontiguousarray(table.place[index].T), table)

    def at(self, sample: int) -> _LookedUp:
        multiset = self.multiset[sample]
        total = self.table.total[multiset]
        return _LookedUp(multiset, total, total % 2, self.table)


def _compare(
    smaller: _LookedUp, larger: _LookedUp, joint: _JointRows
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count instances by their difference, and sum the products of the two sizes' halves.

    With E1 and E2 the halves, by multiset, and N the joint histogram of multisets, the latter is
    E1' N E2 (`decay.decay_curves`). N differs between samples and is never written out: every pair
    of rows adds its row of E2 to the multiset of the first size. Shape [2 * width, 2 * width],
    even differences before odd ones.
    """
    multiset = larger.multiset[joint.second]
    difference = larger.total[joint.second]
    steps = smaller.table.steps
    difference -= (smaller.total - steps)[joint.first]
    observed = np.bincount(difference, joint.instances, 2 * steps + 1).astype(np.float64)
    place = (2 * smaller.multiset)[joint.first]
    place += larger.odd[joint.second]
    halves = smaller.table.halves
    shape = (2 * len(halves), len(larger.table.halves))
    joint_histogram = sparse.coo_array((joint.instances, (place, multiset)), shape=shape)
    sums = (joint_histogram @ larger.table.halves).reshape(len(halves), -1)
    even = smaller.table.even
    folded = (halves[:even].T @ sums[:even], halves[even:].T @ sums[even:])
    return observed, np.concatenate(folded)


def _unfolding(steps: int) -> NDArray[np.float64]:
    """Which mixed difference every product of halves belongs to, with either sign of both.

    Shape [products, 2 * steps + 1]; the products as `_compare` orders them.
    """
    half = steps // 2
    differences = (2 * np.arange(half // 2 + 1) + np.array([[0], [1]])).ravel()
    signed = np.zeros((len(differences), 2 * half + 1))
    for row, difference in enumerate(differences.tolist()):
        if difference <= half:
            signed[row, [half - difference, half + difference]] = 1.0
    width = len(differences)
    unfold = np.zeros((width, width, 2 * steps + 1))
    for position in range(2 * half + 1):
        unfold[:, :, position : position + 2 * half + 1] += signed[:, position, None, None] * signed
    # Both halves together reach from -steps to steps.
    return unfold.reshape(width**2, -1)
