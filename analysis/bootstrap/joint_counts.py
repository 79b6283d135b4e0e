"""Joint counts: instances by how many independent models of each of two sizes are correct.

With one 0/1 prediction per pretraining seed, discovery and baseline are linear functions of the
joint counts N[S1, S2]: the instances on which S1 models of one size and S2 of the other are
correct.
Ensembles are such predictions. With F runs per pretraining seed, one run drawn from each seed gives
such predictions too, and the expectation of N has a closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.decay import half_differences
from analysis.statistics.multisets import multisets

BLOCK_CELLS = 2**21
"""Numbers in memory at once for each size, while seeds are replaced."""


def correct_distribution(correct: NDArray[np.integer], runs: int) -> NDArray[np.float64]:
    """Compute the distribution of the number of correct models if one run of each seed is drawn.

    A sum of independent Bernoulli draws with probabilities u / F, by convolution.

    Parameters
    ----------
    correct : ndarray of int, shape [..., seed]
        Correct runs of each pretraining seed, 0..`runs`.
    runs : int
        F, the runs of one pretraining seed.

    Returns
    -------
    ndarray of float64, shape [..., seed + 1]
        Probability of each number; 0 or 1 where `runs` is 1.

    Examples
    --------
    One seed has one correct run of two, the other two of two: both drawn runs are correct with
    probability 1/2.

    >>> correct_distribution(np.array([1, 2]), runs=2)
    array([0. , 0.5, 0.5])
    """
    seeds = correct.shape[-1]
    result = np.zeros((*correct.shape[:-1], seeds + 1))
    result[..., 0] = 1.0
    for seed in range(seeds):
        rate = correct[..., seed, None] / runs
        shifted = result[..., :-1] * rate
        result *= 1.0 - rate
        result[..., 1:] += shifted
    return result


def gap_kernel(seeds: int) -> NDArray[np.float64]:
    """Compute what one instance adds to discovery minus baseline at each threshold.

    Parameters
    ----------
    seeds : int
        2k, the models of each size, even.

    Returns
    -------
    ndarray of float64, shape [seeds + 1, seeds + 1, seeds + 1]
        Element [S1, S2, j]: for instances that decay from the first to the second size, at the
        threshold t = (j - 2k) / 2k, from -1 to 0, the baseline averaged over all splits. With the
        first two axes exchanged, for instances that improve.

    Examples
    --------
    With two models of each size, an instance on which both of the first size are correct and none
    of the second is discovered at -1, -1/2 and 0; its mixed difference is always 0.

    >>> gap_kernel(2)[2, 0]
    array([1., 1., 0.])
    """
    levels = np.arange(seeds + 1)
    rows = (np.arange(seeds) < levels[:, None]).astype(np.int64)
    halves = half_differences(rows, 1) / comb(seeds, seeds // 2)
    mixed = np.zeros((seeds + 1, seeds + 1, 2 * seeds + 1))
    for first in range(seeds + 1):
        mixed[:, :, first : first + seeds + 1] += halves[:, None, first, None] * halves[None]
    baseline = np.cumsum(mixed, axis=2)[:, :, : seeds + 1]
    difference = levels[None, :] - levels[:, None]
    return (difference[:, :, None] <= levels - seeds) - baseline


def gaps_of_counts(
    counts: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute discovery minus baseline, of instances that decay and of those that improve.

    Parameters
    ----------
    counts : ndarray of float64, shape [..., seed + 1, seed + 1]
        Fractions of instances.

    Returns
    -------
    decay, improve : ndarray of float64, shape [..., seed + 1]
        At the thresholds from -1 to 0.

    Examples
    --------
    Half of the instances decay from two correct models to none; the others do not change.

    >>> counts = np.zeros((3, 3))
    >>> counts[2, 0] = counts[1, 1] = 0.5
    >>> decay, improve = gaps_of_counts(counts)
    >>> decay  # the unchanged ones have a mixed difference below 0 in one of four pairs of splits
    array([0.375, 0.375, 0.125])
    """
    kernel = gap_kernel(counts.shape[-1] - 1)
    return (
        np.tensordot(counts, kernel, axes=2),
        np.tensordot(counts, kernel.transpose(1, 0, 2), axes=2),
    )


