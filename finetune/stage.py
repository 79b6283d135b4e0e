"""The finetuning stage: classifiers of every encoder and finetuning seed, for every task."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from configs.errors import InputError
from configs.folder import prepare_folder
from configs.schema import Experiment, Task
from finetune.classifier import build_classifier, classification_loss
from finetune.encoding import encode_instances
from finetune.order import EpochOrder
from finetune.tasks import load_task
from pretrain.checkpoint import Arrays, read_arrays, write_arrays
from pretrain.engine import Batch, Engine, Run, run_seeds
from pretrain.optimizer import BertAdam
from pretrain.stage import (
    encoder_file,
    largest_first,
    open_recorder,
    remove_leftovers,
    vocabulary_file,
)
from pretrain.wordpiece import build_tokenizer, read_vocabulary
from pretrain.workers import Advance, share_out

logger = logging.getLogger(__name__)

INPUTS = ("token_ids", "segment_ids", "padding_mask")


@dataclass(frozen=True)
class Hyperparameters:
    """What the search chooses for a task and a size."""

    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class FinetuningRun:
    """One classifier to finetune.

    Attributes
    ----------
    task, size : str
        Names.
    pretrain_seed, finetune_seed, fold : int
        Which encoder, which seed, which fold (0 where there are none).
    hyperparameters : Hyperparameters
        Batch size and learning rate.
    """

    task: str
    size: str
    pretrain_seed: int
    finetune_seed: int
    fold: int
    hyperparameters: Hyperparameters

    @property
    def name(self) -> str:
        """What the run is called in progress and errors."""
        fold = f"/fold{self.fold}" if self.fold else ""
        return f"{self.task}/{self.size}/p{self.pretrain_seed}f{self.finetune_seed}{fold}"


def classifier_folder(
    output: Path, task: str, size: str, pretrain_seed: int, finetune_seed: int, fold: int
) -> Path:
    """Folder of one finetuning run."""
    return output / "finetune" / task / size / f"p{pretrain_seed}f{finetune_seed}" / f"fold{fold}"


def classifier_file(folder: Path, epoch: float) -> Path:
    """Weights of a classifier after so many epochs."""
    return folder / f"epoch-{epoch:.4f}.safetensors"


def prepared_folder(output: Path, task: str) -> Path:
    """Where a task's tokenized instances are kept."""
    return output / "tasks" / task


def task_named(experiment: Experiment, name: str) -> Task:
    """Look a task up by its name."""
    return next(task for task in experiment.tasks if task.name == name)


def finetune_experiment(experiment: Experiment, workers: int) -> None:
    """Do whatever of the finetuning stage is missing.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment; its encoders are pretrained.
    workers : int
        Processes to share the runs out among.

    Raises
    ------
    InputError
        If an encoder is missing, or a task's instances cannot be used.
    """
    output = prepare_folder(experiment)
    absent = [
        f"{size.name}/p{seed}"
        for size in experiment.sizes
        for seed in experiment.pretrain_seeds
        if not encoder_file(output, size.name, seed).is_file()
    ]
    if absent:
        raise InputError(
            f"{output}: {len(absent)} encoders are not pretrained yet ({absent[0]} first); "
            "run python -m pretrain"
        )
    for task in experiment.tasks:
        prepare_task(experiment, task)
    from finetune.search import chosen_hyperparameters

    chosen = {
        task.name: chosen_hyperparameters(experiment, task, workers) for task in experiment.tasks
    }
    runs = [
        FinetuningRun(task.name, size.name, pretrain_seed, seed, fold, chosen[task.name][size.name])
        for task in experiment.tasks
        for size in largest_first(experiment.sizes)
        for pretrain_seed in experiment.pretrain_seeds
        for seed in experiment.finetune_seeds
        for fold in range(task.folds or 1)
    ]
    missing = [run for run in runs if not is_finetuned(experiment, run)]
    logger.info("finetuning: %d of %d runs to do", len(missing), len(runs))
    share_out(
        finetune_run,
        experiment,
        missing,
        steps=sum(steps_of(experiment, run) for run in missing),
        workers=workers,
        label="finetuning",
    )


