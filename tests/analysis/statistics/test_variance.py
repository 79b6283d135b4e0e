from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from analysis.statistics.seed_differences import seed_differences
from analysis.statistics.variance import (
    TreeSums,
    count_sums,
    decompose,
    decompose_counts,
    decompose_sums,
    tree_sums,
)

Tree = list | float


def sample_variance(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def reference(node: Tree, depth: int, levels: list[list[float]]) -> tuple[float, float]:
    """Mean of a node and the estimated variance of that mean, by the recursion as written.

    V(x) = s^2(means of children) - mean of v(children); v(x) = V(x) / m + mean v(children) / m.
    """
    if not isinstance(node, list):
        return node, 0.0
    children = [reference(child, depth + 1, levels) for child in node]
    means, errors = [mean for mean, _ in children], [error for _, error in children]
    width = len(children)
    variance = sample_variance(means) - sum(errors) / width
    levels[depth].append(variance)
    return sum(means) / width, variance / width + sum(errors) / width / width


@pytest.mark.parametrize("shape", [(4,), (3, 2), (2, 5), (3, 4, 2), (2, 2, 3, 2)])
@pytest.mark.parametrize("binary", [True, False])
def test_decomposition_equals_a_nested_loop(shape: tuple[int, ...], binary: bool) -> None:
    random = np.random.default_rng(len(shape))
    values = random.random((6, *shape))
    draws: NDArray = values < 0.6 if binary else values
    parts = decompose(draws)
    for i in range(6):
        levels: list[list[float]] = [[] for _ in shape]
        reference(draws[i].astype(float).tolist(), 0, levels)
        expected = [sum(level) / len(level) for level in levels]
        np.testing.assert_allclose(parts.variances[:, i], expected, atol=1e-14)
        loss = np.mean((1 - draws[i].astype(float)) ** 2)
        assert parts.bias2[i] == pytest.approx(loss - sum(expected), abs=1e-14)


def test_estimates_are_unbiased_over_hierarchical_normal_draws() -> None:
    random = np.random.default_rng(17)
    mean, deviations, shape = 0.3, (0.5, 0.3, 0.2), (3, 2, 4)
    trees = 60_000
    draws = np.full((trees, *shape), mean)
    draws += deviations[0] * random.normal(size=(trees, 3, 1, 1))
    draws += deviations[1] * random.normal(size=(trees, 3, 2, 1))
    draws += deviations[2] * random.normal(size=(trees, 3, 2, 4))
    parts = decompose(draws)
    truth = [(1 - mean) ** 2, *(d**2 for d in deviations)]
    for estimates, expected in zip([parts.bias2, *parts.variances], truth, strict=True):
        error = estimates.std() / np.sqrt(trees)
        assert abs(estimates.mean() - expected) < 4 * error


def test_estimates_are_unbiased_over_beta_bernoulli_draws() -> None:
    # Each pretraining seed has its own probability, Beta(2, 3): mean 0.4, variance 0.04.
    random = np.random.default_rng(4)
    trees = 100_000
    rate = random.beta(2, 3, (trees, 4, 1))
    parts = decompose(random.random((trees, 4, 3)) < rate)
    truth = [0.6**2, 0.04, 0.4 * 0.6 - 0.04]
    for estimates, expected in zip([parts.bias2, *parts.variances], truth, strict=True):
        assert abs(estimates.mean() - expected) < 4 * estimates.std() / np.sqrt(trees)


def test_one_level_gives_the_sample_variance() -> None:
    parts = decompose(np.array([[0.0, 0.5, 1.0]]))
    assert parts.variances.tolist() == [[0.25]]


@pytest.mark.parametrize("binary", [True, False])
def test_a_level_with_one_draw_leaves_the_variances_that_need_more_undefined(binary: bool) -> None:
    values = np.random.default_rng(0).random((5, 1, 3))
    draws: NDArray = values < 0.5 if binary else values
    one_pretraining_seed = decompose(draws)
    assert np.isnan(one_pretraining_seed.variances[0]).all()
    assert np.isnan(one_pretraining_seed.bias2).all()
    assert np.isfinite(one_pretraining_seed.variances[1]).all()
    one_finetuning_seed = decompose(np.swapaxes(draws, 1, 2))
    assert np.isnan(one_finetuning_seed.variances).all()


@pytest.mark.parametrize("value", [True, False])
def test_certain_predictions_have_no_variance(value: bool) -> None:
    parts = decompose(np.full((1, 2, 2), value))
    assert parts.variances.tolist() == [[0.0], [0.0]]
    assert parts.bias2.tolist() == [0.0 if value else 1.0]


def test_draws_without_a_level_are_refused() -> None:
    with pytest.raises(ValueError, match="level"):
        decompose(np.array([0.5, 0.5]))


counts = st.tuples(st.integers(1, 20), st.integers(2, 6), st.integers(2, 6)).flatmap(
    lambda s: st.tuples(arrays(np.int64, s[:2], elements=st.integers(0, s[2])), st.just(s[2]))
)


@settings(deadline=None, max_examples=60)
@given(counts)
def test_disagreement_of_pairs_is_twice_the_variance(case: tuple[NDArray[np.int64], int]) -> None:
    # For 0/1 draws: half of Diff_FTune is FineVar, half of Diff_PTrain is PretVar + FineVar.
    correct, runs = case
    parts, differences = decompose_counts(correct, runs), seed_differences(correct, runs)
    pretrain, finetune = parts.variances.mean(axis=1)
    assert differences.finetune == pytest.approx(2 * finetune, abs=1e-12)
    assert differences.pretrain == pytest.approx(2 * (pretrain + finetune), abs=1e-12)


@pytest.mark.parametrize("binary", [True, False])
def test_sums_of_seeds_and_instances_give_the_average(binary: bool) -> None:
    random = np.random.default_rng(8)
    values = random.random((50, 4, 3, 2))
    draws: NDArray = values < 0.7 if binary else values
    expected = decompose(draws)
    # Seed by seed, as they are read.
    trees = [tree_sums(np.moveaxis(draws[:, seed], 0, -1)) for seed in range(4)]
    total = np.sum([tree.total for tree in trees], axis=0)
    below = np.sum([tree.squares for tree in trees], axis=0)
    sums = TreeSums(total, np.concatenate([total[None] ** 2, below]))
    parts = decompose_sums(sums, (4, 3, 2))
    np.testing.assert_allclose(parts.bias2, expected.bias2, atol=1e-14)
    np.testing.assert_allclose(parts.variances, expected.variances, atol=1e-14)
    added = TreeSums(sums.total.sum(), sums.squares.sum(axis=1))
    average = decompose_sums(added, (4, 3, 2), instances=50)
    np.testing.assert_allclose(average.bias2, expected.bias2.mean(), atol=1e-13)
    np.testing.assert_allclose(average.variances, expected.variances.mean(axis=1), atol=1e-13)


def test_sums_from_counts_are_those_of_the_draws() -> None:
    draws = np.random.default_rng(9).random((4, 3, 5, 20)) < 0.6
    of_draws, of_counts = tree_sums(draws), count_sums(draws.sum(axis=2))
    np.testing.assert_array_equal(of_draws.total, of_counts.total)
    np.testing.assert_array_equal(of_draws.squares, of_counts.squares)


def test_no_instances_have_no_variance() -> None:
    nothing = decompose_sums(TreeSums(np.array(0.0), np.zeros(3)), (2, 2), instances=0)
    assert np.isnan(nothing.bias2)
    assert np.isnan(nothing.variances).all()
