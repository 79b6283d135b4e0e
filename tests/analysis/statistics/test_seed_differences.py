from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from analysis.statistics.seed_differences import seed_differences, std_accuracy


@pytest.mark.parametrize(("seeds", "runs"), [(2, 2), (3, 4), (5, 3), (4, 1), (1, 5)])
def test_differences_equal_a_loop_over_pairs_of_runs(seeds: int, runs: int) -> None:
    random = np.random.default_rng(seeds * runs)
    correct = random.random((40, seeds, runs)) < random.random((40, 1, 1))
    within: list[float] = []
    between: list[float] = []
    for (p, f), (q, g) in combinations(product(range(seeds), range(runs)), 2):
        differing = float(np.mean(correct[:, p, f] != correct[:, q, g]))
        (within if p == q else between).append(differing)
    differences = seed_differences(correct.sum(axis=2), runs)
    if within:
        assert differences.finetune == pytest.approx(np.mean(within), rel=1e-14)
    else:
        assert np.isnan(differences.finetune)
    if between:
        assert differences.pretrain == pytest.approx(np.mean(between), rel=1e-14)
    else:
        assert np.isnan(differences.pretrain)


@pytest.mark.parametrize("value", [0, 3])
def test_runs_that_agree_do_not_differ(value: int) -> None:
    differences = seed_differences(np.full((1, 2), value), 3)
    assert (differences.finetune, differences.pretrain) == (0.0, 0.0)


def test_std_is_the_sample_standard_deviation() -> None:
    assert std_accuracy(np.array([[0.8, 0.9], [0.7, 0.6]])) == pytest.approx(np.sqrt(0.05 / 3))
    assert np.isnan(std_accuracy(np.array([[0.8]])))
