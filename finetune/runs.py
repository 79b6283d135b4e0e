"""A finetuning run: its settings, its number of steps, and the paths of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from configs.errors import InputError
from configs.paths import classifier_folder
from configs.schema import Experiment, Finetuning, Search
from finetune.tasks import TaskSize


@dataclass(frozen=True)
class Hyperparameters:
    """The hyper-parameters that are searched for each task and size."""

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
        Seed of the encoder, finetuning seed, and fold (0 without folds).
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
        """Name of the run in progress bars and errors."""
        fold = f"/fold{self.fold}" if self.fold else ""
        return f"{self.task}/{self.size}/p{self.pretrain_seed}f{self.finetune_seed}{fold}"


def folder_of(experiment: Experiment, run: FinetuningRun) -> Path:
    """Folder of a finetuning run."""
    return classifier_folder(
        experiment.output, run.task, run.size, run.pretrain_seed, run.finetune_seed, run.fold
    )


def total_steps(instances: int, batch_size: int, epochs: int) -> int:
    """Count the steps of a finetuning run: the whole batches in all epochs together."""
    return max(instances * epochs // batch_size, 1)


def checkpoint_steps(
    settings: Finetuning, instances: int, batch_size: int, name: str
) -> dict[int, float]:
    """Find the steps after which a run's classifier is kept.

    Parameters
    ----------
    settings : Finetuning
        The epochs and checkpoints.
    instances : int
        Instances that the run trains on.
    batch_size : int
        Instances of a batch.
    name : str
        Name of the run, with which the error begins.

    Returns
    -------
    dict of int to float
        For each of these steps, its checkpoint epoch.

    Raises
    ------
    InputError
        If two checkpoint epochs fall on one step.
    """
    steps = total_steps(instances, batch_size, settings.epochs)
    epochs: dict[int, float] = {}
    for epoch in settings.checkpoints:
        step = max(round(steps * epoch / settings.epochs), 1)
        if step in epochs:
            raise InputError(
                f"{name}: with batches of {batch_size} a run on {instances} instances has {steps} "
                "steps, too few for its checkpoint epochs to differ; give fewer checkpoints or a "
                "smaller batch_size"
            )
        epochs[step] = epoch
    return epochs


def searched_rows(search: Search, rows: int) -> int:
    """Count the training instances on which a search trains; it holds out the others."""
    return rows - max(round(search.held_out * rows), 1)


def check_steps(settings: Finetuning, task: str, size: TaskSize) -> None:
    """Check that every run on a task, and every trial of its search, will have enough steps.

    Raises
    ------
    InputError
        If a search would have no instances to train on, or as in `checkpoint_steps`.
    """
    fewest = min(size.train)
    if settings.search is not None and searched_rows(settings.search, size.train[0]) < 1:
        raise InputError(
            f"{task}: {size.train[0]} training instances are too few for a search that holds some "
            "of them out; give more, or batch_size and learning_rate instead of search"
        )
    if settings.search is not None:
        batch_sizes = settings.search.batch_sizes
    else:
        assert settings.batch_size is not None  # the schema requires one of the two
        batch_sizes = [settings.batch_size]
    for batch_size in batch_sizes:
        checkpoint_steps(settings, fewest, batch_size, task)
