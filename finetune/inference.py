"""Class probabilities of a classifier on many instances."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=1)
def _compiled(model: keras.Model) -> Any:
    import tensorflow as tf

    def probabilities(inputs: Mapping[str, Any]) -> Any:
        return tf.nn.softmax(model(inputs, training=False)["logits"], axis=-1)

    return tf.function(probabilities, reduce_retracing=True)


def predict_probabilities(
    model: keras.Model, inputs: Mapping[str, NDArray[Any]], batch_size: int
) -> NDArray[np.float32]:
    """Class probabilities, without dropout.

    Parameters
    ----------
    model : keras.Model
        A classifier with output `logits`.
    inputs : mapping of str to array [instance, position]
        Its inputs.
    batch_size : int
        Instances at a time; the last batch is filled up, so that all have one shape.

    Returns
    -------
    float32 array [instance, label]
    """
    compiled = _compiled(model)
    count = len(next(iter(inputs.values())))
    parts = []
    for begin in range(0, count, batch_size):
        rows = np.minimum(np.arange(begin, begin + batch_size), count - 1)
        batch = {name: value[rows].astype(np.int32) for name, value in inputs.items()}
        parts.append(compiled(batch).numpy()[: count - begin])
    return np.concatenate(parts)
