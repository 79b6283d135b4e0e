from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact
from statsmodels.stats.multitest import multipletests

from analysis.statistics.fisher import (
    DiscoveryBound,
    discovery_bound,
    fisher_p_values,
    joint_correct_models,
)


@pytest.mark.parametrize("models", [1, 2, 4, 7, 10])
def test_p_values_are_those_of_scipy(models: int) -> None:
    table = fisher_p_values(models)
    for a in range(models + 1):
        for b in range(models + 1):
            cells = [[a, models - a], [b, models - b]]
            expected = fisher_exact(cells, alternative="greater").pvalue
            assert table[a, b] == pytest.approx(expected, rel=1e-10)


def bound_of(smaller: list[int] | np.ndarray, larger: list[int] | np.ndarray) -> DiscoveryBound:
    """Bound of the numbers of correct models, of two each, on every instance."""
    return discovery_bound(joint_correct_models(np.array(smaller), np.array(larger), 2))


def simulated(seed: int, models: int, instances: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    smaller = random.beta(0.3, 0.2, instances)
    decaying = random.random(instances) < 0.15
    larger = np.where(decaying, smaller * random.random(instances), smaller)
    return random.binomial(models, smaller), random.binomial(models, larger)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("models", [2, 6, 10])
def test_the_best_rate_is_the_best_of_all(seed: int, models: int) -> None:
    smaller, larger = simulated(seed, models, 2000)
    result = discovery_bound(joint_correct_models(smaller, larger, models))
    p_values = fisher_p_values(models)[smaller, larger]
    best = 0.0
    for rate in np.linspace(0.001, 0.999, 999):
        # statsmodels rejects the largest set, which is Benjamini and Hochberg's procedure.
        discovered = multipletests(p_values, alpha=rate, method="fdr_bh")[0].mean()
        assert discovered * (1 - rate) <= result.bound + 1e-12
        best = max(best, discovered * (1 - rate))
    assert result.bound == pytest.approx(best, abs=0.001)
    if result.bound > 0:
        # Just above the rate, as the comparison at the rate itself hangs on rounding.
        rejected = multipletests(p_values, alpha=result.rate * (1 + 1e-9), method="fdr_bh")[0]
        assert rejected.mean() == pytest.approx(result.discovered, abs=1e-12)
        assert result.discovered * (1 - result.rate) == pytest.approx(result.bound, abs=1e-12)


def test_the_published_examples_are_met() -> None:
    # Appendix F: with two models a side the smallest significance level is 1/6, about 17%, so
    # that a hundredth of a percent of perfectly decaying instances is not discovered.
    assert fisher_p_values(2).min() == pytest.approx(1 / 6)
    smaller, larger = np.full(10_000, 2), np.full(10_000, 2)
    larger[0] = 0
    assert bound_of(smaller, larger).bound == 0


def test_degenerate_counts() -> None:
    assert bound_of([2], [0]).bound == pytest.approx(1 - 1 / 6)
    improving = bound_of([0], [2])
    assert improving.bound == 0
    assert np.isnan(improving.rate)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int32])
def test_counts_of_any_integer_type(dtype: type[np.integer]) -> None:
    expected = [[0, 0, 0], [0, 1, 0], [1, 0, 1]]
    smaller, larger = np.array([2, 2, 1], dtype), np.array([0, 2, 1], dtype)
    assert joint_correct_models(smaller, larger, 2).tolist() == expected
