"""Lower bounds on the fraction of instances that improve (Tables 2 and 9)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap.adaptive_threshold import adaptive_threshold
from analysis.bootstrap.bounds import ResampledPair
from analysis.bootstrap.confidence_bound import ConfidenceBound, pair_confidence_bounds
from analysis.predictions.split import PREDICTIONS, SplitPredictions
from analysis.statistics.decay import decay_bound
from analysis.tables.notes import one_split_baseline, skipped_seeds
from analysis.tables.printing import groups, matrix
from analysis.tables.published import THREE_DECIMALS, Source
from analysis.tables.split_bootstrap import DrawnSeeds, SplitBootstrap
from analysis.tables.table import Options, Printed, Row, SplitFamily


def lower_bound_rows(
    split: SplitPredictions, bootstrap: SplitBootstrap | None, _: Options
) -> Iterator[Row]:
    """Bound the fraction of instances that improve from s1 to s2, for every ordered pair.

    The threshold is that of Acc[s1] - Acc[s2]. ``bound_corrected`` is the bound minus the bootstrap
    estimate of its upward bias (Appendix E). ``bound_lower95`` is a lower confidence bound on the
    improving fraction (`analysis.bootstrap.confidence_bound`). Because Theorem 1 needs independent
    predictions, for single runs it is computed from one run of each pretraining seed, averaged over
    all choices of these runs.
    """
    for predictions in PREDICTIONS:
        confidence = _confidence_bounds(split, bootstrap, predictions)
        for comparison in split.comparisons[predictions]:
            s1, s2, curves = comparison.s1, comparison.s2, comparison.curves
            improving: Row = {"s1": s1, "s2": s2, "predictions": predictions}
            # Instances that decay from s1 to s2 improve from s2 to s1.
            decaying: Row = {"s1": s2, "s2": s1, "predictions": predictions}
            if curves is not None:
                improving |= asdict(decay_bound(curves.exchanged()))
                decaying |= asdict(decay_bound(curves))
            resampled = None
            if bootstrap is not None:
                resampled = bootstrap.of_comparison(predictions, comparison)
            if bootstrap is not None and resampled is not None:
                pair = bootstrap.positions(comparison)
                drawn = bootstrap.drawn_seeds(pair, [comparison.seeds] * 2)
                decay, improve = confidence[pair]
                improving |= _bound_intervals(improving, drawn, resampled.improve, improve)
                decaying |= _bound_intervals(decaying, drawn, resampled.decay, decay)
            yield improving
            yield decaying


def _bound_intervals(
    row: Row, drawn: DrawnSeeds, gaps: NDArray[np.float64], confidence: ConfidenceBound
) -> Row:
    """Compute the interval of a row's bound, ``bound_corrected`` and ``bound_lower95``."""
    bound = float(row["bound"])  # type: ignore[arg-type]
    cells: Row = dict(drawn.interval("bound", bound, largest_gap(gaps), (0, 1)))
    if len(gaps) > 1:
        adaptive = adaptive_threshold(gaps[:, :-1])
        cells["bound_corrected"] = max(bound - (adaptive.tuned - adaptive.fresh), 0.0)
    cells["bound_lower95"] = confidence.lower
    return cells


def largest_gap(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the bound in every replicate.

    Parameters
    ----------
    gaps : ndarray of float64, shape [replicate, threshold]
        Discovery minus baseline at the thresholds from -1 to 0; that at 0 is not used.

    Returns
    -------
    ndarray of float64, shape [replicate]
        At least 0.
    """
    return np.maximum(gaps[:, :-1].max(axis=1), 0.0)


def _confidence_bounds(
    split: SplitPredictions, bootstrap: SplitBootstrap | None, predictions: str
) -> dict[tuple[int, int], tuple[ConfidenceBound, ConfidenceBound]]:
    """Bound the fractions that decay and that improve, by the positions of both sizes."""
    counts = split.counts(predictions)
    if bootstrap is None or counts is None:
        return {}
    by_seeds: dict[int, dict[tuple[int, int], ResampledPair]] = {}
    for comparison in split.comparisons[predictions]:
        resampled = bootstrap.of_comparison(predictions, comparison)
        if resampled is not None:
            pairs = by_seeds.setdefault(comparison.seeds, {})
            pairs[bootstrap.positions(comparison)] = resampled
    bounds: dict[tuple[int, int], tuple[ConfidenceBound, ConfidenceBound]] = {}
    for seeds, pairs in by_seeds.items():
        bounds |= pair_confidence_bounds(counts, seeds, pairs, bootstrap.resampling)
    return bounds


def _layout(frame: pd.DataFrame) -> Iterator[Printed]:
    for heading, group in groups(frame, ["task", "split", "predictions"]):
        yield Printed(heading, matrix(group, "bound"))


LOWER_BOUNDS = SplitFamily(
    name="lower_bounds",
    title="Lower bound on the fraction of instances that improve from s1 to s2.",
    keys=("s1", "s2", "predictions"),
    values=("bound", "threshold", "discovery", "baseline"),
    intervals=("bound",),
    bounds=("bound_corrected", "bound_lower95"),
    rows=lower_bound_rows,
    notes=skipped_seeds,
    interval_notes=one_split_baseline,
    layout=_layout,
    published=(
        Source(
            "Table 9",
            "table09_lower_bounds",
            ("s1", "s2"),
            {"fraction_improving": ("bound", THREE_DECIMALS)},
            {"predictions": "runs"},
        ),
    ),
)
