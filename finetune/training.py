"""Finetuning of one classifier: its engine, its batches, and the session of a worker process."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from configs.atomic import remove_leftovers
from configs.paths import encoder_file, vocabulary_file
from configs.schema import Experiment, Task
from finetune.order import EpochOrder
from finetune.preparation import INPUTS, Prepared, prepared_for
from finetune.runs import FinetuningRun, total_steps
from pretrain.engine.devices import strategy_scope, training_strategy
from pretrain.engine.divergence import Watch
from pretrain.engine.loss_curves import open_recorder
from pretrain.engine.runs import Batch, Run, run_seeds
from pretrain.engine.saved_arrays import Arrays, read_arrays
from pretrain.jobs.sharing import Advance
from pretrain.text.wordpiece import read_vocabulary

if TYPE_CHECKING:
    from finetune.inference import Predictor
    from pretrain.engine.engine import Engine


def build_finetuning_engine(
    experiment: Experiment,
    task: Task,
    size: str,
    steps: int,
    vocabulary: int,
    strategy: Any = None,
) -> Engine:
    """Build the engine that finetunes one size on one task.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment; `finetuning` has the other settings.
    task : Task
        The task; its labels are the classifier's.
    size : str
        Name of the size.
    steps : int
        Steps of a run.
    vocabulary : int
        Entries of the vocabulary.
    strategy : tf.distribute.Strategy, optional
        See `pretrain.engine.devices.training_strategy`; by default one device.
    """
    # Only workers build engines: a command starts without TensorFlow.
    from finetune.classifier import build_classifier, classification_loss, classification_totals
    from pretrain.engine.engine import Engine
    from pretrain.engine.optimizer import BertAdam

    settings = experiment.finetuning
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


class FinetuningSession:
    """What a worker process keeps between the classifiers that it finetunes.

    Only the instances of the last task are kept, and the engine of the last task, size and number
    of steps. Runs are ordered so that the next run often needs the same.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment; its encoders are pretrained and its tasks prepared.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self._vocabulary = len(read_vocabulary(vocabulary_file(experiment.output)))
        self._strategy = training_strategy()
        self._prepared: tuple[str, Prepared] | None = None
        self._built: tuple[tuple[str, str, int], Engine] | None = None
        self._predictor: Predictor | None = None

    def prepared(self, task: str) -> Prepared:
        """Return the tokenized instances of a task."""
        if self._prepared is None or self._prepared[0] != task:
            self._prepared = None  # frees memory before the next task's instances are read
            self._prepared = task, prepared_for(self.experiment, task)
        return self._prepared[1]

    def engine(self, task: str, size: str, steps: int) -> Engine:
        """Return the engine that finetunes a size on a task in so many steps."""
        key = (task, size, steps)
        if self._built is None or self._built[0] != key:
            self._built = self._predictor = None  # frees memory before the next engine is built
            engine = build_finetuning_engine(
                self.experiment,
                self.experiment.task(task),
                size,
                steps,
                self._vocabulary,
                self._strategy,
            )
            self._built = key, engine
        return self._built[1]

    def predictor(self, engine: Engine) -> Predictor:
        """Return the predictor with the current weights of an engine."""
        from finetune.inference import Predictor

        if self._predictor is None or self._predictor.model is not engine.model:
            self._predictor = Predictor(engine.model)
        return self._predictor


def finetune(
    session: FinetuningSession,
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
    session : FinetuningSession
        The session of this process.
    run : FinetuningRun
        The run to finetune.
    rows : int64 array [row]
        The rows of the training instances to train on.
    folder : Path
        Folder of its training state and event files.
    keep : dict of int to callable
        Functions by step; each is called with the run and its weights after that many steps.
    advance : callable
        Called with the steps done.
    last : dict
        Is updated with the latest scalars.
    start : dict of str to array, optional
        Starting weights; by default those of the run's pretrained encoder.

    Returns
    -------
    Engine
        With the finetuned weights.
    """
    experiment, hyper = session.experiment, run.hyperparameters
    settings = experiment.finetuning
    steps = total_steps(len(rows), hyper.batch_size, settings.epochs)
    engine = session.engine(run.task, run.size, steps)
    train = session.prepared(run.task).train
    order = EpochOrder(len(rows), hyper.batch_size, settings.shuffle)

    def batch(run: Run, step: int) -> Batch:
        chosen = rows[order.rows(run.seeds.order, step)]
        arrays = {name: train[name][chosen].astype(np.int32) for name in INPUTS}
        return {**arrays, "label": train["label"][chosen]}

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
