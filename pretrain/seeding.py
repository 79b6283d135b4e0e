"""Counter-based random numbers: every draw is a function of a seed and a step."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: str | int) -> int:
    """Seed of one purpose of one run, independent of every other purpose and run.

    Parameters
    ----------
    *parts : str or int
        What the seed is for, such as `"mini", 3, "order"`.

    Returns
    -------
    int
        128 bits of the SHA-256 of the parts.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def generator(seed: int, step: int) -> np.random.Generator:
    """Random numbers of one step of one run.

    The step is the highest word of Philox's 256-bit counter, so the streams of two steps
    cannot meet.

    Parameters
    ----------
    seed : int
        128-bit key, from `derive_seed`.
    step : int
        Step number, from 0.

    Returns
    -------
    numpy.random.Generator
    """
    return np.random.Generator(np.random.Philox(key=seed, counter=step << 192))
