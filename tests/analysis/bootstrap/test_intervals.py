from __future__ import annotations

import numpy as np
import pytest

from analysis.bootstrap.draws import draw_indices, weights_of
from analysis.bootstrap.intervals import interval, repeated_draws, spread
from analysis.bootstrap.variances import (
    count_moments,
    resample_decomposition,
    resample_differences,
    resample_std_accuracy,
)
from analysis.statistics.seed_differences import seed_differences, std_accuracy
from analysis.statistics.variance import decompose
from tests.analysis.moments import draw_moments


def test_the_effect_of_repeated_seeds_is_removed() -> None:
    weights = weights_of(draw_indices(8, 500, (0,)), 8)
    repeats = repeated_draws(weights)
    noise = np.random.default_rng(0).normal(size=500)
    found = spread(3.0 * repeats + noise, repeats)
    assert np.corrcoef(found, repeats)[0, 1] == pytest.approx(0.0, abs=1e-10)
    assert found.mean() == pytest.approx(0.0, abs=1e-10)
    assert np.corrcoef(found, noise)[0, 1] > 0.99


@pytest.mark.parametrize(("seeds", "least"), [(4, 0.85), (6, 0.92), (10, 0.93)])
def test_intervals_of_a_mean_cover_it(seeds: int, least: float) -> None:
    random = np.random.default_rng(seeds)
    weights = weights_of(draw_indices(seeds, 1000, (1,)), seeds)
    repeats = repeated_draws(weights)
    covered, plain = [], []
    for values in random.normal(size=(1500, seeds)):
        replicates = values @ weights / seeds
        low, high = interval(values.mean(), replicates, repeats, seeds)
        covered.append(low <= 0 <= high)
        ends = np.quantile(replicates, [0.025, 0.975])
        plain.append(ends[0] <= 0 <= ends[1])
    # No replicate lies beyond the most extreme seed, and all seeds of n lie on one side of the
    # truth with probability 2^(1 - n): 0.125 with 4, 0.031 with 6.
    assert np.mean(covered) > np.mean(plain) + 0.02
    assert least < np.mean(covered) < 0.98


def test_intervals_of_pretraining_variance_and_differences_cover_the_truth() -> None:
    # Accuracy of a pretraining seed on an instance is 0.2 or 0.9: between-seed variance 0.35^2.
    random = np.random.default_rng(3)
    weights = weights_of(draw_indices(10, 500, (2,)), 10)
    repeats = repeated_draws(weights)
    variance, differ = [], []
    for _ in range(200):
        rate = np.where(random.random((200, 10)) < 0.5, 0.2, 0.9)
        correct = random.binomial(4, rate)
        moments = count_moments(correct, 4)
        replicates = resample_decomposition(moments, weights)[:, 1]
        estimate = resample_decomposition(moments, np.ones((10, 1)))[0, 1]
        low, high = interval(estimate, replicates, repeats, 10)
        variance.append(low <= 0.35**2 <= high)
        # The duplicates' pairs with themselves do not pull the replicates towards 0.
        assert replicates.mean() == pytest.approx(estimate, abs=0.01)
        found = resample_differences(moments, weights).diff_pretrain
        truth = 2 * 0.55 * 0.45
        low, high = interval(seed_differences(correct, 4).pretrain, found, repeats, 10)
        differ.append(low <= truth <= high)
    assert np.mean(variance) > 0.9
    assert np.mean(differ) > 0.9


def test_too_few_defined_replicates_have_no_interval() -> None:
    replicates = np.full((100, 2), np.nan)
    replicates[:40, 0] = 1.0
    replicates[:, 1] = np.arange(100) / 100
    low, high = interval(np.array([1.0, 0.5]), replicates, np.ones(100), 10, (0.1, 0.9))
    assert np.isnan([low[0], high[0]]).all()
    assert 0.1 <= low[1] < 0.5 < high[1] <= 0.9
    assert np.isnan(interval(1.0, np.ones(100), np.ones(100), 1)).all()


def test_replicates_of_moments_equal_the_loop_over_different_pairs() -> None:
    random = np.random.default_rng(4)
    correct = random.integers(0, 4, (12, 5))
    indices = draw_indices(5, 30, (5,))
    weights = weights_of(indices, 5)
    drawn = draw_indices(12, 30, (6,))
    instance_weights = weights_of(drawn, 12)
    for rows, moments in (
        (None, count_moments(correct, 3)),
        (drawn, count_moments(correct, 3, instance_weights)),
    ):
        parts = resample_decomposition(moments, weights)
        differences = resample_differences(moments, weights)
        for replicate, seeds in enumerate(indices):
            kept = correct if rows is None else correct[rows[replicate]]
            u = kept / 3
            pairs = [(a, b) for a in seeds for b in seeds if a != b]
            noise = np.mean([kept[:, s] * (3 - kept[:, s]) / 6 for s in seeds], axis=0)
            between = np.mean([(u[:, a] - u[:, b]) ** 2 / 2 for a, b in pairs], axis=0) - noise / 3
            loss = 1 - np.mean([u[:, s] for s in seeds], axis=0)
            expected = [(loss - between - noise).mean(), between.mean(), noise.mean()]
            np.testing.assert_allclose(parts[replicate], expected, atol=1e-12)
            differ = [u[:, a] * (1 - u[:, b]) + u[:, b] * (1 - u[:, a]) for a, b in pairs]
            assert differences.diff_pretrain[replicate] == pytest.approx(np.mean(differ), abs=1e-12)
            assert differences.accuracy[replicate] == pytest.approx(1 - loss.mean(), abs=1e-12)


def test_every_seed_once_gives_the_statistics_themselves() -> None:
    random = np.random.default_rng(7)
    once = np.ones((4, 1))
    for draws in (random.random((20, 4, 3, 2)), random.random((20, 4, 3)) < 0.6):
        parts = decompose(draws)
        expected = [parts.bias2.mean(), *parts.variances.mean(axis=1)]
        found = resample_decomposition(draw_moments(draws), once)[0]
        np.testing.assert_allclose(found, expected, atol=1e-12)
    run_accuracy = random.random((4, 3))
    found_std = resample_std_accuracy(run_accuracy, once)[0]
    assert found_std == pytest.approx(std_accuracy(run_accuracy), abs=1e-12)