def is_finetuned(experiment: Experiment, run: FinetuningRun) -> bool:
    """Whether the classifiers of every checkpoint epoch of a run are there."""
    folder = folder_of(experiment, run)
    return all(
        classifier_file(folder, epoch).is_file() for epoch in experiment.finetuning.checkpoints
    )


def folder_of(experiment: Experiment, run: FinetuningRun) -> Path:
    """Folder of a finetuning run."""
    return classifier_folder(
        experiment.output, run.task, run.size, run.pretrain_seed, run.finetune_seed, run.fold
    )


def prepare_task(experiment: Experiment, task: Task) -> None:
    """Load and tokenize a task's instances, once."""
    folder = prepared_folder(experiment.output, task.name)
    done = folder / "evaluation.parquet"
    if done.is_file():
        return
    data = load_task(task, experiment.world)
    tokenizer = build_tokenizer(
        read_vocabulary(vocabulary_file(experiment.output)),
        lowercase=experiment.vocabulary.lowercase,
    )
    label_ids = {label: i for i, label in enumerate(task.labels)}
    for name, frame, folds in (
        ("train", data.train, data.fold_of_train),
        ("evaluation", data.evaluation, data.fold_of_evaluation),
    ):
        arrays = encode_instances(frame, tokenizer, experiment.finetuning.sequence_length)
        arrays["fold"] = folds
        if name == "train":
            arrays["label"] = np.array([label_ids[label] for label in frame["label"]], np.int32)
        write_arrays(folder / f"{name}.safetensors", arrays)
    # Last, because its presence says that the others are whole.
    partial = done.with_name(f"{done.name}.partial")
    data.evaluation.to_parquet(partial, index=False)
    partial.replace(done)
    logger.info(
        "%s: %d instances to train on, %d to predict",
        task.name,
        len(data.train),
        len(data.evaluation),
    )


@dataclass(frozen=True)
class Prepared:
    """A task's tokenized instances.

    Attributes
    ----------
    train, evaluation : dict of str to array
        `token_ids`, `segment_ids`, `padding_mask` [instance, position], `fold` [instance],
        and for training `label` [instance].
    folds : int
        Classifiers per run.
    """

    train: Arrays
    evaluation: Arrays
    folds: int

    def training_rows(self, fold: int) -> NDArray[np.int64]:
        """Rows that the classifier of a fold is finetuned on."""
        if self.folds == 1:
            return np.arange(len(self.train["fold"]))
        return np.flatnonzero(self.train["fold"] != fold)

    def predicted_rows(self, fold: int) -> NDArray[np.int64]:
        """Rows that the classifier of a fold predicts."""
        return np.flatnonzero(self.evaluation["fold"] == fold)


@lru_cache(maxsize=2)
def open_prepared(folder: Path, folds: int) -> Prepared:
    """Open a task's tokenized instances."""
    return Prepared(
        read_arrays(folder / "train.safetensors"),
        read_arrays(folder / "evaluation.safetensors"),
        folds,
    )


def prepared_for(experiment: Experiment, task: str) -> Prepared:
    """Open the tokenized instances of a task of an experiment."""
    folds = task_named(experiment, task).folds or 1
    return open_prepared(prepared_folder(experiment.output, task), folds)


def evaluation_frame(experiment: Experiment, task: str) -> pd.DataFrame:
    """Read the instances that a task predicts: guid, split, texts, label and metadata."""
    return pd.read_parquet(prepared_folder(experiment.output, task) / "evaluation.parquet")


