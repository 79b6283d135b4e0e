"""Figures of the variance at each level of bias (Figures 5, 9 and 10)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    add_legend_of_sizes,
    new_figure,
    size_styles,
)

COMPONENTS = {
    "pretrain_variance": "pretraining variance",
    "finetune_variance": "finetuning variance",
}
LOSSES = {"zero_one": "0/1 loss", "squared": "squared loss"}


def pretrain_variance_figure(curves: pd.DataFrame) -> Figure:
    """Draw the pretraining variance of the 0/1 loss given the squared bias (Figure 5).

    Parameters
    ----------
    curves : pandas.DataFrame
        Rows of one task and split of the table ``variance_given_bias``.

    Returns
    -------
    matplotlib.figure.Figure
        One curve for each size, with its credible band.
    """
    figure = new_figure(COLUMN_WIDTH, 2.7)
    axes = figure.subplots()
    _draw_curves(axes, curves, "zero_one", "pretrain_variance")
    axes.set_xlabel("squared bias")
    axes.set_ylabel(COMPONENTS["pretrain_variance"])
    add_legend_of_sizes(figure, curves["size"], "outside upper center")
    return figure


def variance_given_bias_figure(curves: pd.DataFrame) -> Figure:
    """Draw both variances under both losses given the squared bias (Figures 9 and 10).

    Parameters
    ----------
    curves : pandas.DataFrame
        Rows of one task and split of the table ``variance_given_bias``.

    Returns
    -------
    matplotlib.figure.Figure
        A row for each loss in `curves`, a column for each variance.
    """
    losses = [loss for loss in LOSSES if (curves["loss"] == loss).any()]
    figure = new_figure(PAGE_WIDTH, 0.5 + 2.2 * len(losses))
    grid = figure.subplots(len(losses), len(COMPONENTS), sharex=True, squeeze=False)
    for row, loss in enumerate(losses):
        for column, (component, name) in enumerate(COMPONENTS.items()):
            axes = grid[row, column]
            _draw_curves(axes, curves, loss, component)
            axes.set_title(f"{name}, {LOSSES[loss]}")
    for axes in grid[-1]:
        axes.set_xlabel("squared bias")
    for axes in grid[:, 0]:
        axes.set_ylabel("variance")
    add_legend_of_sizes(figure, curves["size"], "outside lower center")
    return figure


def _draw_curves(axes: Axes, curves: pd.DataFrame, loss: str, component: str) -> None:
    sizes = list(dict.fromkeys(curves["size"]))
    chosen = curves[(curves["loss"] == loss) & (curves["component"] == component)]
    top = 0.0
    for size, line in zip(sizes, size_styles(len(sizes)), strict=True):
        curve = chosen[chosen["size"] == size]
        if curve.empty:
            continue
        axes.fill_between(
            curve["bias2"], curve["low"], curve["high"], color=line["color"], alpha=0.18, lw=0
        )
        axes.plot(curve["bias2"], curve["mean"], label=size, **line)
        top = max(top, float(curve["high"].max()))
    axes.set(xlim=(0.0, 1.0), ylim=(0.0, 1.05 * top if top > 0 else 1.0))
