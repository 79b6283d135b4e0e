from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from analysis.bootstrap import bounds
from analysis.bootstrap.adaptive_threshold import adaptive_threshold, bootstrap_gaps, draw_seeds
from analysis.statistics import multisets as multisets
from analysis.statistics.counts import Counts


def simulated(seeds: tuple[int, ...], runs: int, instances: int = 60) -> Counts:
    random = np.random.default_rng(3)
    hard = random.beta(0.4, 0.3, (instances, 1))
    correct = tuple(
        random.binomial(runs, np.clip(hard + 0.1 * size, 0, 1), (instances, n)).astype(np.uint8)
        for size, n in enumerate(seeds)
    )
    names = tuple("abcd"[: len(seeds)])
    return Counts(names, tuple(tuple(range(n)) for n in seeds), correct, runs)


def plain_gaps(smaller: np.ndarray, larger: np.ndarray, runs: int) -> list[float]:
    """Discovery less baseline of the decay, instance by instance and split by split."""
    instances, seeds = smaller.shape
    steps = seeds * runs
    gaps = []
    splits = list(combinations(range(seeds), seeds // 2))
    for t in range(-steps, 0):
        discovered = sum(sum(larger[i]) - sum(smaller[i]) <= t for i in range(instances))
        false = 0
        for a in splits:
            for b in splits:
                for i in range(instances):
                    mixed = sum(int(smaller[i][j]) * (1 if j in a else -1) for j in range(seeds))
                    mixed += sum(int(larger[i][j]) * (1 if j in b else -1) for j in range(seeds))
                    false += mixed <= t
        gaps.append(discovered / instances - false / instances / len(splits) ** 2)
    return gaps


@pytest.mark.parametrize(
    ("seeds", "runs"), [((4, 4, 4), 1), ((6, 6), 1), ((4, 4), 2), ((5, 4, 2), 2), ((4, 4), 3)]
)
@pytest.mark.parametrize("path", ["one block", "small blocks", "long tables"])
def test_gaps_are_those_of_a_plain_loop_with_the_same_draws(
    seeds: tuple[int, ...], runs: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "small blocks":
        monkeypatch.setattr(bounds, "BLOCK_INSTANCES", 5)
    if path == "long tables":
        # As if there were too many multisets to list.
        bounds._complete_table.cache_clear()
        monkeypatch.setattr(bounds, "every_multiset", lambda seeds, runs: None)
        monkeypatch.setattr(multisets, "every_multiset", lambda seeds, runs: None)
    counts = simulated(seeds, runs, instances=12)
    samples = 3
    gaps = bootstrap_gaps(counts, samples, seed=11)
    bounds._complete_table.cache_clear()
    for s1, s2 in combinations(range(len(seeds)), 2):
        n = min(seeds[s1], seeds[s2]) // 2 * 2
        draws = [draw_seeds(n, samples, (11, size)) for size in (s1, s2)]
        for sample in range(samples):
            first = counts.correct[s1].astype(int)[:, draws[0][sample]]
            second = counts.correct[s2].astype(int)[:, draws[1][sample]]
            decay, improve = plain_gaps(first, second, runs), plain_gaps(second, first, runs)
            np.testing.assert_allclose(gaps[s2, s1][sample], decay, rtol=0, atol=1e-12)
            np.testing.assert_allclose(gaps[s1, s2][sample], improve, rtol=0, atol=1e-12)


def test_every_sample_develops_the_threshold_of_every_other() -> None:
    random = np.random.default_rng(0)
    gaps = random.normal(0.05, 0.05, (6, 8))
    gaps[2] = -0.1  # claims nothing
    tuned, fresh = [], []
    for a in range(6):
        best = int(np.argmax(gaps[a]))
        tuned.append(max(gaps[a, best], 0.0))
        fresh += [gaps[b, best] if gaps[a, best] > 0 else 0.0 for b in range(6) if b != a]
    threshold = adaptive_threshold(gaps)
    assert threshold.tuned == pytest.approx(np.mean(tuned))
    assert threshold.fresh == pytest.approx(np.mean(fresh))
    expected = (np.mean(tuned) - np.mean(fresh)) / np.mean(fresh)
    assert threshold.relative_bias == pytest.approx(expected)


def test_bias_is_upward_and_shrinks_with_instances() -> None:
    biases = []
    for instances in (30, 3000):
        gaps = bootstrap_gaps(simulated((6, 6), 2, instances), 60, seed=1)
        biases.append(adaptive_threshold(gaps[0, 1]).relative_bias)
    # With its own threshold a sample does at least as well as with that of any other.
    assert biases[0] > 0
    assert biases[1] < biases[0]


def test_degenerate_counts() -> None:
    alike = Counts(("a", "b"), ((1, 2), (1, 2)), (np.ones((3, 2), np.uint8),) * 2, 1)
    gaps = bootstrap_gaps(alike, 5, seed=0)
    assert np.isnan(adaptive_threshold(gaps[0, 1]).relative_bias)
    one_seed = Counts(("a", "b"), ((1,), (1, 2)), (np.ones((3, 1)), np.ones((3, 2))), 1)  # type: ignore[arg-type]
    assert bootstrap_gaps(one_seed, 5, seed=0) == {}


def test_the_same_seed_gives_the_same_samples() -> None:
    counts = simulated((4, 4), 2)
    first, again, other = (bootstrap_gaps(counts, 4, seed=seed)[0, 1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    draws = draw_seeds(4, 1000, (0, 0))
    assert np.bincount(draws.ravel()).min() > 800
