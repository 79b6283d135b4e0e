"""Class probabilities of a classifier on many instances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray


class Predictor:
    """Computes class probabilities with the current weights of a classifier.

    Parameters
    ----------
    model : keras.Model
        A classifier with output `logits`. The computation is compiled at the first batch.
    """

    def __init__(self, model: keras.Model) -> None:
        import tensorflow as tf

        def probabilities(inputs: Mapping[str, Any]) -> Any:
            return tf.nn.softmax(model(inputs, training=False)["logits"], axis=-1)

        self.model = model
        self._compiled = tf.function(probabilities, reduce_retracing=True)

    def predict(self, inputs: Mapping[str, NDArray[Any]], batch_size: int) -> NDArray[np.float32]:
        """Compute class probabilities, without dropout.

        Parameters
        ----------
        inputs : mapping of str to array [instance, position]
            The classifier's inputs.
        batch_size : int
            Instances at a time; the last batch is padded, so that all have the same shape.

        Returns
        -------
        float32 array [instance, label]
        """
        count = len(next(iter(inputs.values())))
        parts = []
        for begin in range(0, count, batch_size):
            rows = np.minimum(np.arange(begin, begin + batch_size), count - 1)
            batch = {name: value[rows].astype(np.int32) for name, value in inputs.items()}
            parts.append(self._compiled(batch).numpy()[: count - begin])
        return np.concatenate(parts)
