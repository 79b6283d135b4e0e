from __future__ import annotations

from math import comb

import numpy as np
import pytest

from analysis.statistics.multisets import every_multiset, multisets, resampled_multisets


@pytest.mark.parametrize(("seeds", "runs"), [(1, 10), (4, 1), (4, 5), (10, 5), (30, 40)])
def test_each_instance_keeps_its_counts_up_to_order(seeds: int, runs: int) -> None:
    # 30 seeds of 40 runs are too many for a table of codes.
    random = np.random.default_rng(seeds + runs)
    correct = random.integers(0, runs + 1, (500, seeds)).astype(np.uint8)
    distinct = multisets(correct)
    np.testing.assert_array_equal(distinct.rows[distinct.index], np.sort(correct, axis=1))
    assert len({tuple(row) for row in distinct.rows}) == len(distinct.rows)
    assert distinct.frequency.sum() == 500


def test_there_are_no_more_multisets_than_combinations() -> None:
    correct = np.random.default_rng(0).integers(0, 3, (5000, 4))
    assert len(multisets(correct).rows) == comb(4 + 2, 2)


def test_no_seeds_give_one_empty_multiset() -> None:
    distinct = multisets(np.zeros((7, 0), dtype=np.uint8))
    assert distinct.rows.shape == (1, 0)
    assert distinct.frequency.tolist() == [7]


@pytest.mark.parametrize("runs", [1, 3, 50])
def test_resampled_multisets_are_those_of_the_seeds_drawn(runs: int) -> None:
    # 50 runs are too many for a list of all multisets.
    random = np.random.default_rng(runs)
    correct = random.integers(0, runs + 1, (20, 4)).astype(np.uint8)
    draws = random.integers(4, size=(6, 4))
    weights = np.array([np.bincount(draw, minlength=4) for draw in draws], dtype=float).T
    rows, index = resampled_multisets(correct, weights, runs)
    assert (every_multiset(4, runs) is None) == (runs == 50)
    for replicate, draw in enumerate(draws):
        np.testing.assert_array_equal(rows[index[:, replicate]], np.sort(correct[:, draw], axis=1))
