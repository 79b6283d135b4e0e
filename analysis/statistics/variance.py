"""Unbiased decomposition of the loss into bias and variances (Section 6, Appendix H)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class TreeSums:
    """Sums over a tree of draws, from which its loss is decomposed; they add over instances.

    Attributes
    ----------
    total : ndarray, shape [...]
        Sum of all draws.
    squares : ndarray, shape [level + 1, ...]
        Element k: over the nodes at depth k, the sum of the squares of the node's sum of draws.
        The root is depth 0, the draws themselves are the last.
    """

    total: NDArray[np.float64] | NDArray[np.int64]
    squares: NDArray[np.float64] | NDArray[np.int64]


def tree_sums(draws: NDArray[np.floating] | NDArray[np.integer] | NDArray[np.bool_]) -> TreeSums:
    """Sum a tree of draws and the squares of its nodes.

    Parameters
    ----------
    draws : ndarray, shape [level_1, ..., level_L, instance]
        Outermost level first. Sums are in float64, of whole numbers and bools in int64.

    Returns
    -------
    TreeSums
        With the arrays of shape [instance] and [L + 1, instance].
    """
    sums: NDArray[Any] = draws.astype(np.float64 if draws.dtype.kind == "f" else np.int64)
    squares = []
    while True:
        nodes = sums.reshape(-1, sums.shape[-1])
        squares.append(np.einsum("ki,ki->i", nodes, nodes))
        if sums.ndim == 1:
            return TreeSums(total=sums, squares=np.stack(squares[::-1]))
        sums = sums.sum(axis=-2)


def decompose_sums(sums: TreeSums, widths: Sequence[int], instances: float = 1) -> Decomposition:
    """Decompose the loss (1 - x)^2 of a tree of draws x from its sums.

    Equation 29 of the paper, level by level: the variance between the expectations of a node's
    children is estimated by the sample variance of the children's means less the average variance
    of those means, and the variance of a node's mean is the sample variance of its children's
    means over their number. With A_k the average over the nodes at depth k of their squared mean,
    and m_k children for each node at depth k - 1, the average sample variance is
    s2_k = (A_k - A_{k-1}) m_k / (m_k - 1), and the variance of level k is
    s2_k - s2_{k+1} / m_{k+1}. All of it is linear in the sums, so those of many instances may be
    added first.

    Parameters
    ----------
    sums : TreeSums
        Of one instance each, or added over `instances`.
    widths : sequence of int
        Draws at each level, outermost first.
    instances : float
        How many instances the sums are added over; 0 gives NaN.

    Returns
    -------
    Decomposition
        Of each element of the sums: averages over its instances.
    """
    shape = np.shape(sums.total)
    leaves = np.cumprod([1, *reversed(widths)])[::-1]
    of_all = float(leaves[0]) * instances
    if of_all == 0:
        undefined = np.full((len(widths), *shape), np.nan)
        return Decomposition(bias2=np.full(shape, np.nan), variances=undefined)
    # A node at depth k has leaves[k] draws, and there are leaves[0] / leaves[k] such nodes.
    squares = [of / (of_all * float(each)) for of, each in zip(sums.squares, leaves, strict=True)]
    variances: list[NDArray[np.float64]] = []
    error: NDArray[np.float64] | float = 0.0
    for level in range(len(widths), 0, -1):
        width = widths[level - 1]
        if width < 2:
            spread = np.full(shape, np.nan)
        else:
            spread = (squares[level] - squares[level - 1]) * (width / (width - 1))
        variances.append(spread - error)
        error = spread / width
    stacked = np.stack(variances[::-1])
    loss = 1.0 - 2.0 * sums.total / of_all + squares[-1]
    return Decomposition(bias2=loss - stacked.sum(axis=0), variances=stacked)


def decompose(draws: NDArray[np.floating] | NDArray[np.bool_]) -> Decomposition:
    """Decompose the loss (1 - x)^2 of a tree of draws x of any depth.

    With bool draws (correct or not) this is the 0/1 loss, with the probability of the gold label
    the squared loss.

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
    return decompose_sums(tree_sums(np.moveaxis(draws, 0, -1)), draws.shape[1:])


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
    sums = count_sums(np.moveaxis(correct, 0, -1))
    return decompose_sums(sums, (*correct.shape[1:], runs))


def count_sums(correct: NDArray[np.integer]) -> TreeSums:
    """Sum a tree of correct predictions from counts at its innermost level.

    Parameters
    ----------
    correct : ndarray of int, shape [level_1, ..., level_(L-1), instance]
        Correct predictions among the draws of the innermost level.

    Returns
    -------
    TreeSums
        As `tree_sums` of the bool draws themselves, which are their own squares.
    """
    sums = tree_sums(correct)
    return TreeSums(total=sums.total, squares=np.concatenate([sums.squares, sums.total[None]]))
