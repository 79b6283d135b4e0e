"""Upward bias of the adaptive threshold (Appendix E, Table 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap.bounds import resample_gaps
from analysis.bootstrap.draws import weights_of
from analysis.statistics.counts import Counts
from configs.processes import Workers


@dataclass(frozen=True)
class AdaptiveThreshold:
    """Expected bound at a threshold tuned on the same sample, and at one tuned on another sample.

    Attributes
    ----------
    tuned : float
        E[L*], the expected bound at the sample's own best threshold: a fraction of instances.
    fresh : float
        E[L], the expected bound at the best threshold of an independent sample.
    """

    tuned: float
    fresh: float

    @property
    def relative_bias(self) -> float:
        """E[L* - L] / E[L]; NaN where E[L] is not above 0."""
        return (self.tuned - self.fresh) / self.fresh if self.fresh > 0 else float("nan")


def adaptive_threshold(gaps: NDArray[np.float64]) -> AdaptiveThreshold:
    """Estimate both expectations from independent samples of seeds.

    The threshold of each sample is tuned on every other sample: with R samples, E[L] is the average
    over all R (R - 1) ordered pairs, which has far less noise than R separate pairs. A sample
    whose discovery exceeds its baseline at no threshold gives a bound of 0, on itself and on other
    samples.

    Parameters
    ----------
    gaps : ndarray of float64, shape [sample, threshold]
        Discovery minus baseline at each threshold t < 0, fractions; at least two samples.

    Returns
    -------
    AdaptiveThreshold

    Examples
    --------
    The first sample has its largest gap, 0.4, at the first threshold, where the second has 0.1; the
    second has its largest, 0.3, at the second threshold, where the first has 0.2.

    >>> bias = adaptive_threshold(np.array([[0.4, 0.2], [0.1, 0.3]]))
    >>> print(f"{bias.tuned:.2f} {bias.fresh:.2f} {bias.relative_bias:.2f}")
    0.35 0.15 1.33
    """
    samples = len(gaps)
    best = np.argmax(gaps, axis=1)
    own = gaps[np.arange(samples), best]
    positive = own > 0
    # The gaps are added up over all samples first: there are fewer thresholds than pairs of
    # samples.
    tuned = float(own[positive].sum())
    at_all = float(gaps.sum(axis=0)[best[positive]].sum())
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

    Examples
    --------
    >>> draws = draw_seeds(10, 100, key=(0, 1))
    >>> draws.shape, bool((draws < 10).all())
    ((100, 10), True)
    """
    random = np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))
    return random.integers(seeds, size=(samples, seeds))


def bootstrap_gaps(
    counts: Counts, samples: int, seed: int, workers: Workers | None = None
) -> dict[tuple[int, int], NDArray[np.float64]]:
    """Compute discovery minus baseline in bootstrap samples of the pretraining seeds.

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
        Processes that share the instances; by default this process alone.

    Returns
    -------
    dict of (int, int) to ndarray of float64, shape [sample, threshold]
        By s1 and s2 (positions of sizes), the gap for instances that improve from s1 to s2, at the
        lattice values t < 0 of Acc[s1] - Acc[s2]. Pairs with fewer than two seeds a side are
        skipped.

    Examples
    --------
    Neither model of the first size is correct on the only instance, and both of the second: the
    instance improves in every sample, and mixed groups never differ.

    >>> correct = (np.array([[0, 0]]), np.array([[1, 1]]))
    >>> counts = Counts(("small", "large"), ((1, 2), (1, 2)), correct, runs=1)
    >>> gaps = bootstrap_gaps(counts, samples=2, seed=0)
    >>> gaps[0, 1]  # at the thresholds -1 and -1/2
    array([[1., 1.],
           [1., 1.]])
    >>> gaps[1, 0]
    array([[0., 0.],
           [0., 0.]])
    """
    by_seeds: dict[int, list[tuple[int, int]]] = {}
    for pair in combinations(range(len(counts.sizes)), 2):
        seeds = counts.common_even_seeds(*pair)
        if seeds and counts.instances:
            by_seeds.setdefault(seeds, []).append(pair)
    gaps: dict[tuple[int, int], NDArray[np.float64]] = {}
    for seeds, pairs in by_seeds.items():
        weights = {
            size: weights_of(draw_seeds(seeds, samples, (seed, size)), seeds)
            for size in sorted({size for pair in pairs for size in pair})
        }
        resampled = resample_gaps(counts, pairs, weights, workers=workers)
        for (first, second), pair_gaps in resampled.items():
            # The last threshold is 0.
            gaps[first, second] = pair_gaps.improve[:, :-1]
            gaps[second, first] = pair_gaps.decay[:, :-1]
    return gaps