def total_steps(instances: int, batch_size: int, epochs: int) -> int:
    """Count the steps of a finetuning run: whole batches in all its epochs together."""
    return max(instances * epochs // batch_size, 1)


def steps_of(experiment: Experiment, run: FinetuningRun) -> int:
    """Count the steps of one finetuning run."""
    rows = prepared_for(experiment, run.task).training_rows(run.fold)
    return total_steps(len(rows), run.hyperparameters.batch_size, experiment.finetuning.epochs)


def build_finetuning_engine(
    experiment: Experiment, task: Task, size: str, steps: int, vocabulary: int
) -> Engine:
    """Build the engine that finetunes one size on one task."""
    settings = experiment.finetuning
    model = build_classifier(
        next(one for one in experiment.sizes if one.name == size),
        vocabulary=vocabulary,
        positions=experiment.pretraining.sequence_length,
        labels=len(task.labels),
        dropout=settings.dropout,
    )
    optimizer = BertAdam(
        settings.optimizer, warmup_steps=int(settings.warmup_share * steps), total_steps=steps
    )
    return Engine(
        model,
        classification_loss,
        optimizer,
        initializer_range=experiment.finetuning.initializer_range,
    )


@lru_cache(maxsize=1)
def _engine(experiment_json: str, task: str, size: str, steps: int) -> Engine:
    experiment = Experiment.model_validate_json(experiment_json)
    entries = len(read_vocabulary(vocabulary_file(experiment.output)))
    return build_finetuning_engine(experiment, task_named(experiment, task), size, steps, entries)


def finetune(
    experiment: Experiment,
    run: FinetuningRun,
    rows: NDArray[np.int64],
    folder: Path,
    keep: dict[int, Any],
    advance: Advance,
    last: dict[str, float],
    start: Arrays | None = None,
) -> Engine:
    """Finetune one classifier on some rows of its task's training instances.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment.
    run : FinetuningRun
        Which classifier.
    rows : int64 array [row]
        The rows of the training instances that it sees.
    folder : Path
        Where its training state and event files go.
    keep : dict of int to callable
        What to do with its weights after so many steps.
    advance : callable
        Called with the steps done.
    last : dict
        Gets the latest scalars.
    start : dict of str to array, optional
        Starting weights; by default those of the run's pretrained encoder.

    Returns
    -------
    Engine
        Holding the finetuned weights.
    """
    settings, hyper = experiment.finetuning, run.hyperparameters
    steps = total_steps(len(rows), hyper.batch_size, settings.epochs)
    engine = _engine(experiment.model_dump_json(), run.task, run.size, steps)
    prepared = prepared_for(experiment, run.task)
    order = EpochOrder(len(rows), hyper.batch_size, settings.shuffle)

    def batch(one: Run, step: int) -> Batch:
        chosen = rows[order.rows(one.seeds.order, step)]
        arrays = {name: prepared.train[name][chosen].astype(np.int32) for name in INPUTS}
        return {**arrays, "label": prepared.train["label"][chosen]}

    if start is None:
        start = read_arrays(encoder_file(experiment.output, run.size, run.pretrain_seed))
    remove_leftovers(folder)

    def progress(_: Run, done: int, values: dict[str, float]) -> None:
        last.update(values)
        advance(done)

    engine.train(
        [Run(run.name, folder, run_seeds("finetune", run.name), hyper.learning_rate, start)],
        batch,
        total_steps=steps,
        checkpoint_every=settings.checkpoint_every,
        keep=keep,
        recorder=open_recorder,
        on_progress=progress,
    )
    return engine


def finetune_run(experiment: Experiment, run: FinetuningRun, advance: Advance) -> str:
    """Finetune one classifier, and keep it at every checkpoint epoch.

    Returns
    -------
    str
        What was done, with the last loss.
    """
    folder = folder_of(experiment, run)
    rows = prepared_for(experiment, run.task).training_rows(run.fold)
    epochs = experiment.finetuning.epochs
    steps = total_steps(len(rows), run.hyperparameters.batch_size, epochs)
    keep: dict[int, Any] = {}
    for epoch in experiment.finetuning.checkpoints:
        at = max(round(steps * epoch / epochs), 1)
        if at in keep:
            raise InputError(
                f"{run.name}: {steps} steps are too few to tell its checkpoint epochs apart; "
                "give fewer checkpoints or a smaller batch_size"
            )
        keep[at] = lambda _, weights, epoch=epoch: write_arrays(
            classifier_file(folder, epoch), weights
        )
    last: dict[str, float] = {}
    finetune(experiment, run, rows, folder, keep, advance, last)
    values = ", ".join(f"{name} {value:.3f}" for name, value in last.items())
    return f"finetuned {run.name}: {steps} steps, {values}"
