"""Statistics of one size under resampling of its pretraining seeds.

The variance between seeds and the differences between runs of two seeds are averages over pairs of
*different* seeds. If a seed that is drawn twice formed a pair with itself, whose two members do not
differ, both would be biased towards 0. A replicate therefore gives the pair P, P' the weight
w[P] w[P'], or 0 if P = P'. With every seed drawn once these are the statistics of
`analysis.statistics.variance` and `analysis.statistics.seed_differences`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap.draws import Resampling
from analysis.statistics.variance import TreeSums, decompose_sums

PART_INSTANCES = 4096
"""Instances whose features are in memory at once."""


@dataclass(frozen=True)
class SeedMoments:
    """Averages over instances, by pretraining seed, from which a decomposition follows.

    A leading axis, if there is one, counts replicates of the instances.

    Attributes
    ----------
    loss : ndarray of float64, shape [..., seed]
        Mean loss of the seed's draws.
    inner : ndarray of float64, shape [..., level, seed]
        Unbiased variances of the levels below the seed: finetuning seeds, checkpoints. NaN where a
        level has one draw.
    noise : ndarray of float64, shape [..., seed]
        Unbiased variance of the seed's mean, given the seed.
    products : ndarray of float64, shape [..., seed, seed]
        Products of the means of two seeds.
    """

    loss: NDArray[np.float64]
    inner: NDArray[np.float64]
    noise: NDArray[np.float64]
    products: NDArray[np.float64]


@dataclass(frozen=True)
class ResampledSize:
    """Statistics of one size in every replicate, each of shape [replicate].

    Attributes
    ----------
    accuracy : ndarray of float64
    diff_finetune, diff_pretrain : ndarray of float64
        As in `analysis.statistics.seed_differences`.
    """

    accuracy: NDArray[np.float64]
    diff_finetune: NDArray[np.float64]
    diff_pretrain: NDArray[np.float64]


def count_moments(
    correct: NDArray[np.integer],
    runs: int,
    instance_weights: NDArray[np.float64] | None = None,
) -> SeedMoments:
    """Compute the moments of the 0/1 loss from counts.

    Parameters
    ----------
    correct : ndarray of int, shape [instance, seed]
        Correct finetuning runs, 0..`runs`.
    runs : int
        Finetuning runs of one pretraining seed.
    instance_weights : ndarray of float64, shape [instance, replicate], optional
        How often each instance is drawn; once by default.

    Returns
    -------
    SeedMoments
        Leading axis replicate if there are instance weights.

    Examples
    --------
    On one instance, two of two runs of seed 0 are correct, and one of two runs of seed 1. The
    sample variance of seed 1's runs is 1/2, and the variance of their mean is half of that.

    >>> moments = count_moments(np.array([[2, 1]]), runs=2)
    >>> moments.loss, moments.inner, moments.noise
    (array([0. , 0.5]), array([[0. , 0.5]]), array([0.  , 0.25]))
    """
    instances, seeds = correct.shape
    counts = correct.astype(np.float64)
    if instance_weights is None:
        total = np.array(float(instances))
        seed_correct = counts.sum(axis=0)
        products = counts.T @ counts
    else:
        total = instance_weights.sum(axis=0)[:, None]
        seed_correct = instance_weights.T @ counts
        upper, lower = np.triu_indices(seeds)
        pairs = instance_weights.T @ (counts[:, upper] * counts[:, lower])
        products = np.empty((len(pairs), seeds, seeds))
        products[:, upper, lower] = products[:, lower, upper] = pairs
    mean = seed_correct / total / runs
    products = products / (total[..., None] if instance_weights is not None else total) / runs**2
    squares = np.diagonal(products, axis1=-2, axis2=-1)
    inner = np.full(mean.shape, np.nan)
    if runs > 1:
        inner = (mean - squares) * (runs / (runs - 1))
    return SeedMoments(
        loss=1.0 - mean, inner=inner[..., None, :], noise=inner / runs, products=products
    )


def sum_moments(
    total: NDArray[np.float64],
    squares: NDArray[np.float64],
    products: NDArray[np.float64],
    below: Sequence[int],
) -> SeedMoments:
    """Compute the moments of the loss (1 - x)^2 from sums of draws, averaged over instances.

    Parameters
    ----------
    total : ndarray of float64, shape [..., seed]
        Sum of a seed's draws, averaged over instances.
    squares : ndarray of float64, shape [..., level, seed]
        `TreeSums.squares` of the tree below the seed, averaged over instances.
    products : ndarray of float64, shape [..., seed, seed]
        Products of two seeds' sums, averaged over instances.
    below : sequence of int
        Draws at each level below the seeds, outermost first.

    Returns
    -------
    SeedMoments

    Examples
    --------
    The two seeds of `count_moments`' example: the draws are 1, 1 and 1, 0.

    >>> total = np.array([2.0, 1.0])
    >>> squares = np.array([[4.0, 1.0], [2.0, 1.0]])  # of the sums, then of the draws
    >>> moments = sum_moments(total, squares, np.outer(total, total), below=(2,))
    >>> moments.loss, moments.inner, moments.noise
    (array([0. , 0.5]), array([[0. , 0.5]]), array([0.  , 0.25]))
    """
    draws = float(np.prod(below))
    sums = TreeSums(total, np.moveaxis(squares, -2, 0))
    inner = np.moveaxis(decompose_sums(sums, below).variances, 0, -2)
    return SeedMoments(
        loss=1.0 - (2.0 * total - squares[..., -1, :]) / draws,
        inner=inner,
        noise=(inner / np.cumprod(below)[:, None]).sum(axis=-2),
        products=products / draws**2,
    )


def resampled_sum_moments(
    total: NDArray[np.floating],
    squares: NDArray[np.floating],
    below: Sequence[int],
    resampling: Resampling,
) -> SeedMoments:
    """Compute `sum_moments` over the instances of every replicate.

    Parameters
    ----------
    total : ndarray of float, shape [seed, instance]
        Sum of a seed's draws.
    squares : ndarray of float, shape [level - 1, seed, instance]
        `TreeSums.squares` of the tree below the seed, without the seed's own.
    below : sequence of int
        Draws at each level below the seeds, outermost first.
    resampling : Resampling
        With clusters.

    Returns
    -------
    SeedMoments
        Leading axis replicate.

    Examples
    --------
    Two runs of each of two seeds on two equal instances: all replicates are equal, too.

    >>> total = np.array([[2.0, 2.0], [1.0, 1.0]])
    >>> squares = np.array([[[2.0, 2.0], [1.0, 1.0]]])
    >>> resampling = Resampling(2, 0, clusters=np.array([0, 1]))
    >>> resampled_sum_moments(total, squares, (2,), resampling).loss
    array([[0. , 0.5],
           [0. , 0.5]])
    """
    seeds = len(total)
    upper, lower = np.triu_indices(seeds)
    levels = len(squares)

    def features(part: slice) -> NDArray[np.float64]:
        sums = total[:, part].astype(np.float64)
        lower_squares = squares[:, :, part].reshape(levels * seeds, -1)
        return np.concatenate([sums, lower_squares, sums[upper] * sums[lower]])

    means = resampled_means(features, total.shape[1], resampling)
    sums, lower_squares, pairs = np.split(means, [seeds, (levels + 1) * seeds], axis=1)
    products = np.empty((len(means), seeds, seeds))
    products[:, upper, lower] = products[:, lower, upper] = pairs
    seed_squares = np.diagonal(products, axis1=1, axis2=2)[:, None]
    all_squares = np.concatenate([seed_squares, lower_squares.reshape(-1, levels, seeds)], axis=1)
    return sum_moments(sums, all_squares, products, below)


def resampled_means(
    features: Callable[[slice], NDArray[np.floating]], instances: int, resampling: Resampling
) -> NDArray[np.float64]:
    """Average features over the instances of every replicate, as matrix products.

    Parameters
    ----------
    features : callable
        Returns the features [feature, instance] of a slice of the instances.
    instances : int
        Number of instances.
    resampling : Resampling
        With clusters.

    Returns
    -------
    ndarray of float64, shape [replicate, feature]

    Examples
    --------
    All instances are in one cluster, so that every replicate has the average over all.

    >>> features = np.array([[1.0, 2.0, 6.0]])
    >>> resampling = Resampling(2, 0, clusters=np.zeros(3, dtype=int))
    >>> resampled_means(lambda part: features[:, part], 3, resampling)
    array([[3.],
           [3.]])
    """
    means = []
    for _, weights in resampling.instance_draws(instances):
        products = [
            weights[:, start : start + PART_INSTANCES].astype(np.float64)
            @ features(slice(start, start + PART_INSTANCES)).T
            for start in range(0, instances, PART_INSTANCES)
        ]
        means.append(np.sum(products, axis=0) / weights.sum(axis=1, dtype=np.float64)[:, None])
    return np.concatenate(means)


def resample_decomposition(
    moments: SeedMoments, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Decompose the loss in every replicate.

    Parameters
    ----------
    moments : SeedMoments
        Without a leading axis, or with one of replicates.
    weights : ndarray of float64, shape [seed, replicate]
        How often each seed is drawn.

    Returns
    -------
    ndarray of float64, shape [replicate, 2 + level]
        Squared bias, variance from pretraining seeds, and the variances of the inner levels. NaN
        in replicates of a single seed, and for levels with one draw.

    Examples
    --------
    The first replicate draws each of the two seeds of `count_moments`' example once. The average
    loss is 1/4. The finetuning variance is the average of 0 and 1/2, which is 1/4. The pretraining
    variance is the sample variance of the seeds' means, 1/8, minus the average noise of a mean,
    1/8. That leaves no bias.

    >>> moments = count_moments(np.array([[2, 1]]), runs=2)
    >>> resample_decomposition(moments, np.array([[1.0, 2.0], [1.0, 0.0]]))
    array([[0.  , 0.  , 0.25],
           [ nan,  nan, 0.  ]])
    """
    share = weights.T / weights.sum(axis=0)[:, None]
    loss = (moments.loss * share).sum(axis=-1)
    inner = (moments.inner * share[:, None, :]).sum(axis=-1)
    squares = np.diagonal(moments.products, axis1=-2, axis2=-1)
    # Half the squared difference of two seeds' means.
    halves = (squares[..., :, None] + squares[..., None, :]) / 2 - moments.products
    between = _different_pairs(halves, weights) - (moments.noise * share).sum(axis=-1)
    bias2 = loss - between - inner.sum(axis=-1)
    return np.column_stack([bias2, between, inner])


