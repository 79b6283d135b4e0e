"""Hyper-parameter search: the best batch size and learning rate of a task and size.

Source: Appendix A: the training set is split 80/20, and the combination with the best
average accuracy on the 20% is used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from configs.atomic import write_text
from configs.errors import InputError
from configs.paths import search_table, trial_file
from configs.reading import read_json_object
from configs.schema import Experiment, Task
from finetune.preparation import INPUTS
from finetune.runs import FinetuningRun, Hyperparameters, searched_rows, total_steps
from finetune.tasks import TaskSize
from finetune.training import FinetuningSession, finetune
from pretrain.encoders import largest_first, pretrained_seeds
from pretrain.engine.divergence import Diverged
from pretrain.engine.seeding import derive_seed, generator
from pretrain.jobs.sharing import Advance, share_out

logger = logging.getLogger(__name__)

_RESULT = ("size", "pretrain_seed", "batch_size", "learning_rate", "accuracy", "diverged")
_ADVICE = "remove it, and run python -m finetune"


@dataclass(frozen=True)
class Trial:
    """One run of the search, and the file of its result."""

    run: FinetuningRun
    result: Path


def chosen_hyperparameters(
    experiment: Experiment, sizes: Mapping[str, TaskSize], workers: int | None
) -> dict[str, dict[str, Hyperparameters]]:
    """Choose the hyper-parameters of each task and size: as configured, or by the search.

    The table of the search, a row for each size and combination, is written to
    `finetune/TASK/search.csv` and logged when the search is done.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment; its tasks are prepared.
    sizes : mapping of str to TaskSize
        The tasks to search for, and their numbers of instances.
    workers : int or None
        Processes that share the trials of all tasks; None for as many as the devices allow.

    Returns
    -------
    dict of str to dict of str to Hyperparameters
        By task and size.
    """
    search = experiment.finetuning.search
    if search is None:
        return {task: _fixed_hyperparameters(experiment) for task in sizes}
    encoders = {size.name: pretrained_seeds(experiment, size.name) for size in experiment.sizes}
    trials = {task: search_trials(experiment, experiment.task(task), encoders) for task in sizes}
    missing = {
        task: [trial for trial in all_trials if not is_tried(experiment, trial)]
        for task, all_trials in trials.items()
    }
    share_out(
        run_trial,
        FinetuningSession,
        experiment,
        [trial for untried in missing.values() for trial in untried],
        is_done=is_tried,
        claim=lambda trial: f"search/{trial.run.task}/{trial.result.parent.name}",
        steps=lambda trial: total_steps(
            searched_rows(search, sizes[trial.run.task].train[0]),
            trial.run.hyperparameters.batch_size,
            experiment.finetuning.epochs,
        ),
        workers=workers,
        label="search",
    )
    chosen = {}
    for task, all_trials in trials.items():
        table = choose(pd.DataFrame([_read_result(trial.result) for trial in all_trials]))
        write_text(search_table(experiment.output, task), table.to_csv(index=False))
        if missing[task]:
            logger.info("%s: %s", task, show(table, search.held_out))
        best = table[table["chosen"]]
        for size in best.loc[best["diverged"] == best["pretraining_seeds"], "size"]:
            logger.info(
                "%s: %s diverges with every combination; give smaller "
                "finetuning.search.learning_rates in another output folder",
                task,
                size,
            )
        chosen[task] = _hyperparameters(best)
    return chosen


def _read_result(path: Path) -> dict[str, Any]:
    result = read_json_object(path, _ADVICE)
    try:
        return {name: result[name] for name in _RESULT}
    except KeyError as error:
        raise InputError(f"{path}: has no {error}; {_ADVICE}") from error


def _fixed_hyperparameters(experiment: Experiment) -> dict[str, Hyperparameters]:
    settings = experiment.finetuning
    assert settings.batch_size is not None and settings.learning_rate is not None
    fixed = Hyperparameters(settings.batch_size, settings.learning_rate)
    return {size.name: fixed for size in experiment.sizes}


def _hyperparameters(chosen: pd.DataFrame) -> dict[str, Hyperparameters]:
    return {
        str(row["size"]): Hyperparameters(int(row["batch_size"]), float(row["learning_rate"]))
        for _, row in chosen.iterrows()
    }


def known_hyperparameters(experiment: Experiment, task: Task) -> dict[str, Hyperparameters] | None:
    """Return each size's hyper-parameters, or None if the search is not done yet."""
    if experiment.finetuning.search is None:
        return _fixed_hyperparameters(experiment)
    kept = search_table(experiment.output, task.name)
    if not kept.is_file():
        return None
    try:
        table = pd.read_csv(kept)
        return _hyperparameters(table[table["chosen"]])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{kept}: cannot be read; {_ADVICE}") from error


