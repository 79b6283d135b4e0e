"""Figures of the distributions of instance accuracy and difference (Figures 1 right and 2)."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures.style import (
    BASELINE,
    COLUMN_WIDTH,
    OBSERVED,
    PAGE_WIDTH,
    characters_in,
    new_figure,
    set_log_density,
    shortened,
    wrapped,
)
from analysis.statistics.accuracy import instance_accuracy_counts
from analysis.statistics.counts import Counts
from analysis.statistics.decay import DecayCurves


def instance_accuracy_figure(counts: Counts) -> Figure:
    """Draw the distribution of instance accuracy, one panel for each size (Figure 2a).

    Parameters
    ----------
    counts : Counts
        Of one split; sizes without complete seeds have no panel.

    Returns
    -------
    matplotlib.figure.Figure
        Densities on a logarithmic scale, because almost all instances are at 0 or 1.
    """
    shown = [size for size, seeds in enumerate(counts.seeds) if seeds]
    columns = min(len(shown), 5)
    rows = -(-len(shown) // columns)
    width = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    figure = new_figure(width, (2.1 if columns == 1 else 1.7) * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels: list[Axes] = list(grid.ravel())
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    smallest, largest, margin = np.inf, 0.0, 0.0
    for panel, size in zip(panels, shown, strict=False):
        total = instance_accuracy_counts(counts.correct[size], counts.runs)
        height, edges = _density(total, 0.0, 1.0, 51)
        panel.stairs(height, edges, fill=True, color=OBSERVED, baseline=1e-9)
        panel.set_title(shortened(counts.sizes[size], characters_in(width / columns, 8)))
        smallest = min(smallest, height[height > 0].min())
        largest = max(largest, height.max())
        margin = max(margin, 0.02 - float(edges[0]))
    set_log_density(panels[0], float(smallest), largest)
    panels[0].set_xlim(-margin, 1.0 + margin)
    panels[0].set_xticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
    for panel in panels[max(len(shown) - columns, 0) : len(shown)]:
        panel.tick_params(axis="x", labelbottom=True)
    figure.supxlabel("instance accuracy", fontsize=8)
    figure.supylabel("density", fontsize=8)
    return figure


def instance_difference_figure(curves: DecayCurves, s1: str, s2: str) -> Figure:
    """Draw the instance differences and their baseline (Figures 1 right, 2b and 2c).

    Parameters
    ----------
    curves : DecayCurves
        Of Acc[s2] - Acc[s1].
    s1, s2 : str
        Names of the smaller and the larger size.

    Returns
    -------
    matplotlib.figure.Figure
        Densities on a logarithmic scale, so that the tails can be compared.
    """
    figure = new_figure(COLUMN_WIDTH, 2.3)
    axes = figure.subplots()
    observed, edges = _density(curves.observed, -1.0, 1.0, 41)
    mixed, _ = _density(curves.mixed, -1.0, 1.0, 41)
    axes.stairs(
        observed, edges, fill=True, color=OBSERVED, alpha=0.45, baseline=1e-9, label="observed"
    )
    axes.stairs(mixed, edges, color=BASELINE, linewidth=1.3, baseline=None, label="baseline")
    set_log_density(axes, observed[observed > 0].min(), max(observed.max(), mixed.max()))
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xticks([-1.0, -0.5, 0.0, 0.5, 1.0])
    axes.set_xlabel(wrapped(f"accuracy of {s2} minus accuracy of {s1}", COLUMN_WIDTH))
    axes.set_ylabel("density")
    axes.legend(loc="upper right")
    return figure


def _density(
    counts: NDArray[np.integer] | NDArray[np.floating], low: float, high: float, bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the density over the lattice from `low` to `high`, in at most `bins` + 1 bins.

    Every bin except the first and the last has the same odd number of lattice points (one, if there
    are few enough): bins that alternate in width would make the density alternate.

    Returns
    -------
    density : ndarray of float64, shape [bin]
        Fraction of the total over the bin's width.
    edges : ndarray of float64, shape [bin + 1]
        Half a lattice step before each bin's first point.
    """
    points = len(counts)
    width = -(-points // bins)
    width += 1 - width % 2
    # One bin is in the middle, which makes the bins of a difference symmetric about 0.
    second = (points - width) // 2 % width
    starts = np.unique(np.concatenate(([0], np.arange(second, points, width))))
    edges = low + (np.append(starts, points) - 0.5) * (high - low) / (points - 1)
    weight = np.asarray(counts, dtype=np.float64)
    return np.add.reduceat(weight, starts) / weight.sum() / np.diff(edges), edges
