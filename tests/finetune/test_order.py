from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from configs.schema import Buffer
from finetune.order import EpochOrder, shuffled
from pretrain.engine.seeding import derive_seed, generator


@settings(max_examples=100, deadline=None)
@given(instances=st.integers(1, 60), size=st.integers(2, 70), seed=st.integers(0, 2**32))
def test_a_buffer_shuffles_within_its_reach(instances: int, size: int, seed: int) -> None:
    order = shuffled(instances, Buffer(buffer=size), seed, 0)
    assert sorted(order) == list(range(instances))
    # When the i-th instance is dealt, the buffer has held no more than the first i + size.
    assert (order < np.arange(instances) + size).all()


@settings(max_examples=50, deadline=None)
@given(instances=st.integers(1, 60), size=st.integers(2, 70), epoch=st.integers(0, 5))
def test_a_buffer_equals_its_simulation(instances: int, size: int, epoch: int) -> None:
    seed = derive_seed("order")
    rng = generator(seed, epoch)
    file = iter(range(instances))
    held = [next(file) for _ in range(min(size, instances))]
    # The draws as `shuffled` makes them: places first, then the order of what is left.
    places = rng.integers(len(held), size=instances - len(held))
    dealt = []
    for coming, place in zip(file, places, strict=True):
        dealt.append(held[place])
        held[place] = coming
    dealt += [held[i] for i in rng.permutation(len(held))]
    assert shuffled(instances, Buffer(buffer=size), seed, epoch).tolist() == dealt


@pytest.mark.parametrize("shuffle", ["full", Buffer(buffer=5)])
def test_every_order_is_drawn_equally_often(shuffle: Literal["full"] | Buffer) -> None:
    # A buffer that holds everything shuffles as fully.
    drawn = Counter(tuple(shuffled(4, shuffle, 1, epoch).tolist()) for epoch in range(4800))
    assert len(drawn) == 24
    assert stats.chisquare(list(drawn.values())).pvalue > 1e-4


def test_a_small_buffer_keeps_the_start_of_the_file_near_the_start() -> None:
    places = [np.argsort(shuffled(1000, Buffer(buffer=10), 1, epoch))[0] for epoch in range(400)]
    # The first instance leaves the buffer with chance 1/10 at each step.
    assert np.mean(places) == pytest.approx(9, abs=4 * 9.5 / 20)
    full = [np.argsort(shuffled(1000, "full", 1, epoch))[0] for epoch in range(400)]
    assert np.mean(full) == pytest.approx(499.5, abs=4 * 289 / 20)


@pytest.mark.parametrize("shuffle", ["full", Buffer(buffer=3)])
@pytest.mark.parametrize(("instances", "batch_size"), [(10, 4), (7, 7), (3, 8), (12, 5)])
def test_batches_go_through_every_epoch_once(
    shuffle: Literal["full"] | Buffer, instances: int, batch_size: int
) -> None:
    order = EpochOrder(instances, batch_size, shuffle)
    epochs = 6
    steps = -(-instances * epochs // batch_size)
    batches = [order.rows(5, step) for step in range(steps)]
    assert {len(batch) for batch in batches} == {batch_size}
    dealt = np.concatenate(batches)[: instances * epochs].reshape(epochs, instances)
    assert (np.sort(dealt, axis=1) == np.arange(instances)).all()
    if instances >= 7:
        assert len(np.unique(dealt, axis=0)) > 1
    # In any order of steps, and with another run between, the same.
    for step in reversed(range(steps)):
        order.rows(6, step)
        assert (order.rows(5, step) == batches[step]).all()
        again = EpochOrder(instances, batch_size, shuffle)
        assert (again.rows(5, step) == batches[step]).all()


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    drawn = [shuffled(30, "full", seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert all((one != other).any() for one, other in pairwise(drawn))