def search_trials(
    experiment: Experiment, task: Task, encoders: Mapping[str, Sequence[int]]
) -> list[Trial]:
    """List the runs of a task's search: every combination, for the first encoders of each size.

    Parameters
    ----------
    experiment : Experiment
        Its `finetuning` has a search.
    task : Task
        The task to search for.
    encoders : mapping of str to sequence of int
        The pretraining seeds of each size; the search takes the first of them.

    Returns
    -------
    list of Trial
        Trials of large sizes first.
    """
    search = experiment.finetuning.search
    assert search is not None
    return [
        Trial(
            # Finetuning seed 0 is that of the search: the seeds of the stage's runs begin at 1.
            FinetuningRun(task.name, size.name, seed, 0, 0, Hyperparameters(batch, rate)),
            trial_file(experiment.output, task.name, size.name, seed, batch, rate),
        )
        for size in largest_first(experiment.sizes)
        for seed in encoders[size.name][: search.pretraining_seeds]
        for batch in search.batch_sizes
        for rate in search.learning_rates
    ]


def choose(results: pd.DataFrame) -> pd.DataFrame:
    """Average the accuracies over pretraining seeds, and choose the best combination of a size.

    Parameters
    ----------
    results : pandas.DataFrame
        Columns size, pretrain_seed, batch_size, learning_rate, accuracy and diverged; a row for
        each trial. A trial that diverged has accuracy 0.

    Returns
    -------
    pandas.DataFrame
        Columns size, batch_size, learning_rate, accuracy (the average), pretraining_seeds and
        diverged (how many), chosen. Of equally good combinations the first is chosen.
    """
    table = (
        results.groupby(["size", "batch_size", "learning_rate"], sort=False)
        .agg(
            accuracy=("accuracy", "mean"),
            pretraining_seeds=("accuracy", "count"),
            diverged=("diverged", "sum"),
        )
        .reset_index()
    )
    table["chosen"] = table.index.isin(table.groupby("size")["accuracy"].idxmax())
    return table


def show(table: pd.DataFrame, held_out: float) -> str:
    """Print the table of `choose`, learning rates side by side; `*` marks the chosen combination.

    `held_out` is the share of the training instances on which the accuracies were computed.
    """
    rows = []
    for (size, batch), group in table.groupby(["size", "batch_size"], sort=False):
        cells = {"size": size, "batch size": batch}
        for _, row in group.iterrows():
            cell = f"{row['accuracy']:.4f}{'*' if row['chosen'] else ' '}"
            if row["diverged"]:
                cell = f"{row['diverged']} diverged, {cell}"
            cells[f"rate {row['learning_rate']:g}"] = cell
        rows.append(cells)
    seeds = table["pretraining_seeds"]
    number = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    heading = (
        f"accuracy on the held-out {held_out:.0%} of the training instances, averaged over "
        f"{number} pretraining seed{'' if number == '1' else 's'} (* chosen)"
    )
    # Without disable_numparse, tabulate would reformat the numbers.
    grid = tabulate(rows, headers="keys", disable_numparse=True)
    return f"{heading}\n{grid}"


def is_tried(experiment: Experiment, trial: Trial) -> bool:
    """Whether the result of a trial has been written."""
    return trial.result.is_file()


def run_trial(session: FinetuningSession, trial: Trial, advance: Advance) -> str:
    """Finetune with one combination, and write its accuracy on the held-out instances.

    Every trial of a task holds out the same instances. A run that diverges has accuracy 0.

    Returns
    -------
    str
        A line for the log, with the result.
    """
    experiment, run, hyper = session.experiment, trial.run, trial.run.hyperparameters
    assert experiment.finetuning.search is not None
    prepared = session.prepared(run.task)
    order = generator(derive_seed("search", run.task), 0).permutation(prepared.training_rows(0))
    trained = searched_rows(experiment.finetuning.search, len(order))
    held_out, rows = (np.sort(part) for part in np.split(order, [len(order) - trained]))
    steps = total_steps(len(rows), hyper.batch_size, experiment.finetuning.epochs)
    # Only the accuracy is written, so nothing is done with the weights at the last step.
    keep = {steps: lambda run, weights: None}
    try:
        engine = finetune(session, run, rows, trial.result.parent, keep, advance, {})
    except Diverged:
        accuracy, diverged = 0.0, True
    else:
        diverged = False
        inputs = {name: prepared.train[name][held_out] for name in INPUTS}
        predictor = session.predictor(engine)
        probability = predictor.predict(inputs, experiment.prediction.batch_size)
        gold = prepared.train["label"][held_out]
        accuracy = float(np.mean(probability.argmax(axis=1) == gold))
    values = (run.size, run.pretrain_seed, *astuple(hyper), accuracy, diverged)
    result = dict(zip(_RESULT, values, strict=True))
    write_text(trial.result, json.dumps(result) + "\n")
    return f"finetuned search {run.name}: {result}"
