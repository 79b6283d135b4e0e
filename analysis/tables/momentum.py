"""Correlation of successive instance differences (Section 5; Tables 6 and 12)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap.momentum import resample_momentum
from analysis.predictions.split import SplitPredictions, TaskPredictions
from analysis.statistics.cross_fitted_momentum import (
    ROLES,
    cross_fitted_momentum,
    spaced_assignments,
)
from analysis.statistics.momentum import BUCKETS, momentum, triplets
from analysis.tables.notes import sizes_with_seeds
from analysis.tables.printing import decimal, groups
from analysis.tables.published import Digits, Source
from analysis.tables.split_bootstrap import SplitBootstrap
from analysis.tables.table import Options, Printed, Row, SplitFamily

FEWEST_CROSS_FITTED = 2 * ROLES
"""Least number of pretraining seeds of s2 for an interval of a cross-fitted correlation: a group of
one seed has the same mean in every replicate."""


def momentum_rows(
    split: SplitPredictions, bootstrap: SplitBootstrap | None, options: Options
) -> Iterator[Row]:
    """Correlate the differences from s1 to s2 and from s2 to s3 in single runs, by bucket.

    Triplets with a size that has no complete pretraining seed have rows without correlations.
    """
    for triplet in _triplets(split.sizes, options):
        sizes = [split.sizes.index(size) for size in triplet]
        correct = [split.runs.correct[size] for size in sizes]
        rows: list[Row] = [
            dict(zip(("s1", "s2", "s3"), triplet, strict=True))
            | {"bucket_upper": (bucket + 1) / BUCKETS, "instances": 0}
            for bucket in range(BUCKETS)
        ]
        if all(side.shape[1] for side in correct):
            runs = split.runs.runs
            published, cross_fitted = momentum(correct, runs), cross_fitted_momentum(correct, runs)
            columns = {
                "instances": published.instances,
                "pearson_r": published.pearson,
                "spearman_r": published.spearman,
                "pearson_r_cross_fitted": cross_fitted.pearson,
                "spearman_r_cross_fitted": cross_fitted.spearman,
            }
            for name, values in columns.items():
                for row, value in zip(rows, values.tolist(), strict=True):
                    row[name] = value
            if bootstrap is not None:
                _add_intervals(rows, split, bootstrap, sizes)
        yield from rows


def _add_intervals(
    rows: Sequence[Row], split: SplitPredictions, bootstrap: SplitBootstrap, sizes: Sequence[int]
) -> None:
    """Add the intervals to the rows of one triplet, one for each bucket."""
    correct = [split.runs.correct[size] for size in sizes]
    seeds = [side.shape[1] for side in correct]
    drawn = bootstrap.drawn_seeds(sizes, seeds)
    kinds: dict[str, list[tuple[NDArray[np.int64], ...]] | None] = {"": None}
    if seeds[1] >= FEWEST_CROSS_FITTED:
        kinds["_cross_fitted"] = spaced_assignments(seeds[1])
    for kind, assignments in kinds.items():
        pearson, spearman = resample_momentum(
            correct, split.runs.runs, drawn.weights, bootstrap.resampling, assignments
        )
        for name, replicates in (("pearson_r", pearson), ("spearman_r", spearman)):
            column = f"{name}{kind}"
            for row, bucket_replicates in zip(rows, replicates.T, strict=True):
                estimate = float(row[column])  # type: ignore[arg-type]
                row |= drawn.interval(column, estimate, bucket_replicates, (-1, 1))


def _triplets(sizes: Sequence[str], options: Options) -> list[tuple[str, str, str]]:
    """Choose the triplets of sizes, including those of the options if the task has the sizes."""
    further = [triplet for triplet in options.triplets if set(triplet) <= set(sizes)]
    return list(dict.fromkeys([*triplets(sizes), *further]))


def _notes(tasks: Sequence[TaskPredictions], _: pd.DataFrame, options: Options) -> Iterator[str]:
    for task in tasks:
        if not _triplets(task.sizes, options):
            yield f"{task.task}: fewer than three sizes, so there is no momentum"


def _interval_notes(task: TaskPredictions) -> Iterator[str]:
    few = sizes_with_seeds(task, range(ROLES, FEWEST_CROSS_FITTED))
    if len(task.sizes) > 2 and few:
        yield (
            f"{task.task}: fewer than {FEWEST_CROSS_FITTED} pretraining seeds of {few}, so "
            "cross-fitted correlations with it as s2 have no intervals"
        )


def _layout(frame: pd.DataFrame) -> Iterator[Printed]:
    kinds = {
        "pearson_r": "Pearson",
        "spearman_r": "Spearman",
        "pearson_r_cross_fitted": "Pearson, cross-fitted",
        "spearman_r_cross_fitted": "Spearman, cross-fitted",
    }
    for heading, group in groups(frame, ["task", "split"]):
        for column, kind in kinds.items():
            rows = []
            for triplet, cells in groups(group, ["s1", "s2", "s3"]):
                values = cells.set_index("bucket_upper")[column]
                row = {"(s1, s2, s3) \\ buckets": triplet}
                rows.append(row | {f"{t:.2f}": decimal(r, 2) for t, r in values.items()})
            yield Printed(f"{heading}, {kind}", pd.DataFrame(rows))


MOMENTUM = SplitFamily(
    name="momentum",
    title=(
        "Correlation of the accuracy differences from s1 to s2 and from s2 to s3, among instances "
        "with Acc[s2] in [bucket_upper - 0.1, bucket_upper)."
    ),
    keys=("s1", "s2", "s3", "bucket_upper"),
    values=(
        "instances",
        "pearson_r",
        "spearman_r",
        "pearson_r_cross_fitted",
        "spearman_r_cross_fitted",
    ),
    intervals=("pearson_r", "spearman_r", "pearson_r_cross_fitted", "spearman_r_cross_fitted"),
    rows=momentum_rows,
    notes=_notes,
    interval_notes=_interval_notes,
    layout=_layout,
    published=(
        Source(
            "Table 12",
            "table12_momentum",
            ("s1", "s2", "s3", "bucket_upper"),
            {"pearson_r": ("pearson_r", Digits(2))},
        ),
    ),
)
