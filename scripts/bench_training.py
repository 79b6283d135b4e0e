"""Benchmarks of training: throughput against `model.fit`, and the benefit of pretraining.

Run as `python -m scripts.bench_training`; `make bench` runs it with the others.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from configs.interruption import run_command
from configs.loading import load_experiment
from configs.paths import corpus_folder, encoder_file, log_file, store_path, vocabulary_file
from configs.schema import Experiment
from predict.tensor.contract import instances_path
from pretrain.jobs.backend import start_backend

POCKET = Path("configs/pocket.yaml")
DECAYING = -0.5


@dataclass(frozen=True)
class Throughput:
    """Steps a second of the engine and of `model.fit`, medians over alternating rounds."""

    size: str
    engine: float
    fit: float


def measure_throughput(
    experiment: Experiment, size_name: str, steps: int, rounds: int
) -> Throughput:
    """Train the same Keras model on the same batches by the engine and by `model.fit`.

    Parameters
    ----------
    experiment : Experiment
        An experiment whose vocabulary and corpus are ready.
    size_name : str
        Which size.
    steps, rounds : int
        Steps a round, and rounds of each, taken in turn.

    Returns
    -------
    Throughput
    """
    import keras
    import tensorflow as tf

    from pretrain.batches.pair_batches import PairBatches
    from pretrain.bert.encoder import pretraining_loss
    from pretrain.engine.optimizer import BertAdam
    from pretrain.engine.runs import Run, run_seeds
    from pretrain.text.corpus import open_corpus
    from pretrain.text.wordpiece import read_vocabulary
    from pretrain.training import build_pretraining_engine

    vocabulary = read_vocabulary(vocabulary_file(experiment.output))
    batches = PairBatches(experiment, open_corpus(corpus_folder(experiment.output)), vocabulary)
    size = experiment.size(size_name)
    settings = experiment.recipe
    folder = Path(tempfile.mkdtemp())
    run = Run("bench", folder, run_seeds("bench", size_name), settings.learning_rate)
    made = [batches(run, step) for step in range(steps)]

    engine = build_pretraining_engine(experiment, size, len(vocabulary))
    peer = build_pretraining_engine(experiment, size, len(vocabulary)).model

    class Pretraining(keras.Model):
        """The plain Keras way to train on several outputs with one loss."""

        def __init__(self, model: keras.Model) -> None:
            super().__init__()
            self.model = model

        def call(self, inputs: Any, training: bool = False) -> Any:
            return self.model({name: inputs[name] for name in self.model.input}, training=training)

        def compute_loss(self, x: Any, y: Any, y_pred: Any, *_: Any, **__: Any) -> Any:
            return pretraining_loss(y_pred, x)["loss"]

    fitted = Pretraining(peer)
    fitted.compile(
        optimizer=BertAdam(
            settings.optimizer,
            warmup_steps=settings.warmup_steps,
            total_steps=settings.steps,
            learning_rate=settings.learning_rate,
        ),
        jit_compile=False,
    )

    def train_engine() -> None:
        engine.train(
            [run],
            lambda _, step: made[step],
            total_steps=steps,
            checkpoint_every=steps + 1,
            keep={steps: lambda run, weights: None},
        )

    # Outside the timed part, as the engine's batches are made before it too.
    stacked = {name: np.stack([batch[name] for batch in made]) for name in made[0]}
    dataset = tf.data.Dataset.from_tensor_slices(stacked).prefetch(2)

    def train_fit() -> None:
        fitted.fit(dataset, epochs=1, verbose=0, shuffle=False)

    def rate(train: Any) -> float:
        begun = time.perf_counter()
        train()
        return steps / (time.perf_counter() - begun)

    try:
        train_engine()
        train_fit()
        pairs = [(rate(train_engine), rate(train_fit)) for _ in range(rounds)]
    finally:
        shutil.rmtree(folder)
    return Throughput(size_name, *(float(np.median(rates)) for rates in zip(*pairs, strict=True)))


def accuracy_from_random_weights(
    experiment: Experiment, task_name: str, size_name: str
) -> NDArray[np.float64]:
    """Compute a size's instance accuracy, finetuned from random instead of pretrained weights.

    Everything else is as in the experiment: instances, seeds, steps, learning rate; the
    encoder starts from what pretraining starts from.

    Parameters
    ----------
    experiment : Experiment
        An experiment that is finetuned.
    task_name, size_name : str
        Which task, without folds, and which size.

    Returns
    -------
    float array [instance]
        Means over all pretraining and finetuning seeds.
    """
    from tqdm import tqdm

    from finetune.preparation import INPUTS, evaluation_frame
    from finetune.runs import FinetuningRun, total_steps
    from finetune.search import known_hyperparameters
    from finetune.training import FinetuningSession, finetune
    from predict.tensor.correctness import correctness
    from pretrain.engine.initial_weights import initial_weights
    from pretrain.engine.runs import run_seeds
    from pretrain.engine.saved_arrays import read_arrays

    task = experiment.task(task_name)
    chosen = known_hyperparameters(experiment, task)
    assert chosen is not None  # the experiment is finetuned
    hyper = chosen[size_name]
    session = FinetuningSession(experiment)
    prepared = session.prepared(task_name)
    rows, predicted = prepared.training_rows(0), prepared.predicted_rows(0)
    steps = total_steps(len(rows), hyper.batch_size, experiment.finetuning.epochs)
    gold = evaluation_frame(experiment, task_name)["label"].to_numpy(object)[predicted]
    inputs = {name: prepared.evaluation[name][predicted] for name in INPUTS}
    accuracies = []
    seeds = [(p, f) for p in experiment.pretrain_seeds for f in experiment.finetune_seeds]
    for p, f in tqdm(seeds, desc=f"{size_name} from random weights", unit=" run"):
        run = FinetuningRun(task_name, size_name, p, f, 0, hyper)
        pretrained = read_arrays(encoder_file(experiment.output, size_name, p))
        shapes = {path: value.shape for path, value in pretrained.items()}
        start = initial_weights(
            shapes,
            run_seeds("random start", run.name).init,
            experiment.recipe.initializer_range,
        )
        folder = Path(tempfile.mkdtemp())
        keep = {steps: lambda run, weights: None}
        try:
            engine = finetune(session, run, rows, folder, keep, lambda steps: None, {}, start=start)
        finally:
            shutil.rmtree(folder)
        predictor = session.predictor(engine)
        probability = predictor.predict(inputs, experiment.prediction.batch_size)
        accuracies.append(correctness(probability, gold, task.labels))
    return np.mean(accuracies, axis=0)


def run_pocket(experiment: Experiment) -> dict[str, float]:
    """Run the stages of the pocket experiment that are not finished; return seconds by stage."""
    from finetune.stage import finetune_experiment
    from predict.stage import predict_experiment
    from pretrain.stage import pretrain_experiment

    workers = os.cpu_count() or 1
    seconds = {}
    for stage, work in (
        ("pretrain", pretrain_experiment),
        ("finetune", finetune_experiment),
        ("predict", predict_experiment),
    ):
        begun = time.perf_counter()
        work(experiment, workers)
        seconds[stage] = time.perf_counter() - begun
    return seconds


@click.command()
@click.option("--steps", default=200, show_default=True, help="Steps a round.")
@click.option("--rounds", default=5, show_default=True, help="Rounds of each peer, in turn.")
def main(steps: int, rounds: int) -> None:
    """Measure training on the pocket experiment, which is run first if it was not."""
    experiment = load_experiment(POCKET)
    start_backend(log_file(experiment.output, "backend"))
    run_pocket(experiment)

    click.echo(
        "\nTraining throughput, steps a second, engine against model.fit on the same batches"
    )
    for size in experiment.sizes:
        result = measure_throughput(experiment, size.name, steps, rounds)
        ratio = result.engine / result.fit
        click.echo(f"  {size.name:8} {result.engine:7.1f} {result.fit:7.1f}   ratio {ratio:.2f}")

    first = experiment.tasks[0].name
    large = experiment.sizes[-1].name
    from_random = {first: accuracy_from_random_weights(experiment, first, large)}
    for task in experiment.tasks:
        for line in _compare_sizes(experiment, task.name, from_random.get(task.name)):
            click.echo(line)


def _compare_sizes(
    experiment: Experiment, task: str, from_random: NDArray[np.float64] | None
) -> Iterator[str]:
    """State the accuracies of the sizes, and the share of wrong labels where accuracy is lost."""
    path = store_path(experiment.output, task)
    with xr.open_zarr(path) as store:
        runs = ["pretrain_seed", "finetune_seed"]
        instance_accuracy = store["correct"].isel(epoch=-1).mean(runs).values
    instances = pd.read_parquet(instances_path(path))
    small, large = experiment.sizes[0].name, experiment.sizes[-1].name
    difference = instance_accuracy[-1] - instance_accuracy[0]
    is_wrong = (instances["wrong_label"] == "yes").to_numpy()
    for split in instances["split"].unique():
        kept = (instances["split"] == split).to_numpy()
        yield f"\n{task}, {split}"
        for size, accuracy in zip(experiment.sizes, instance_accuracy, strict=True):
            yield f"  accuracy of {size.name:8} {accuracy[kept].mean():.3f}"
        if from_random is not None:
            yield f"  accuracy of {large:8} {from_random[kept].mean():.3f} from random weights"
        lost, wrong = difference[kept] <= DECAYING, is_wrong[kept]
        if wrong.any() and lost.any():
            yield (
                f"  wrong labels: {wrong[lost].mean():.1%} of the {lost.sum()} instances that lose "
                f"{-DECAYING:g} or more from {small} to {large}, {wrong.mean():.1%} of all"
            )


if __name__ == "__main__":
    run_command(lambda: main, "python -m scripts.bench_training")
