"""What the replicates of one split draw: pretraining seeds of every size, and instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap.draws import Resampling
from analysis.bootstrap.joint_counts import correct_distribution, gap_kernel
from analysis.statistics.counts import Counts
from analysis.statistics.decay import half_differences
from analysis.statistics.multisets import every_multiset, resampled_multisets

PART_INSTANCES = 4096
"""Instances whose resampled distributions are looked up at once, so that they stay in cache."""


@dataclass(frozen=True)
class ResampledPair:
    """Gaps of one pair of sizes in every replicate.

    Attributes
    ----------
    decay, improve : ndarray of float64, shape [replicate, steps + 1]
        Discovery less baseline at the lattice values from -1 to 0, for instances that decay from
        the first to the second size, and for those that improve.
    counts : ndarray of float64, shape [replicate, seed + 1, seed + 1]
        Joint counts with one run of each seed drawn (`joint_counts`); fractions of instances.
    """

    decay: NDArray[np.float64]
    improve: NDArray[np.float64]
    counts: NDArray[np.float64]


def gaps_of_counts(
    counts: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gaps of joint counts, for instances that decay and for those that improve.

    Parameters
    ----------
    counts : ndarray of float64, shape [..., seed + 1, seed + 1]
        Fractions of instances.

    Returns
    -------
    decay, improve : ndarray of float64, shape [..., seed + 1]
        At the thresholds from -1 to 0.
    """
    kernel = gap_kernel(counts.shape[-1] - 1)
    return (
        np.tensordot(counts, kernel, axes=2),
        np.tensordot(counts, kernel.transpose(1, 0, 2), axes=2),
    )


def resample_pairs(
    counts: Counts, sizes: Sequence[int], seeds: int, resampling: Resampling
) -> dict[tuple[int, int], ResampledPair]:
    """Resample every pair of some sizes.

    Parameters
    ----------
    counts : Counts
        Of one split.
    sizes : sequence of int
        Positions of the sizes to compare.
    seeds : int
        Even number of pretraining seeds, the first of each size.
    resampling : Resampling

    Returns
    -------
    dict of (int, int) to ResampledPair
        For each pair of `sizes`, in order.
    """
    resample = resample_ensembles if counts.runs == 1 else resample_runs
    return resample(counts, sizes, seeds, resampling)


def resample_ensembles(
    counts: Counts, sizes: Sequence[int], seeds: int, resampling: Resampling
) -> dict[tuple[int, int], ResampledPair]:
    """Resample sizes with one 0/1 prediction per pretraining seed.

    Parameters
    ----------
    counts : Counts
        Of one split, with one run per pretraining seed.
    sizes : sequence of int
        Positions of the sizes to compare.
    seeds : int
        Even number of pretraining seeds, the first of each size.
    resampling : Resampling

    Returns
    -------
    dict of (int, int) to ResampledPair
        For each pair of `sizes`, in order.
    """
    correct = [counts.correct[size][:, :seeds] for size in sizes]
    weights = [resampling.seed_weights(size, seeds) for size in sizes]
    pairs = [(a, b) for a in range(len(sizes)) for b in range(a + 1, len(sizes))]
    width = seeds + 1
    tables = {pair: np.empty((resampling.replicates, width, width)) for pair in pairs}
    for block in resampling.blocks(counts.instances):
        drawn = resampling.instance_weights(block)
        kept, frequency = _distinct(correct, drawn)
        # Sums of at most `seeds` ones are exact in float32.
        sums = [
            (side.astype(np.float32) @ weight[:, block].astype(np.float32)).astype(np.int32)
            for side, weight in zip(kept, weights, strict=True)
        ]
        length = block.stop - block.start
        offset = width**2 * np.arange(length, dtype=np.int32)
        scaled = [side * np.int32(width) + offset for side in sums]
        per_cell = np.broadcast_to(frequency, sums[0].shape).ravel()
        total = frequency.sum(axis=0)
        for a, b in pairs:
            cells = np.bincount(
                (scaled[a] + sums[b]).ravel(), weights=per_cell, minlength=length * width**2
            )
            tables[a, b][block] = cells.reshape(length, width, width)
            tables[a, b][block] /= np.broadcast_to(total, (length,))[:, None, None]
    return {
        (sizes[a], sizes[b]): ResampledPair(*gaps_of_counts(table), table)
        for (a, b), table in tables.items()
    }


