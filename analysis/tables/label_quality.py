"""Annotated quality of the labels of decaying instances (Section 4.2, Table 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from analysis.predictions.annotations import CATEGORIES, GROUPS, count_categories
from analysis.tables.printing import groups
from analysis.tables.published import Digits, Source
from analysis.tables.table import NAN, DerivedFamily, Options, Printed, Row, Table


def _derive(
    _: Mapping[str, Table], options: Options
) -> tuple[pd.DataFrame, tuple[str, ...]] | None:
    """Count each group's annotated instances by category, with their fractions of the group."""
    if not options.annotations:
        return None
    rows: list[Row] = []
    for annotation in options.annotations:
        counts = count_categories(annotation.groups, annotation.categories)
        for group, group_counts in zip(GROUPS.values(), counts.tolist(), strict=True):
            total = sum(group_counts)
            rows += [
                {
                    "task": annotation.task,
                    "split": annotation.split,
                    "group": group,
                    "category": category,
                    "count": count,
                    "fraction": count / total if total else NAN,
                    "annotator": annotation.annotator,
                }
                for category, count in zip(CATEGORIES.values(), group_counts, strict=True)
            ]
    return pd.DataFrame(rows, columns=LABEL_QUALITY.columns(with_intervals=False)), ()


def _layout(frame: pd.DataFrame) -> Iterator[Printed]:
    for annotator, group in groups(frame, ["annotator"]):
        rows = []
        for names, cells in group.groupby(["task", "split", "group"], sort=False):
            task, split, kind = (str(name) for name in names)
            total = int(cells["count"].sum())
            row = {"": f"{task} ({split}), {kind}", "Annotated": str(total)}
            for category, count in zip(cells["category"], cells["count"], strict=True):
                # The paper truncates percentages instead of rounding them.
                text = f"{100 * count // total}% ({count / total:.2%})" if total else ""
                row[str(category).capitalize()] = text
            rows.append(row)
        yield Printed(f"annotator {annotator}; truncated (exact)", pd.DataFrame(rows))


def _categories_as_columns(ours: pd.DataFrame) -> pd.DataFrame:
    """Give our fractions the published layout, with a column for each category."""
    keys = ["task", "split", "known", "group"]
    return ours.pivot(index=keys, columns="category", values="fraction").reset_index()


LABEL_QUALITY = DerivedFamily(
    name="label_quality",
    title="Annotated quality of the labels of decaying instances and of a random control group.",
    keys=("group", "category"),
    # The annotator is a key as well, but its column comes last.
    values=("count", "fraction", "annotator"),
    derive=_derive,
    layout=_layout,
    published=(
        Source(
            "Table 5",
            "table05_labels",
            ("group",),
            {
                name: (name, Digits(2, truncated=True))
                for name in ("correct", "fine", "wrong", "unsure")
            },
            # The initials of the first author, whose annotations the paper reports.
            {"annotator": "rz"},
            _categories_as_columns,
        ),
    ),
)
