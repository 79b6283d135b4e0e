"""Initial weights by seed: the same on every backend."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import truncnorm

from pretrain.engine.seeding import generator

Weights = dict[str, NDArray[Any]]


def initial_weights(
    shapes: Mapping[str, tuple[int, ...]],
    seed: int,
    standard_deviation: float,
    known: Collection[str] = (),
) -> Weights:
    """Draw initial weights: the same on every backend.

    Kernels and embeddings come from a normal distribution truncated at two standard
    deviations; biases are 0 and LayerNorm scales 1 (Devlin et al., 2019).

    Parameters
    ----------
    shapes : mapping of str to tuple
        Shape of each variable by its path. A variable's weights depend on the seed and on its
        position among the sorted paths.
    seed : int
        From `pretrain.engine.seeding.derive_seed`.
    standard_deviation : float
        Of the normal distribution before it is truncated; 0.02 in BERT.
    known : collection of str
        Paths of the variables whose weights are known, and are not drawn. The weights of the
        other variables do not depend on it.

    Returns
    -------
    dict of str to float32 array
        Weights by path, without those of `known`.
    """
    weights: Weights = {}
    for position, path in enumerate(sorted(shapes)):
        if path in known:
            continue
        shape = shapes[path]
        if path.endswith("gamma"):
            weights[path] = np.ones(shape, np.float32)
        elif path.endswith(("beta", "bias")):
            weights[path] = np.zeros(shape, np.float32)
        else:
            draws = truncnorm.rvs(-2, 2, size=shape, random_state=generator(seed, position))
            weights[path] = (standard_deviation * draws).astype(np.float32)
    return weights
