from __future__ import annotations

import numpy as np
import pytest

from pretrain.seeding import derive_seed, generator


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
