"""The tables, as data frames in full precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.accuracy import overall_accuracy
from analysis.comparisons import Comparisons
from analysis.decay import decay_bound
from analysis.multisets import multisets
from analysis.reading import TaskPredictions
from analysis.seed_differences import seed_differences, std_accuracy
from analysis.variance import decompose_counts

NAN = float("nan")


@dataclass(frozen=True)
class Table:
    """One table of the analysis.

    Attributes
    ----------
    name : str
        Name of its files.
    title : str
        What it holds, in one sentence.
    frame : pandas.DataFrame
        ``task`` and ``split`` first; fractions, not percent. NaN where a quantity needs more
        seeds or sizes than there are.
    notes : tuple of str
        One line for each reason why cells are empty or predictions left out.
    """

    name: str
    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


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


def all_tables(
    tasks: Sequence[TaskPredictions], comparisons: Sequence[Comparisons]
) -> tuple[Table, ...]:
    """Compute every table, in the order of the report.

    Parameters
    ----------
    tasks : sequence of TaskPredictions
    comparisons : sequence of Comparisons
        One for each of `tasks`.

    Returns
    -------
    tuple of Table
    """
    return (
        accuracy_table(tasks),
        seed_differences_table(tasks),
        lower_bounds_table(comparisons),
        thresholds_table(comparisons),
        decomposition_table(tasks),
    )


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
