"""Upward bias of the adaptive threshold (Appendix E, Table 10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

import pandas as pd

from analysis.bootstrap.adaptive_threshold import adaptive_threshold, bootstrap_gaps
from analysis.predictions.split import SplitPredictions, TaskPredictions
from analysis.tables.notes import skipped_seeds
from analysis.tables.printing import groups, matrix
from analysis.tables.published import THREE_DECIMALS, Source
from analysis.tables.split_bootstrap import SplitBootstrap
from analysis.tables.table import NAN, Options, Printed, Row, SplitFamily

FEWEST_SAMPLES = 2
"""Least number of bootstrap samples: a threshold tuned on one sample is used on the others."""


def relative_bias_rows(
    split: SplitPredictions, _: SplitBootstrap | None, options: Options
) -> Iterator[Row]:
    """Estimate the bias of the bound on instances that improve from s1 to s2, for single runs."""
    gaps = {}
    if options.bias_replicates >= FEWEST_SAMPLES:
        gaps = bootstrap_gaps(split.runs, options.bias_replicates, options.seed, options.workers)
    for first, second in permutations(range(len(split.sizes)), 2):
        bias = NAN
        if (first, second) in gaps:
            bias = adaptive_threshold(gaps[first, second]).relative_bias
        yield {"s1": split.sizes[first], "s2": split.sizes[second], "relative_bias": bias}


def _notes(
    tasks: Sequence[TaskPredictions], frame: pd.DataFrame, options: Options
) -> Iterator[str]:
    yield from skipped_seeds(tasks, frame, options)
    if options.bias_replicates < FEWEST_SAMPLES:
        yield "relative bias is empty, as it needs at least two --bias-replicates"
        return
    empty = frame[frame["relative_bias"].isna()]
    for task in tasks:
        compared = {
            frozenset((pair.s1, pair.s2))
            for pair in task.splits[0].comparisons["runs"]
            if pair.curves is not None
        }
        rows = empty[empty["task"] == task.task]
        splits = [
            split
            for split, s1, s2 in zip(rows["split"], rows["s1"], rows["s2"], strict=True)
            if frozenset((s1, s2)) in compared
        ]
        if splits:
            yield (
                f"{task.task}, {', '.join(dict.fromkeys(splits))}: for some pairs of sizes no "
                "bound is left at the threshold of another bootstrap sample, so its relative bias "
                "is empty"
            )


def _layout(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in groups(frame, ["task", "split"]):
        yield Printed(heading, matrix(group, "relative_bias"))


RELATIVE_BIAS = SplitFamily(
    name="relative_bias",
    title=(
        "Upward bias of the bound on improving instances from choosing its threshold on the same "
        "predictions, relative to the bound."
    ),
    keys=("s1", "s2"),
    values=("relative_bias",),
    rows=relative_bias_rows,
    notes=_notes,
    layout=_layout,
    published=(
        Source(
            "Table 10",
            "table10_relative_bias",
            ("s1", "s2"),
            {"relative_bias": ("relative_bias", THREE_DECIMALS)},
        ),
    ),
)
