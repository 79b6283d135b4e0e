"""Hyper-parameter search: the best batch size and learning rate of a task and size.

Source: Appendix A: the training set is split 80/20, and the combination with the best
average accuracy on the 20% is used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from configs.atomic import write_text
from configs.paths import search_table
from configs.schema import Experiment, Search, Task
from finetune.inference import predict_probabilities
from finetune.preparation import INPUTS, prepared_for
from finetune.training import FinetuningRun, Hyperparameters, finetune, total_steps
from pretrain.engine.divergence import Diverged
from pretrain.engine.seeding import derive_seed, generator
from pretrain.jobs.sharing import Advance, share_out
from pretrain.stage import largest_first, pretrained_seeds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One run of the search and where its result goes."""

    run: FinetuningRun
    result: Path


def chosen_hyperparameters(
    experiment: Experiment, tasks: Sequence[Task], workers: int
) -> dict[str, dict[str, Hyperparameters]]:
    """Hyper-parameters of each size: as the experiment says, or by the search.

    The search's table, one row a size and combination, is kept in
    `finetune/TASK/search.csv` and shown when the search is done.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment; its tasks are prepared.
    tasks : sequence of Task
        The tasks to search for.
    workers : int
        Processes to share the trials of all tasks out among.

    Returns
    -------
    dict of str to dict of str to Hyperparameters
        By task and size.
    """
    settings = experiment.finetuning
    if settings.search is None:
        return {task.name: _fixed_hyperparameters(experiment) for task in tasks}
    encoders = {size.name: pretrained_seeds(experiment, size.name) for size in experiment.sizes}
    trials = {task.name: search_trials(experiment, task, encoders) for task in tasks}
    missing = {
        task: [trial for trial in of_task if not is_tried(experiment, trial)]
        for task, of_task in trials.items()
    }
    share_out(
        run_trial,
        experiment,
        [trial for of_task in missing.values() for trial in of_task],
        is_done=is_tried,
        claim=lambda trial: f"search/{trial.run.task}/{trial.result.parent.name}",
        steps=lambda trial: _steps(experiment, trial),
        workers=workers,
        label="search",
    )
    chosen = {}
    for task, of_task in trials.items():
        results = [json.loads(trial.result.read_text()) for trial in of_task]
        table = choose(pd.DataFrame(results))
        write_text(search_table(experiment.output, task), table.to_csv(index=False))
        if missing[task]:
            logger.info("%s: %s", task, show(table, settings.search.held_out))
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
    """Hyper-parameters of each size, or None where the search is not done yet."""
    if experiment.finetuning.search is None:
        return _fixed_hyperparameters(experiment)
    kept = search_table(experiment.output, task.name)
    if not kept.is_file():
        return None
    table = pd.read_csv(kept)
    return _hyperparameters(table[table["chosen"]])


def search_trials(
    experiment: Experiment, task: Task, encoders: Mapping[str, Sequence[int]]
) -> list[Trial]:
    """List the runs of a task's search: every combination, for so many encoders of each size.

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
        Those of large sizes first.
    """
    search = experiment.finetuning.search
    assert search is not None
    folder = search_table(experiment.output, task.name).parent / "search"
    return [
        Trial(
            # Finetuning seed 0 is the search's own: the runs that count begin at 1.
            FinetuningRun(task.name, size.name, seed, 0, 0, Hyperparameters(batch, rate)),
            folder / f"{size.name}-p{seed}-batch{batch}-rate{rate:g}" / "result.json",
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
        Columns size, pretrain_seed, batch_size, learning_rate, accuracy and, where some run
        diverged, diverged; one row a trial. A trial that diverged has accuracy 0.

    Returns
    -------
    pandas.DataFrame
        Columns size, batch_size, learning_rate, accuracy (the average), pretraining_seeds and
        diverged (how many), chosen; of equals the first is chosen.
    """
    if "diverged" not in results:
        results = results.assign(diverged=False)
    results = results.assign(diverged=results["diverged"].eq(True))
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
    """Write the table of `choose` as text, learning rates side by side.

    Parameters
    ----------
    table : pandas.DataFrame
        From `choose`.
    held_out : float
        Share of the training instances that the accuracies are of.

    Returns
    -------
    str
        A heading and one line for each size and batch size; `*` marks what is chosen.
    """
    rows = []
    for (size, batch), group in table.groupby(["size", "batch_size"], sort=False):
        cells = {"size": size, "batch size": batch}
        for _, one in group.iterrows():
            cell = f"{one['accuracy']:.4f}{'*' if one['chosen'] else ' '}"
            if one["diverged"]:
                cell = f"{one['diverged']} diverged, {cell}"
            cells[f"rate {one['learning_rate']:g}"] = cell
        rows.append(cells)
    seeds = table["pretraining_seeds"]
    number = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    heading = (
        f"accuracy on the held-out {held_out:.0%} of the training instances, averaged over "
        f"{number} pretraining seed{'' if number == '1' else 's'} (* chosen)"
    )
    # Without disable_numparse tabulate would align and shorten the numbers by itself.
    grid = tabulate(rows, headers="keys", disable_numparse=True)
    return f"{heading}\n{grid}"


def held_out_rows(search: Search, rows: int) -> int:
    """Count the training instances that a search holds out."""
    return max(round(search.held_out * rows), 1)


def is_tried(experiment: Experiment, trial: Trial) -> bool:
    """Whether the result of a trial is there."""
    return trial.result.is_file()


def _parts(experiment: Experiment, trial: Trial) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out: the same for every trial of a task."""
    assert experiment.finetuning.search is not None
    rows = prepared_for(experiment, trial.run.task).training_rows(0)
    rows = generator(derive_seed("search", trial.run.task), 0).permutation(rows)
    held_out = held_out_rows(experiment.finetuning.search, len(rows))
    return np.sort(rows[held_out:]), np.sort(rows[:held_out])


def _steps(experiment: Experiment, trial: Trial) -> int:
    rows, _ = _parts(experiment, trial)
    return total_steps(
        len(rows), trial.run.hyperparameters.batch_size, experiment.finetuning.epochs
    )


def run_trial(experiment: Experiment, trial: Trial, advance: Advance) -> str:
    """Finetune with one combination, and keep its accuracy on the held-out rows.

    A combination with which the run diverges is as good as one that is always wrong.
    """
    rows, held_out = _parts(experiment, trial)
    run, hyper = trial.run, trial.run.hyperparameters
    steps = total_steps(len(rows), hyper.batch_size, experiment.finetuning.epochs)
    train = prepared_for(experiment, run.task).train
    # Only the accuracy is kept, so nothing is done with the weights at the last step.
    keep = {steps: lambda run, weights: None}
    try:
        engine = finetune(experiment, run, rows, trial.result.parent, keep, advance, {})
    except Diverged:
        accuracy, diverged = 0.0, True
    else:
        diverged = False
        inputs = {name: train[name][held_out] for name in INPUTS}
        probability = predict_probabilities(engine.model, inputs, experiment.prediction.batch_size)
        accuracy = float(np.mean(probability.argmax(axis=1) == train["label"][held_out]))
    result = {
        "size": run.size,
        "pretrain_seed": run.pretrain_seed,
        "batch_size": hyper.batch_size,
        "learning_rate": hyper.learning_rate,
        "accuracy": accuracy,
        "diverged": diverged,
    }
    write_text(trial.result, json.dumps(result) + "\n")
    return f"finetuned search {run.name}: {result}"
