"""Comparison of our numbers with the published ones, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from analysis.tables.printing import groups
from analysis.tables.published import Source, published_numbers
from analysis.tables.table import DerivedFamily, Options, Printed, Row, Table

SPLITS = {"mnli": "dev_matched", "qqp": "dev", "sst-2": "train"}
"""The evaluation split that the paper reports, by task."""

PAPER_RUNS = 50
"""Runs of each size in the paper: 10 pretraining seeds with 5 finetuning seeds each."""


def compare_published(tables: Sequence[Table]) -> pd.DataFrame:
    """Compare every published number that can be recomputed with ours.

    Tasks are matched by name, ignoring case and punctuation, on the split that the paper reports;
    sizes are matched by name.

    Parameters
    ----------
    tables : sequence of Table
        Our tables.

    Returns
    -------
    pandas.DataFrame
        Columns task, split, table, row, column, published, ours, difference (ours minus
        published), within_rounding (whether ours would be printed as the published number) and
        printed (whether that number is ``rounded`` or ``truncated``). Rows are in the order of the
        paper's tables.
    """
    sources = [(source, table) for table in tables for source in table.family.published]
    sources.sort(key=lambda pair: (pair[0].number, pair[1].name))
    rows = [row for source, table in sources for row in _compare(source, table.frame)]
    return pd.DataFrame(rows, columns=PUBLISHED_COMPARISON.columns(with_intervals=False))


def reported(task: str, split: str) -> bool:
    """Whether the paper reports this split of a task, ignoring case and punctuation of the name."""
    return (_plain(task), split) in {(_plain(name), reported) for name, reported in SPLITS.items()}


def _compare(source: Source, ours: pd.DataFrame) -> list[Row]:
    """Compare the numbers of one source with the rows of one table."""
    for column, value in source.only.items():
        ours = ours[ours[column] == value]
    names = {_plain(task): task for task in SPLITS}
    known = ours["task"].map(lambda task: names.get(_plain(str(task))))
    paper_split = known.map(lambda task: SPLITS.get(task, ""))
    ours = ours.assign(known=known)[known.notna() & (ours["split"] == paper_split)]
    if ours.empty:
        return []
    ours = source.prepare(ours)
    published = published_numbers(source.file)
    if "task" not in published:
        published = published.assign(task="sst-2")
    # In the order of the published rows.
    both = published.merge(
        ours,
        left_on=["task", *source.keys],
        right_on=["known", *source.keys],
        suffixes=("_published", "_ours"),
    )
    # Only columns that both frames have get a suffix.
    shared = set(published) & set(ours)
    rows: list[Row] = []
    for _, cells in both.iterrows():
        for column, (own_column, digits) in source.values.items():
            number = float(cells[f"{column}_published" if column in shared else column])
            own = float(cells[f"{own_column}_ours" if own_column in shared else own_column])
            if pd.notna(own):
                rows.append(
                    {
                        "task": cells["task_ours"],
                        "split": cells["split"],
                        "table": source.table,
                        "row": ", ".join(str(cells[key]) for key in source.keys),
                        "column": column,
                        "published": number,
                        "ours": own,
                        "difference": own - number,
                        "within_rounding": digits.agree(number, own),
                        "printed": "truncated" if digits.truncated else "rounded",
                    }
                )
    return rows


def _plain(task: str) -> str:
    return "".join(character for character in task.lower() if character.isalnum())


def _derive(tables: Mapping[str, Table], _: Options) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Compare all tables with the published numbers, and note where numbers of runs differ."""
    frame = compare_published(list(tables.values()))
    if frame.empty:
        return frame, (
            "no published number is about these tasks, splits and sizes, so none is compared",
        )
    notes: tuple[str, ...] = ()
    if "accuracy" in tables:
        accuracy = tables["accuracy"].frame
        other = accuracy[accuracy["task"].isin(frame["task"]) & (accuracy["runs"] != PAPER_RUNS)]
        notes = tuple(
            f"{task}: not {PAPER_RUNS} runs of every size, as the paper has, on which differences "
            "between seeds, variances and bounds depend"
            for task in other["task"].unique()
        )
    return frame, notes


def _layout(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in groups(frame, ["task", "split", "table"]):
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


PUBLISHED_COMPARISON = DerivedFamily(
    name="published_comparison",
    title="Numbers published with the paper, beside the same numbers from these predictions.",
    keys=("table", "row", "column"),
    values=("published", "ours", "difference", "within_rounding", "printed"),
    layout=_layout,
    derive=_derive,
)
