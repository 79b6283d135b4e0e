from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from analysis.statistics.decay import (
    DecayCurves,
    decay_bound,
    decay_curves,
    ensemble_curves,
    one_split,
)
from analysis.statistics.fisher import joint_correct_models
from analysis.statistics.multisets import multisets

Array = NDArray[np.int64]


def curves_of(smaller: Array, larger: Array, runs: int) -> DecayCurves:
    return decay_curves(multisets(smaller), multisets(larger), runs)


def enumerate_baseline(smaller: Array, larger: Array, runs: int) -> list[Fraction]:
    """Baseline at each lattice threshold, from every split of the seeds and Equation 9."""
    instances, seeds = smaller.shape
    steps = seeds * runs
    at_most = [0] * (2 * steps + 1)
    splits = 0
    for first in combinations(range(seeds), seeds // 2):
        for second in combinations(range(seeds), seeds // 2):
            splits += 1
            for i in range(instances):
                mixed = 0
                for p in range(seeds):
                    mixed += int(smaller[i, p]) * (1 if p in first else -1)
                    mixed += int(larger[i, p]) * (1 if p in second else -1)
                for threshold in range(-steps, steps + 1):
                    at_most[threshold + steps] += mixed <= threshold
    return [Fraction(count, splits * instances) for count in at_most]


@pytest.mark.parametrize("seeds", [2, 4, 6])
@pytest.mark.parametrize("runs", [1, 2, 5])
def test_closed_form_equals_enumeration_of_every_split(seeds: int, runs: int) -> None:
    random = np.random.default_rng(10 * seeds + runs)
    smaller = random.integers(0, runs + 1, (4, seeds))
    larger = random.integers(0, runs + 1, (4, seeds))
    curves = curves_of(smaller, larger, runs)
    assert curves.baseline.tolist() == [float(f) for f in enumerate_baseline(smaller, larger, runs)]
    difference = larger.sum(axis=1) - smaller.sum(axis=1)
    for j, threshold in enumerate(range(-seeds * runs, seeds * runs + 1)):
        assert curves.discovery[j] == np.mean(difference <= threshold)
        assert curves.thresholds[j] == threshold / (seeds * runs)


def test_single_splits_average_to_the_closed_form() -> None:
    random = np.random.default_rng(3)
    smaller, larger = random.integers(0, 3, (2, 30, 4))
    expected = curves_of(smaller, larger, 2).baseline
    draws = np.array([one_split(smaller, larger, 2, random).baseline for _ in range(4000)])
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - expected) <= 4.5 * error + 1e-12)
    assert draws.std(axis=0).max() > 0.01


def test_one_split_keeps_pretraining_seeds_whole_and_is_reproducible() -> None:
    # With two seeds a side there are only four splits.
    random = np.random.default_rng(0)
    smaller, larger = random.integers(0, 6, (2, 50, 2))
    possible = {
        tuple(np.bincount(a * (smaller @ [1, -1]) + b * (larger @ [1, -1]) + 10, minlength=21))
        for a in (1, -1)
        for b in (1, -1)
    }
    seen = {tuple(one_split(smaller, larger, 5, np.random.default_rng(s)).mixed) for s in range(40)}
    assert seen == possible


def test_more_splits_than_float64_counts_exactly() -> None:
    # C(30, 15)^2 splits exceed 2^53; the hypergeometric closed form is known for F = 1.
    from scipy.stats import hypergeom

    smaller = np.repeat([[1, 0]], 15, axis=0).reshape(1, 30)
    larger = np.repeat([[1, 1, 0]], 10, axis=0).reshape(1, 30)
    curves = curves_of(smaller, larger, 1)
    first = hypergeom(30, 15, 15).pmf(np.arange(16))
    second = hypergeom(30, 20, 15).pmf(np.arange(16))
    expected = np.zeros(61)
    for a in range(16):
        for b in range(16):
            expected[30 + 2 * a - 15 + 2 * b - 20] += first[a] * second[b]
    np.testing.assert_allclose(curves.mixed / curves.mixed_total, expected, atol=1e-15)


def test_bound_is_read_off_where_the_gap_is_largest() -> None:
    # Two seeds: 3 of 10 instances decay for certain, the others are correct throughout.
    smaller = np.full((10, 2), 1)
    larger = np.array([[0, 0]] * 3 + [[1, 1]] * 7)
    bound = decay_bound(curves_of(smaller, larger, 1))
    assert (bound.bound, bound.discovery, bound.baseline) == (0.3, 0.3, 0.0)
    assert bound.threshold == -1.0
    improving = decay_bound(curves_of(smaller, larger, 1).exchanged())
    assert improving.bound == 0.0
    assert np.isnan(improving.threshold)


def test_bound_holds_and_finds_decay_in_simulated_instances() -> None:
    # A fifth of the instances truly decays, from 0.9 to 0.2; the others improve or stay.
    random = np.random.default_rng(8)
    true = [np.repeat([0.9, 0.5, 0.7], 4000), np.repeat([0.2, 0.5, 0.9], 4000)]
    weights = np.r_[:2400, 4000:12000]
    smaller, larger = (random.binomial(1, p[weights, None], (len(weights), 10)) for p in true)
    bound = decay_bound(curves_of(smaller, larger, 1)).bound
    assert 0.15 < bound < 2400 / len(weights)


