"""The paper's figures, from counts and decay curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.accuracy import instance_accuracy_counts
from analysis.comparisons import Comparisons
from analysis.counts import Counts
from analysis.decay import DecayCurves, decay_bound
from analysis.figure_style import (
    BASELINE,
    COLUMN_WIDTH,
    MARK,
    OBSERVED,
    PAGE_WIDTH,
    new_figure,
    set_log_density,
    style,
    to_pdf,
    to_png,
)
from analysis.reading import TaskPredictions


@dataclass(frozen=True)
class RenderedFigure:
    """One figure, ready to be written.

    Attributes
    ----------
    name : str
        Name of its files: family, task and split.
    caption : str
        What it shows, in one or two sentences.
    png, pdf : bytes
        The files.
    """

    name: str
    caption: str
    png: bytes
    pdf: bytes


def figure_name(family: str, task: str, split: str) -> str:
    """Name a figure; what a file name cannot hold is percent-encoded, so names stay distinct."""
    return "-".join((family, quote(task, safe=""), quote(split, safe="")))


def all_figures(
    tasks: Sequence[TaskPredictions], comparisons: Sequence[Comparisons]
) -> Iterator[RenderedFigure]:
    """Draw every figure that the predictions allow, in the order of the report.

    Parameters
    ----------
    tasks : sequence of TaskPredictions
    comparisons : sequence of Comparisons
        One for each of `tasks`.

    Yields
    ------
    RenderedFigure
    """
    with style():
        for task, compared in zip(tasks, comparisons, strict=True):
            for position, split in enumerate(task.splits):
                where = f"{task.task}, {split}"
                counts = task.runs.at(task.instances_of(position))
                if any(counts.seeds):
                    yield _render(
                        figure_name("instance_accuracy", task.task, split),
                        f"Instance accuracy by size ({where}): how instances are distributed over "
                        "the share of runs that predict them correctly.",
                        instance_accuracy_figure(counts),
                    )
                pair = compared.extremes(split, "runs")
                if pair is None or pair.curves is None:
                    continue
                between = f"from {pair.s1} to {pair.s2} ({where})"
                yield _render(
                    figure_name("instance_difference", task.task, split),
                    f"Change of instance accuracy {between}, and the random baseline of mixed "
                    "groups. A left tail above the baseline shows instances that get worse.",
                    instance_difference_figure(pair.curves, pair.s1, pair.s2),
                )
                yield _render(
                    figure_name("decay_cumulative", task.task, split),
                    f"Instances whose accuracy changes by at most t {between}, and the random "
                    "baseline. The largest gap bounds the decaying fraction from below.",
                    decay_cumulative_figure(pair.curves, pair.s1, pair.s2),
                )


def instance_accuracy_figure(counts: Counts) -> Figure:
    """Draw the distribution of instance accuracy, one panel for each size (Figure 2a).

    Parameters
    ----------
    counts : Counts
        Of one split; sizes without complete seeds are left out.

    Returns
    -------
    matplotlib.figure.Figure
        Densities on a logarithmic scale: almost all instances are at 0 or 1, and what matters
        lies between.
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
        panel.set_title(counts.sizes[size])
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
        Densities on a logarithmic scale, on which the tails can be compared.
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
    axes.set_xlabel(f"accuracy of {s2} minus accuracy of {s1}")
    axes.set_ylabel("density")
    axes.legend(loc="upper right")
    return figure


def decay_cumulative_figure(curves: DecayCurves, s1: str, s2: str) -> Figure:
    """Draw discovery and baseline by threshold, with the bound where it is read off (Figure 4).

    Parameters
    ----------
    curves : DecayCurves
        Of Acc[s2] - Acc[s1].
    s1, s2 : str
        Names of the smaller and the larger size.

    Returns
    -------
    matplotlib.figure.Figure
        Thresholds from -1 to the last one below 0.
    """
    figure = new_figure(COLUMN_WIDTH, 2.3)
    axes = figure.subplots()
    below = slice(0, curves.steps)
    thresholds = curves.thresholds[below]
    discovery, baseline = curves.discovery[below], curves.baseline[below]
    # The last value holds up to the next lattice point, which is 0.
    ends = np.append(thresholds, 0.0)
    axes.step(
        ends, np.append(discovery, discovery[-1]), color=OBSERVED, label="observed", where="post"
    )
    axes.step(
        ends,
        np.append(baseline, baseline[-1]),
        color=BASELINE,
        linestyle=(0, (4, 1.5)),
        label="baseline",
        where="post",
    )
    bound = decay_bound(curves)
    top = max(float(discovery[-1]), float(baseline[-1]), 1e-6)
    if bound.bound > 0:
        # Near t = 0 both curves may rise so high that the gap could no longer be seen.
        top = min(top, 3.0 * bound.discovery)
        # A step starts at its threshold; its middle is where both curves are flat.
        at = bound.threshold + 0.5 / curves.steps
        leftmost = at < -0.5
        axes.vlines(at, bound.baseline, bound.discovery, color=MARK, linewidth=1.6)
        axes.plot([at, at], [bound.baseline, bound.discovery], "_", color=MARK, markersize=6)
        axes.annotate(
            f"bound {bound.bound:.2%}\nat t = {bound.threshold:.3g}".replace("-", "\N{MINUS SIGN}"),
            (at, bound.discovery),
            xytext=(at + 0.12 if leftmost else min(at, -0.3) - 0.06, 0.42 * top),
            ha="left" if leftmost else "right",
            va="bottom",
            fontsize=7,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
            arrowprops={"arrowstyle": "-", "color": MARK, "linewidth": 0.6},
        )
    axes.set(xlim=(-1.0, 0.0), ylim=(0.0, 1.05 * top))
    axes.set_xlabel(f"threshold t (change from {s1} to {s2})")
    axes.set_ylabel("fraction that changes by ≤ t")
    axes.legend(loc="upper left")
    return figure


def _density(
    counts: NDArray[np.integer] | NDArray[np.floating], low: float, high: float, most: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Density over the lattice from `low` to `high`, in at most `most` bins and one more.

    Bins hold whole lattice points, all the same odd number of them except at the two ends: one
    where there is room, and never bins that alternate in width.

    Returns
    -------
    density : ndarray of float64, shape [bin]
        Fraction of the total over the bin's width.
    edges : ndarray of float64, shape [bin + 1]
        Half a lattice step before each bin's first point.
    """
    points = len(counts)
    wide = -(-points // most)
    wide += 1 - wide % 2
    lead = (points - wide) // 2 % wide
    starts = np.unique(np.concatenate(([0], np.arange(lead, points, wide))))
    edges = low + (np.append(starts, points) - 0.5) * (high - low) / (points - 1)
    weight = np.asarray(counts, dtype=np.float64)
    return np.add.reduceat(weight, starts) / weight.sum() / np.diff(edges), edges


def _render(name: str, caption: str, figure: Figure) -> RenderedFigure:
    return RenderedFigure(name=name, caption=caption, png=to_png(figure), pdf=to_pdf(figure))
