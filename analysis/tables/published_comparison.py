"""Published numbers beside ours, cell by cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor, log10

import pandas as pd

from analysis.tables.published import published_numbers

SPLITS = {"mnli": "dev_matched", "qqp": "dev", "sst-2": "train"}
"""The evaluation split that the paper reports, by task."""

# Ties of decimal fractions, such as 0.0125, are not exact in binary.
EPSILON = 1e-12


@dataclass(frozen=True)
class Digits:
    """How a number is printed.

    Attributes
    ----------
    digits : int
        Decimals of the fraction, or significant digits.
    significant : bool
        Whether `digits` are significant ones.
    truncated : bool
        Whether the rest is cut off instead of rounded.
    """

    digits: int
    significant: bool = False
    truncated: bool = False

    def agree(self, published: float, ours: float) -> bool:
        """Tell whether `ours` would be printed as `published`."""
        unit = 10.0**-self.digits
        if self.significant and published:
            unit = 10.0 ** (floor(log10(abs(published))) + 1 - self.digits)
        if self.truncated:
            return -EPSILON <= ours - published < unit - EPSILON
        return abs(ours - published) <= unit / 2 + EPSILON


@dataclass(frozen=True)
class Source:
    """Where published numbers are printed, and where ours are.

    Attributes
    ----------
    table : str
        Where they are printed.
    file : str
        Name of the file of published numbers.
    ours : str
        Name of our table.
    keys : tuple of str
        Columns, besides ``task``, that tell the rows apart in both.
    values : dict of str to (str, Digits)
        By column of the published numbers, our column, and how the number is printed.
    only : dict
        Which of our rows are meant, where the published ones do not say.
    """

    table: str
    file: str
    ours: str
    keys: tuple[str, ...]
    values: Mapping[str, tuple[str, Digits]]
    only: Mapping[str, str] = field(default_factory=dict)


_THREE = Digits(3)
_SIGNIFICANT = Digits(3, significant=True)
_VARIANCES = ("bias2", "pretrain_variance", "finetune_variance")
_ZERO_ONE = {"loss": "zero_one", "checkpoints": "last"}

SOURCES = (
    Source(
        "Table 1",
        "table01_seed_differences",
        "seed_differences",
        ("size",),
        {
            "diff_finetune": ("diff_finetune", _THREE),
            "diff_pretrain": ("diff_pretrain", _THREE),
            "std_all": ("std_accuracy", _THREE),
        },
    ),
    Source(
        "Table 3",
        "table03_thresholds",
        "thresholds",
        ("s1", "s2", "threshold"),
        {
            "decay": ("discovery", Digits(4)),
            "decay_baseline": ("baseline", _SIGNIFICANT),
            "difference": ("difference", Digits(4)),
        },
        {"predictions": "ensembles"},
    ),
    Source(
        "Table 5",
        "table05_labels",
        "label_quality",
        ("group",),
        {
            name: (name, Digits(2, truncated=True))
            for name in ("correct", "fine", "wrong", "unsure")
        },
        # The initials of the first author, whose annotations the paper reports.
        {"annotator": "rz"},
    ),
    Source(
        "Table 7",
        "table07_decomposition",
        "decomposition",
        ("size",),
        {name: (name, _THREE) for name in _VARIANCES},
        _ZERO_ONE,
    ),
    Source(
        "Table 8", "table08_accuracy", "accuracy", ("size",), {"reproduced": ("accuracy", _THREE)}
    ),
    Source(
        "Table 8",
        "table08_accuracy",
        "reference_accuracy",
        ("size",),
        {"original": ("reference", _THREE)},
    ),
    Source(
        "Table 9",
        "table09_lower_bounds",
        "lower_bounds",
        ("s1", "s2"),
        {"fraction_improving": ("bound", _THREE)},
        {"predictions": "runs"},
    ),
    Source(
        "Table 10",
        "table10_relative_bias",
        "relative_bias",
        ("s1", "s2"),
        {"relative_bias": ("relative_bias", _THREE)},
    ),
    Source(
        "Table 11",
        "table11_baseline_vs_bh",
        "baseline_vs_bh",
        ("s1", "s2", "method", "pretraining_seeds"),
        {"lower_bound": ("lower_bound", _THREE)},
    ),
    Source(
        "Table 12",
        "table12_momentum",
        "momentum",
        ("s1", "s2", "s3", "bucket_upper"),
        {"pearson_r": ("pearson_r", Digits(2))},
    ),
    Source(
        "notebook",
        "sst2_notebook",
        "decomposition",
        ("size",),
        {name: (name, _SIGNIFICANT) for name in _VARIANCES},
        _ZERO_ONE,
    ),
    Source(
        "notebook",
        "sst2_notebook",
        "seed_differences",
        ("size",),
        {name: (name, _SIGNIFICANT) for name in ("diff_finetune", "diff_pretrain")},
    ),
)

COLUMNS = (
    *("task", "split", "table", "row", "column"),
    *("published", "ours", "difference", "within_rounding", "printed"),
)


def compare_published(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Put every published number that can be recomputed beside ours.

    Tasks are matched by name, whatever its case and punctuation, on the split that the paper
    reports; sizes by name.

    Parameters
    ----------
    frames : mapping of str to pandas.DataFrame
        Our tables by name; those that are absent are not compared.

    Returns
    -------
    pandas.DataFrame
        Columns task, split, table, row, column, published, ours, difference (ours less
        published), within_rounding: whether ours would be printed as the published number, and
        printed: whether that is ``rounded`` or ``truncated``.
    """
    rows: list[tuple[object, ...]] = []
    for source in SOURCES:
        if source.ours in frames:
            rows += _compare(source, frames[source.ours])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _compare(source: Source, ours: pd.DataFrame) -> list[tuple[object, ...]]:
    for column, value in source.only.items():
        ours = ours[ours[column] == value]
    names = {_plain(task): task for task in SPLITS}
    known = ours["task"].map(lambda task: names.get(_plain(str(task))))
    paper = known.map(lambda task: SPLITS.get(task, ""))
    ours = ours.assign(known=known)[known.notna() & (ours["split"] == paper)]
    if ours.empty:
        return []
    if source.ours == "label_quality":
        keys = ["task", "split", "known", "group"]
        ours = ours.pivot(index=keys, columns="category", values="fraction").reset_index()
    published = published_numbers(source.file)
    if "task" not in published:
        published = published.assign(task="sst-2")
    # The published order stays, so that a table reads as it is printed.
    both = published.merge(
        ours,
        left_on=["task", *source.keys],
        right_on=["known", *source.keys],
        suffixes=("_published", "_ours"),
    )
    rows: list[tuple[object, ...]] = []
    for _, cells in both.iterrows():
        row = ", ".join(str(cells[key]) for key in source.keys)
        for column, (own, digits) in source.values.items():
            shared = set(published) & set(ours)
            theirs = float(cells[f"{column}_published" if column in shared else column])
            mine = float(cells[f"{own}_ours" if own in shared else own])
            if pd.notna(mine):
                place = (cells["task_ours"], cells["split"], source.table, row, column)
                agree = digits.agree(theirs, mine)
                printed = "truncated" if digits.truncated else "rounded"
                rows.append((*place, theirs, mine, mine - theirs, agree, printed))
    return rows


def reported(task: str, split: str) -> bool:
    """Whether the paper reports this split of a task, whatever the name's case and punctuation."""
    return (_plain(task), split) in {(_plain(name), of_paper) for name, of_paper in SPLITS.items()}


def _plain(task: str) -> str:
    return "".join(character for character in task.lower() if character.isalnum())
