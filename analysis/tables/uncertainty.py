"""Columns of uncertainty for the tables, from one Multi-Bootstrap of every split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap.adaptive_threshold import adaptive_threshold
from analysis.bootstrap.bounds import (
    ResampledPair,
    resample_pairs,
)
from analysis.bootstrap.confidence_bound import pair_confidence_bounds
from analysis.bootstrap.draws import Bootstrap, Resampling
from analysis.bootstrap.intervals import interval, repeated_draws
from analysis.bootstrap.momentum import resample_momentum
from analysis.bootstrap.variances import (
    SeedMoments,
    count_moments,
    resample_decomposition,
    resample_differences,
    resample_std_accuracy,
)
from analysis.predictions.comparisons import Comparisons
from analysis.predictions.reading import TaskPredictions
from analysis.statistics.counts import Counts
from analysis.statistics.cross_fitted_momentum import ROLES, spaced_assignments
from analysis.statistics.fisher import fisher_p_values
from analysis.statistics.momentum import BUCKETS
from analysis.tables.table import Table

FEWEST_SEEDS = 3
"""Pretraining seeds that an interval needs for an average over pairs of seeds: with two there is
one pair, and every replicate that has it is the same."""

FEWEST_CROSS_FITTED = 2 * ROLES
"""Pretraining seeds of the middle size that an interval of a cross-fitted correlation needs: a
group of one seed has one mean in every replicate."""

Key = tuple[Hashable, ...]
Columns = dict[str, dict[str, dict[Key, float]]]


def add_uncertainty(
    tables: Sequence[Table],
    tasks: Sequence[TaskPredictions],
    comparisons: Sequence[Comparisons],
    bootstrap: Bootstrap,
    advance: Callable[[int], Hashable] = lambda _: None,
) -> tuple[Table, ...]:
    """Append to every table the columns of uncertainty that belong to it.

    ``X_low`` and ``X_high`` are 95% intervals (`analysis.bootstrap.intervals`) of the column X.
    `lower_bounds` has besides ``bound_corrected``, the bound less the bootstrap estimate of its
    adaptive bias (Appendix E), and ``bound_lower95``, a lower confidence bound on the improving
    fraction (`analysis.bootstrap.confidence_bound`); in single runs that of one run of each
    pretraining seed, averaged over all choices of those runs, as Theorem 1 needs independent
    predictions.

    Parameters
    ----------
    tables : sequence of Table
        From `analysis.tables.all_tables`.
    tasks : sequence of TaskPredictions
    comparisons : sequence of Comparisons
        One for each of `tasks`.
    bootstrap : Bootstrap
    advance : callable, optional
        Told 1 after each split (for a progress bar).

    Bounds whose baseline is that of one split have none of these: the replicates average over all.

    Returns
    -------
    tuple of Table
        The same tables where there are no replicates. Cells are NaN where a quantity has too few
        seeds for an interval, and columns are there in any case.
    """
    if not bootstrap.replicates or not tasks:
        return tuple(tables)
    frames = {table.name: table.frame for table in tables}
    columns: Columns = defaultdict(lambda: defaultdict(dict))
    notes: dict[str, list[str]] = defaultdict(list)
    for task, compared in zip(tasks, comparisons, strict=True):
        for name, note in _notes(task, compared):
            notes[name].append(note)
        for position in range(len(task.splits)):
            resampling = bootstrap.of_instances(task.task, task.instances_of(position))
            averaged = compared.split_seed is None
            split = _Split(frames, columns, task, position, resampling, averaged)
            split.add_sizes()
            split.add_losses()
            split.add_ensembles()
            split.add_runs()
            split.add_momentum()
            advance(1)
    return tuple(
        replace(
            table,
            frame=_with_columns(table, columns[table.name]),
            notes=(*table.notes, *notes[table.name]),
        )
        if table.name in INTERVALS
        else table
        for table in tables
    )


INTERVALS = {
    "accuracy": ("accuracy",),
    "seed_differences": ("diff_finetune", "diff_pretrain", "std_accuracy"),
    "lower_bounds": ("bound",),
    "thresholds": ("difference",),
    "baseline_vs_bh": ("lower_bound",),
    "momentum": ("pearson_r", "spearman_r", "pearson_r_cross_fitted", "spearman_r_cross_fitted"),
    "decomposition": ("bias2", "pretrain_variance", "finetune_variance", "checkpoint_variance"),
}
"""By table, the columns with intervals."""

KEYS = {
    "accuracy": ("task", "split", "size"),
    "seed_differences": ("task", "split", "size"),
    "lower_bounds": ("task", "split", "s1", "s2", "predictions"),
    "thresholds": ("task", "split", "s1", "s2", "predictions", "threshold"),
    "baseline_vs_bh": ("task", "split", "s1", "s2", "pretraining_seeds", "method"),
    "momentum": ("task", "split", "s1", "s2", "s3", "bucket_upper"),
    "decomposition": ("task", "split", "size", "loss", "checkpoints"),
}
"""By table, the columns that name a row."""


def _notes(task: TaskPredictions, compared: Comparisons) -> Iterator[tuple[str, str]]:
    """Name tables with empty cells, and say why these are empty."""

    def having(seeds: range) -> str:
        found = zip(task.sizes, task.runs.seeds, strict=True)
        return ", ".join(size for size, of_size in found if len(of_size) in seeds)

    none, few = having(range(2)), having(range(2, FEWEST_SEEDS))
    if none:
        for name in INTERVALS:
            yield (
                name,
                f"{task.task}: intervals need two complete pretraining seeds, so those of {none} "
                "are empty",
            )
    if few:
        for name in ("seed_differences", "decomposition"):
            yield (
                name,
                f"{task.task}: two complete pretraining seeds of {few}, so intervals of "
                "differences and variance between pretraining seeds, and of bias, are empty",
            )
    few = having(range(ROLES, FEWEST_CROSS_FITTED))
    if len(task.sizes) > 2 and few:
        yield (
            "momentum",
            f"{task.task}: fewer than {FEWEST_CROSS_FITTED} pretraining seeds of {few}, so "
            "cross-fitted correlations with it as s2 have no intervals",
        )
    if compared.split_seed is not None:
        for name in ("lower_bounds", "thresholds"):
            yield (
                name,
                f"{task.task}: intervals, bound_corrected and bound_lower95 are of the baseline "
                "averaged over all splits, so they are empty where it is that of one split",
            )


def _with_columns(table: Table, columns: dict[str, dict[Key, float]]) -> pd.DataFrame:
    names = [f"{name}_{end}" for name in INTERVALS[table.name] for end in ("low", "high")]
    if table.name == "lower_bounds":
        names += ["bound_corrected", "bound_lower95"]
    frame = table.frame.copy()
    keys = _keys(table.name, table.frame)
    for name in names:
        frame[name] = [columns[name].get(key, float("nan")) for key in keys]
    return frame


def _keys(name: str, frame: pd.DataFrame) -> list[Key]:
    return list(frame[list(KEYS[name])].itertuples(index=False, name=None))


class _Split:
    """Fills the columns of one split of one task."""

    def __init__(
        self,
        frames: Mapping[str, pd.DataFrame],
        columns: Columns,
        task: TaskPredictions,
        position: int,
        resampling: Resampling,
        averaged: bool,
    ) -> None:
        self.columns, self.task, self.position = columns, task, position
        self.resampling = resampling
        self.averaged = averaged
        self.split = task.splits[position]
        self.runs = task.runs.at(task.instances_of(position))
        self.estimates: dict[str, dict[Key, dict[str, float]]] = {}
        for name, intervals in INTERVALS.items():
            frame = frames[name]
            mine = frame[(frame["task"] == task.task) & (frame["split"] == self.split)]
            values = zip(*(mine[column].tolist() for column in intervals), strict=True)
            self.estimates[name] = {
                key: dict(zip(intervals, row, strict=True))
                for key, row in zip(_keys(name, mine), values, strict=True)
            }

    def add_sizes(self) -> None:
        """Accuracy, differences between runs, and the 0/1 loss of the last checkpoint."""
        for size, (name, correct) in enumerate(
            zip(self.runs.sizes, self.runs.correct, strict=True)
        ):
            seeds = correct.shape[1]
            if not seeds:
                continue
            weights = self.resampling.seed_weights(size, seeds)
            moments = self._count_moments(correct)
            found = resample_differences(moments, self.runs.runs, weights)
            accuracies = self.task.run_correct[size][self.position] / len(correct)
            if self.task.resampled_accuracy[size]:
                accuracies = self.task.resampled_accuracy[size][self.position]
            replicates = {
                ("accuracy", "accuracy"): found.accuracy,
                ("seed_differences", "diff_finetune"): found.diff_finetune,
                ("seed_differences", "diff_pretrain"): found.diff_pretrain,
                ("seed_differences", "std_accuracy"): resample_std_accuracy(accuracies, weights),
            }
            for (table, column), values in replicates.items():
                pairs = column in ("diff_pretrain", "std_accuracy")
                self._interval(table, column, (name,), values, weights, (0, 1), pairs)
            parts = resample_decomposition(moments, weights)
            self._decomposition((name, "zero_one", "last"), parts, weights)

    def _count_moments(self, correct: NDArray[np.unsignedinteger]) -> SeedMoments:
        if self.resampling.clusters is None:
            return count_moments(correct, self.runs.runs)
        parts = [
            count_moments(correct, self.runs.runs, self.resampling.instance_weights(block))
            for block in self.resampling.blocks(len(correct))
        ]
        fields = ("loss", "inner", "noise", "products")
        return SeedMoments(
            *(np.concatenate([getattr(part, field) for part in parts]) for field in fields)
        )

    def add_losses(self) -> None:
        """Losses of which only sums over instances are kept."""
        for (name, loss, which), sums in self.task.losses.items():
            moments = sums.moments[self.position]
            size = self.task.sizes.index(name)
            weights = self.resampling.seed_weights(size, moments.loss.shape[-1])
            parts = resample_decomposition(moments, weights)
            self._decomposition((name, loss, which), parts, weights)

    def add_ensembles(self) -> None:
        """Bounds of ensembles, by number of pretraining seeds, and those of the same by test."""
        if self.task.ensembles is None:
            return
        counts = self.task.ensembles.at(self.task.instances_of(self.position))
        most = max((len(seeds) for seeds in counts.seeds), default=0)
        for seeds in range(2, most + 1, 2):
            sizes = [size for size in range(len(counts.sizes)) if len(counts.seeds[size]) >= seeds]
            resampled = resample_pairs(counts, sizes, seeds, self.resampling)
            used = [pair for pair in resampled if counts.common_even_seeds(*pair) == seeds]
            if self.averaged:
                self._bounds("ensembles", counts, seeds, {pair: resampled[pair] for pair in used})
            for pair, found in resampled.items():
                by_test = np.maximum(_discovery_bounds(found.counts), 0.0)
                by_baseline = _largest(found.decay)
                for method, values in (("baseline", by_baseline), ("bh", by_test)):
                    names = (*(counts.sizes[size] for size in pair), seeds, method)
                    weights = self._weights(pair, seeds)
                    self._interval("baseline_vs_bh", "lower_bound", names, values, weights, (0, 1))

    def add_runs(self) -> None:
        """Bounds of single runs."""
        if not self.averaged:
            return
        counts = self.runs
        sizes = range(len(counts.sizes))
        for seeds in sorted({counts.common_even_seeds(*pair) for pair in combinations(sizes, 2)}):
            if seeds:
                chosen = [size for size in sizes if len(counts.seeds[size]) >= seeds]
                resampled = resample_pairs(counts, chosen, seeds, self.resampling)
                used = [pair for pair in resampled if counts.common_even_seeds(*pair) == seeds]
                self._bounds("runs", counts, seeds, {pair: resampled[pair] for pair in used})

    def add_momentum(self) -> None:
        """Correlations of the triplets in the table."""
        triplets = dict.fromkeys(key[2:5] for key in self.estimates["momentum"])
        for names in triplets:
            sizes = [self.task.sizes.index(str(name)) for name in names]
            seeds = [self.runs.correct[size].shape[1] for size in sizes]
            if not all(seeds):
                continue
            weights = [
                self.resampling.seed_weights(size, number)
                for size, number in zip(sizes, seeds, strict=True)
            ]
            correct = [self.runs.correct[size] for size in sizes]
            kinds: list[tuple[str, list[tuple[NDArray[np.int64], ...]] | None]] = [("", None)]
            if seeds[1] >= FEWEST_CROSS_FITTED:
                kinds.append(("_cross_fitted", spaced_assignments(seeds[1])))
            for kind, assigned in kinds:
                pearson, spearman = resample_momentum(
                    correct, self.runs.runs, weights, self.resampling, assigned
                )
                for bucket in range(BUCKETS):
                    key = (*names, (bucket + 1) / BUCKETS)
                    for name, values in (("pearson_r", pearson), ("spearman_r", spearman)):
                        column = f"{name}{kind}"
                        self._interval("momentum", column, key, values[:, bucket], weights, (-1, 1))

    def _bounds(
        self,
        predictions: str,
        counts: Counts,
        seeds: int,
        resampled: Mapping[tuple[int, int], ResampledPair],
    ) -> None:
        """Fill `lower_bounds` and `thresholds` for pairs with the same number of seeds."""
        if not resampled:
            return
        confident = pair_confidence_bounds(counts, seeds, resampled, self.resampling)
        for (first, second), found in resampled.items():
            weights = self._weights((first, second), seeds)
            names = (counts.sizes[first], counts.sizes[second])
            steps = found.decay.shape[1] - 1
            for step in range(steps + 1):
                threshold = (*names, predictions, (step - steps) / steps)
                values = found.decay[:, step]
                self._interval("thresholds", "difference", threshold, values, weights, (-1, 1))
            # What decays from the first to the second size improves from the second to the first.
            for direction, (gaps, pair) in enumerate(
                ((found.decay, names[::-1]), (found.improve, names))
            ):
                key = (*pair, predictions)
                self._interval("lower_bounds", "bound", key, _largest(gaps), weights, (0, 1))
                estimate = self._estimate("lower_bounds", "bound", key)
                full_key = (self.task.task, self.split, *key)
                columns = self.columns["lower_bounds"]
                if len(gaps) > 1:
                    adaptive = adaptive_threshold(gaps[:, :steps])
                    corrected = estimate - (adaptive.tuned - adaptive.fresh)
                    columns["bound_corrected"][full_key] = max(corrected, 0.0)
                columns["bound_lower95"][full_key] = confident[first, second][direction].lower

    def _weights(self, pair: Sequence[int], seeds: int) -> list[NDArray[np.float64]]:
        return [self.resampling.seed_weights(size, seeds) for size in pair]

    def _decomposition(
        self, names: Key, parts: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> None:
        for column, values in zip(INTERVALS["decomposition"], parts.T, strict=False):
            pairs = column in ("bias2", "pretrain_variance")
            limits = (-1, 1)
            self._interval("decomposition", column, names, values, weights, limits, pairs)

    def _estimate(self, table: str, column: str, names: Key) -> float:
        key = (self.task.task, self.split, *names)
        return self.estimates[table].get(key, {}).get(column, float("nan"))

    def _interval(
        self,
        table: str,
        column: str,
        names: Key,
        values: NDArray[np.float64],
        weights: NDArray[np.float64] | Sequence[NDArray[np.float64]],
        limits: tuple[float, float],
        pairs: bool = False,
    ) -> None:
        """Set the two ends of one interval."""
        groups = [weights] if isinstance(weights, np.ndarray) else weights
        seeds = min(len(group) for group in groups)
        estimate = self._estimate(table, column, names)
        if np.isnan(estimate) or (pairs and seeds < FEWEST_SEEDS):
            return
        repeats = np.column_stack([repeated_draws(group) for group in groups])
        ends = interval(estimate, values, repeats, seeds, limits)
        key = (self.task.task, self.split, *names)
        for end, value in zip(("low", "high"), ends, strict=True):
            self.columns[table][f"{column}_{end}"][key] = float(value)


def _largest(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bound in every replicate, from its gaps [replicate, threshold -1..0]."""
    return np.maximum(gaps[:, :-1].max(axis=1), 0.0)


def _discovery_bounds(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """`fisher.discovery_bound` of joint counts [replicate, models + 1, models + 1], unclipped."""
    models = counts.shape[1] - 1
    p_values, which = np.unique(fisher_p_values(models).ravel(), return_inverse=True)
    ordered = counts.reshape(len(counts), -1)[:, np.argsort(which.ravel(), kind="stable")]
    last = np.cumsum(np.bincount(which.ravel())) - 1
    return (np.cumsum(ordered, axis=1)[:, last] - p_values).max(axis=1)
