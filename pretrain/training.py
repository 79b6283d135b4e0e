"""Pretraining of one encoder: its engine, and the session of a worker process."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from configs.atomic import remove_leftovers
from configs.paths import corpus_folder, encoder_file, run_folder, vocabulary_file
from configs.schema import Experiment, Size
from pretrain.batches.pair_batches import PairBatches
from pretrain.engine.devices import strategy_scope, training_strategy
from pretrain.engine.divergence import Watch
from pretrain.engine.loss_curves import open_recorder
from pretrain.engine.runs import Run, run_seeds
from pretrain.engine.saved_arrays import Arrays, write_arrays
from pretrain.jobs.sharing import Advance
from pretrain.text.corpus import open_corpus
from pretrain.text.wordpiece import read_vocabulary

if TYPE_CHECKING:
    from pretrain.engine.engine import Engine


def build_pretraining_engine(
    experiment: Experiment, size: Size, vocabulary: int, strategy: Any = None
) -> Engine:
    """Build the engine that pretrains one size.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment; `pretraining` has the other settings.
    size : Size
        The architecture.
    vocabulary : int
        Entries of the vocabulary.
    strategy : tf.distribute.Strategy, optional
        See `pretrain.engine.devices.training_strategy`; by default one device.
    """
    # Only workers build engines: a command starts without TensorFlow.
    from pretrain.bert.encoder import build_pretraining_model, pretraining_loss, pretraining_totals
    from pretrain.engine.engine import Engine
    from pretrain.engine.optimizer import BertAdam

    settings = experiment.recipe
    with strategy_scope(strategy):
        model = build_pretraining_model(
            size,
            vocabulary=vocabulary,
            positions=settings.sequence_length,
            dropout=settings.dropout,
            precision=settings.precision,
        )
        optimizer = BertAdam(
            settings.optimizer, warmup_steps=settings.warmup_steps, total_steps=settings.steps
        )
    return Engine(
        model,
        pretraining_loss,
        pretraining_totals,
        optimizer,
        strategy=strategy,
        accumulate=settings.accumulate,
        initializer_range=settings.initializer_range,
        watch=Watch.beyond_guessing(settings.divergence, math.log(vocabulary) + math.log(2)),
    )


class PretrainingSession:
    """What a worker process keeps between the encoders that it pretrains.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment; its vocabulary and corpus are ready.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.vocabulary = read_vocabulary(vocabulary_file(experiment.output))
        self._strategy = training_strategy()
        self._size: str | None = None
        self._engine: Engine | None = None

    @cached_property
    def batches(self) -> PairBatches:
        """The batches of every run."""
        corpus = open_corpus(corpus_folder(self.experiment.output))
        return PairBatches(self.experiment, corpus, self.vocabulary)

    def engine(self, size: str) -> Engine:
        """Return the engine of a size; only that of the last size is kept."""
        if self._engine is None or size != self._size:
            self._engine = None  # frees memory before the next engine is built
            self._size, self._engine = (
                size,
                build_pretraining_engine(
                    self.experiment,
                    self.experiment.size(size),
                    len(self.vocabulary),
                    self._strategy,
                ),
            )
        return self._engine


def pretrain_run(session: PretrainingSession, item: tuple[str, int], advance: Advance) -> str:
    """Pretrain one encoder, from its newest checkpoint if it has one.

    Parameters
    ----------
    session : PretrainingSession
        The session of this process.
    item : (str, int)
        Size and pretraining seed.
    advance : callable
        Called with the steps done.

    Returns
    -------
    str
        A line for the log, with the last loss.
    """
    size, seed = item
    experiment, settings = session.experiment, session.experiment.recipe
    run = Run(
        name=f"{size}/p{seed}",
        folder=run_folder(experiment.output, size, seed),
        learning_rate=settings.learning_rate,
        seeds=run_seeds("pretrain", f"{size}/p{seed}"),
    )
    remove_leftovers(run.folder)
    last: dict[str, float] = {}
    resumed = 0

    def keep_as(step: int | None) -> Callable[[Run, Arrays], None]:
        target = encoder_file(experiment.output, size, seed, step)
        return lambda _, weights: write_arrays(target, weights)

    def progress(_: Run, steps: int, values: dict[str, float]) -> None:
        nonlocal resumed
        if not values:  # the steps before the checkpoint
            resumed = steps
        last.update(values)
        advance(steps)

    session.engine(size).train(
        [run],
        session.batches,
        total_steps=settings.steps,
        checkpoint_every=settings.checkpoint_every,
        keep={
            **{step: keep_as(step) for step in settings.kept_steps},
            settings.steps: keep_as(None),
        },
        recorder=open_recorder,
        on_progress=progress,
    )
    begun = f"resumed at step {resumed}, " if resumed else ""
    values = ", ".join(f"{name} {value:.3f}" for name, value in last.items())
    return f"pretrained {run.name}: {begun}{settings.steps} steps, {values}"
