"""The tables, as data frames in full precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.bootstrap.adaptive_threshold import adaptive_threshold, bootstrap_gaps
from analysis.predictions.annotations import CATEGORIES, GROUPS, Annotation, count_categories
from analysis.predictions.comparisons import Comparisons
from analysis.predictions.reading import TaskPredictions
from analysis.statistics.accuracy import overall_accuracy
from analysis.statistics.counts import Counts
from analysis.statistics.cross_fitted_momentum import cross_fitted_momentum
from analysis.statistics.decay import decay_bound, ensemble_curves
from analysis.statistics.fisher import discovery_bound, joint_correct_models
from analysis.statistics.momentum import BUCKETS, momentum, triplets
from analysis.statistics.multisets import BLOCK_INSTANCES, multisets
from analysis.statistics.seed_differences import seed_differences, std_accuracy
from analysis.statistics.variance import decompose_counts
from analysis.statistics.variance_given_bias import variance_curve
from analysis.tables.published_comparison import compare_published
from analysis.tables.reference_accuracy import join_reference_accuracy
from analysis.tables.table import NAN, Table
from configs.processes import Workers


def accuracy_table(tasks: Sequence[TaskPredictions]) -> Table:
    """Tabulate the mean accuracy over runs and instances by size.

    Parameters
    ----------
    tasks : sequence of TaskPredictions

    Returns
    -------
    Table
        Columns task, split, size, accuracy, runs, instances.
    """
    rows = []
    for task in tasks:
        for position, split in enumerate(task.splits):
            counts = task.runs.at(task.instances_of(position))
            for size, correct in zip(counts.sizes, counts.correct, strict=True):
                accuracy = overall_accuracy(correct, counts.runs)
                runs = correct.shape[1] * counts.runs
                rows.append((task.task, split, size, accuracy, runs, len(correct)))
    columns = ["task", "split", "size", "accuracy", "runs", "instances"]
    frame = pd.DataFrame(rows, columns=columns)
    return Table("accuracy", "Mean accuracy over runs and instances.", frame)


def seed_differences_table(tasks: Sequence[TaskPredictions]) -> Table:
    """Tabulate how much predictions differ between runs of one size (Table 1).

    Parameters
    ----------
    tasks : sequence of TaskPredictions

    Returns
    -------
    Table
        Columns task, split, size, diff_finetune, diff_pretrain, std_accuracy.
    """
    rows = []
    for task in tasks:
        for position, split in enumerate(task.splits):
            counts = task.runs.at(task.instances_of(position))
            for correct, size, runs in zip(
                counts.correct, counts.sizes, task.run_correct, strict=True
            ):
                differences = seed_differences(correct, counts.runs)
                std = std_accuracy(runs[position] / len(correct))
                rows.append(
                    (task.task, split, size, differences.finetune, differences.pretrain, std)
                )
    columns = ["task", "split", "size", "diff_finetune", "diff_pretrain", "std_accuracy"]
    title = (
        "Fraction of instances on which two runs differ that share the pretraining seed, and whose "
        "pretraining seeds differ; standard deviation of the accuracy of runs."
    )
    return Table("seed_differences", title, pd.DataFrame(rows, columns=columns), _few_seeds(tasks))


def lower_bounds_table(comparisons: Sequence[Comparisons]) -> Table:
    """Tabulate the fraction of instances that improve from s1 to s2 (Tables 2 and 9).

    Parameters
    ----------
    comparisons : sequence of Comparisons
        One for each task.

    Returns
    -------
    Table
        Columns task, split, s1, s2, predictions, bound, threshold, discovery, baseline, for every
        ordered pair; the threshold is that of Acc[s1] - Acc[s2].
    """
    rows = []
    for task in comparisons:
        for pair in task.pairs:
            # What improves from s1 to s2 decays from s2 to s1.
            for s1, s2, exchange in ((pair.s1, pair.s2, True), (pair.s2, pair.s1, False)):
                cells = (NAN,) * 4
                if pair.curves is not None:
                    curves = pair.curves.exchanged() if exchange else pair.curves
                    bound = decay_bound(curves)
                    cells = (bound.bound, bound.threshold, bound.discovery, bound.baseline)
                rows.append((task.task, pair.split, s1, s2, pair.predictions, *cells))
    columns = ["task", "split", "s1", "s2", "predictions"]
    columns += ["bound", "threshold", "discovery", "baseline"]
    frame = pd.DataFrame(rows, columns=columns)
    title = "Lower bound on the fraction of instances that improve from s1 to s2."
    return Table("lower_bounds", title, frame, _comparison_notes(comparisons))


def thresholds_table(comparisons: Sequence[Comparisons]) -> Table:
    """Tabulate discovery and baseline by threshold (Table 3).

    Parameters
    ----------
    comparisons : sequence of Comparisons
        One for each task.

    Returns
    -------
    Table
        Columns task, split, s1, s2, predictions, threshold, discovery, baseline, difference: the
        decay from s1 to s2, s1 smaller, at every lattice value from -1 to 0.
    """
    columns = ["task", "split", "s1", "s2", "predictions"]
    values = ["threshold", "discovery", "baseline", "difference"]
    parts = []
    for task in comparisons:
        for pair in task.pairs:
            cells = pd.DataFrame({name: [NAN] for name in values})
            if pair.curves is not None:
                upto = slice(0, pair.curves.steps + 1)
                discovery, baseline = pair.curves.discovery[upto], pair.curves.baseline[upto]
                thresholds = pair.curves.thresholds[upto]
                arrays = (thresholds, discovery, baseline, discovery - baseline)
                cells = pd.DataFrame(dict(zip(values, arrays, strict=True)))
            names = (task.task, pair.split, pair.s1, pair.s2, pair.predictions)
            for column, (key, name) in enumerate(zip(columns, names, strict=True)):
                cells.insert(column, key, name)
            parts.append(cells)
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns + values)
    title = (
        "Discovery fraction and random baseline at each threshold t: instances whose accuracy "
        "changes by at most t from s1 to s2."
    )
    return Table("thresholds", title, frame, _comparison_notes(comparisons))


def decomposition_table(tasks: Sequence[TaskPredictions]) -> Table:
    """Tabulate bias and variances of the 0/1 and the squared loss (Table 7, Appendix H).

    Parameters
    ----------
    tasks : sequence of TaskPredictions

    Returns
    -------
    Table
        Columns task, split, size, loss, checkpoints, bias2, pretrain_variance, finetune_variance,
        checkpoint_variance: averages over instances of unbiased estimates.
    """
    rows = []
    notes = list(_few_seeds(tasks))
    for task in tasks:
        checkpoints = ("last", "all") if len(task.epochs) > 1 else ("last",)
        for position, split in enumerate(task.splits):
            counts = task.runs.at(task.instances_of(position))
            for size, correct in zip(counts.sizes, counts.correct, strict=True):
                for loss in ("zero_one", "squared"):
                    for which in checkpoints:
                        cells = [NAN] * 4
                        sums = task.losses.get((size, loss, which))
                        if (loss, which) == ("zero_one", "last") and correct.size:
                            distinct = multisets(correct)
                            parts = decompose_counts(distinct.rows, counts.runs)
                            weight = distinct.frequency / len(correct)
                            means = [parts.bias2 @ weight, *(parts.variances @ weight)]
                            cells[: len(means)] = means
                        elif sums is not None:
                            means = [sums.bias2[position], *sums.variances[position]]
                            cells[: len(means)] = np.array(means) / len(correct)
                        rows.append((task.task, split, size, loss, which, *cells))
    columns = ["task", "split", "size", "loss", "checkpoints", "bias2"]
    columns += ["pretrain_variance", "finetune_variance", "checkpoint_variance"]
    title = (
        "Unbiased estimates of squared bias and of the variance from pretraining seeds, finetuning "
        "seeds and checkpoints, averaged over instances."
    )
    frame = pd.DataFrame(rows, columns=columns)
    return Table("decomposition", title, frame, tuple(notes))


def variance_given_bias_table(tasks: Sequence[TaskPredictions]) -> Table:
    """Tabulate the variances as functions of the squared bias (Figures 5, 9 and 10).

    Parameters
    ----------
    tasks : sequence of TaskPredictions

    Returns
    -------
    Table
        Columns task, split, size, loss, component (``pretrain_variance``, ``finetune_variance``),
        bias2, mean, low, high: Gaussian process with its pointwise 95% credible band.
    """
    rows: list[tuple[object, ...]] = []
    notes = []
    for task in tasks:
        without = [size for size in task.sizes if (size, "zero_one") not in task.binned]
        if without:
            notes.append(
                f"{task.task}: variance given bias needs two complete pretraining seeds and two "
                f"finetuning seeds, so there is none of {', '.join(without)}"
            )
        short = []
        for position, split in enumerate(task.splits):
            for size in task.sizes:
                for loss in ("zero_one", "squared"):
                    binned = task.binned.get((size, loss))
                    if binned is None:
                        continue
                    for level, component in enumerate(("pretrain_variance", "finetune_variance")):
                        names = (task.task, split, size, loss, component)
                        curve = variance_curve(binned.of_group(position), level)
                        if curve is None:
                            short.append(split)
                            continue
                        points = (curve.bias2, curve.mean, curve.low, curve.high)
                        rows += [
                            (*names, *point)
                            for point in zip(*(of.tolist() for of in points), strict=True)
                        ]
        if short:
            notes.append(
                f"{task.task}, {', '.join(dict.fromkeys(short))}: too few instances of "
                "intermediate bias for some curves of variance given bias"
            )
    columns = ["task", "split", "size", "loss", "component", "bias2", "mean", "low", "high"]
    title = (
        "Variance from pretraining and finetuning seeds given the squared bias of an instance, "
        "with 95% credible band, at the last checkpoint."
    )
    frame = pd.DataFrame(rows, columns=columns)
    return Table("variance_given_bias", title, frame, tuple(notes))


def relative_bias_table(
    tasks: Sequence[TaskPredictions],
    comparisons: Sequence[Comparisons],
    samples: int,
    seed: int,
    workers: Workers | None = None,
) -> Table:
    """Tabulate the upward bias of the adaptive threshold (Appendix E, Table 10).

    Parameters
    ----------
    tasks : sequence of TaskPredictions
    comparisons : sequence of Comparisons
        One for each of `tasks`; they say which pairs have too few seeds.
    samples : int
        Bootstrap samples of the pretraining seeds; with fewer than two the cells are empty.
    seed : int
        Seed of the samples.
    workers : Workers, optional
        Processes that share out the instances.

    Returns
    -------
    Table
        Columns task, split, s1, s2, relative_bias: of the bound on the instances that improve from
        s1 to s2 in single runs, every ordered pair.
    """
    rows = []
    notes = list(_comparison_notes(comparisons))
    for task in tasks:
        nothing_left = []
        for position, split in enumerate(task.splits):
            gaps = {}
            if samples > 1:
                counts = task.runs.at(task.instances_of(position))
                gaps = bootstrap_gaps(counts, samples, seed, workers)
            for s1, s2 in permutations(range(len(task.sizes)), 2):
                bias = NAN
                if (s1, s2) in gaps:
                    bias = adaptive_threshold(gaps[s1, s2]).relative_bias
                    if np.isnan(bias):
                        nothing_left.append(split)
                rows.append((task.task, split, task.sizes[s1], task.sizes[s2], bias))
        if nothing_left:
            where = ", ".join(dict.fromkeys(nothing_left))
            notes.append(
                f"{task.task}, {where}: for some pairs of sizes no bound is left at the threshold "
                "of another bootstrap sample, so its relative bias is empty"
            )
    if samples < 2:
        notes.append("relative bias is empty, as it needs at least two --bias-replicates")
    title = (
        "Upward bias of the bound on improving instances from choosing its threshold on the same "
        "predictions, relative to the bound."
    )
    frame = pd.DataFrame(rows, columns=["task", "split", "s1", "s2", "relative_bias"])
    return Table("relative_bias", title, frame, tuple(notes))


def baseline_vs_bh_table(
    tasks: Sequence[TaskPredictions], comparisons: Sequence[Comparisons]
) -> Table:
    """Tabulate the bound beside that of Fisher's test with Benjamini-Hochberg (Tables 4, 11).

    Parameters
    ----------
    tasks : sequence of TaskPredictions
    comparisons : sequence of Comparisons
        One for each of `tasks`; they say which pairs have too few seeds.

    Returns
    -------
    Table
        Columns task, split, s1, s2, pretraining_seeds, method (``baseline``, ``bh``), lower_bound:
        the fraction of instances that decay from s1 to s2, s1 smaller, in ensembles of the first
        2, 4, ... pretraining seeds in order.
    """
    rows = []
    notes = list(_comparison_notes(comparisons))
    for task in tasks:
        if task.ensembles is None:
            notes.append(f"{task.task}: the store has no ensembles, so the bounds are empty")
        for position, split in enumerate(task.splits):
            counts = None
            joint: dict[tuple[int, int, int], NDArray[np.int64]] = {}
            if task.ensembles is not None:
                counts = task.ensembles.at(task.instances_of(position))
                joint = _joint_correct_models(counts)
            for first, second in combinations(range(len(task.sizes)), 2):
                most = counts.common_even_seeds(first, second) if counts is not None else 0
                for seeds in range(2, max(most, 2) + 1, 2):
                    bounds = (NAN, NAN)
                    if counts is not None and seeds <= most:
                        of_both = joint[first, second, seeds]
                        curves, by_test = (
                            ensemble_curves(of_both),
                            discovery_bound(of_both),
                        )
                        bounds = (decay_bound(curves).bound, by_test.bound)
                    pair = (task.sizes[first], task.sizes[second])
                    for method, bound in zip(("baseline", "bh"), bounds, strict=True):
                        rows.append((task.task, split, *pair, seeds, method, bound))
    columns = ["task", "split", "s1", "s2", "pretraining_seeds", "method", "lower_bound"]
    title = (
        "Lower bound on the fraction of instances that decay from s1 to s2, in ensembles over "
        "finetuning seeds: by the random baseline, and by Fisher's exact test with the "
        "Benjamini-Hochberg procedure."
    )
    return Table("baseline_vs_bh", title, pd.DataFrame(rows, columns=columns), tuple(notes))


def _joint_correct_models(counts: Counts) -> dict[tuple[int, int, int], NDArray[np.int64]]:
    """Count instances by the right models of two sizes, among the first 2, 4, ... of each."""
    joint: dict[tuple[int, int, int], NDArray[np.int64]] = {}
    for start in range(0, counts.instances, BLOCK_INSTANCES):
        block = slice(start, start + BLOCK_INSTANCES)
        right = [np.cumsum(correct[block], axis=1, dtype=np.int64) for correct in counts.correct]
        for first, second in combinations(range(len(right)), 2):
            for seeds in range(2, counts.common_even_seeds(first, second) + 1, 2):
                found = joint_correct_models(
                    right[first][:, seeds - 1], right[second][:, seeds - 1], seeds
                )
                key = (first, second, seeds)
                joint[key] = joint[key] + found if key in joint else found
    return joint


def momentum_table(
    tasks: Sequence[TaskPredictions], further: Sequence[tuple[str, str, str]]
) -> Table:
    """Tabulate the correlation of successive instance differences (Tables 6, 12).

    Parameters
    ----------
    tasks : sequence of TaskPredictions
    further : sequence of (str, str, str)
        Triplets of sizes besides those that `triplets` chooses; tasks without one of the sizes
        leave it out.

    Returns
    -------
    Table
        Columns task, split, s1, s2, s3, bucket_upper, instances, pearson_r, spearman_r,
        pearson_r_cross_fitted, spearman_r_cross_fitted, in single runs.
    """
    rows = []
    notes = []
    for task in tasks:
        wanted = [triplet for triplet in further if set(triplet) <= set(task.sizes)]
        chosen = tuple(dict.fromkeys([*triplets(task.sizes), *wanted]))
        if not chosen:
            notes.append(f"{task.task}: fewer than three sizes, so there is no momentum")
        for position, split in enumerate(task.splits):
            counts = task.runs.at(task.instances_of(position))
            for triplet in chosen:
                correct = [counts.correct[task.sizes.index(size)] for size in triplet]
                cells: list[tuple[object, ...]] = [(0, NAN, NAN, NAN, NAN)] * BUCKETS
                if all(side.shape[1] for side in correct):
                    found = momentum(correct, counts.runs)
                    fitted = cross_fitted_momentum(correct, counts.runs)
                    columns = (
                        found.instances,
                        found.pearson,
                        found.spearman,
                        fitted.pearson,
                        fitted.spearman,
                    )
                    cells = list(zip(*(column.tolist() for column in columns), strict=True))
                for bucket, cell in enumerate(cells):
                    upper = (bucket + 1) / BUCKETS
                    rows.append((task.task, split, *triplet, upper, *cell))
    names = ["task", "split", "s1", "s2", "s3", "bucket_upper"]
    names += ["instances", "pearson_r", "spearman_r"]
    names += ["pearson_r_cross_fitted", "spearman_r_cross_fitted"]
    title = (
        "Correlation of the accuracy differences from s1 to s2 and from s2 to s3, among instances "
        "with Acc[s2] in [bucket_upper - 0.1, bucket_upper)."
    )
    return Table("momentum", title, pd.DataFrame(rows, columns=names), tuple(notes))


def label_quality_table(annotations: Sequence[Annotation]) -> Table:
    """Tabulate what annotators think of the labels of decaying instances (Table 5).

    Parameters
    ----------
    annotations : sequence of Annotation

    Returns
    -------
    Table
        Columns task, split, group (``decaying``, ``control``), category (``correct``, ``fine``,
        ``wrong``, ``unsure``), count, fraction of the annotated instances of the group, annotator.
    """
    rows = []
    for read in annotations:
        counts = count_categories(read.groups, read.categories)
        for group, of_group in zip(GROUPS.values(), counts.tolist(), strict=True):
            total = sum(of_group)
            for category, count in zip(CATEGORIES.values(), of_group, strict=True):
                fraction = count / total if total else NAN
                place = (read.task, read.split, group, category)
                rows.append((*place, count, fraction, read.annotator))
    columns = ["task", "split", "group", "category", "count", "fraction", "annotator"]
    title = "Annotated quality of the labels of decaying instances and of a random control group."
    return Table("label_quality", title, pd.DataFrame(rows, columns=columns))


def reference_accuracy_table(accuracy: Table, references: Sequence[TaskPredictions]) -> Table:
    """Tabulate the accuracy beside that of reference models (Table 8).

    Parameters
    ----------
    accuracy : Table
        From `accuracy_table`, with or without intervals.
    references : sequence of TaskPredictions
        Of the reference models, with the same names of tasks, splits and sizes.

    Returns
    -------
    Table
        Columns as `reference_accuracy.join_reference_accuracy` has them.
    """
    theirs = accuracy_table(references).frame.merge(
        seed_differences_table(references).frame[["task", "split", "size", "std_accuracy"]],
        on=["task", "split", "size"],
    )
    frame, notes = join_reference_accuracy(accuracy.frame, theirs)
    title = (
        "Mean accuracy of these models and of reference models; an interval of the difference "
        "takes that of the reference models as given."
    )
    return Table("reference_accuracy", title, frame, notes)


def published_comparison_table(tables: Sequence[Table]) -> Table:
    """Tabulate the published numbers beside ours.

    Parameters
    ----------
    tables : sequence of Table
        The other tables.

    Returns
    -------
    Table
        Columns task, split, table, row, column, published, ours, difference, within_rounding,
        printed (``rounded`` or ``truncated``).
    """
    frames = {table.name: table.frame for table in tables}
    frame = compare_published(frames)
    notes: tuple[str, ...] = ()
    if "accuracy" in frames:
        ours = frames["accuracy"]
        other = ours[ours["task"].isin(frame["task"]) & (ours["runs"] != PAPER_RUNS)]
        notes = tuple(
            f"{task}: not {PAPER_RUNS} runs of every size, as the paper has, on which differences "
            "between seeds, variances and bounds depend"
            for task in other["task"].unique()
        )
    if frame.empty:
        notes = ("no published number is about these tasks, splits and sizes, so none is compared",)
    title = "Numbers published with the paper, beside the same numbers from these predictions."
    return Table("published_comparison", title, frame, notes)


PAPER_RUNS = 50
"""Runs of each size of the paper: 10 pretraining seeds, 5 finetuning seeds of each."""


@dataclass(frozen=True)
class Choices:
    """What an analysis computes beyond its predictions.

    Attributes
    ----------
    triplets : tuple of (str, str, str)
        Further triplets of sizes for the momentum.
    bias_replicates : int
        Bootstrap samples for the bias of the adaptive threshold.
    seed : int
        Seed of all resampling.
    annotations : tuple of Annotation
        Annotated instances; without any there is no table of label quality.
    references : tuple of TaskPredictions
        Predictions of reference models; without any there is no table of their accuracy.
    """

    triplets: tuple[tuple[str, str, str], ...] = ()
    bias_replicates: int = 100
    seed: int = 0
    annotations: tuple[Annotation, ...] = ()
    references: tuple[TaskPredictions, ...] = ()


def all_tables(
    tasks: Sequence[TaskPredictions],
    comparisons: Sequence[Comparisons],
    choices: Choices,
    workers: Workers | None = None,
) -> tuple[Table, ...]:
    """Compute every table, in the order of the report.

    Parameters
    ----------
    tasks : sequence of TaskPredictions
        May be empty: then only what needs no predictions is there.
    comparisons : sequence of Comparisons
        One for each of `tasks`.
    choices : Choices
    workers : Workers, optional
        Processes that share out the longest step.

    Returns
    -------
    tuple of Table
    """
    tables: list[Table] = []
    if tasks:
        tables += [
            accuracy_table(tasks),
            seed_differences_table(tasks),
            lower_bounds_table(comparisons),
            thresholds_table(comparisons),
            relative_bias_table(tasks, comparisons, choices.bias_replicates, choices.seed, workers),
            baseline_vs_bh_table(tasks, comparisons),
            momentum_table(tasks, choices.triplets),
            decomposition_table(tasks),
            variance_given_bias_table(tasks),
        ]
    if choices.references:
        tables.append(reference_accuracy_table(tables[0], choices.references))
    if choices.annotations:
        tables.append(label_quality_table(choices.annotations))
    tables.append(published_comparison_table(tables))
    return tuple(tables)


def _few_seeds(tasks: Sequence[TaskPredictions]) -> tuple[str, ...]:
    """Say why what is estimated from differences between seeds is empty."""
    notes = []
    for task in tasks:
        few = [
            size for size, seeds in zip(task.sizes, task.runs.seeds, strict=True) if len(seeds) < 2
        ]
        if few:
            notes.append(
                f"{task.task}: fewer than two complete pretraining seeds of {', '.join(few)}, so "
                "differences and variance between pretraining seeds, and bias, are empty"
            )
        if task.runs.runs < 2:
            notes.append(
                f"{task.task}: one finetuning seed only, so differences and variance between "
                "finetuning seeds, and what is corrected by it, are empty"
            )
    return tuple(notes)


def _comparison_notes(comparisons: Sequence[Comparisons]) -> tuple[str, ...]:
    return tuple(note for task in comparisons for note in task.notes)
