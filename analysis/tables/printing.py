"""Tables as the paper prints them, in Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tabulate import tabulate

from analysis.tables.published_comparison import reported
from analysis.tables.reference_accuracy import beside_each_other
from analysis.tables.table import Table


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
        Empty where there is nothing to print; `Table.notes` say why.
    """
    return tuple(part for part in _LAYOUTS[table.name](table.frame) if len(part.cells))


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


def _reference_accuracy(frame: pd.DataFrame) -> Iterator[Printed]:
    def printed(heading: str, group: pd.DataFrame, columns: pd.Series) -> Printed:
        table = beside_each_other(group.assign(column=columns))
        cells = {"Size": table["size"]}
        cells |= {name: table[name].map(percent) for name in table.columns[1:]}
        return Printed(heading, pd.DataFrame(cells))

    published = frame[[reported(t, s) for t, s in zip(frame["task"], frame["split"], strict=True)]]
    if not published.empty:
        yield printed("splits that the paper reports", published, published["task"])
    for task, group in frame.groupby("task", sort=False):
        yield printed(f"{task}, all splits", group, group["split"])


def _seed_differences(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in _groups(frame, ["task", "split"]):
        cells = {
            "Size": group["size"],
            "Diff_FTune": group["diff_finetune"].map(percent),
            "Diff_PTrain": group["diff_pretrain"].map(percent),
            "Std_all": group["std_accuracy"].map(percent),
        }
        yield Printed(heading, pd.DataFrame(cells))


def _matrix(group: pd.DataFrame, column: str) -> pd.DataFrame:
    """Lay out ordered pairs of sizes as rows s1 and columns s2, with 0 on the diagonal."""
    sizes = list(dict.fromkeys([*group["s1"], *group["s2"]]))
    values = group.set_index(["s1", "s2"])[column]
    cells = {"s1 \\ s2": pd.Series(sizes)}
    for s2 in sizes:
        of_column = [0.0 if s1 == s2 else float(values.loc[(s1, s2)]) for s1 in sizes]
        cells[s2] = pd.Series([decimal(value) for value in of_column])
    return pd.DataFrame(cells)


def _lower_bounds(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in _groups(frame, ["task", "split", "predictions"]):
        yield Printed(heading, _matrix(group, "bound"))


def _relative_bias(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in _groups(frame, ["task", "split"]):
        yield Printed(heading, _matrix(group, "relative_bias"))


def _baseline_vs_bh(frame: pd.DataFrame) -> Iterator[Printed]:
    methods = {"baseline": "baseline", "bh": "BH"}
    for heading, group in _groups(frame, ["task", "split"]):
        seeds = sorted(group["pretraining_seeds"].unique())
        rows = []
        for names, of_row in group.groupby(["s1", "s2", "method"], sort=False):
            s1, s2, method = (str(name) for name in names)
            bound = of_row.set_index("pretraining_seeds")["lower_bound"]
            row = {"s1": s1, "s2": s2, "": methods[method]}
            rows.append(row | {str(n): percent(bound.get(n, np.nan)) for n in seeds})
        yield Printed(heading, pd.DataFrame(rows))


def _momentum(frame: pd.DataFrame) -> Iterator[Printed]:
    kinds = {
        "pearson_r": "Pearson",
        "spearman_r": "Spearman",
        "pearson_r_cross_fitted": "Pearson, cross-fitted",
        "spearman_r_cross_fitted": "Spearman, cross-fitted",
    }
    for heading, group in _groups(frame, ["task", "split"]):
        for column, kind in kinds.items():
            rows = []
            for triplet, of_row in _groups(group, ["s1", "s2", "s3"]):
                values = of_row.set_index("bucket_upper")[column]
                row = {"(s1, s2, s3) \\ buckets": triplet}
                rows.append(row | {f"{t:.2f}": decimal(r, 2) for t, r in values.items()})
            yield Printed(f"{heading}, {kind}", pd.DataFrame(rows))


def _label_quality(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in _groups(frame, ["annotator"]):
        rows = []
        for names, of_row in group.groupby(["task", "split", "group"], sort=False):
            task, split, kind = (str(name) for name in names)
            total = int(of_row["count"].sum())
            row = {"": f"{task} ({split}), {kind}", "Annotated": str(total)}
            for category, count in zip(of_row["category"], of_row["count"], strict=True):
                # The paper cuts percentages off instead of rounding them.
                text = f"{100 * count // total}% ({count / total:.2%})" if total else ""
                row[str(category).capitalize()] = text
            rows.append(row)
        yield Printed(f"annotator {heading}; truncated (exact)", pd.DataFrame(rows))


def _published_comparison(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in _groups(frame, ["task", "split", "table"]):
        cells = {
            "Row": group["row"],
            "Column": group["column"],
            "Published": group["published"].map(lambda value: f"{value:.4g}"),
            "Ours": group["ours"].map(lambda value: f"{value:.4g}"),
            "Difference": group["difference"].map(lambda value: f"{value:+.2g}"),
            "Within rounding": [
                ("yes" if same else "no") + (", truncated" if printed == "truncated" else "")
                for same, printed in zip(group["within_rounding"], group["printed"], strict=True)
            ],
        }
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


def _variance_given_bias(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in _groups(frame, ["task", "split", "loss", "component"]):
        # A point for every fifth of the bias; the .csv file has ten times as many.
        fifths = 5 * np.sqrt(group["bias2"])
        group = group[np.isclose(fifths, fifths.round(), atol=1e-6)]
        cells = {"Bias²": pd.Series(sorted(group["bias2"].round(6).unique()))}
        for size, of_size in group.groupby("size", sort=False):
            points = of_size.set_index(of_size["bias2"].round(6))
            cells[str(size)] = pd.Series(
                [
                    f"{decimal(float(points.loc[at, 'mean']))} "
                    f"[{decimal(float(points.loc[at, 'low']))}, "
                    f"{decimal(float(points.loc[at, 'high']))}]"
                    if at in points.index
                    else ""
                    for at in cells["Bias²"]
                ]
            )
        cells["Bias²"] = cells["Bias²"].map(lambda value: decimal(value, 2))
        yield Printed(heading, pd.DataFrame(cells))


_LAYOUTS: dict[str, Callable[[pd.DataFrame], Iterator[Printed]]] = {
    "accuracy": _accuracy,
    "reference_accuracy": _reference_accuracy,
    "seed_differences": _seed_differences,
    "lower_bounds": _lower_bounds,
    "thresholds": _thresholds,
    "relative_bias": _relative_bias,
    "baseline_vs_bh": _baseline_vs_bh,
    "momentum": _momentum,
    "decomposition": _decomposition,
    "variance_given_bias": _variance_given_bias,
    "label_quality": _label_quality,
    "published_comparison": _published_comparison,
}
