"""Unbiased decomposition of the loss into bias and variances (Section 6, Appendix H).

The loss of an instance is (1 - x)^2, averaged over draws x: 0 or 1, whether a run is correct, for
the 0/1 loss (Equation 13), and the probability of the gold label for the squared loss. Draws form a
tree: pretraining seeds, finetuning seeds of each, and checkpoints of each run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.shapes import InstanceValues, LevelValues


@dataclass(frozen=True)
class Decomposition:
    """Loss of each instance, split into squared bias and the variance of each level (Equation 14).

    If a level has a single draw, its variance, those of the levels above it and `bias2` are not
    defined: they are NaN.

    Attributes
    ----------
    bias2 : InstanceValues
        Loss minus all variances; unbiased, and so possibly below 0.
    variances : LevelValues
        Of the pretraining seeds, the finetuning seeds and the checkpoints.
    """

    bias2: InstanceValues
    variances: LevelValues


@dataclass(frozen=True)
class TreeSums:
    """Sums over a tree of draws, for decomposing its loss; those of several instances add up.

    Attributes
    ----------
    total : ndarray, shape [...]
        Sum of all draws.
    squares : ndarray, shape [level + 1, ...]
        Element k: over the nodes at depth k, the sum of the squares of the node's sum of draws.
        The root has depth 0, and the draws themselves have the last.
    """

    total: NDArray[np.float64] | NDArray[np.int64]
    squares: NDArray[np.float64] | NDArray[np.int64]


def tree_sums(draws: NDArray[np.floating] | NDArray[np.integer] | NDArray[np.bool_]) -> TreeSums:
    """Sum a tree of draws and the squares of its nodes.

    Parameters
    ----------
    draws : ndarray, shape [level_1, ..., level_L, instance]
        Outermost level first. Whole numbers and bools are summed in int64, other numbers in
        float64.

    Returns
    -------
    TreeSums
        With arrays of shape [instance] and [L + 1, instance].

    Examples
    --------
    Two pretraining seeds with 2 runs each on one instance: both runs of the first seed are
    correct, and one of the second. The squares are 3^2 at the root, 2^2 + 1^2 at the pretraining
    seeds and 1 + 1 + 1 + 0 at the draws.

    >>> sums = tree_sums(np.array([[[True], [True]], [[True], [False]]]))
    >>> sums.total.tolist(), sums.squares.tolist()
    ([3], [[9], [5], [3]])
    """
    sums: NDArray[Any] = draws.astype(np.float64 if draws.dtype.kind == "f" else np.int64)
    squares = []
    while True:
        nodes = sums.reshape(-1, sums.shape[-1])
        squares.append(np.einsum("ki,ki->i", nodes, nodes))
        if sums.ndim == 1:
            return TreeSums(total=sums, squares=np.stack(squares[::-1]))
        sums = sums.sum(axis=-2)


def count_sums(correct: NDArray[np.integer]) -> TreeSums:
    """Sum a tree of correct predictions from counts at its innermost level.

    Parameters
    ----------
    correct : ndarray of int, shape [level_1, ..., level_(L-1), instance]
        Correct predictions among the draws of the innermost level.

    Returns
    -------
    TreeSums
        The same as `tree_sums` of the bool draws themselves, which equal their squares.

    Examples
    --------
    The example of `tree_sums`, with 2 and 1 correct runs:

    >>> count_sums(np.array([[2], [1]])).squares.tolist()
    [[9], [5], [3]]
    """
    sums = tree_sums(correct)
    return TreeSums(total=sums.total, squares=np.concatenate([sums.squares, sums.total[None]]))


def decompose_sums(sums: TreeSums, widths: Sequence[int], instances: float = 1) -> Decomposition:
    """Decompose the loss (1 - x)^2 of a tree of draws x from its sums.

    Equation 29 of the paper, level by level: the variance between the expectations of a node's
    children is estimated by the sample variance of the children's means minus the average variance
    of these means. The variance of a node's mean is the sample variance of its children's means
    divided by their number. Let A_k be the average, over the nodes at depth k, of the squared mean
    of a node, and m_k the number of children of a node at depth k - 1. Then the average sample
    variance is s2_k = (A_k - A_{k-1}) m_k / (m_k - 1), and the variance of level k is
    s2_k - s2_{k+1} / m_{k+1}. All of this is linear in the sums, so that the sums of many instances
    may be added first.

    Parameters
    ----------
    sums : TreeSums
        Of one instance each, or added over `instances`.
    widths : sequence of int
        Draws at each level, outermost first.
    instances : float
        Number of instances over which the sums are added; 0 gives NaN.

    Returns
    -------
    Decomposition
        For each element of the sums, averages over its instances.

    Examples
    --------
    Two pretraining seeds, on one instance: both runs of the first are correct, both of the second
    are wrong. The runs of a seed agree, so that there is no finetuning variance; the sample
    variance of the seeds' means 1 and 0 is 1/2. The loss is 1/2 as well, and the bias 0:

    >>> result = decompose_sums(count_sums(np.array([[2], [0]])), widths=(2, 2))
    >>> result.bias2.tolist(), result.variances.tolist()
    ([0.0], [[0.5], [0.0]])
    """
    shape = np.shape(sums.total)
    # Draws below one node at each depth; depth k has draws[0] / draws[k] nodes.
    draws = np.cumprod([1, *reversed(widths)])[::-1]
    all_draws = float(draws[0]) * instances
    if all_draws == 0:
        undefined = np.full((len(widths), *shape), np.nan)
        return Decomposition(bias2=np.full(shape, np.nan), variances=undefined)
    mean_squares = [
        squares / (all_draws * float(below))
        for squares, below in zip(sums.squares, draws, strict=True)
    ]
    variances: list[NDArray[np.float64]] = []
    error: NDArray[np.float64] | float = 0.0
    for level in range(len(widths), 0, -1):
        width = widths[level - 1]
        if width < 2:
            sample_variance = np.full(shape, np.nan)
        else:
            difference = mean_squares[level] - mean_squares[level - 1]
            sample_variance = difference * (width / (width - 1))
        variances.append(sample_variance - error)
        error = sample_variance / width
    stacked = np.stack(variances[::-1])
    loss = 1.0 - 2.0 * sums.total / all_draws + mean_squares[-1]
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

    Examples
    --------
    A tree of one level: two runs give the gold label of one instance the probabilities 0.5 and 1.
    Their sample variance is 2 * 0.25^2 = 0.125, and so is the loss (0.5^2 + 0) / 2, which leaves
    no bias:

    >>> result = decompose(np.array([[0.5, 1.0]]))
    >>> result.bias2.tolist(), result.variances.tolist()
    ([0.0], [[0.125]])
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
        The same as `decompose` of the bool draws themselves (Table 7).

    Examples
    --------
    Each of two pretraining seeds has one correct run of 2. The sample variance within a seed is
    1/2. The seeds' means are equal, so that the variance between seeds is estimated by 0 minus the
    variance of such a mean, 1/2 / 2; an unbiased estimate can be below 0:

    >>> decompose_counts(np.array([[1, 1]]), runs=2).variances.tolist()
    [[-0.25], [0.5]]
    """
    sums = count_sums(np.moveaxis(correct, 0, -1))
    return decompose_sums(sums, (*correct.shape[1:], runs))
