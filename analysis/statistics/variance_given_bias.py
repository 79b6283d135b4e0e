"""Variance between seeds at each level of bias (Figures 5, 9 and 10)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from threadpoolctl import threadpool_limits

from analysis.statistics.variance import Decomposition

BINS = 250
"""Bins of the bias, of equal width from 0 to 1."""

LEAST_IN_BIN = 30
"""Instances that a bin has once neighbours are merged, so that its standard error is known."""

POINTS = 50
"""Points of the regression: bins are merged until each has its share of the instances."""

CURVE_POINTS = 51
"""Points of a curve over the whole range of the bias, at equal distances."""

CREDIBLE = 1.959963984540054
"""Standard deviations of a normal distribution on either side of the central 95%."""


@dataclass(frozen=True)
class BinnedVariances:
    """Variances summed over the instances of each bin of the bias; sums of blocks add up.

    Attributes
    ----------
    instances : ndarray of float64, shape [..., bin]
        Number of instances.
    bias2 : ndarray of float64, shape [..., bin]
        Sum of their squared biases.
    variances, squares : ndarray of float64, shape [..., level, bin]
        Sums of their variances, and of the squares of those: pretraining seeds, finetuning seeds.
    """

    instances: NDArray[np.float64]
    bias2: NDArray[np.float64]
    variances: NDArray[np.float64]
    squares: NDArray[np.float64]

    def __add__(self, other: BinnedVariances) -> BinnedVariances:
        return BinnedVariances(
            self.instances + other.instances,
            self.bias2 + other.bias2,
            self.variances + other.variances,
            self.squares + other.squares,
        )

    def of_group(self, group: int) -> BinnedVariances:
        """Return the sums of one group, without the leading axis."""
        return BinnedVariances(
            self.instances[group], self.bias2[group], self.variances[group], self.squares[group]
        )


@dataclass(frozen=True)
class VarianceCurve:
    """Variance as a function of the squared bias.

    Attributes
    ----------
    bias2 : ndarray of float64, shape [point]
        Squares of a fixed grid of the bias, ascending, from a step before the first bin to a step
        after the last one.
    mean, low, high : ndarray of float64, shape [point]
        Posterior mean of the Gaussian process, and the ends of its pointwise 95% credible band.
    observed_bias2, observed, error : ndarray of float64, shape [bin]
        What it was fitted to: means over the instances of each bin, and their standard errors.
    """

    bias2: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    observed_bias2: NDArray[np.float64]
    observed: NDArray[np.float64]
    error: NDArray[np.float64]


def bin_variances(parts: Decomposition, group: NDArray[np.integer], groups: int) -> BinnedVariances:
    """Sum the variances of instances by bin of their estimated bias.

    The bins are fixed beforehand, so that instances can be binned as they pass, and equally wide in
    the bias, the square root of the squared bias: the variance of a prediction that is right with
    probability 1 - b is at most b (1 - b), which is smooth in b but infinitely steep in b^2 at 0.
    Estimates of the squared bias below 0 go to the first bin.

    An instance's squared bias and its variances are estimated from the same runs, so both share
    their noise, within and across bins, as in the paper: the estimates describe E[variance |
    estimated bias], which more seeds bring closer to E[variance | bias].

    Parameters
    ----------
    parts : Decomposition
        Of each instance; the first two levels are used and must be defined.
    group : ndarray of int, shape [instance]
        The group (evaluation split) of each instance.
    groups : int
        Number of groups.

    Returns
    -------
    BinnedVariances
        Leading axis group.
    """
    bias = np.sqrt(np.clip(parts.bias2, 0.0, 1.0))
    cell = group.astype(np.int64) * BINS + np.minimum((bias * BINS).astype(np.int64), BINS - 1)

    def sums(weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        found = np.bincount(cell, weights, minlength=groups * BINS)
        return found.astype(np.float64).reshape(groups, BINS)

    levels = parts.variances[:2]
    return BinnedVariances(
        instances=sums(None),
        bias2=sums(parts.bias2),
        variances=np.stack([sums(level) for level in levels], axis=1),
        squares=np.stack([sums(level**2) for level in levels], axis=1),
    )


def variance_curve(binned: BinnedVariances, level: int) -> VarianceCurve | None:
    """Regress a variance on the bias with a Gaussian process.

    Neighbouring bins are merged until each has 1/50 of the instances that are neither in the first
    nor in the last bin (where almost all are), and at least 30. The process runs over the bias, as
    the bins do. Its kernel, a squared exponential and white noise for what bins scatter beyond
    their standard errors, is fitted by maximum marginal likelihood; the squared standard errors
    are the known part of the noise.

    Parameters
    ----------
    binned : BinnedVariances
        Without a leading axis.
    level : int
        0 for the variance between pretraining seeds, 1 for finetuning seeds.

    Returns
    -------
    VarianceCurve or None
        None where there are fewer than five bins to fit it to.

    References
    ----------
    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), Equations 2.23, 2.24
    and 5.8.
    """
    first = _merged_bins(binned.instances)
    number, bias2, sums, squares = (
        np.add.reduceat(values, first)
        for values in (
            binned.instances,
            binned.bias2,
            binned.variances[level],
            binned.squares[level],
        )
    )
    if len(number) < 5:
        return None
    observed, mean_bias2 = sums / number, np.maximum(bias2 / number, 0.0)
    error = np.sqrt(np.maximum(squares / number - observed**2, 0.0) / (number - 1))
    # Instances on which all runs agree have no variance and so no error, but a scale helps the fit.
    scale = max(float(np.abs(observed).max()), 1e-12)
    bias = np.sqrt(mean_bias2)
    kernel = ConstantKernel(0.5, (1e-3, 1e2)) * RBF(0.3, (0.08, 3.0)) + WhiteKernel(
        1e-4, (1e-9, 1e-1)
    )
    process = GaussianProcessRegressor(kernel, alpha=np.maximum((error / scale) ** 2, 1e-8))
    grid = np.linspace(0.0, 1.0, CURVE_POINTS)
    step = grid[1]
    at = grid[(grid >= bias[0] - step) & (grid <= bias[-1] + step)]
    with warnings.catch_warnings(), threadpool_limits(1):
        # A fitted value at the end of its range says that the data are smooth or without noise.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Threads would take longer to start than these small matrices to factorize.
        process.fit(bias[:, None], observed / scale)
        mean, deviation = process.predict(at[:, None], return_std=True)
    # The band is that of the curve: the white noise belongs to the bins.
    noise = process.kernel_.k2.noise_level
    spread = CREDIBLE * np.sqrt(np.maximum(deviation**2 - noise, 0.0))
    return VarianceCurve(
        bias2=at**2,
        mean=mean * scale,
        low=(mean - spread) * scale,
        high=(mean + spread) * scale,
        observed_bias2=mean_bias2,
        observed=observed,
        error=error,
    )


def _merged_bins(instances: NDArray[np.float64]) -> NDArray[np.int64]:
    """First bin of each group of neighbours that are merged; the last group takes what is left."""
    least = max(LEAST_IN_BIN, float(instances[1:-1].sum()) / POINTS)
    first, having = [0], 0.0
    for position, number in enumerate(instances.tolist()):
        if having >= least and instances[position:].sum() >= least:
            first.append(position)
            having = 0.0
        having += number
    return np.array(first, dtype=np.int64)