def resample_differences(moments: SeedMoments, weights: NDArray[np.float64]) -> ResampledSize:
    """Compute the accuracy and the differences between runs in every replicate.

    Parameters
    ----------
    moments : SeedMoments
        From `count_moments`.
    weights : ndarray of float64, shape [seed, replicate]
        How often each seed is drawn.

    Returns
    -------
    ResampledSize

    Examples
    --------
    Seed 0 has two correct runs of two, seed 1 has one. Two runs of seed 1 differ, two of seed 0 do
    not; of the four pairs of runs of different seeds, two differ.

    >>> moments = count_moments(np.array([[2, 1]]), runs=2)
    >>> size = resample_differences(moments, np.ones((2, 1)))
    >>> size.accuracy, size.diff_finetune, size.diff_pretrain
    (array([0.75]), array([0.5]), array([0.5]))
    """
    share = weights.T / weights.sum(axis=0)[:, None]
    mean = 1.0 - moments.loss
    # Two runs that are correct with probabilities a and b differ with a + b - 2 a b.
    differ = mean[..., :, None] + mean[..., None, :] - 2 * moments.products
    return ResampledSize(
        accuracy=(mean * share).sum(axis=-1),
        diff_finetune=2 * (moments.inner[..., 0, :] * share).sum(axis=-1),
        diff_pretrain=_different_pairs(differ, weights),
    )


