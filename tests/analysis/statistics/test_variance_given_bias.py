from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.statistics.variance import Decomposition, decompose
from analysis.statistics.variance_given_bias import (
    BINS,
    BinnedVariances,
    bin_variances,
    variance_curve,
)


def truth(bias: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.3 * bias * (1 - bias) * (1 + 0.5 * bias)


def simulated(instances: int, seed: int, noise: float = 0.05) -> Decomposition:
    """Instances half of which are certain, the rest with a noisy variance about a known curve."""
    random = np.random.default_rng(seed)
    bias = np.where(random.random(instances) < 0.5, 0.0, random.beta(0.8, 1.5, instances))
    variance = truth(bias) + noise * random.normal(size=instances) * (bias > 0)
    return Decomposition(bias2=bias**2, variances=np.stack([variance, 2 * variance]))


def binned(parts: Decomposition) -> BinnedVariances:
    return bin_variances(parts, np.zeros(len(parts.bias2), dtype=int), 1).of_group(0)


@pytest.mark.parametrize("instances", [2000, 20_000])
def test_a_known_curve_lies_inside_the_band(instances: int) -> None:
    inside, points = 0, 0
    for seed in range(10):
        curve = variance_curve(binned(simulated(instances, seed)), 0)
        assert curve is not None
        expected = truth(np.sqrt(curve.bias2))
        # The bands are pointwise; the last points of a run lie beyond its data.
        within = (curve.low - 1e-4 <= expected) & (expected <= curve.high + 1e-4)
        inside += int(within.sum())
        points += len(within)
        middle = (curve.bias2 > 0.04) & (curve.bias2 < 0.6)
        assert np.abs(curve.mean - expected)[middle].max() < 1.5 / np.sqrt(instances)
    assert inside / points > 0.85


def test_the_band_narrows_with_instances() -> None:
    few, many = (
        variance_curve(binned(simulated(instances, 3)), 0) for instances in (1000, 100_000)
    )
    assert few is not None
    assert many is not None
    assert np.median(many.high - many.low) < 0.3 * np.median(few.high - few.low)


def test_levels_are_regressed_apart() -> None:
    sums = binned(simulated(5000, 1))
    pretrain, finetune = variance_curve(sums, 0), variance_curve(sums, 1)
    assert pretrain is not None
    assert finetune is not None
    np.testing.assert_allclose(finetune.mean, 2 * pretrain.mean, rtol=1e-3, atol=1e-5)


def test_bins_hold_every_instance_once_and_blocks_add_up() -> None:
    random = np.random.default_rng(2)
    draws = random.random((500, 4, 3)) < random.random((500, 1, 1))
    parts, group = decompose(draws), random.integers(3, size=500)
    assert (parts.bias2 < 0).any()
    whole = bin_variances(parts, group, 3)
    np.testing.assert_array_equal(whole.instances.sum(axis=1), np.bincount(group))
    for number in range(3):
        of_group = whole.of_group(number)
        chosen = group == number
        assert of_group.bias2.sum() == pytest.approx(parts.bias2[chosen].sum())
        np.testing.assert_allclose(
            of_group.variances.sum(axis=1), parts.variances[:, chosen].sum(axis=1), atol=1e-13
        )
        np.testing.assert_allclose(
            of_group.squares.sum(axis=1), (parts.variances[:, chosen] ** 2).sum(axis=1)
        )
    halves = [
        bin_variances(Decomposition(parts.bias2[half], parts.variances[:, half]), group[half], 3)
        for half in (slice(0, 200), slice(200, 500))
    ]
    together = halves[0] + halves[1]
    np.testing.assert_allclose(together.squares, whole.squares, atol=1e-12)
    np.testing.assert_array_equal(together.instances, whole.instances)
    middle = 0.5 * (np.arange(BINS) + np.arange(1, BINS + 1)) / BINS
    filled = of_group.instances > 0
    filled[0] = False
    bias = np.sqrt(of_group.bias2[filled] / of_group.instances[filled])
    assert np.abs(bias - middle[filled]).max() <= 0.5 / BINS + 1e-12


def test_too_few_instances_have_no_curve() -> None:
    assert variance_curve(binned(simulated(100, 0)), 0) is None
    certain = Decomposition(bias2=np.zeros(5000), variances=np.zeros((2, 5000)))
    assert variance_curve(binned(certain), 1) is None
