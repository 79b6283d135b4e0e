"""Moments of whole arrays of draws, with which those of sums are compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analysis.bootstrap.variances import SeedMoments
from analysis.statistics.variance import decompose


def draw_moments(draws: NDArray[np.floating] | NDArray[np.bool_]) -> SeedMoments:
    """Moments of the loss (1 - x)^2 of draws [instance, seed, level_1, ..., level_L]."""
    instances, seeds, *widths = draws.shape
    below = decompose(draws.reshape(instances * seeds, *widths))
    loss = (below.bias2 + below.variances.sum(axis=0)).reshape(instances, seeds).mean(axis=0)
    inner = below.variances.reshape(len(widths), instances, seeds).mean(axis=1)
    noise = (inner / np.cumprod(widths)[:, None]).sum(axis=0)
    mean = draws.reshape(instances, seeds, -1).mean(axis=2, dtype=np.float64)
    return SeedMoments(loss, inner, noise, mean.T @ mean / instances)
