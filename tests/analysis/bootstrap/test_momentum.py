from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.bootstrap.draws import Resampling
from analysis.bootstrap.intervals import interval, repeated_draws
from analysis.bootstrap.momentum import resample_momentum
from analysis.statistics.cross_fitted_momentum import cross_fitted_momentum, spaced_assignments
from analysis.statistics.momentum import BUCKETS, common_lattice, correlate_by_bucket, momentum


def drawn_columns(side: NDArray[np.integer], often: NDArray[np.float64]) -> NDArray[np.integer]:
    return np.repeat(side, often.astype(int), axis=1)


@pytest.mark.parametrize("draws_instances", [False, True])
@pytest.mark.parametrize("part", [2**13, 150])
def test_replicates_are_those_of_the_drawn_seeds_of_each_group(
    draws_instances: bool, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.bootstrap.momentum.PART_INSTANCES", part)
    random = np.random.default_rng(0)
    rate = random.beta(0.8, 0.6, (70, 1))
    sides = [random.binomial(3, rate, (70, seeds)) for seeds in (4, 7, 5)]
    clusters = np.arange(70) // 2 if draws_instances else None
    resampling = Resampling(9, 2, clusters)
    weights = [resampling.seed_weights(size, side.shape[1]) for size, side in enumerate(sides)]
    assigned = spaced_assignments(7)
    published = resample_momentum(sides, 3, weights, resampling)
    fitted = resample_momentum(sides, 3, weights, resampling, assigned)
    drawn = resampling.instance_weights(slice(0, 9))
    for replicate in range(9):
        rows = np.arange(70)
        if drawn is not None:
            rows = np.repeat(rows, drawn[:, replicate].astype(int))
        often = [weight[:, replicate] for weight in weights]
        expected = momentum(
            [drawn_columns(side[rows], of) for side, of in zip(sides, often, strict=True)], 3
        )
        np.testing.assert_allclose(published[0][replicate], expected.pearson, atol=1e-12)
        np.testing.assert_allclose(published[1][replicate], expected.spearman, atol=1e-12)
        sums, total = np.zeros((2, BUCKETS)), np.zeros((2, BUCKETS))
        for role in assigned:
            groups = [drawn_columns(sides[1][rows][:, of], often[1][of]) for of in role]
            importance = np.prod([group.shape[1] for group in groups])
            if not importance:
                continue
            outer = [drawn_columns(sides[size][rows], often[size]) for size in (0, 2)]
            (s1, middle, first, second, s3), whole = common_lattice(
                [outer[0], *groups, outer[1]], 3
            )
            bucket = middle * BUCKETS // whole
            kept = bucket < BUCKETS
            one = correlate_by_bucket(
                (first - s1)[kept], (s3 - second)[kept], bucket[kept], BUCKETS
            )
            values = np.stack([one.pearson, one.spearman])
            sums += importance * np.nan_to_num(values)
            total += importance * ~np.isnan(values)
        mean = np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
        found = np.stack([fitted[0][replicate], fitted[1][replicate]])
        np.testing.assert_allclose(found, mean, atol=1e-12)


def test_copies_of_a_seed_do_not_bring_the_shared_noise_back() -> None:
    # Nothing but noise, so that every correlation is 0.
    random = np.random.default_rng(3)
    sides = [random.binomial(2, 0.5, (4000, 9)) for _ in range(3)]
    resampling = Resampling(40, 0)
    weights = [resampling.seed_weights(size, 9) for size in range(3)]
    fitted, _ = resample_momentum(sides, 2, weights, resampling, spaced_assignments(9))
    assert abs(np.nanmean(fitted[:, 5])) < 0.02
    # Were the drawn seeds cut into groups, copies of a seed would fall into several.
    cut = []
    for often in zip(*(weight.T for weight in weights), strict=True):
        drawn = [drawn_columns(side, of) for side, of in zip(sides, often, strict=True)]
        drawn[1] = drawn[1][:, random.permutation(9)]
        cut.append(cross_fitted_momentum(drawn, 2).pearson[5])
    assert np.mean(cut) < -0.1


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_cross_fitted_intervals_cover_the_expectation(shared: bool) -> None:
    """Differences independent given Acc[s2], of correlation 0; and equal ones, attenuated."""
    random = np.random.default_rng(5)
    instances, seeds, simulations = 800, 9, 25
    resampling = Resampling(60, 1)
    weights = [resampling.seed_weights(size, seeds) for size in range(3)]
    repeats = np.column_stack([repeated_draws(weight) for weight in weights])
    middle = random.uniform(0.15, 0.85, (instances, 1))
    first = random.choice([-0.1, 0.1], (instances, 1))
    second = first if shared else random.choice([-0.1, 0.1], (instances, 1))
    rates = (middle - first, middle, middle + second)
    inside = slice(2, 8)

    def draw() -> list[NDArray[np.int64]]:
        return [random.binomial(3, rate, (instances, seeds)) for rate in rates]

    truth = np.mean([cross_fitted_momentum(draw(), 3).pearson[inside] for _ in range(150)], axis=0)
    assert np.all(truth > 0.15) if shared else np.all(np.abs(truth) < 0.1)
    covered, widths, estimates = [], [], []
    for _ in range(simulations):
        sides = draw()
        estimate = cross_fitted_momentum(sides, 3).pearson[inside]
        replicates, _ = resample_momentum(sides, 3, weights, resampling, spaced_assignments(seeds))
        low, high = interval(estimate, replicates[:, inside], repeats, seeds, (-1, 1))
        covered.append((low <= truth) & (truth <= high))
        widths.append(high - low)
        estimates.append(estimate)
    # 150 intervals, of 25 independent simulations.
    assert np.mean(covered) > 0.9
    # Not by being wide: those of a normal estimate would span 4 of its standard deviations.
    assert np.mean(widths) < 2 * 4 * np.std(estimates, axis=0).mean()
