"""The analysis command: read stores, write tables, figures and a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from analysis.bootstrap.draws import Bootstrap
from analysis.figures.catalogue import RenderedFigure, all_figures
from analysis.predictions.annotations import (
    CATEGORIES,
    GROUPS,
    Annotation,
    annotations_digest,
    count_categories,
    read_annotations,
)
from analysis.predictions.comparisons import Comparisons, compare_sizes
from analysis.predictions.reading import TaskPredictions, read_task
from analysis.report.folder import FIGURES, REPORT, TABLES, AnalysisFolder, identity
from analysis.report.html import render_report
from analysis.statistics.decay import decay_bound
from analysis.tables.printing import to_latex, to_markdown
from analysis.tables.table import Table
from analysis.tables.tables import Choices, all_tables, reference_accuracy_table
from analysis.tables.uncertainty import add_uncertainty
from configs.errors import InputError
from configs.processes import Workers
from predict.tensor.contract import instances_path
from predict.tensor.opening import open_store

MOST_PROCESSES = 8


@click.command()
@click.argument("stores", nargs=-1, metavar="FILE.zarr...", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for tables and figures.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Experiment whose predictions to read, in place of FILE.zarr; the report goes to its "
    "output folder unless --out is given.",
)
@click.option("--split", "splits", multiple=True, help="Evaluation split to keep; repeatable.")
@click.option(
    "--one-split-baseline",
    "split_seed",
    type=click.IntRange(min=0),
    metavar="SEED",
    help="Take the baseline from one split of the pretraining seeds, drawn with SEED, instead of "
    "averaging over all splits.",
)
@click.option(
    "--triplet",
    "triplets",
    multiple=True,
    metavar="S1,S2,S3",
    help="Three sizes whose momentum to compute besides the usual ones; repeatable.",
)
@click.option(
    "--annotations",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of annotated decaying instances, for the table of label quality; needs no store.",
)
@click.option(
    "--references",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Predictions of reference models, whose accuracy to set beside these: a prediction "
    "store, or an experiment such as configs/references.yaml; repeatable.",
)
@click.option(
    "--bias-replicates",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Bootstrap samples for the bias of the adaptive threshold; 0 to leave it out.",
)
@click.option(
    "--bootstrap",
    "replicates",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Replicates of the Multi-Bootstrap for the intervals; 0 leaves their columns out.",
)
@click.option(
    "--resample-instances",
    is_flag=True,
    help="Resample instances too, so that intervals are for other instances of the same kind.",
)
@click.option(
    "--cluster",
    metavar="COLUMN",
    help="Resample whole groups of instances that agree in this column of the texts, for example "
    "text_a.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of all resampling.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Processes that share out the reading, the bias of the adaptive threshold and the "
    "figures, where these take long; the results do not depend on it.  [default: the cores, at "
    f"most {MOST_PROCESSES}]",
)
def analyze(
    stores: tuple[Path, ...],
    out: Path | None,
    config: Path | None,
    splits: tuple[str, ...],
    split_seed: int | None,
    triplets: tuple[str, ...],
    annotations: Path | None,
    references: tuple[Path, ...],
    bias_replicates: int,
    replicates: int,
    resample_instances: bool,
    cluster: str | None,
    seed: int,
    processes: int | None,
) -> None:
    """Compare model sizes instance by instance: tables, figures and a report.

    Reads one or more prediction stores and writes DIR/tables, DIR/figures and DIR/report.html.
    """
    if stores and config is not None:
        raise click.UsageError("give either prediction stores or --config")
    if not stores and config is None and annotations is None:
        raise click.UsageError("give prediction stores, --config or --annotations")
    if references and not stores and config is None:
        raise click.UsageError(
            "--references: give prediction stores or --config to compare them with"
        )
    if config is not None:
        stores, out = _of_experiment(config, out)
    if out is None:
        raise click.UsageError("give the folder to write to as --out")

    annotated = read_annotations(annotations) if annotations is not None else ()
    opened = [(path, open_store(path)) for path in stores]
    of_what = identity(store for _, store in opened)
    if not opened and annotations is not None:
        of_what = [{"annotations": annotations_digest(annotations)}]
    folder = AnalysisFolder(out, of_what)
    clusters = None
    if replicates and (resample_instances or cluster is not None):
        clusters = {
            str(store.attrs["task"]): _clusters(path, store, splits, cluster)
            for path, store in reversed(opened)
        }
    bootstrap = Bootstrap(replicates, seed, clusters)
    with Workers(processes or min(os.cpu_count() or 1, MOST_PROCESSES)) as workers:
        tasks = _read(opened, splits, workers, bootstrap)
        comparisons = [compare_sizes(task, split_seed) for task in tasks]
        choices = Choices(
            triplets=tuple(_triplet(text, tasks) for text in triplets),
            bias_replicates=bias_replicates,
            seed=seed,
            annotations=annotated,
            references=_read_references(references, workers),
        )
        tables = all_tables(tasks, comparisons, choices, workers)
        with tqdm(
            total=sum(len(task.splits) for task in tasks),
            desc="bootstrap",
            unit="split",
            disable=None,
        ) as bar:
            tables = add_uncertainty(tables, tasks, comparisons, bootstrap, bar.update)
        if choices.references:
            # Once more, as the accuracies now have intervals.
            joined = reference_accuracy_table(tables[0], choices.references)
            tables = tuple(joined if table.name == joined.name else table for table in tables)
        notes = list(
            dict.fromkeys(
                [note for task in tasks for note in task.notes]
                + [f"references: {note}" for task in choices.references for note in task.notes]
                + [note for table in tables for note in table.notes]
            )
        )
        for note in notes:
            click.echo(f"note: {note}")
        headlines = [
            line for task in zip(tasks, comparisons, strict=True) for line in _headlines(*task)
        ]
        headlines += _annotation_headlines(annotated)
        for line in headlines:
            click.echo(line)
        figures = list(all_figures(tasks, comparisons, tables, workers))
    _write(folder, tasks, figures, tables, headlines, notes)
    click.echo(f"report: {out / REPORT}")


def _of_experiment(config: Path, out: Path | None) -> tuple[tuple[Path, ...], Path]:
    # Only this option needs the schema of experiments.
    from configs.loading import load_experiment
    from configs.paths import report_folder, store_path

    experiment = load_experiment(config)
    stores = tuple(store_path(experiment.output, task.name) for task in experiment.tasks)
    for store in stores:
        if not store.exists():
            raise InputError(
                f"{config}: not predicted yet, as {store} is missing; run python -m pretrain, "
                "python -m finetune and python -m predict run on it first"
            )
    return stores, out if out is not None else report_folder(experiment.output)


def _read_references(paths: Sequence[Path], workers: Workers) -> tuple[TaskPredictions, ...]:
    """Read prediction stores, or those of experiments, of reference models."""
    stores: list[Path] = []
    for path in paths:
        stores += _of_experiment(path, None)[0] if path.suffix in (".yaml", ".yml") else [path]
    opened = [(path, open_store(path)) for path in stores]
    return tuple(_read(opened, (), workers, whose="references, "))


def _read(
    opened: Sequence[tuple[Path, xr.Dataset]],
    splits: Sequence[str],
    workers: Workers,
    bootstrap: Bootstrap | None = None,
    whose: str = "",
) -> list[TaskPredictions]:
    by_task: dict[str, list[tuple[Path, xr.Dataset]]] = {}
    for path, store in opened:
        by_task.setdefault(str(store.attrs["task"]), []).append((path, store))
    tasks = []
    for name, stores in by_task.items():
        total = sum(store.sizes["instance"] * store.sizes["size"] for _, store in stores)
        # Without a terminal the bar would only fill log files.
        with tqdm(
            total=total, desc=f"reading {name}", unit=" instances", unit_scale=True, disable=None
        ) as bar:
            task = read_task(stores, splits, bar.update, bootstrap, workers)
        tasks.append(task)
        seeds = [len(seeds) for seeds in task.runs.seeds]
        click.echo(
            f"{whose}{name}: {task.runs.instances} instances in "
            f"{_number(len(task.splits), 'split')}, {_number(len(task.sizes), 'size')}, "
            f"{_range(seeds)} pretraining x "
            f"{task.runs.runs} finetuning seeds, {_number(len(task.epochs), 'checkpoint')}"
        )
    return tasks


def _clusters(
    path: Path, store: xr.Dataset, splits: Sequence[str], column: str | None
) -> NDArray[np.int64]:
    """Assign the kept instances to groups that agree in a column of the texts."""
    kept = np.arange(store.sizes["instance"])
    if splits:
        kept = np.flatnonzero(np.isin(store["split"].values.astype(object), list(splits)))
    if column is None:
        return np.arange(len(kept))
    texts = instances_path(path)
    try:
        names = pq.read_schema(texts).names
        if column not in names:
            raise InputError(f"{texts}: no column {column}; it has {', '.join(names)}")
        values = pq.read_table(texts, columns=["guid", column]).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{texts}: cannot be read ({type(error).__name__}); put the texts beside the store"
        ) from error
    if not np.array_equal(values["guid"].astype(object), store["guid"].values.astype(object)):
        raise InputError(f"{texts}: other instances than {path}; write the store again")
    codes, _ = pd.factorize(values[column].iloc[kept], use_na_sentinel=False)
    return codes.astype(np.int64)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _headlines(task: TaskPredictions, compared: Comparisons) -> list[str]:
    """State the accuracy and, smallest against largest size, the bounds, for each split."""
    lines = []
    for position, split in enumerate(task.splits):
        counts = task.runs.at(task.instances_of(position))
        accuracies = [
            f"{size} {np.sum(correct, dtype=np.int64) / (correct.size * counts.runs):.4f}"
            for size, correct in zip(counts.sizes, counts.correct, strict=True)
            if correct.size
        ]
        where = f"{task.task}, {split}"
        if accuracies:
            lines.append(f"{where}: accuracy {', '.join(accuracies)}")
        bounds = []
        for predictions in ("runs", "ensembles"):
            pair = compared.extremes(split, predictions)
            if pair is not None and pair.curves is not None:
                where_to = f"from {pair.s1} to {pair.s2}"
                decay = decay_bound(pair.curves).bound
                improvement = decay_bound(pair.curves.exchanged()).bound
                bounds.append(f"{decay:.2%} decay and {improvement:.2%} improve ({predictions})")
        if bounds:
            lines.append(f"{where}: {where_to} at least {', '.join(bounds)}")
    return lines


def _triplet(text: str, tasks: Sequence[TaskPredictions]) -> tuple[str, str, str]:
    """Parse one --triplet; some task must have its sizes."""
    sizes = tuple(name.strip() for name in text.split(","))
    if len(sizes) != 3 or len(set(sizes)) < 3:
        raise InputError(f"--triplet {text}: give three different sizes, separated by commas")
    if not any(set(sizes) <= set(task.sizes) for task in tasks):
        there = "; ".join(f"{task.task} has {', '.join(task.sizes)}" for task in tasks)
        raise InputError(f"--triplet {text}: no task has these sizes; {there or 'give a store'}")
    return sizes[0], sizes[1], sizes[2]


def _annotation_headlines(annotated: Sequence[Annotation]) -> list[str]:
    """State how many labels of the annotated instances each annotator finds wrong."""
    lines = []
    for read in annotated:
        counts = count_categories(read.groups, read.categories)
        wrong = list(CATEGORIES.values()).index("wrong")
        found = [
            f"{of_group[wrong]} of {of_group.sum()} {group}"
            for group, of_group in zip(GROUPS.values(), counts, strict=True)
            if of_group.sum()
        ]
        lines.append(
            f"{read.task}, {read.split}: {' and '.join(found)} instances have a wrong label "
            f"(annotator {read.annotator})"
        )
    return lines


def _write(
    folder: AnalysisFolder,
    tasks: Sequence[TaskPredictions],
    figures: Sequence[RenderedFigure],
    tables: Sequence[Table],
    headlines: Sequence[str],
    notes: Sequence[str],
) -> None:
    files: dict[str, bytes] = {}
    for table in tables:
        # Pandas writes the shortest text that reads back as the same number; NaN as nothing.
        csv = table.frame.to_csv(index=False, lineterminator="\n")
        files[f"{TABLES}/{table.name}.csv"] = csv.encode()
        files[f"{TABLES}/{table.name}.md"] = to_markdown(table).encode()
        files[f"{TABLES}/{table.name}.tex"] = to_latex(table).encode()
    for figure in figures:
        files[f"{FIGURES}/{figure.name}.png"] = figure.png
        files[f"{FIGURES}/{figure.name}.pdf"] = figure.pdf
    names = [task.task for task in tasks]
    for table in tables:
        names += [str(task) for task in table.frame["task"].unique()]
    report = render_report(list(dict.fromkeys(names)), headlines, notes, tables, figures)
    files[REPORT] = report.encode()
    folder.begin(list(files))
    for name, content in files.items():
        folder.write(name, content)
    folder.end()
