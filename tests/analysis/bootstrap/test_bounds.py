from __future__ import annotations

import numpy as np
import pytest

from analysis.bootstrap import bounds as module
from analysis.bootstrap import draws
from analysis.bootstrap.bounds import resample_pairs
from analysis.bootstrap.draws import Resampling
from analysis.bootstrap.joint_counts import (
    correct_distribution,
    gaps_of_counts,
    joint_counts,
    replaced_counts,
)
from analysis.statistics import multisets as multisets_module
from analysis.statistics.counts import Counts
from analysis.statistics.decay import decay_curves
from analysis.statistics.multisets import multisets


def make_counts(runs: int, seeds: int, instances: int = 60) -> Counts:
    random = np.random.default_rng(runs + seeds)
    rate = random.beta(0.6, 0.4, (instances, 1))
    correct = tuple(random.binomial(runs, rate, (instances, seeds)).astype(np.uint8) for _ in "abc")
    return Counts(("a", "b", "c"), (tuple(range(seeds)),) * 3, correct, runs)


@pytest.mark.parametrize("draws_instances", [False, True])
@pytest.mark.parametrize(("runs", "seeds"), [(1, 6), (3, 4), (5, 10), (2, 2)])
def test_replicates_equal_the_statistic_of_the_drawn_seeds(
    runs: int, seeds: int, draws_instances: bool
) -> None:
    counts = make_counts(runs, seeds)
    clusters = np.arange(60) // 3 if draws_instances else None
    resampling = Resampling(12, 5, clusters)
    resampled = resample_pairs(counts, (0, 1, 2), seeds, resampling)
    drawn = resampling.instance_weights(slice(0, 12))
    for replicate in range(12):
        rows = np.arange(60)
        if drawn is not None:
            rows = np.repeat(rows, drawn[:, replicate].astype(int))
        for first, second in ((0, 1), (0, 2), (1, 2)):
            sides = [
                np.repeat(
                    counts.correct[size][rows],
                    resampling.seed_weights(size, seeds)[:, replicate].astype(int),
                    axis=1,
                )
                for size in (first, second)
            ]
            curves = decay_curves(multisets(sides[0]), multisets(sides[1]), runs)
            upto = slice(0, curves.steps + 1)
            pair = resampled[first, second]
            for gaps, direction in ((pair.decay, curves), (pair.improve, curves.exchanged())):
                expected = (direction.discovery - direction.baseline)[upto]
                np.testing.assert_allclose(gaps[replicate], expected, atol=1e-12)
            expected = joint_counts(sides[0], sides[1], runs) / len(rows)
            np.testing.assert_allclose(pair.counts[replicate], expected, atol=1e-12)
            if runs == 1:
                of_counts = gaps_of_counts(pair.counts)
                np.testing.assert_allclose(of_counts, (pair.decay, pair.improve), atol=1e-12)


def test_more_multisets_than_can_be_tabulated_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = make_counts(3, 4)
    tabulated = resample_pairs(counts, (0, 1), 4, Resampling(6, 1))[0, 1].decay
    module._complete_table.cache_clear()
    for where in (module, multisets_module):
        monkeypatch.setattr(where, "every_multiset", lambda seeds, runs: None)
    searched = resample_pairs(counts, (0, 1), 4, Resampling(6, 1))[0, 1].decay
    module._complete_table.cache_clear()
    np.testing.assert_allclose(searched, tabulated, atol=1e-14)


@pytest.mark.parametrize("draws_instances", [False, True])
@pytest.mark.parametrize("runs", [1, 2])
def test_blocks_of_replicates_and_instances_change_nothing(
    runs: int, draws_instances: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = make_counts(runs, 4)
    resampling = Resampling(10, 3, np.arange(60) if draws_instances else None)
    whole = resample_pairs(counts, (0, 1), 4, resampling)[0, 1]
    monkeypatch.setattr(draws, "BLOCK_CELLS", 250)
    monkeypatch.setattr(module, "BLOCK_INSTANCES", 31)
    monkeypatch.setattr(module, "RESAMPLED_INSTANCES", 70)
    monkeypatch.setattr(module, "CACHED_CELLS", 1)
    parts = resample_pairs(counts, (0, 1), 4, resampling)[0, 1]
    np.testing.assert_allclose(parts.decay, whole.decay, atol=1e-13)
    np.testing.assert_allclose(parts.counts, whole.counts, atol=1e-13)


def test_one_run_of_each_seed_is_averaged_over_all_choices() -> None:
    # Two runs of two seeds: four choices a side.
    correct = np.array([[2, 1], [0, 1], [1, 1]])
    runs = np.array([[[1, 1], [1, 0]], [[0, 0], [1, 0]], [[1, 0], [1, 0]]])
    expected = np.zeros((3, 3))
    for first in range(2):
        for second in range(2):
            correct_models = runs[:, 0, first] + runs[:, 1, second]
            expected[np.arange(3), correct_models] += 1 / 4
    np.testing.assert_allclose(correct_distribution(correct, 2), expected, atol=1e-15)


@pytest.mark.slow
def test_gaps_of_counts_of_one_run_are_unbiased_for_drawn_runs() -> None:
    random = np.random.default_rng(2)
    smaller, larger = random.integers(0, 4, (2, 40, 4))
    decay, improve = gaps_of_counts(joint_counts(smaller, larger, 3) / 40)
    drawn = []
    for _ in range(4000):
        sides = [(random.random(side.shape) < side / 3).astype(int) for side in (smaller, larger)]
        curves = decay_curves(multisets(sides[0]), multisets(sides[1]), 1)
        both = [(c.discovery - c.baseline)[:5] for c in (curves, curves.exchanged())]
        drawn.append(np.concatenate(both))
    error = np.std(drawn, axis=0) / np.sqrt(4000)
    difference = np.abs(np.mean(drawn, axis=0) - np.concatenate([decay, improve]))
    assert np.all(difference <= 4.5 * error + 1e-12)


def test_replaced_seeds_are_those_that_it_says() -> None:
    counts = make_counts(3, 4)
    sides = [side.astype(np.int64) for side in counts.correct]
    replaced = replaced_counts(sides, 3)
    row = 0
    for seed in range(4):
        for other in range(4):
            if other == seed:
                continue
            columns = [other if column == seed else column for column in range(4)]
            for a, b in ((0, 1), (0, 2), (1, 2)):
                in_first = joint_counts(sides[a][:, columns], sides[b], 3)
                in_second = joint_counts(sides[a], sides[b][:, columns], 3)
                np.testing.assert_allclose(replaced[a, b][0][row], in_first, atol=1e-12)
                np.testing.assert_allclose(replaced[a, b][1][row], in_second, atol=1e-12)
            row += 1
