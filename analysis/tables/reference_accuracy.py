"""Accuracy compared with reference models, such as the original releases of BERT (Table 8)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from analysis.tables.accuracy import ACCURACY
from analysis.tables.printing import percent
from analysis.tables.published import THREE_DECIMALS, Source
from analysis.tables.published_comparison import reported
from analysis.tables.seed_differences import SEED_DIFFERENCES
from analysis.tables.table import DerivedFamily, Options, Printed, Table, rows_of_split

KEYS = ["task", "split", "size"]


def join_reference_accuracy(
    ours: pd.DataFrame, references: pd.DataFrame
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Join the accuracies of two sets of models by task, split and size.

    Parameters
    ----------
    ours : pandas.DataFrame
        Columns task, split, size, accuracy (a fraction), runs, instances, and, if there are
        intervals, accuracy_low and accuracy_high.
    references : pandas.DataFrame
        The same columns for the reference models, without intervals, and std_accuracy, the
        standard deviation between their runs.

    Returns
    -------
    frame : pandas.DataFrame
        The columns of `REFERENCE_ACCURACY`, in the order of `ours`. The difference is accuracy
        minus reference. Its interval is that of the accuracy, minus the reference as a constant:
        one pretrained model of a size does not determine how others would vary.
    notes : tuple of str
        One line if nothing can be compared, and one for each split on which the two sets of models
        predict different numbers of instances.
    """
    columns = {
        "accuracy": "reference",
        "std_accuracy": "reference_std",
        "runs": "reference_runs",
        "instances": "reference_instances",
    }
    renamed = references[[*KEYS, *columns]].rename(columns=columns)
    joined = ours.dropna(subset=["accuracy"]).merge(
        renamed.dropna(subset=["reference"]), on=KEYS, how="inner"
    )
    joined["difference"] = joined["accuracy"] - joined["reference"]
    with_intervals = "accuracy_low" in joined
    if with_intervals:
        for end in ("low", "high"):
            joined[f"difference_{end}"] = joined[f"accuracy_{end}"] - joined["reference"]
    notes = []
    if joined.empty:
        notes.append(
            "the references have no task, split and size of these predictions, so no accuracies "
            "are compared; give sizes the same names in both"
        )
    unlike = joined[joined["instances"] != joined["reference_instances"]]
    for (task, split), rows in unlike.groupby(["task", "split"], sort=False):
        instances, reference = rows[["instances", "reference_instances"]].iloc[0]
        notes.append(
            f"{task}, {split}: the references predict {reference} instances and these models "
            f"{instances}, so part of the difference in accuracy may come from that"
        )
    return joined[REFERENCE_ACCURACY.columns(with_intervals)], tuple(notes)


def _derive(
    tables: Mapping[str, Table], options: Options
) -> tuple[pd.DataFrame, tuple[str, ...]] | None:
    """Join our table of accuracy with that of the references."""
    if not options.references:
        return None
    accuracy, differences = (
        pd.DataFrame(
            [
                row
                for task in options.references
                for split in task.splits
                for row in rows_of_split(family, split, None, options)
            ]
        )
        for family in (ACCURACY, SEED_DIFFERENCES)
    )
    references = accuracy.merge(differences[[*KEYS, "std_accuracy"]], on=KEYS)
    return join_reference_accuracy(tables["accuracy"].frame, references)


def _layout(frame: pd.DataFrame) -> Iterator[Printed]:
    published = frame[[reported(t, s) for t, s in zip(frame["task"], frame["split"], strict=True)]]
    if not published.empty:
        yield _beside_each_other("splits that the paper reports", published, "task")
    for task, group in frame.groupby("task", sort=False):
        yield _beside_each_other(f"{task}, all splits", group, "split")


def _beside_each_other(heading: str, frame: pd.DataFrame, across: str) -> Printed:
    """Arrange accuracies as in Table 8, with a column for each value of the column `across`.

    Each size has two rows, such as ``mini, reference`` and ``mini, ours``.
    """
    rows = []
    for size, group in frame.groupby("size", sort=False):
        for name, value in (("reference", "reference"), ("ours", "accuracy")):
            cells = dict(zip(group[across], group[value].map(percent), strict=True))
            rows.append({"Size": f"{size}, {name}", **cells})
    columns = ["Size", *dict.fromkeys(frame[across])]
    return Printed(heading, pd.DataFrame(rows, columns=columns).fillna(""))


REFERENCE_ACCURACY = DerivedFamily(
    name="reference_accuracy",
    title=(
        "Mean accuracy of these models and of reference models; an interval of the difference "
        "takes that of the reference models as given."
    ),
    keys=("size",),
    values=(
        "accuracy",
        "runs",
        "reference",
        "reference_std",
        "reference_runs",
        "difference",
        "instances",
    ),
    intervals=("difference",),
    derive=_derive,
    layout=_layout,
    published=(
        Source(
            "Table 8", "table08_accuracy", ("size",), {"original": ("reference", THREE_DECIMALS)}
        ),
    ),
)
