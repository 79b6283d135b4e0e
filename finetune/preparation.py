"""A task's instances, loaded and tokenized once, and saved for all its runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from configs.atomic import write_text, written_beside
from configs.errors import InputError
from configs.paths import prepared_folder, prepared_instances, vocabulary_file
from configs.schema import Experiment, Task
from finetune.encoding import encode_instances
from finetune.tasks import COLUMNS, TaskSize, describe, load_task
from pretrain.engine.saved_arrays import Arrays, read_arrays, write_arrays
from pretrain.jobs.claims import claimed
from pretrain.text.wordpiece import build_tokenizer, read_vocabulary

logger = logging.getLogger(__name__)

INPUTS = ("token_ids", "segment_ids", "padding_mask")

_MADE_BY = "python -m finetune"


def prepare_task(experiment: Experiment, task: Task) -> None:
    """Load and tokenize a task's instances, once.

    Raises
    ------
    InputError
        As in `finetune.tasks.load_task`.
    """
    if not is_prepared(experiment, task):
        with claimed(experiment, f"task/{task.name}"):
            if not is_prepared(experiment, task):
                _prepare_task(experiment, task)


def is_prepared(experiment: Experiment, task: Task) -> bool:
    """Whether all files of a prepared task exist."""
    folder = prepared_folder(experiment.output, task.name)
    arrays = (folder / f"{name}.safetensors" for name in ("train", "evaluation"))
    files = (*arrays, prepared_instances(experiment.output, task.name))
    return all(file.is_file() for file in files)


def _prepare_task(experiment: Experiment, task: Task) -> None:
    folder = prepared_folder(experiment.output, task.name)
    data = load_task(task, experiment.world)
    tokenizer = build_tokenizer(
        read_vocabulary(vocabulary_file(experiment.output)),
        lowercase=experiment.lowercase,
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
    if data.removed is not None:
        write_text(folder / "duplicates.csv", data.removed.to_csv(index=False))
    # Last, because its presence shows that the other files are whole.
    with written_beside(prepared_instances(experiment.output, task.name)) as partial:
        data.evaluation.to_parquet(partial, index=False, write_page_checksum=True)
    for line in describe(task, data):
        logger.info(line)


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

    @property
    def size(self) -> TaskSize:
        """Numbers of instances."""
        folds = range(self.folds)
        train = tuple(len(self.training_rows(fold)) for fold in folds)
        return TaskSize(train, len(self.evaluation["fold"]))

    def training_rows(self, fold: int) -> NDArray[np.int64]:
        """Return the rows on which the classifier of a fold is finetuned."""
        if self.folds == 1:
            return np.arange(len(self.train["fold"]))
        return np.flatnonzero(self.train["fold"] != fold)

    def predicted_rows(self, fold: int) -> NDArray[np.int64]:
        """Return the rows that the classifier of a fold predicts."""
        return np.flatnonzero(self.evaluation["fold"] == fold)


def prepared_for(experiment: Experiment, task: str) -> Prepared:
    """Read the tokenized instances of a task of an experiment.

    Raises
    ------
    InputError
        If a file is missing or damaged.
    """
    folder = prepared_folder(experiment.output, task)
    train, evaluation = (
        read_arrays(folder / f"{name}.safetensors", made_by=_MADE_BY)
        for name in ("train", "evaluation")
    )
    return Prepared(train, evaluation, experiment.task(task).folds or 1)


def task_size(experiment: Experiment, task: Task) -> TaskSize:
    """Count a task's instances, from its prepared files or by loading the instances.

    Raises
    ------
    InputError
        If they cannot be loaded.
    """
    if is_prepared(experiment, task):
        return prepared_for(experiment, task.name).size
    return load_task(task, experiment.world).size


def evaluation_frame(experiment: Experiment, task: str) -> pd.DataFrame:
    """Read the instances that a task predicts: guid, split, texts, label and metadata.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    path = prepared_instances(experiment.output, task)
    try:
        frame = pd.read_parquet(path, page_checksum_verification=True)
        missing = [column for column in COLUMNS if column not in frame]
        if not missing:
            return frame
        reason = f"it has no column {missing[0]!r}"
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
    raise InputError(f"{path}: cannot be read ({reason}); remove {path.parent}, and run {_MADE_BY}")
