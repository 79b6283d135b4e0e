"""The Multi-Bootstrap: resample pretraining seeds and optionally instances (Sellam et al., 2022).

`multibootstrap` compares the mean scores of any two groups of runs on the same instances. It takes
two arrays [instance, seed] and needs no prediction store. It gives an estimate of the difference,
its interval and a p-value. A replicate is a vector of weights, the number of times that each seed
and each instance is drawn, so that one matrix product gives the means of all replicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap.draws import cluster_weights, draw_indices, weights_of


@dataclass(frozen=True)
class MultiBootstrap:
    """Mean scores of two groups of runs in every replicate.

    Attributes
    ----------
    base, other : ndarray of float64, shape [replicate]
        Mean score of each group, over resampled seeds and instances.
    estimate : float
        Mean score of `other` minus that of `base`, without resampling.
    """

    base: NDArray[np.float64]
    other: NDArray[np.float64]
    estimate: float

    @property
    def difference(self) -> NDArray[np.float64]:
        """`other` minus `base`, shape [replicate]."""
        return self.other - self.base

    @property
    def p_value(self) -> float:
        """Share of replicates whose difference is at most 0: small if `other` scores higher.

        At least 1 / replicates, the smallest share other than 0.
        """
        difference = self.difference
        return max(float(np.mean(difference <= 0)), 1 / len(difference))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Compute the percentile interval of the difference at a confidence level."""
        tail = (1 - level) / 2
        low, high = np.quantile(self.difference, [tail, 1 - tail])
        return float(low), float(high)


def weighted_scores(
    scores: NDArray[np.floating] | NDArray[np.bool_],
    seed_weights: NDArray[np.float64],
    instance_weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Average scores over resampled seeds and instances.

    Parameters
    ----------
    scores : ndarray, shape [instance, seed]
        Score of each pretraining seed on each instance, averaged over its finetuning runs.
    seed_weights : ndarray of float64, shape [seed, replicate]
        How often each seed was drawn.
    instance_weights : ndarray of float64, shape [instance, replicate], optional
        How often each instance was drawn; once by default.

    Returns
    -------
    ndarray of float64, shape [replicate]

    Examples
    --------
    Seed 0 scores 1 on the only instance, seed 1 scores 0. The second replicate draws seed 0 twice.

    >>> weighted_scores(np.array([[1.0, 0.0]]), np.array([[1.0, 2.0], [1.0, 0.0]]))
    array([0.5, 1. ])
    """
    values = np.asarray(scores, dtype=np.float64)
    if instance_weights is None:
        per_seed = values.mean(axis=0)[:, None]
    else:
        per_seed = (values.T @ instance_weights) / instance_weights.sum(axis=0)
    return (per_seed * seed_weights).sum(axis=0) / seed_weights.sum(axis=0)


def multibootstrap(
    base: NDArray[np.floating] | NDArray[np.bool_],
    other: NDArray[np.floating] | NDArray[np.bool_],
    *,
    replicates: int = 1000,
    paired: bool = False,
    resample_instances: bool = True,
    clusters: NDArray[np.integer] | None = None,
    seed: int = 0,
) -> MultiBootstrap:
    """Compare the mean score of any two groups of runs on the same instances.

    Parameters
    ----------
    base, other : ndarray, each of shape [instance, seed]
        Score of each pretraining seed on each instance, averaged over its finetuning runs.
    replicates : int
        Number of replicates, at least 1.
    paired : bool
        Whether column j of both groups is the same seed. If so, the same seeds are drawn for both
        groups, otherwise each group's seeds independently.
    resample_instances : bool
        Whether to draw instances too, the same ones for both groups.
    clusters : ndarray of int, shape [instance], optional
        Cluster of each instance, 0..C - 1, to draw whole clusters of instances.
    seed : int
        Seed of the draws.

    Returns
    -------
    MultiBootstrap

    Raises
    ------
    ValueError
        If the groups differ in their number of instances, have no instances or no seeds, if paired
        groups differ in their number of seeds, or if an instance has no cluster.

    References
    ----------
    Sellam et al., The MultiBERTs: BERT Reproductions for Robustness Analysis, ICLR 2022,
    Section 3: the score is the mean over seeds and instances.

    Examples
    --------
    Four instances, and three seeds in each group. Every seed of `other` is correct on one instance
    more, so that the difference of the means is 1/4 whichever seeds are drawn.

    >>> base = np.array([[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]])
    >>> other = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]])
    >>> comparison = multibootstrap(base, other, replicates=200, resample_instances=False)
    >>> comparison.estimate, comparison.interval(0.95), comparison.p_value
    (0.25, (0.25, 0.25), 0.005)
    """
    instances = len(base)
    if len(other) != instances or not base.size or not other.size:
        raise ValueError("both groups need seeds, and the same instances")
    if paired and base.shape != other.shape:
        raise ValueError("paired groups need the same seeds")
    if clusters is not None and len(clusters) != instances:
        raise ValueError("every instance needs a cluster")
    drawn = draw_indices(base.shape[1], replicates, (seed, 0))
    base_weights = weights_of(drawn, base.shape[1])
    other_weights = base_weights
    if not paired:
        drawn = draw_indices(other.shape[1], replicates, (seed, 1))
        other_weights = weights_of(drawn, other.shape[1])
    instance_weights = None
    if resample_instances:
        groups = np.arange(instances) if clusters is None else clusters
        drawn = draw_indices(int(groups.max()) + 1, replicates, (seed, 2))
        instance_weights = cluster_weights(drawn, groups)
    return MultiBootstrap(
        base=weighted_scores(base, base_weights, instance_weights),
        other=weighted_scores(other, other_weights, instance_weights),
        estimate=float(np.mean(other) - np.mean(base)),
    )
