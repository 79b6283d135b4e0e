"""Hyper-parameter search: the best batch size and learning rate of a task and size.

Source: Appendix A: the training set is split 80/20, and the combination with the best
average accuracy on the 20% is used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from configs.folder import write_text
from configs.schema import Experiment, Task
from finetune.inference import predict_probabilities
from finetune.preparation import INPUTS, prepared_for
from finetune.training import FinetuningRun, Hyperparameters, finetune, total_steps
from pretrain.divergence import Diverged
from pretrain.seeding import derive_seed, generator
from pretrain.stage import largest_first, pretrained_seeds
from pretrain.workers import Advance, share_out


@dataclass(frozen=True)
class Trial:
    """One run of the search and where its result goes."""

    run: FinetuningRun
    result: Path


def chosen_hyperparameters(
    experiment: Experiment, task: Task, workers: int
) -> dict[str, Hyperparameters]:
    """Hyper-parameters of each size: as the experiment says, or by the search.

    The search's table, one row a size and combination, is kept in
    `finetune/TASK/search.csv`.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment; its tasks are prepared.
    task : Task
        The task to search for.
    workers : int
        Processes to share the trials out among.

    Returns
    -------
    dict of str to Hyperparameters
        By size.
    """
    settings = experiment.finetuning
    if settings.search is None:
        assert settings.batch_size is not None and settings.learning_rate is not None
        fixed = Hyperparameters(settings.batch_size, settings.learning_rate)
        return {size.name: fixed for size in experiment.sizes}
    folder = experiment.output / "finetune" / task.name
    trials = [
        Trial(
            # Finetuning seed 0 is the search's own: the runs that count begin at 1.
            FinetuningRun(task.name, size.name, seed, 0, 0, Hyperparameters(batch, rate)),
            folder / "search" / f"{size.name}-p{seed}-batch{batch}-rate{rate:g}" / "result.json",
        )
        for size in largest_first(experiment.sizes)
        for seed in pretrained_seeds(experiment, size.name)[: settings.search.pretraining_seeds]
        for batch in settings.search.batch_sizes
        for rate in settings.search.learning_rates
    ]
    missing = [trial for trial in trials if not trial.result.is_file()]
    share_out(
        run_trial,
        experiment,
        missing,
        steps=sum(_steps(experiment, trial) for trial in missing),
        workers=workers,
        label=f"search on {task.name}",
    )
    table = pd.DataFrame([json.loads(trial.result.read_text()) for trial in trials])
    mean = (
        table.groupby(["size", "batch_size", "learning_rate"], sort=False)["accuracy"]
        .agg(["mean", "count"])
        .rename(columns={"mean": "accuracy", "count": "pretraining_seeds"})
        .reset_index()
    )
    best = mean.loc[mean.groupby("size")["accuracy"].idxmax()]
    mean["chosen"] = mean.index.isin(best.index)
    write_text(folder / "search.csv", mean.to_csv(index=False))
    return {
        str(row["size"]): Hyperparameters(int(row["batch_size"]), float(row["learning_rate"]))
        for _, row in best.iterrows()
    }


def _parts(experiment: Experiment, trial: Trial) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows held out: the same for every trial of a task."""
    assert experiment.finetuning.search is not None
    rows = prepared_for(experiment, trial.run.task).training_rows(0)
    rows = generator(derive_seed("search", trial.run.task), 0).permutation(rows)
    held_out = max(round(experiment.finetuning.search.held_out * len(rows)), 1)
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
        accuracy = 0.0
    else:
        inputs = {name: train[name][held_out] for name in INPUTS}
        probability = predict_probabilities(engine.model, inputs, experiment.prediction.batch_size)
        accuracy = float(np.mean(probability.argmax(axis=1) == train["label"][held_out]))
    result = {
        "size": run.size,
        "pretrain_seed": run.pretrain_seed,
        "batch_size": hyper.batch_size,
        "learning_rate": hyper.learning_rate,
        "accuracy": accuracy,
    }
    write_text(trial.result, json.dumps(result) + "\n")
    return f"finetuned search {run.name}: {result}"
