"""Fisher's exact test with the Benjamini-Hochberg procedure (Section 4.1; Tables 4, 11)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from analysis.statistics.shapes import InstanceIntegers, JointCounts


@dataclass(frozen=True)
class DiscoveryBound:
    """Lower bound on the decaying fraction by controlling the false discovery rate.

    Attributes
    ----------
    bound : float
        Fraction of instances, p (1 - q); 0 if no false discovery rate gives more.
    rate : float
        The false discovery rate q that maximizes the bound; NaN if the bound is 0.
    discovered : float
        The fraction p of instances that are discovered at that rate.
    """

    bound: float
    rate: float
    discovered: float


def fisher_p_values(models: int) -> NDArray[np.float64]:
    """Tabulate the one-sided p-values of Fisher's exact test of two sizes on one instance.

    Under the null hypothesis that the smaller size is not more accurate, and given how many models
    of both sizes together are correct, the number of correct models of the smaller size is
    hypergeometric. The p-value is the probability of at least the observed number.

    Parameters
    ----------
    models : int
        Independent models of each size (2k), at least 1.

    Returns
    -------
    ndarray of float64, shape [models + 1, models + 1]
        Element [a, b]: p-value with `a` correct models of the smaller and `b` of the larger size.

    Examples
    --------
    One model of each size. If only one of the two is correct, under the null hypothesis it is the
    smaller one with probability 1/2. In all other cells the smaller size has as few correct models
    as the total allows:

    >>> fisher_p_values(1).round(12).tolist()
    [[1.0, 1.0], [0.5, 1.0]]
    """
    smaller = np.arange(models + 1)[:, None]
    larger = np.arange(models + 1)[None, :]
    return hypergeom.sf(smaller - 1, 2 * models, models, smaller + larger)


def joint_correct_models(
    smaller: InstanceIntegers, larger: InstanceIntegers, models: int
) -> JointCounts:
    """Count instances by the number of correct models of two sizes.

    Parameters
    ----------
    smaller, larger : InstanceIntegers
        Correct models, 0..`models`, of the smaller and of the larger size.
    models : int
        Models of each size.

    Returns
    -------
    JointCounts

    Examples
    --------
    On two instances only the smaller of two single models is correct, on one instance both are:

    >>> joint_correct_models(np.array([1, 1, 1]), np.array([0, 1, 0]), models=1).tolist()
    [[0, 0], [2, 1]]
    """
    cells = smaller.astype(np.int64) * (models + 1) + larger.astype(np.int64)
    return np.bincount(cells, minlength=(models + 1) ** 2).reshape(models + 1, models + 1)


def discovery_bound(counts: JointCounts) -> DiscoveryBound:
    """Bound the fraction of instances that decay, with the best false discovery rate.

    At a rate q the Benjamini-Hochberg procedure discovers the largest fraction p of instances
    whose p-values are at most p q (Section 4.1 writes: less than p q), and the bound is p (1 - q).
    The smallest rate that discovers a fraction p is the largest p-value of these instances divided
    by p. The best bound is therefore the maximum, over the possible p-values, of the fraction of
    instances with at most that p-value, minus the p-value.

    Parameters
    ----------
    counts : JointCounts
        From `joint_correct_models`; at least one instance.

    Returns
    -------
    DiscoveryBound
        At the smallest fraction that attains the maximum.

    Examples
    --------
    Of 10 instances 8 have a correct smaller and a wrong larger model, with a p-value of 1/2; on
    the others both models are correct. Discovering the 8 takes a rate of 0.5 / 0.8 = 0.625 and
    bounds the decaying fraction by 0.8 (1 - 0.625) = 0.8 - 0.5:

    >>> result = discovery_bound(np.array([[0, 0], [8, 2]]))
    >>> round(result.bound, 12), round(result.rate, 12), round(result.discovered, 12)
    (0.3, 0.625, 0.8)
    """
    models = counts.shape[0] - 1
    p_values, which = np.unique(fisher_p_values(models).ravel(), return_inverse=True)
    discovered = np.cumsum(np.bincount(which, weights=counts.ravel())) / counts.sum()
    gap = discovered - p_values
    best = int(np.argmax(gap))
    if gap[best] <= 0:
        return DiscoveryBound(bound=0.0, rate=float("nan"), discovered=0.0)
    return DiscoveryBound(
        bound=float(gap[best]),
        rate=float(p_values[best] / discovered[best]),
        discovered=float(discovered[best]),
    )
