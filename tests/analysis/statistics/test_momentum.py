from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from analysis.statistics.momentum import PAPER_TRIPLETS, momentum, triplets


def simulated(instances: int, seeds: tuple[int, int, int], runs: int) -> list[np.ndarray]:
    random = np.random.default_rng(instances)
    accuracy = random.beta(0.5, 0.4, (instances, 1))
    slope = random.normal(0, 0.15, (instances, 1))
    return [
        random.binomial(runs, np.clip(accuracy + size * slope, 0, 1), (instances, n)).astype(
            np.uint8
        )
        for size, n in enumerate(seeds)
    ]


@pytest.mark.parametrize("seeds", [(10, 10, 10), (4, 6, 10), (3, 2, 1)])
@pytest.mark.parametrize("runs", [1, 5])
def test_correlations_are_those_of_scipy_in_each_bucket(
    seeds: tuple[int, int, int], runs: int
) -> None:
    correct = simulated(3000, seeds, runs)
    result = momentum(correct, runs)
    exact = [
        [Fraction(int(total), n * runs) for total in counts.sum(axis=1, dtype=int)]
        for counts, n in zip(correct, seeds, strict=True)
    ]
    for bucket in range(10):
        low, high = Fraction(bucket, 10), Fraction(bucket + 1, 10)
        chosen = [i for i, middle in enumerate(exact[1]) if low <= middle < high]
        # Fractions, and then one common denominator: ties stay ties.
        first = [int((exact[1][i] - exact[0][i]) * 600 * runs) for i in chosen]
        second = [int((exact[2][i] - exact[1][i]) * 600 * runs) for i in chosen]
        assert result.instances[bucket] == len(chosen)
        if len(chosen) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
            assert np.isnan(result.pearson[bucket])
            assert np.isnan(result.spearman[bucket])
            continue
        assert result.pearson[bucket] == pytest.approx(pearsonr(first, second).statistic, abs=1e-12)
        expected = spearmanr(first, second).statistic
        assert result.spearman[bucket] == pytest.approx(expected, abs=1e-12)
    assert np.isfinite(result.pearson).sum() >= 2


def test_buckets_are_half_open_on_the_lattice() -> None:
    # 3 of 10 runs is 0.3, which binary floats put below 3 * 0.1.
    middle = np.array([[3], [10], [0], [9]], dtype=np.uint8)
    outer = np.array([[5], [5], [5], [5]], dtype=np.uint8)
    expected = [1, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert momentum([outer, middle, outer], 10).instances.tolist() == expected


@pytest.mark.filterwarnings("error")
def test_degenerate_counts_are_empty() -> None:
    for instances in (0, 1, 2, 5):
        same = np.full((instances, 2), 1, dtype=np.uint8)
        result = momentum([same, same, same], 2)
        assert result.instances.sum() == instances
        assert np.isnan(result.pearson).all()
        assert np.isnan(result.spearman).all()
    correct = np.full((4, 2), 2, dtype=np.uint8)
    assert momentum([correct, correct, correct], 2).instances.sum() == 0


@pytest.mark.filterwarnings("error")
def test_a_perfect_relation_is_1() -> None:
    random = np.random.default_rng(0)
    change = random.integers(0, 8, 200)
    first, third = 10 - change, 10 + change
    middle = np.full(200, 10)
    result = momentum([values[:, None] for values in (first, middle, third)], 25)
    assert result.pearson[4] == pytest.approx(1)
    assert result.pearson[4] <= 1
    assert result.spearman[4] == pytest.approx(1)


def test_triplets() -> None:
    assert triplets(("mini", "small", "medium", "base", "large")) == PAPER_TRIPLETS
    assert triplets(("mini", "medium", "large")) == (("mini", "medium", "large"),)
    assert triplets(("a", "b")) == ()
    assert triplets(("a", "b", "c")) == (("a", "b", "c"),)
    abcde = triplets(tuple("abcde"))
    assert abcde == (("a", "b", "c"), ("b", "c", "d"), ("c", "d", "e"), ("a", "c", "e"))
