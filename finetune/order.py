"""The order in which a run sees its training instances: a pure function of seed and step."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from configs.schema import Buffer
from pretrain.engine.seeding import generator


def shuffled(
    instances: int, shuffle: Literal["full"] | Buffer, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Compute the order of the instances in one epoch.

    Parameters
    ----------
    instances : int
        Number of instances.
    shuffle : "full" or Buffer
        A uniformly drawn order, or a shuffle through a buffer: the buffer is filled with the
        first instances in the file's order; then a random instance is taken from it and
        replaced by the next one of the file, until all are taken.
    seed, epoch : int
        Together they determine the order.

    Returns
    -------
    int64 array [instance]
        A permutation.
    """
    rng = generator(seed, epoch)
    if shuffle == "full":
        return rng.permutation(instances)
    size = min(shuffle.buffer, instances)
    places = rng.integers(size, size=instances - size).tolist()
    buffer = list(range(size))
    order = np.empty(instances, dtype=np.int64)
    for i, place in enumerate(places):
        order[i] = buffer[place]
        buffer[place] = size + i
    order[instances - size :] = rng.permutation(buffer)
    return order


class EpochOrder:
    """The rows of each batch, over all epochs.

    A batch that begins near the end of an epoch continues with rows of the next one, so that
    all batches have the same size (as in Devlin et al.'s code).

    Parameters
    ----------
    instances, batch_size : int
        Instances in an epoch, rows in a batch.
    shuffle : "full" or Buffer
        See `shuffled`.
    """

    def __init__(self, instances: int, batch_size: int, shuffle: Literal["full"] | Buffer) -> None:
        self.instances = instances
        self.batch_size = batch_size
        self.shuffle = shuffle
        self._recent: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()

    def rows(self, seed: int, step: int) -> NDArray[np.int64]:
        """Compute the rows of the batch at a step.

        Returns
        -------
        int64 array [row]
        """
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = positions // self.instances
        rows = np.empty(self.batch_size, dtype=np.int64)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            rows[in_epoch] = self._order(seed, int(epoch))[positions[in_epoch] % self.instances]
        return rows

    def _order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        key = (seed, epoch)
        if key not in self._recent:
            self._recent[key] = shuffled(self.instances, self.shuffle, seed, epoch)
            while len(self._recent) > 2:
                self._recent.popitem(last=False)
        return self._recent[key]
