"""Fisher's exact test with the Benjamini-Hochberg procedure (Section 4.1; Tables 4, 11)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom


@dataclass(frozen=True)
class DiscoveryBound:
    """Lower bound on the decaying fraction by controlling the false discovery rate.

    Attributes
    ----------
    bound : float
        Fraction of instances, p (1 - q); 0 where no false discovery rate gives more.
    rate : float
        The false discovery rate q that maximizes the bound; NaN where the bound is 0.
    discovered : float
        The fraction p of instances that are discovered at that rate.
    """

    bound: float
    rate: float
    discovered: float


def fisher_p_values(models: int) -> NDArray[np.float64]:
    """Tabulate the one-sided p-values of Fisher's exact test of two sizes on one instance.

    Under the null hypothesis that the smaller size is not more accurate, and given how many models
    of both sizes are right, the number of right smaller ones is hypergeometric. The p-value is the
    probability of at least the observed number.

    Parameters
    ----------
    models : int
        Independent models of each size (2k), at least 1.

    Returns
    -------
    ndarray of float64, shape [models + 1, models + 1]
        Element [a, b]: p-value with `a` right models of the smaller and `b` of the larger size.
    """
    smaller = np.arange(models + 1)[:, None]
    larger = np.arange(models + 1)[None, :]
    return hypergeom.sf(smaller - 1, 2 * models, models, smaller + larger)


def discovery_bound(
    smaller: NDArray[np.integer], larger: NDArray[np.integer], models: int
) -> DiscoveryBound:
    """Bound the fraction of instances that decay, with the best false discovery rate.

    At a rate q the Benjamini-Hochberg procedure discovers the largest fraction p of instances
    whose p-values are at most p q, and the bound is p (1 - q). The smallest rate that discovers a
    fraction p is its largest p-value over p, so the best bound is the maximum over the ranks of p
    less p-value.

    Parameters
    ----------
    smaller, larger : ndarray of int, shape [instance]
        Right models, 0..`models`, of the smaller and of the larger size; at least one instance.
    models : int
        Models of each size.

    Returns
    -------
    DiscoveryBound
        At the smallest fraction that attains the maximum.
    """
    return discovery_bound_of_counts(joint_correct_models(smaller, larger, models))


def joint_correct_models(
    smaller: NDArray[np.integer], larger: NDArray[np.integer], models: int
) -> NDArray[np.int64]:
    """Count instances by the number of right models of both sizes.

    Parameters
    ----------
    smaller, larger : ndarray of int, shape [instance]
        Right models, 0..`models`.
    models : int
        Models of each size.

    Returns
    -------
    ndarray of int64, shape [models + 1, models + 1]
    """
    cells = smaller.astype(np.int64) * (models + 1) + larger.astype(np.int64)
    return np.bincount(cells, minlength=(models + 1) ** 2).reshape(models + 1, models + 1)


def discovery_bound_of_counts(counts: NDArray[np.int64]) -> DiscoveryBound:
    """Bound the decaying fraction as `discovery_bound`, from `joint_correct_models`."""
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
