"""Discovery and random baseline by threshold (Table 3)."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.predictions.split import PREDICTIONS, SplitPredictions
from analysis.tables.notes import one_split_baseline, skipped_seeds
from analysis.tables.printing import groups, percent, scientific
from analysis.tables.published import THREE_SIGNIFICANT, Digits, Source
from analysis.tables.split_bootstrap import SplitBootstrap
from analysis.tables.table import Options, Printed, Row, SplitFamily


def threshold_rows(
    split: SplitPredictions, bootstrap: SplitBootstrap | None, _: Options
) -> Iterator[Row]:
    """List discovery and baseline of the decay from the smaller size s1 to s2.

    At every lattice value from -1 to 0. Sizes that cannot be compared have one row without values.
    """
    for predictions in PREDICTIONS:
        for comparison in split.comparisons[predictions]:
            keys: Row = {"s1": comparison.s1, "s2": comparison.s2, "predictions": predictions}
            curves = comparison.curves
            if curves is None:
                yield keys
                continue
            resampled = drawn = None
            if bootstrap is not None:
                resampled = bootstrap.of_comparison(predictions, comparison)
                pair = bootstrap.positions(comparison)
                drawn = bootstrap.drawn_seeds(pair, [comparison.seeds] * 2)
            arrays = (curves.thresholds, curves.discovery, curves.baseline)
            upto_zero = zip(
                *(values[: curves.steps + 1].tolist() for values in arrays), strict=True
            )
            for step, (threshold, discovery, baseline) in enumerate(upto_zero):
                difference = discovery - baseline
                row = keys | {
                    "threshold": threshold,
                    "discovery": discovery,
                    "baseline": baseline,
                    "difference": difference,
                }
                if resampled is not None and drawn is not None:
                    gaps = resampled.decay[:, step]
                    row |= drawn.interval("difference", difference, gaps, (-1, 1))
                yield row


def _layout(frame: pd.DataFrame) -> Iterator[Printed]:
    """Print only the pair of the smallest and the largest size; the ``.csv`` file has all."""
    for heading, group in groups(frame, ["task", "split", "predictions"]):
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


THRESHOLDS = SplitFamily(
    name="thresholds",
    title=(
        "Discovery fraction and random baseline at each threshold t: instances whose accuracy "
        "changes by at most t from s1 to s2."
    ),
    keys=("s1", "s2", "predictions", "threshold"),
    values=("discovery", "baseline", "difference"),
    intervals=("difference",),
    rows=threshold_rows,
    notes=skipped_seeds,
    interval_notes=one_split_baseline,
    layout=_layout,
    published=(
        Source(
            "Table 3",
            "table03_thresholds",
            ("s1", "s2", "threshold"),
            {
                "decay": ("discovery", Digits(4)),
                "decay_baseline": ("baseline", THREE_SIGNIFICANT),
                "difference": ("difference", Digits(4)),
            },
            {"predictions": "ensembles"},
        ),
    ),
)
