"""Whether a prediction is correct.

Two-class evaluation of a three-class model (HANS): if the gold label is ``non-entailment``, and
this is not a class of the model, every prediction except ``entailment`` is correct.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

ENTAILMENT = "entailment"
NON_ENTAILMENT = "non-entailment"
NOT_ENTAILMENT_INDEX = -1


def gold_index(gold: ArrayLike, labels: Sequence[str]) -> NDArray[np.int64]:
    """Encode gold labels as positions among the classes of the model.

    Parameters
    ----------
    gold : array_like of str, shape (instance,)
        Gold labels.
    labels : sequence of str, length label
        Classes of the model, in the order of the probabilities.

    Returns
    -------
    ndarray of int64, shape (instance,)
        Position of each gold label in `labels`, or -1 for ``non-entailment`` if it is not a class
        and ``entailment`` is.

    Raises
    ------
    ValueError
        If a gold label is neither a class nor such a ``non-entailment``; the message names it.
    """
    values = np.asarray(gold).astype(object)
    names = list(labels)
    index = np.asarray(pd.Index(names, dtype=object).get_indexer(pd.Index(values, dtype=object)))
    unknown = index < 0
    if ENTAILMENT in names:
        unknown &= values != NON_ENTAILMENT
    if unknown.any():
        first = int(np.argmax(unknown))
        raise ValueError(
            f"gold label {values[first]!r} of instance {first} is not one of {', '.join(names)}"
        )
    return index.astype(np.int64)


def _index(gold: ArrayLike, labels: Sequence[str]) -> NDArray[np.int64]:
    values = np.asarray(gold)
    return values if values.dtype.kind == "i" else gold_index(values, labels)


def correctness(
    probability: NDArray[np.floating], gold: ArrayLike, labels: Sequence[str]
) -> NDArray[np.bool_]:
    """Determine where the most probable class is the gold label.

    Of equally probable classes, the first is the prediction.

    Parameters
    ----------
    probability : ndarray of float, shape (instance, ..., label)
        Class probabilities, 0 to 1; only their order matters here.
    gold : array_like, shape (instance,)
        Gold labels (str), or what `gold_index` made of them (int).
    labels : sequence of str, length label
        Classes of the model. For the gold label ``non-entailment``, if it is not a class, every
        prediction except ``entailment`` is correct.

    Returns
    -------
    ndarray of bool, shape (instance, ...)
        True where the prediction is correct.

    Raises
    ------
    ValueError
        If a gold label is unknown.
    """
    index = _index(gold, labels)
    index = index.reshape(index.shape + (1,) * (probability.ndim - 2))
    predicted = probability.argmax(axis=-1)
    correct = np.asarray(predicted == index)
    two_class = index == NOT_ENTAILMENT_INDEX
    if two_class.any():
        correct |= two_class & (predicted != list(labels).index(ENTAILMENT))
    return correct
