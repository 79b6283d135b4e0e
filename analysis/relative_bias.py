"""Upward bias of the adaptive threshold (Appendix E, Table 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analysis.counts import Counts
from analysis.decay import curves_of_halves, half_differences
from analysis.multisets import Multisets, multisets

BATCH_ROWS = 2**20
"""Resampled rows of counts held at once, of one size."""


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
    claims = gaps[np.arange(samples), best] > 0
    # Element [a, b]: the bound of sample b at the threshold that sample a tuned.
    bound = np.where(claims[:, None], gaps[:, best].T, 0.0)
    own = np.trace(bound)
    return AdaptiveThreshold(
        tuned=float(own / samples),
        fresh=float((bound.sum() - own) / (samples * (samples - 1))),
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
    counts: Counts, samples: int, seed: int
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
        used = sorted({size for pair in pairs for size in pair})
        correct, share = _undecided([counts.correct[size][:, :seeds] for size in used], counts.runs)
        draws = {size: draw_seeds(seeds, samples, (seed, size)) for size in used}
        for s1, s2 in pairs:
            for ordered in ((s1, s2), (s2, s1)):
                gaps[ordered] = np.zeros((samples, seeds * counts.runs))
        if not share:
            continue
        batch = max(BATCH_ROWS // len(correct[0]), 1)
        for start in range(0, samples, batch):
            chosen = slice(start, min(start + batch, samples))
            sampled = {
                size: _resample(of_size, counts.runs, draws[size][chosen])
                for size, of_size in zip(used, correct, strict=True)
            }
            for sample in range(chosen.stop - chosen.start):
                for pair in pairs:
                    row = start + sample
                    decay, improve = _gaps(sampled[pair[0]], sampled[pair[1]], sample, counts.runs)
                    gaps[pair[::-1]][row], gaps[pair][row] = share * decay, share * improve
    return gaps


@dataclass(frozen=True)
class _Sampled:
    """Samples of one size: shared multisets, their halves, and an index [sample, instance]."""

    rows: NDArray[np.int64]
    halves: NDArray[np.float64]
    index: NDArray[np.int64]

    def multisets(self, sample: int) -> Multisets:
        return Multisets(rows=self.rows, index=self.index[sample])


def _undecided(
    correct: list[NDArray[np.unsignedinteger]], runs: int
) -> tuple[list[NDArray[np.unsignedinteger]], float]:
    """Leave out what all runs of all sizes predict alike; return the rest, and its fraction.

    Whatever the seeds, such an instance has a difference and a mixed difference of 0. More than
    half of the instances of an easy split are of that kind.
    """
    full = correct[0].shape[1] * runs
    total = [counts.sum(axis=1, dtype=np.int64) for counts in correct]
    alike = np.logical_and.reduce([of_size == total[0] for of_size in total])
    kept = np.flatnonzero(~(alike & ((total[0] == 0) | (total[0] == full))))
    return [counts[kept] for counts in correct], len(kept) / len(total[0])


def _resample(correct: NDArray[np.integer], runs: int, draws: NDArray[np.int64]) -> _Sampled:
    stacked = correct[:, draws].transpose(1, 0, 2).reshape(-1, draws.shape[1])
    distinct = multisets(stacked)
    return _Sampled(
        rows=distinct.rows,
        halves=half_differences(distinct.rows, runs),
        index=distinct.index.reshape(len(draws), len(correct)),
    )


def _gaps(
    smaller: _Sampled, larger: _Sampled, sample: int, runs: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gaps of the instances that decay, and of those that improve, at each t < 0."""
    curves = curves_of_halves(
        smaller.multisets(sample), larger.multisets(sample), (smaller.halves, larger.halves), runs
    )
    below = slice(0, curves.steps)
    improve = curves.exchanged()
    return (
        curves.discovery[below] - curves.baseline[below],
        improve.discovery[below] - improve.baseline[below],
    )
