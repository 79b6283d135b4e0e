from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pretrain.engine.seeding import RowDraws, derive_seed, generator, permuted


def test_seeds_of_different_purposes_differ() -> None:
    seeds = {
        derive_seed(stage, f"{size}/p{seed}", purpose)
        for stage in ("pretrain", "finetune")
        for size in ("mini", "base")
        for seed in range(20)
        for purpose in ("init", "order", "dropout")
    }
    assert len(seeds) == 2 * 2 * 20 * 3
    assert max(seeds) < 2**128
    # Where one part ends matters.
    assert derive_seed("a", "bc") != derive_seed("ab", "c")


def test_a_seed_is_the_same_everywhere() -> None:
    # First 16 bytes of the SHA-256 of "mini", a unit separator and "3", as sha256sum prints them.
    digest = bytes.fromhex("54d9ebb4b84f748cd485738ac457b43e")
    assert derive_seed("mini", 3) == int.from_bytes(digest, "little")


@pytest.mark.parametrize("step", [0, 1, 2**32, 2**63])
def test_streams_of_neighbouring_steps_do_not_meet(step: int) -> None:
    here = generator(1, step).integers(2**63, size=2000)
    there = generator(1, step + 1).integers(2**63, size=2000)
    assert not np.isin(here, there).any()
    assert (generator(1, step).integers(2**63, size=2000) == here).all()


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**128 - 1), epoch=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_permutation_has_every_entry_once(n: int, seed: int, epoch: int) -> None:
    places = np.arange(n)
    order = permuted(seed, epoch, places, n)
    assert sorted(order) == places.tolist()
    some = places[:: max(n // 7, 1)][::-1]
    assert (permuted(seed, epoch, some, n) == order[some]).all()


def test_entries_of_permutations_are_uniform_and_neighbours_independent() -> None:
    n, epochs = 10, 4000
    orders = np.array([permuted(derive_seed("x"), e, np.arange(n), n) for e in range(epochs)])
    for place in (0, 4, 9):
        assert stats.chisquare(np.bincount(orders[:, place], minlength=n)).pvalue > 1e-4
    pairs = np.bincount(orders[:, 3] * n + orders[:, 4], minlength=n * n).reshape(n, n)
    assert stats.chisquare(pairs[~np.eye(n, dtype=bool)]).pvalue > 1e-4
    large = permuted(derive_seed("x"), 1, np.arange(20_000), 10**9)
    assert len(np.unique(large)) == 20_000
    assert stats.kstest(large / 10**9, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(large[:-1], large[1:])[0, 1]) < 4 / np.sqrt(20_000)


def test_rows_draw_from_streams_of_their_own() -> None:
    seed = derive_seed("rows")
    keys = np.array([3, 2**50, 0, 7])
    draws = RowDraws(seed, keys, 20)
    first, second = draws.random(4), draws.random((4, 5))
    alone = RowDraws(seed, keys[1:2], 6)
    assert alone.random(1) == first[1]
    assert (alone.random((1, 5)) == second[1]).all()
    assert len(np.unique(np.column_stack([first, second]))) == 24
    # A row's numbers are Philox's, with its key as the counter's highest word.
    assert first[3] == generator(seed, 7).random()
    with pytest.raises(ValueError, match="requested of"):
        draws.random((4, 15))


def test_distributions_of_the_draws_of_rows() -> None:
    n = 20_000
    draws = RowDraws(derive_seed("rows"), np.arange(n), 5)
    assert stats.kstest(draws.random(n), "uniform").pvalue > 1e-4
    integers = draws.integers(2, 9, size=n)
    assert stats.chisquare(np.bincount(integers, minlength=9)[2:]).pvalue > 1e-4
    assert stats.chisquare(np.bincount(draws.integers(5, size=n))).pvalue > 1e-4
    heads = draws.binomial(np.full(n, 12), 0.5)
    expected = stats.binom.pmf(np.arange(13), 12, 0.5) * n
    assert (
        stats.chisquare(
            np.bincount(heads, minlength=13)[1:12],
            expected[1:12] * np.bincount(heads, minlength=13)[1:12].sum() / expected[1:12].sum(),
        ).pvalue
        > 1e-4
    )
    assert (draws.binomial(np.zeros(n, dtype=int), 0.5) == 0).all()
