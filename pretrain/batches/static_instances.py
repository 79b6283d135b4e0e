"""Static pretraining instances: a fixed set that is computed by rule and visited in every epoch.

BERT's original pipeline (Devlin et al., 2019, released code) goes over the corpus
`dupe_factor` times, each time with new pairs and masks, and writes the instances to files,
which are shuffled and then read by every run. Here an instance is a function of the corpus
and of its number, and is not stored. As in the original, all sizes and seeds share the set,
and each run visits it in its own order.

Each duplicate has one instance for every stretch of `sequence_length - 3` tokens of the corpus,
about as many as there would be consecutive pairs of that length. An instance starts at the first
sentence that begins in its stretch. The stretches are shifted differently in every duplicate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretrain.engine.seeding import RowDraws, derive_seed, generator, permuted
from pretrain.text.corpus import Corpus

# All runs see the same instances.
_SEED = derive_seed("pretrain", "static instances")
# Random numbers of a pair without those of its masks; see `draw_pairs`.
_DRAWS_OF_A_PAIR = 8


class StaticInstances:
    """The static instances of a corpus.

    Parameters
    ----------
    corpus : Corpus
        The tokenized corpus.
    duplicates : int
        Instances of each position; each has its own pair and masks.
    sequence_length, max_masked : int
        Shape of an instance.

    Attributes
    ----------
    positions : int
        Instances in each duplicate.
    count : int
        Instances in all.
    """

    def __init__(
        self, corpus: Corpus, duplicates: int, *, sequence_length: int, max_masked: int
    ) -> None:
        self._corpus = corpus
        self._stride = sequence_length - 3
        self._offsets = generator(_SEED, 0).integers(self._stride, size=duplicates)
        self._draws = _DRAWS_OF_A_PAIR + sequence_length + 2 * min(max_masked, sequence_length)
        self.positions = max(len(corpus.tokens) // self._stride, 1)
        self.count = self.positions * duplicates

    def visited(self, seed: int, step: int, rows: int) -> NDArray[np.int64]:
        """List the instances, by number, that a run visits at a step.

        Each epoch visits every instance once, in its own order. A batch may contain the end of one
        epoch and the beginning of the next.

        Parameters
        ----------
        seed : int
            Seed of the run's order.
        step, rows : int
            The step, from 0, and the instances of each step.

        Returns
        -------
        int64 array [row]
        """
        visits = np.arange(step * rows, (step + 1) * rows)
        epochs = visits // self.count
        numbers = np.empty(rows, dtype=np.int64)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            positions = visits[in_epoch] % self.count
            numbers[in_epoch] = permuted(seed, int(epoch), positions, self.count)
        return numbers

    def starts(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the sentences at which instances start; each has a successor in its document.

        Parameters
        ----------
        numbers : int64 array [row]
            The instances.

        Returns
        -------
        int64 array [row]
        """
        duplicate, position = np.divmod(numbers, self.positions)
        sentences, documents = self._corpus.sentences, self._corpus.documents
        tokens = position * self._stride + self._offsets[duplicate]
        start = np.minimum(np.searchsorted(sentences, tokens), len(sentences) - 2)
        document = np.searchsorted(documents, start, side="right") - 1
        return np.minimum(start, documents[document + 1] - 2)

    def draws(self, numbers: NDArray[np.int64]) -> RowDraws:
        """Return the random numbers that determine the pairs and masks of instances [row]."""
        # Key 0 is used for the offsets.
        return RowDraws(_SEED, numbers + 1, self._draws)