def resample_runs(
    counts: Counts, sizes: Sequence[int], seeds: int, resampling: Resampling
) -> dict[tuple[int, int], ResampledPair]:
    """Resample sizes with several runs per pretraining seed.

    A resampled instance has a multiset of counts again, so that its halves are looked up. The
    distribution of the mixed difference is a convolution of those of the two sizes' halves: their
    characteristic functions, real as the distributions are symmetric, are multiplied instance by
    instance, summed, and transformed back once.

    Parameters
    ----------
    counts : Counts
        Of one split.
    sizes : sequence of int
        Positions of the sizes to compare.
    seeds : int
        Even number of pretraining seeds, the first of each size.
    resampling : Resampling

    Returns
    -------
    dict of (int, int) to ResampledPair
        For each pair of `sizes`, in order.
    """
    correct = [counts.correct[size][:, :seeds] for size in sizes]
    weights = [resampling.seed_weights(size, seeds) for size in sizes]
    pairs = [(a, b) for a in range(len(sizes)) for b in range(a + 1, len(sizes))]
    runs, steps, replicates = counts.runs, seeds * counts.runs, resampling.replicates
    observed = {pair: np.zeros((replicates, 2 * steps + 1)) for pair in pairs}
    waves = {pair: np.zeros((replicates, steps + 1)) for pair in pairs}
    tables = {pair: np.zeros((replicates, seeds + 1, seeds + 1)) for pair in pairs}
    for block in resampling.blocks(counts.instances):
        drawn = resampling.instance_weights(block)
        kept, frequency = _distinct(correct, drawn)
        for start in range(0, len(frequency), PART_INSTANCES):
            part = slice(start, start + PART_INSTANCES)
            looked_up = [
                _LookedUp.of(side[part], weight[:, block], runs)
                for side, weight in zip(kept, weights, strict=True)
            ]
            for local, replicate in enumerate(range(block.start, block.stop)):
                often = frequency[part, min(local, frequency.shape[1] - 1)]
                sides = [side.at(local) for side in looked_up]
                # A pair's first side carries how often each instance is drawn.
                often_waves = [wave * often[:, None] for _, wave, _ in sides[:-1]]
                often_right = [right * often[:, None] for _, _, right in sides[:-1]]
                for a, b in pairs:
                    difference = sides[b][0] - sides[a][0] + steps
                    observed[a, b][replicate] += np.bincount(difference, often, 2 * steps + 1)
                    waves[a, b][replicate] += np.einsum("if,if->f", often_waves[a], sides[b][1])
                    tables[a, b][replicate] += often_right[a].T @ sides[b][2]
    result = {}
    for pair, table in tables.items():
        total = observed[pair].sum(axis=1, keepdims=True)
        baseline = np.cumsum(_inverse_cosine(waves[pair], steps), axis=1)[:, : steps + 1]
        found = observed[pair]
        result[sizes[pair[0]], sizes[pair[1]]] = ResampledPair(
            decay=(np.cumsum(found, axis=1)[:, : steps + 1] - baseline) / total,
            improve=(np.cumsum(found[:, ::-1], axis=1)[:, : steps + 1] - baseline) / total,
            counts=table / total[:, :, None],
        )
    return result


@dataclass(frozen=True)
class _MultisetTable:
    """Everything that a multiset of counts determines, tabulated by the multiset.

    `right` is `correct_distribution`, [multiset, seed + 1]; `wave` the characteristic function of
    the halves' difference 2 a - S at the frequencies 0..2kF of a lattice of 4kF + 1 values.
    """

    rows: NDArray[np.int64]
    runs: int

    @cached_property
    def total(self) -> NDArray[np.int64]:
        return self.rows.sum(axis=1)

    @cached_property
    def right(self) -> NDArray[np.float64]:
        return correct_distribution(self.rows, self.runs)

    @cached_property
    def wave(self) -> NDArray[np.float64]:
        seeds = self.rows.shape[1]
        steps = seeds * self.runs
        halves = half_differences(self.rows, self.runs) / comb(seeds, seeds // 2)
        difference = np.arange(steps + 1) - steps // 2
        angle = 2 * np.pi / (2 * steps + 1) * np.outer(difference, np.arange(steps + 1))
        return halves @ np.cos(angle)


@dataclass(frozen=True)
class _LookedUp:
    """Rows of a table, [instance, replicate]."""

    table: _MultisetTable
    index: NDArray[np.integer]

    @classmethod
    def of(cls, correct: NDArray[np.integer], weights: NDArray[np.float64], runs: int) -> _LookedUp:
        """Find the multiset of every instance in every replicate (columns of `weights`)."""
        rows, index = resampled_multisets(correct, weights, runs)
        complete = _complete_table(correct.shape[1], runs)
        return cls(_MultisetTable(rows, runs) if complete is None else complete, index)

    def at(
        self, replicate: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return sums, characteristic functions and distributions of right models."""
        index = self.index[:, replicate]
        return self.table.total[index], self.table.wave[index], self.table.right[index]


@lru_cache(maxsize=4)
def _complete_table(seeds: int, runs: int) -> _MultisetTable | None:
    """Tabulate every multiset once for all blocks; None if they are too many."""
    known = every_multiset(seeds, runs)
    return None if known is None else _MultisetTable(known[0], runs)


def _distinct(
    correct: Sequence[NDArray[np.integer]], drawn: NDArray[np.float64] | None
) -> tuple[list[NDArray[np.integer]], NDArray[np.float64]]:
    """Keep one of the instances that are alike in all sizes and seeds, and how often it occurs.

    Where instances are drawn (`drawn`, [instance, replicate]) all are kept.
    """
    if drawn is not None:
        return list(correct), drawn
    rows = np.ascontiguousarray(np.concatenate(correct, axis=1))
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, frequency = np.unique(keys, return_index=True, return_counts=True)
    return [side[first] for side in correct], frequency[:, None].astype(np.float64)


def _inverse_cosine(waves: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Distributions over -steps..steps from their characteristic functions, real and even."""
    angle = 2 * np.pi / (2 * steps + 1)
    table = np.cos(angle * np.outer(np.arange(steps + 1), np.arange(-steps, steps + 1)))
    table[1:] *= 2.0
    return waves @ table / (2 * steps + 1)
