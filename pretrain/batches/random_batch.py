"""Batches of random entries: they take as long as those of a corpus, and need none."""

from __future__ import annotations

from typing import Any

import numpy as np

from configs.schema import Experiment


def random_batch(
    experiment: Experiment, rows: int, vocabulary: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Draw a batch of random entries in the experiment's shape, to time a step with.

    Parameters
    ----------
    experiment : Experiment
        Its `pretraining` gives the sequence length and the number of masked tokens.
    rows, vocabulary : int
        Sequences, and entries of the vocabulary.
    rng : numpy.random.Generator
        Where the draws come from.

    Returns
    -------
    dict of str to array
        As `PairBatches` makes them, without padding: half of each sequence in either segment,
        and as many masked tokens as `masked_share` gives.
    """
    settings = experiment.recipe
    length = settings.sequence_length
    masked = max(min(settings.max_masked, round(settings.masked_share * length)), 1)
    order = rng.permuted(np.tile(np.arange(1, length), (rows, 1)), axis=1)
    positions = np.zeros((rows, settings.max_masked), np.int32)
    positions[:, :masked] = np.sort(order[:, :masked], axis=1)
    weights = np.zeros(positions.shape, np.float32)
    weights[:, :masked] = 1.0
    return {
        "token_ids": rng.integers(vocabulary, size=(rows, length), dtype=np.int32),
        "segment_ids": np.tile((np.arange(length) >= length // 2).astype(np.int32), (rows, 1)),
        "padding_mask": np.ones((rows, length), np.int32),
        "mask_positions": positions,
        "mask_ids": rng.integers(vocabulary, size=positions.shape, dtype=np.int32),
        "mask_weights": weights,
        "is_random": rng.integers(2, size=rows, dtype=np.int32),
    }
