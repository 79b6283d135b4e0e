"""Unbiased decomposition of the loss into bias and variances (Section 6, Appendix H)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Decomposition:
    """Loss of each instance, split into bias squared and the variance of each level of seeds.

    A level with a single draw leaves its own variance, every level above it and `bias2`
    undefined: those are NaN.

    Attributes
    ----------
    bias2 : ndarray of float64, shape [instance]
        Loss minus all variances; unbiased, and so possibly below 0.
    variances : ndarray of float64, shape [level, instance]
        Outermost level first: pretraining seeds, finetuning seeds, checkpoints.
    """

    bias2: NDArray[np.float64]
    variances: NDArray[np.float64]


def decompose(draws: NDArray[np.floating] | NDArray[np.bool_]) -> Decomposition:
    """Decompose the loss (1 - x)^2 of a tree of draws x of any depth.

    With bool draws (correct or not) this is the 0/1 loss, with the probability of the gold label
    the squared loss. Equation 29 of the paper, level by level: the variance between the
    expectations of a node's children is estimated by the sample variance of the children's means
    less the average variance of those means, and the variance of a node's mean is the sample
    variance of its children's means over their number.

    Parameters
    ----------
    draws : ndarray of bool or float, shape [instance, level_1, ..., level_L]
        Outermost level first, for example [instance, pretrain_seed, finetune_seed, epoch];
        every level has at least one draw.

    Returns
    -------
    Decomposition
        With L variances.

    Raises
    ------
    ValueError
        If there is no level.
    """
    if draws.ndim < 2:
        raise ValueError("draws need an instance axis and at least one level")
    if draws.dtype == np.bool_:
        return decompose_counts(draws.sum(axis=-1, dtype=np.int64), draws.shape[-1])
    values = np.asarray(draws, dtype=np.float64)
    loss = ((1.0 - values) ** 2).mean(axis=tuple(range(1, values.ndim)))
    return _decompose(values.mean(axis=-1), _sample_variance(values), values.shape[1:], loss)


def decompose_counts(correct: NDArray[np.integer], runs: int) -> Decomposition:
    """Decompose the 0/1 loss, from counts of correct predictions at the innermost level.

    Parameters
    ----------
    correct : ndarray of int, shape [instance, level_1, ..., level_(L-1)]
        Correct predictions among the `runs` draws of the innermost level.
    runs : int
        Number of draws of the innermost level.

    Returns
    -------
    Decomposition
        As `decompose` of the bool draws themselves.
    """
    mean = correct / runs
    if runs > 1:
        spread = correct * (runs - correct.astype(np.int64)) / (runs * (runs - 1))
    else:
        spread = np.full(correct.shape, np.nan)
    loss = 1.0 - mean.reshape(len(mean), -1).mean(axis=1)
    return _decompose(mean, spread, (*correct.shape[1:], runs), loss)


def _sample_variance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance (ddof 1) along the last axis; NaN where that axis has one element."""
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    return values.var(axis=-1, ddof=1)


def _decompose(
    mean: NDArray[np.float64],
    spread: NDArray[np.float64],
    widths: tuple[int, ...],
    loss: NDArray[np.float64],
) -> Decomposition:
    """Climb from the innermost level, whose means and sample variances are given, to the root."""
    instances = len(mean)
    variances = [spread.reshape(instances, -1).mean(axis=1)]
    for width in reversed(widths[1:]):
        mean_variance = spread.mean(axis=-1) / width
        spread = _sample_variance(mean)
        mean = mean.mean(axis=-1)
        variances.append((spread - mean_variance).reshape(instances, -1).mean(axis=1))
    stacked = np.stack(variances[::-1])
    return Decomposition(bias2=loss - stacked.sum(axis=0), variances=stacked)
