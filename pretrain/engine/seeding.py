"""Counter-based random numbers: every draw is a function of a seed and a step."""

from __future__ import annotations

import hashlib
from math import prod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def derive_seed(*parts: str | int) -> int:
    """Derive the seed for one purpose of one run, independent of all other purposes and runs.

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
    """Make the generator of the random numbers of one step of one run.

    The step is the highest word of Philox's 256-bit counter, so the streams of two steps
    cannot overlap.

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


class Draws(Protocol):
    """A source of random numbers for sentence pairs and masks.

    `numpy.random.Generator` and `RowDraws` implement it.
    """

    def random(self, size: int | tuple[int, ...], /) -> NDArray[np.float64]:
        """Draw uniformly from [0, 1)."""

    def integers(
        self, low: int, high: int | None = None, /, *, size: int | tuple[int, ...]
    ) -> NDArray[np.int64]:
        """Draw integers uniformly from `low` to `high` - 1, or from 0 to `low` - 1."""

    def binomial(self, n: NDArray[np.int64], p: float, /) -> NDArray[np.int64]:
        """Draw the number of successes in `n` trials."""


class RowDraws:
    """Random numbers of a batch whose rows draw independently of one another.

    A row's random numbers depend on the seed and the row's key only: not on the other rows, on
    their number or on the row's position. Each row has its own stream, with the key as the
    highest word of Philox's counter.

    Parameters
    ----------
    seed : int
        128-bit key of Philox, from `derive_seed`.
    keys : int64 array [row]
        The key of each row.
    draws : int
        How many random numbers each row can draw.
    """

    def __init__(self, seed: int, keys: NDArray[np.int64], draws: int) -> None:
        self._uniform = np.empty((len(keys), draws))
        self._used = 0
        philox = np.random.Philox(key=seed)
        numbers = np.random.Generator(philox)
        state = philox.state
        for row, key in enumerate(keys.tolist()):
            # Constructing a Philox takes several times as long as setting its state.
            state["state"]["counter"] = np.array([0, 0, 0, key], dtype=np.uint64)
            philox.state = state
            numbers.random(out=self._uniform[row])

    def random(self, size: int | tuple[int, ...], /) -> NDArray[np.float64]:
        """Draw uniformly from [0, 1).

        Raises
        ------
        ValueError
            If the rows have fewer numbers left, or `size` does not begin with the number of rows.
        """
        shape = (size,) if isinstance(size, int) else size
        first, self._used = self._used, self._used + prod(shape[1:])
        if shape[0] != len(self._uniform) or self._used > self._uniform.shape[1]:
            raise ValueError(f"{shape} numbers requested of {self._uniform.shape}, {first} used")
        return self._uniform[:, first : self._used].reshape(shape)

    def integers(
        self, low: int, high: int | None = None, /, *, size: int | tuple[int, ...]
    ) -> NDArray[np.int64]:
        """Draw integers uniformly from `low` to `high` - 1, or from 0 to `low` - 1."""
        low, high = (0, low) if high is None else (low, high)
        return low + np.floor(self.random(size) * (high - low)).astype(np.int64)

    def binomial(self, n: NDArray[np.int64], p: float, /) -> NDArray[np.int64]:
        """Draw the number of successes in `n` trials, by the inverse of its distribution."""
        drawn = stats.binom.ppf(self.random(len(n)), n, p)
        return np.maximum(drawn, 0).astype(np.int64)


_ROUNDS = 6


def permuted(seed: int, epoch: int, positions: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Compute some entries of a random permutation of 0..n - 1, without the other entries.

    A Feistel network over the smallest even number of bits that can represent n - 1. It is
    applied again while its result is not less than n (Black and Rogaway, 2002, "Ciphers with
    arbitrary finite domains", Section 4 and method 2).

    Parameters
    ----------
    seed, epoch : int
        Together they determine the permutation.
    positions : int64 array [...]
        Positions in the permutation, from 0 to n - 1.
    n : int
        Length of the permutation, at most 2^62.

    Returns
    -------
    int64 array [...]
        From 0 to n - 1; different positions have different entries.
    """
    half = np.uint64(max((max(n - 1, 1).bit_length() + 1) // 2, 1))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = generator(seed, epoch).integers(1 << 64, size=_ROUNDS, dtype=np.uint64)

    def once(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = value >> half, value & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << half) | right

    entries = once(np.asarray(positions).astype(np.uint64))
    while (outside := entries >= np.uint64(n)).any():
        entries[outside] = once(entries[outside])
    return entries.astype(np.int64)


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of 64-bit integers (the finalizer of SplitMix64, Steele et al., 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
