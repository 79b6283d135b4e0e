"""Batches of random tokens, for timing: they need no corpus and take as long as real ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from configs.schema import Experiment


def random_batch(
    experiment: Experiment, rows: int, vocabulary: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Draw a batch of random tokens in the experiment's shape, to time a step.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment; `pretraining` has the sequence length and the masked tokens.
    rows, vocabulary : int
        Sequences, and entries of the vocabulary.
    rng : numpy.random.Generator
        Source of the random numbers.

    Returns
    -------
    dict of str to array
        As in `PairBatches`, but without padding: each segment is half of the sequence, and
        `masked_share` determines the number of masked tokens.
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
