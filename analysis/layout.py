"""Tables as the paper prints them, in Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tabulate import tabulate

from analysis.tables import Table


@dataclass(frozen=True)
class Printed:
    """One printed part of a table.

    Attributes
    ----------
    heading : str
        Task, split and whatever else tells the parts of one table apart.
    cells : pandas.DataFrame
        Text, as printed.
    """

    heading: str
    cells: pd.DataFrame


def printed_parts(table: Table) -> tuple[Printed, ...]:
    """Lay out a table as the paper does, one part for each task and split.

    Parameters
    ----------
    table : Table

    Returns
    -------
    tuple of Printed
        `thresholds` shows the smallest size against the largest only; the ``.csv`` file has all.
    """
    return tuple(_LAYOUTS[table.name](table.frame))


def to_markdown(table: Table) -> str:
    """Write a table as Markdown, with its title and notes."""
    blocks = [f"# {table.name}", table.title]
    for part in printed_parts(table):
        cells = part.cells.map(_escape_markdown).rename(columns=_escape_markdown)
        # Without disable_numparse tabulate would print 0.100 as 0.1.
        grid = tabulate(
            cells.to_dict("list"),
            headers="keys",
            tablefmt="pipe",
            showindex=False,
            disable_numparse=True,
        )
        blocks += [f"## {part.heading}", grid]
    if table.notes:
        blocks.append("\n".join(f"- {note}" for note in table.notes))
    return "\n\n".join(blocks) + "\n"


def to_latex(table: Table) -> str:
    """Write a table as LaTeX tabulars (package booktabs), with its title and notes as comments."""
    blocks = [f"% {table.name}: {table.title}"]
    for part in printed_parts(table):
        grid = tabulate(
            part.cells.to_dict("list"),
            headers="keys",
            tablefmt="latex_booktabs",
            showindex=False,
            disable_numparse=True,
            colalign=("left", *("right",) * (part.cells.shape[1] - 1)),
        )
        blocks.append(f"% {part.heading}\n{grid}")
    if table.notes:
        blocks.append("\n".join(f"% {note}" for note in table.notes))
    return "\n\n".join(blocks) + "\n"


def percent(value: float, digits: int = 1) -> str:
    """Print a fraction as percent; nothing for NaN."""
    return "" if np.isnan(value) else f"{value:.{digits}%}"


def decimal(value: float, digits: int = 3) -> str:
    """Print a number with that many decimals, never as -0; nothing for NaN."""
    return "" if np.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"


def scientific(value: float) -> str:
    """Print a number with three significant digits and an exponent; nothing for NaN."""
    return "" if np.isnan(value) else f"{value:.2e}"


def _escape_markdown(text: str) -> str:
    return text.replace("|", r"\|")


def _groups(frame: pd.DataFrame, keys: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    for names, group in frame.groupby(keys, sort=False):
        yield ", ".join(str(name) for name in names), group


def _accuracy(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in _groups(frame, ["task", "split"]):
        cells = {
            "Size": group["size"],
            "Accuracy": group["accuracy"].map(percent),
            "Runs": group["runs"].map(str),
            "Instances": group["instances"].map(str),
        }
        yield Printed(heading, pd.DataFrame(cells))


def _seed_differences(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in _groups(frame, ["task", "split"]):
        cells = {
            "Size": group["size"],
            "Diff_FTune": group["diff_finetune"].map(percent),
            "Diff_PTrain": group["diff_pretrain"].map(percent),
            "Std_all": group["std_accuracy"].map(percent),
        }
        yield Printed(heading, pd.DataFrame(cells))


def _lower_bounds(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in _groups(frame, ["task", "split", "predictions"]):
        sizes = list(dict.fromkeys([*group["s1"], *group["s2"]]))
        bound = group.set_index(["s1", "s2"])["bound"]
        cells = {"s1 \\ s2": pd.Series(sizes)}
        for s2 in sizes:
            column = [0.0 if s1 == s2 else float(bound.loc[(s1, s2)]) for s1 in sizes]
            cells[s2] = pd.Series([decimal(value) for value in column])
        yield Printed(heading, pd.DataFrame(cells))


def _thresholds(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in _groups(frame, ["task", "split", "predictions"]):
        extremes = (group["s1"] == group["s1"].iloc[0]) & (group["s2"] == group["s2"].iloc[-1])
        shown = group[extremes].dropna(subset=["threshold"])
        cells = {
            "Threshold": shown["threshold"].map(lambda t: f"t = {t:.3g}"),
            "Decay": shown["discovery"].map(lambda value: percent(value, 2)),
            "Decay'": shown["baseline"].map(scientific),
            "Diff": shown["difference"].map(lambda value: percent(value, 2)),
        }
        pair = f"{group['s1'].iloc[0]} to {group['s2'].iloc[-1]}"
        yield Printed(f"{heading}, {pair}", pd.DataFrame(cells))


def _decomposition(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in _groups(frame, ["task", "split", "loss", "checkpoints"]):
        cells = {
            "Size": group["size"],
            "Bias²": group["bias2"].map(decimal),
            "PretVar": group["pretrain_variance"].map(decimal),
            "FineVar": group["finetune_variance"].map(decimal),
        }
        if (group["checkpoints"] == "all").all():
            cells["CkptVar"] = group["checkpoint_variance"].map(decimal)
        ending = "s" if "CkptVar" in cells else ""
        yield Printed(f"{heading} checkpoint{ending}", pd.DataFrame(cells))


_LAYOUTS: dict[str, Callable[[pd.DataFrame], Iterator[Printed]]] = {
    "accuracy": _accuracy,
    "seed_differences": _seed_differences,
    "lower_bounds": _lower_bounds,
    "thresholds": _thresholds,
    "decomposition": _decomposition,
}