def test_mean_gap_is_at_most_zero_when_nothing_decays() -> None:
    # Theorem 1 at every fixed threshold below 0, within Monte-Carlo error.
    random = np.random.default_rng(21)
    rate = random.random((2000, 1))
    gaps = []
    for _ in range(60):
        smaller = random.binomial(1, rate, (2000, 4))
        larger = random.binomial(1, rate, (2000, 4))
        curves = curves_of(smaller, larger, 1)
        gaps.append((curves.discovery - curves.baseline)[: curves.steps])
    mean, error = np.mean(gaps, axis=0), np.std(gaps, axis=0) / np.sqrt(60)
    assert np.all(mean <= 4 * error)


@pytest.mark.parametrize(
    ("smaller", "larger", "problem"),
    [
        (np.zeros((3, 2)), np.zeros((3, 4)), "same seeds"),
        (np.zeros((3, 2)), np.zeros((4, 2)), "same seeds"),
        (np.zeros((3, 3)), np.zeros((3, 3)), "even"),
        (np.zeros((3, 0)), np.zeros((3, 0)), "even"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "no instances"),
    ],
)
def test_sides_without_halves_are_refused(
    smaller: NDArray[np.float64], larger: NDArray[np.float64], problem: str
) -> None:
    first, second = smaller.astype(np.int64), larger.astype(np.int64)
    with pytest.raises(ValueError, match=problem):
        curves_of(first, second, 1)
    with pytest.raises(ValueError, match=problem):
        one_split(first, second, 1, np.random.default_rng(0))


@st.composite
def sides(draw: st.DrawFn, largest: int = 4) -> tuple[Array, Array, int]:
    runs = draw(st.integers(1, largest))
    seeds = draw(st.sampled_from([2, 4, 6]))
    shape = (draw(st.integers(1, 25)), seeds)
    element = st.integers(0, runs)
    smaller = draw(arrays(np.int64, shape, elements=element))
    return smaller, draw(arrays(np.int64, shape, elements=element)), runs


@settings(deadline=None, max_examples=60)
@given(sides(), st.integers(0, 2**32 - 1))
def test_names_of_seeds_and_instances_do_not_matter(
    case: tuple[Array, Array, int], seed: int
) -> None:
    smaller, larger, runs = case
    random = np.random.default_rng(seed)
    order = random.permutation(len(smaller))
    renamed = [
        side[order][:, random.permutation(side.shape[1])].astype(np.int64)
        for side in (smaller, larger)
    ]
    before, after = curves_of(smaller, larger, runs), curves_of(renamed[0], renamed[1], runs)
    np.testing.assert_array_equal(before.observed, after.observed)
    np.testing.assert_array_equal(before.mixed, after.mixed)


@settings(deadline=None, max_examples=60)
@given(sides(largest=1))
def test_joint_counts_of_ensembles_determine_their_curves(case: tuple[Array, Array, int]) -> None:
    smaller, larger, _ = case
    expected = curves_of(smaller, larger, 1)
    joint = joint_correct_models(smaller.sum(axis=1), larger.sum(axis=1), smaller.shape[1])
    curves = ensemble_curves(joint)
    np.testing.assert_array_equal(curves.observed, expected.observed)
    np.testing.assert_array_equal(curves.mixed, expected.mixed)
    assert (curves.steps, curves.instances) == (expected.steps, expected.instances)
    assert curves.mixed_total == expected.mixed_total


@settings(deadline=None, max_examples=60)
@given(sides())
def test_exchanging_the_sizes_exchanges_decay_and_improvement(
    case: tuple[Array, Array, int],
) -> None:
    smaller, larger, runs = case
    computed, flipped = curves_of(larger, smaller, runs), curves_of(smaller, larger, runs)
    flipped = flipped.exchanged()
    np.testing.assert_array_equal(computed.observed, flipped.observed)
    np.testing.assert_array_equal(computed.mixed, flipped.mixed)


@settings(deadline=None, max_examples=60)
@given(sides())
def test_identical_sizes_have_no_bound_and_bounds_stay_below_discovery(
    case: tuple[Array, Array, int],
) -> None:
    smaller, larger, runs = case
    assert decay_bound(curves_of(smaller, smaller, runs)).bound == 0.0
    bound = decay_bound(curves_of(smaller, larger, runs))
    assert 0.0 <= bound.bound <= bound.discovery <= 1.0


@settings(deadline=None, max_examples=60)
@given(sides(), st.integers(1, 50), st.booleans())
def test_instances_on_which_all_agree_scale_the_bound(
    case: tuple[Array, Array, int], more: int, correct: bool
) -> None:
    smaller, larger, runs = case
    agreed = np.full((more, smaller.shape[1]), runs if correct else 0)
    alone = decay_bound(curves_of(smaller, larger, runs))
    joined = decay_bound(curves_of(np.vstack([smaller, agreed]), np.vstack([larger, agreed]), runs))
    share = len(smaller) / (len(smaller) + more)
    assert joined.bound == pytest.approx(alone.bound * share, rel=1e-12, abs=1e-15)