def resample_std_accuracy(
    run_accuracy: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the standard deviation of the accuracy of runs in every replicate.

    Parameters
    ----------
    run_accuracy : ndarray of float64, shape [seed, run] or [replicate, seed, run]
        Accuracy of each run over all instances, or over those of each replicate.
    weights : ndarray of float64, shape [seed, replicate]
        How often each seed is drawn.

    Returns
    -------
    ndarray of float64, shape [replicate]
        Square root of the average, over pairs of runs, of half their squared difference; NaN in
        replicates of a single seed.

    Examples
    --------
    Two seeds of one run, with accuracies 0.5 and 0.7: the variance is half of 0.2 squared.

    >>> resample_std_accuracy(np.array([[0.5], [0.7]]), np.ones((2, 1))).round(4)
    array([0.1414])
    """
    seeds, runs = run_accuracy.shape[-2:]
    if seeds < 2:
        return np.full(weights.shape[1], np.nan)
    pairs = seeds * runs * (seeds * runs - 1)
    within: NDArray[np.float64] | float = 0.0
    if runs > 1:
        variances = run_accuracy.var(axis=-1, ddof=1)
        share = seeds * runs * (runs - 1) / pairs
        within = (variances * weights.T).sum(axis=-1) / seeds * share
    mean = run_accuracy.mean(axis=-1)
    square = (run_accuracy**2).mean(axis=-1)
    halves = (square[..., :, None] + square[..., None, :]) / 2
    halves = halves - mean[..., :, None] * mean[..., None, :]
    between = _different_pairs(halves, weights) * (seeds * (seeds - 1) * runs**2 / pairs)
    return np.sqrt(np.maximum(within + between, 0.0))


def _different_pairs(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average `values` [..., seed, seed] over the pairs of draws of different seeds."""
    seeds = len(weights)
    different = values * (1.0 - np.eye(seeds))
    number = weights.sum(axis=0) ** 2 - (weights**2).sum(axis=0)
    if different.ndim == 2:
        sums = ((different @ weights) * weights).sum(axis=0)
    else:
        sums = np.einsum("rpq,pr,qr->r", different, weights, weights, optimize=True)
    result = np.full(len(number), np.nan)
    np.divide(sums, number, out=result, where=number > 0)
    return result
