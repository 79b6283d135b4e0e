"""What the replicates of one split draw: pretraining seeds of every size, and instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def draw_indices(items: int, replicates: int, key: Sequence[int]) -> NDArray[np.int64]:
    """Draw items with replacement, as many as there are.

    Parameters
    ----------
    items : int
        Number of seeds or clusters, at least 1.
    replicates : int
        Number of draws.
    key : sequence of int
        What the random numbers are a function of, each at least 0.

    Returns
    -------
    ndarray of int64, shape [replicate, item]
        Positions of the drawn items.
    """
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(list(key))))
    return random.integers(items, size=(replicates, items))


def weights_of(indices: NDArray[np.integer], items: int) -> NDArray[np.float64]:
    """Count how often each item was drawn.

    Parameters
    ----------
    indices : ndarray of int, shape [replicate, draw]
        Positions of drawn items, 0..`items` - 1.
    items : int
        Number of items.

    Returns
    -------
    ndarray of float64, shape [item, replicate]
        Whole numbers; every column sums to the number of draws.
    """
    replicates = len(indices)
    cells = indices + items * np.arange(replicates)[:, None]
    counts = np.bincount(cells.ravel(), minlength=items * replicates)
    return np.ascontiguousarray(counts.reshape(replicates, items).T, dtype=np.float64)


def cluster_weights(
    indices: NDArray[np.integer], clusters: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Give every instance the number of times that its cluster was drawn.

    Parameters
    ----------
    indices : ndarray of int, shape [replicate, draw]
        Positions of drawn clusters.
    clusters : ndarray of int, shape [instance]
        Cluster of each instance, 0..C - 1; all different where instances are drawn one by one.

    Returns
    -------
    ndarray of float64, shape [instance, replicate]
    """
    return weights_of(indices, int(clusters.max(initial=-1)) + 1)[clusters]


BLOCK_CELLS = 2**21
"""Resampled sums held at once, of one size."""

DRAWN_CELLS = 2**24
"""Instances times replicates whose draws are held at once."""


@dataclass(frozen=True)
class Resampling:
    """The draws of one split, a pure function of `seed`.

    Attributes
    ----------
    replicates : int
        Number of replicates, at least 1.
    seed : int
        Seed of all draws.
    clusters : ndarray of int, shape [instance], or None
        Cluster of each instance of the split, 0..C - 1, whose clusters are drawn; None to keep
        every instance once.
    """

    replicates: int
    seed: int
    clusters: NDArray[np.int64] | None = None

    def seed_weights(self, size: int, seeds: int) -> NDArray[np.float64]:
        """How often each of the first `seeds` seeds of a size (position) is drawn.

        Shape [seed, replicate]. Both kinds of predictions, and all pairs that a size is in, share
        these draws.
        """
        return weights_of(draw_indices(seeds, self.replicates, (self.seed, 0, size, seeds)), seeds)

    def instance_weights(self, replicates: slice) -> NDArray[np.float64] | None:
        """How often each instance is drawn, shape [instance, replicate]; None for each once."""
        if self.clusters is None:
            return None
        groups = int(self.clusters.max(initial=-1)) + 1
        rows = [
            draw_indices(groups, 1, (self.seed, 1, replicate))
            for replicate in range(replicates.start, replicates.stop)
        ]
        return cluster_weights(np.concatenate(rows), self.clusters)

    def instance_draws(self, instances: int) -> Iterator[tuple[slice, NDArray[np.uint16]]]:
        """Draws of instances where these are drawn, many replicates at once.

        Yields the replicates, and how often each draws each instance, [replicate, instance].
        """
        block = max(DRAWN_CELLS // max(instances, 1), 1)
        for start in range(0, self.replicates, block):
            drawn = slice(start, min(start + block, self.replicates))
            weights = np.empty((drawn.stop - start, instances), dtype=np.uint16)
            for replicate in range(start, drawn.stop):
                one = self.instance_weights(slice(replicate, replicate + 1))
                if one is None:
                    raise ValueError("the resampling keeps every instance")
                weights[replicate - start] = one[:, 0]
            yield drawn, weights

    def blocks(self, instances: int) -> Iterator[slice]:
        """Blocks of replicates that fit into memory together."""
        block = max(BLOCK_CELLS // max(instances, 1), 1)
        for start in range(0, self.replicates, block):
            yield slice(start, min(start + block, self.replicates))


@dataclass(frozen=True)
class Bootstrap:
    """What to resample.

    Attributes
    ----------
    replicates : int
        Number of replicates; 0 adds no columns.
    seed : int
        Seed of all draws.
    clusters : mapping of str to ndarray of int, each of shape [instance], or None
        By task, the cluster of each kept instance; whole clusters of instances are drawn with the
        seeds. None to draw seeds only.
    """

    replicates: int
    seed: int = 0
    clusters: Mapping[str, NDArray[np.int64]] | None = None

    def of_instances(self, task: str, instances: NDArray[np.intp]) -> Resampling:
        """Choose the draws of a split, which has the given ones of a task's kept instances."""
        clusters = None
        if self.clusters is not None:
            _, clusters = np.unique(self.clusters[task][instances], return_inverse=True)
        return Resampling(self.replicates, self.seed, clusters)
