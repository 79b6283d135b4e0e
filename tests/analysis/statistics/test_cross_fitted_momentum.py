from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from analysis.statistics.cross_fitted_momentum import assignments, cross_fitted_momentum
from analysis.statistics.momentum import momentum


@pytest.mark.parametrize("seeds", [3, 4, 10])
def test_every_seed_has_every_role_equally_often(seeds: int) -> None:
    roles: list[Counter[int]] = [Counter(), Counter(), Counter()]
    for groups in assignments(seeds):
        assert sorted(np.concatenate(groups)) == list(range(seeds))
        for role, group in zip(roles, groups, strict=True):
            role.update(group.tolist())
    for role in roles:
        assert len(set(role.values())) == 1
    # Both differences have the same groups, in turn.
    pairs = Counter((tuple(sorted(b)), tuple(sorted(c))) for _, b, c in assignments(seeds))
    if seeds % 3 != 2:
        assert all(pairs[b, c] == pairs[c, b] for b, c in pairs)


def test_independent_differences_have_no_cross_fitted_momentum() -> None:
    # Given Acc[s2], both true differences are -0.1 or 0.1, independently.
    random = np.random.default_rng(0)
    instances = 40_000
    middle = random.uniform(0.1, 0.9, (instances, 1))
    first = middle - random.choice([-0.1, 0.1], (instances, 1))
    last = middle + random.choice([-0.1, 0.1], (instances, 1))
    correct = [random.binomial(5, rate, (instances, 9)) for rate in (first, middle, last)]
    published = momentum(correct, 5)
    fitted = cross_fitted_momentum(correct, 5)
    inside = slice(2, 8)
    assert np.all(np.abs(fitted.pearson[inside]) < 0.03)
    assert np.all(np.abs(fitted.spearman[inside]) < 0.03)
    assert np.all(published.pearson[inside] < -0.03)


def test_shared_true_differences_have_momentum() -> None:
    random = np.random.default_rng(1)
    middle = random.uniform(0.2, 0.8, (20_000, 1))
    step = random.choice([-0.2, 0.2], (20_000, 1))
    correct = [
        random.binomial(5, rate, (20_000, 9)) for rate in (middle - step, middle, middle + step)
    ]
    fitted = cross_fitted_momentum(correct, 5)
    assert np.all(fitted.pearson[3:7] > 0.2)
    assert np.all(fitted.spearman[3:7] > 0.2)


def test_fewer_than_three_seeds_have_no_cross_fitted_momentum() -> None:
    sides = [np.ones((5, seeds), dtype=int) for seeds in (4, 2, 4)]
    fitted = cross_fitted_momentum(sides, 1)
    assert np.isnan(fitted.pearson).all()
    assert np.isnan(fitted.spearman).all()
