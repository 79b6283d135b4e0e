"""Variance between seeds at each level of bias (Section 6; Figures 5, 9 and 10)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from threadpoolctl import threadpool_limits

from analysis.statistics.shapes import BinValues, CurvePoints, InstanceIntegers
from analysis.statistics.variance import Decomposition

BINS = 250
"""Bins of the bias, of equal width from 0 to 1."""

LEAST_IN_BIN = 30
"""Least number of instances of a merged bin, so that its standard error can be estimated."""

POINTS = 50
"""Number of merged bins that merging aims at, with equal shares of the instances."""

FEWEST_POINTS = 5
"""Least number of merged bins for the regression."""

CURVE_POINTS = 51
"""Points of a curve over the whole range of the bias, at equal distances."""

CREDIBLE = 1.959963984540054
"""Standard deviations from the mean of a normal distribution to either end of its central 95%."""


@dataclass(frozen=True)
class BinnedVariances:
    """Sums over the instances of each bin of the bias; those of several blocks add up.

    Attributes
    ----------
    instances : BinValues
        Number of instances.
    bias2 : BinValues
        Sum of their squared biases.
    variances, squares : ndarray of float64, shape [..., level, bin]
        Sums of their variances, and of the squares of those: pretraining seeds, finetuning seeds.
    """

    instances: BinValues
    bias2: BinValues
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
    bias2 : CurvePoints
        Squares of a fixed grid of the bias, ascending, from a step before the first bin to a step
        after the last one.
    mean, low, high : CurvePoints
        Posterior mean of the Gaussian process, and the ends of its pointwise 95% credible band.
    """

    bias2: CurvePoints
    mean: CurvePoints
    low: CurvePoints
    high: CurvePoints


def bin_variances(parts: Decomposition, group: InstanceIntegers, groups: int) -> BinnedVariances:
    """Sum the variances of instances by bin of their estimated bias.

    The bins are fixed beforehand, so that instances can be binned block by block, and equally wide
    in the bias, the square root of the squared bias: the variance of a prediction that is correct
    with probability 1 - b is at most b (1 - b), which is smooth in b but infinitely steep in b^2
    at 0. Estimates of the squared bias below 0 go to the first bin.

    An instance's squared bias and its variances are estimated from the same runs, so both share
    their noise, within and across bins, as in the paper: the estimates describe E[variance |
    estimated bias], which more seeds bring closer to E[variance | bias].

    Parameters
    ----------
    parts : Decomposition
        Of each instance; the first two levels are used and must be defined.
    group : InstanceIntegers
        The group (evaluation split) of each instance, 0..`groups` - 1.
    groups : int
        Number of groups.

    Returns
    -------
    BinnedVariances
        Leading axis group.

    Examples
    --------
    Two instances with a squared bias of 0.25, and so a bias of 0.5, which is the lower end of bin
    125 of 250:

    >>> parts = Decomposition(np.array([0.25, 0.25]), np.array([[0.1, 0.3], [0.0, 0.0]]))
    >>> binned = bin_variances(parts, np.array([0, 0]), groups=1)
    >>> binned.instances[0, 125].item(), binned.variances[0, 0, 125].item()
    (2.0, 0.4)
    """
    bias = np.sqrt(np.clip(parts.bias2, 0.0, 1.0))
    cell = group.astype(np.int64) * BINS + np.minimum((bias * BINS).astype(np.int64), BINS - 1)

    def sums(weights: NDArray[np.float64] | None) -> BinValues:
        flat = np.bincount(cell, weights, minlength=groups * BINS)
        return flat.astype(np.float64).reshape(groups, BINS)

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
    the bins do. Its kernel is a squared exponential, plus white noise for the scatter of the bins
    beyond their standard errors. It is fitted by maximum marginal likelihood, with the squared
    standard errors as the known part of the noise.

    Parameters
    ----------
    binned : BinnedVariances
        Without a leading axis.
    level : int
        0 for the variance between pretraining seeds, 1 for finetuning seeds.

    Returns
    -------
    VarianceCurve or None
        None where there are fewer than five merged bins.

    References
    ----------
    Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), Equations 2.23, 2.24
    and 5.8.

    Examples
    --------
    Instances of every bias from 0 to 1, all with a pretraining variance of 0.1: the curve is 0.1
    everywhere.

    >>> bias, variance = np.linspace(0.0, 1.0, 1001), np.full(1001, 0.1)
    >>> parts = Decomposition(bias**2, np.stack([variance, variance]))
    >>> binned = bin_variances(parts, np.zeros(1001, int), groups=1).of_group(0)
    >>> curve = variance_curve(binned, level=0)
    >>> curve.bias2[[0, -1]].tolist(), np.unique(curve.mean.round(3)).tolist()
    ([0.0, 1.0], [0.1])
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
    if len(number) < FEWEST_POINTS:
        return None
    observed = sums / number
    bias = np.sqrt(np.maximum(bias2 / number, 0.0))
    error = np.sqrt(np.maximum(squares / number - observed**2, 0.0) / (number - 1))
    # The process is fitted to variances of at most 1, which is what the kernel's ranges are for.
    # Where all runs agree on all instances, every variance is 0 and has no scale.
    scale = max(float(np.abs(observed).max()), 1e-12)
    kernel = ConstantKernel(0.5, (1e-3, 1e2)) * RBF(0.3, (0.08, 3.0)) + WhiteKernel(
        1e-4, (1e-9, 1e-1)
    )
    process = GaussianProcessRegressor(kernel, alpha=np.maximum((error / scale) ** 2, 1e-8))
    grid = np.linspace(0.0, 1.0, CURVE_POINTS)
    step = grid[1]
    points = grid[(grid >= bias[0] - step) & (grid <= bias[-1] + step)]
    with warnings.catch_warnings(), threadpool_limits(1):
        # A fitted value at the end of its range says that the data are smooth or without noise.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Threads would take longer to start than these small matrices to factorize.
        process.fit(bias[:, None], observed / scale)
        mean, deviation = process.predict(points[:, None], return_std=True)
    # The band is that of the curve: the white noise belongs to the bins.
    noise = process.kernel_.k2.noise_level
    half_width = CREDIBLE * np.sqrt(np.maximum(deviation**2 - noise, 0.0))
    return VarianceCurve(
        bias2=points**2,
        mean=mean * scale,
        low=(mean - half_width) * scale,
        high=(mean + half_width) * scale,
    )


def _merged_bins(instances: BinValues) -> NDArray[np.int64]:
    """Return the first bin of each merged bin; the last one takes the remaining instances."""
    least = max(LEAST_IN_BIN, float(instances[1:-1].sum()) / POINTS)
    first, merged = [0], 0.0
    for position, number in enumerate(instances.tolist()):
        if merged >= least and instances[position:].sum() >= least:
            first.append(position)
            merged = 0.0
        merged += number
    return np.array(first, dtype=np.int64)