def joint_counts(
    first: NDArray[np.integer], second: NDArray[np.integer], runs: int
) -> NDArray[np.float64]:
    """Count instances by the number of correct models of two sizes, one run of each seed drawn.

    Parameters
    ----------
    first, second : ndarray of int, each of shape [instance, seed]
        Correct runs, 0..`runs`, on the same instances.
    runs : int
        Runs of one pretraining seed; with 1 the counts are whole numbers.

    Returns
    -------
    ndarray of float64, shape [seed + 1, seed + 1]
        Expectation over the draws; its elements sum to the number of instances.

    Examples
    --------
    >>> joint_counts(np.array([[1, 1], [1, 0]]), np.array([[0, 0], [1, 0]]), runs=1)
    array([[0., 0., 0.],
           [0., 1., 0.],
           [1., 0., 0.]])
    """
    return correct_distribution(first, runs).T @ correct_distribution(second, runs)


def replaced_counts(
    sides: Sequence[NDArray[np.integer]], runs: int
) -> dict[tuple[int, int], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Compute the joint counts with every seed of one size replaced by every other one.

    Parameters
    ----------
    sides : sequence of ndarray of int, each of shape [instance, seed]
        Correct runs of each size, 0..`runs`, all with the same number of seeds, at least 2.
    runs : int
        Runs of one pretraining seed.

    Returns
    -------
    dict of (int, int) to (ndarray, ndarray), each of shape [seed * (seed - 1), seed + 1, seed + 1]
        For sizes a < b (positions): the joint counts with seed P of size a, or of size b, replaced
        by a copy of seed Q of the same size, for all ordered pairs P, Q.

    Examples
    --------
    One instance; seed 0 of the first size is correct on it and seed 1 is not. With a copy of seed 1
    in place of seed 0 no model is correct, and with a copy of seed 0 in place of seed 1 both are.

    >>> in_first, _ = replaced_counts([np.array([[1, 0]]), np.array([[1, 1]])], runs=1)[0, 1]
    >>> in_first[:, :, 2]
    array([[1., 0., 0.],
           [0., 0., 1.]])
    """
    seeds = sides[0].shape[1]
    columns = np.array(
        [
            [other if seed == replaced else seed for seed in range(seeds)]
            for replaced in range(seeds)
            for other in range(seeds)
            if other != replaced
        ]
    )
    pairs = [(a, b) for a in range(len(sides)) for b in range(a + 1, len(sides))]
    shape = (len(columns), seeds + 1, seeds + 1)
    result = {pair: (np.zeros(shape), np.zeros(shape)) for pair in pairs}
    block = max(BLOCK_CELLS // (len(columns) * (seeds + 1)), 1)
    for start in range(0, len(sides[0]), block):
        parts = [side[start : start + block] for side in sides]
        plain = [correct_distribution(part, runs) for part in parts]
        replaced = [_replaced_distributions(part, columns, runs) for part in parts]
        for (a, b), (in_first, in_second) in result.items():
            in_first += replaced[a].transpose(0, 2, 1) @ plain[b]
            in_second += plain[a].T @ replaced[b]
    return result


def _replaced_distributions(
    correct: NDArray[np.integer], columns: NDArray[np.int64], runs: int
) -> NDArray[np.float64]:
    """Compute distributions [choice of columns, instance, seed + 1], one per distinct multiset."""
    chosen = correct[:, columns].transpose(1, 0, 2)
    distinct = multisets(chosen.reshape(-1, columns.shape[1]))
    return correct_distribution(distinct.rows, runs)[distinct.index].reshape(*chosen.shape[:2], -1)
