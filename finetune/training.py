"""Finetuning of one classifier: what a run is, its engine, and its batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.paths import encoder_file, vocabulary_file
from configs.schema import Experiment, Task
from finetune.classifier import build_classifier, classification_loss, classification_totals
from finetune.order import EpochOrder
from finetune.preparation import INPUTS, prepared_for
from pretrain.engine.devices import strategy_scope, training_strategy
from pretrain.engine.divergence import Watch
from pretrain.engine.engine import Engine
from pretrain.engine.optimizer import BertAdam
from pretrain.engine.runs import Batch, Run, run_seeds
from pretrain.engine.saved_arrays import Arrays, read_arrays, remove_leftovers
from pretrain.jobs.sharing import Advance
from pretrain.stage import open_recorder
from pretrain.text.wordpiece import read_vocabulary


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


def total_steps(instances: int, batch_size: int, epochs: int) -> int:
    """Count the steps of a finetuning run: whole batches in all its epochs together."""
    return max(instances * epochs // batch_size, 1)


def build_finetuning_engine(
    experiment: Experiment, task: Task, size: str, steps: int, vocabulary: int
) -> Engine:
    """Build the engine that finetunes one size on one task."""
    settings, strategy = experiment.finetuning, training_strategy()
    with strategy_scope(strategy):
        model = build_classifier(
            experiment.size(size),
            vocabulary=vocabulary,
            positions=experiment.pretraining.sequence_length,
            labels=len(task.labels),
            dropout=settings.dropout,
            gelu=experiment.gelu,
            precision=settings.precision,
        )
        optimizer = BertAdam(
            settings.optimizer, warmup_steps=int(settings.warmup_share * steps), total_steps=steps
        )
    return Engine(
        model,
        classification_loss,
        classification_totals,
        optimizer,
        strategy=strategy,
        accumulate=settings.accumulate,
        initializer_range=settings.initializer_range,
        watch=Watch.beyond_guessing(settings.divergence, math.log(len(task.labels))),
    )


@lru_cache(maxsize=1)
def _engine(experiment_json: str, task: str, size: str, steps: int) -> Engine:
    experiment = Experiment.model_validate_json(experiment_json)
    entries = len(read_vocabulary(vocabulary_file(experiment.output)))
    return build_finetuning_engine(experiment, experiment.task(task), size, steps, entries)


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
        encoder = encoder_file(experiment.output, run.size, run.pretrain_seed)
        start = read_arrays(encoder, made_by="python -m pretrain")
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
