"""Accuracy beside that of reference models, such as the original releases of BERT (Table 8)."""

from __future__ import annotations

import pandas as pd

KEYS = ["task", "split", "size"]


def join_reference_accuracy(
    ours: pd.DataFrame, references: pd.DataFrame
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Join the accuracies of two sets of models by task, split and size.

    Parameters
    ----------
    ours : pandas.DataFrame
        Columns task, split, size, accuracy (a fraction), runs, instances, and accuracy_low and
        accuracy_high where there are intervals.
    references : pandas.DataFrame
        The same of the reference models, with std_accuracy: the standard deviation between
        their runs.

    Returns
    -------
    frame : pandas.DataFrame
        Columns task, split, size, accuracy, runs, reference, reference_std, reference_runs,
        difference (accuracy less reference), instances; in the order of `ours`. Where `ours`
        has intervals, difference_low and difference_high are their ends less the reference,
        which is taken as given: with one pretrained model of a size, nothing tells how it would
        vary.
    notes : tuple of str
        What has no counterpart, and where the two are of different instances.
    """
    columns = {
        "accuracy": "reference",
        "std_accuracy": "reference_std",
        "runs": "reference_runs",
        "instances": "reference_instances",
    }
    theirs = references[[*KEYS, *columns]].rename(columns=columns)
    joined = ours.dropna(subset=["accuracy"]).merge(
        theirs.dropna(subset=["reference"]), on=KEYS, how="inner"
    )
    joined["difference"] = joined["accuracy"] - joined["reference"]
    names = [*KEYS, "accuracy", "runs", "reference", "reference_std", "reference_runs"]
    names += ["difference", "instances"]
    if "accuracy_low" in joined:
        for end in ("low", "high"):
            joined[f"difference_{end}"] = joined[f"accuracy_{end}"] - joined["reference"]
            names.append(f"difference_{end}")
    notes = []
    if joined.empty:
        notes.append(
            "the references have no task, split and size of these predictions, so no accuracies "
            "are compared; give sizes the same names in both"
        )
    unlike = joined[joined["instances"] != joined["reference_instances"]]
    for (task, split), rows in unlike.groupby(["task", "split"], sort=False):
        mine, other = rows[["instances", "reference_instances"]].iloc[0]
        notes.append(
            f"{task}, {split}: the references predict {other} instances and these models {mine}, "
            "so part of the difference in accuracy may come from that"
        )
    return joined[names], tuple(notes)


def beside_each_other(frame: pd.DataFrame) -> pd.DataFrame:
    """Lay accuracies out as Table 8 does.

    Parameters
    ----------
    frame : pandas.DataFrame
        From `join_reference_accuracy`; one row for each size and task of one part.

    Returns
    -------
    pandas.DataFrame
        Column `size` (``mini, reference`` and ``mini, ours`` in turn) and one column of
        accuracies for each value of the column `column`.
    """
    rows = []
    for size, group in frame.groupby("size", sort=False):
        for name, value in (("reference", "reference"), ("ours", "accuracy")):
            cells = dict(zip(group["column"], group[value], strict=True))
            rows.append({"size": f"{size}, {name}", **cells})
    return pd.DataFrame(rows, columns=["size", *dict.fromkeys(frame["column"])])
