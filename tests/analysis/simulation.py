"""Simulated predictions with known truth, and stores made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from predict.tensor.creating import create_store
from predict.tensor.specification import TensorSpecification
from predict.tensor.writing import finish_runs, write_run

LABELS = ("entailment", "neutral", "contradiction")


def simulate_probability(
    instances: int,
    pretrain_seeds: int,
    finetune_seeds: int,
    epochs: int,
    *,
    skill: float,
    seed: int,
) -> NDArray[np.float32]:
    """Probabilities [instance, pretrain_seed, finetune_seed, epoch, label], the gold label first.

    Instances differ in difficulty, and each level of seeds adds its own noise.
    """
    random = np.random.default_rng(seed)
    shape = (instances, pretrain_seeds, finetune_seeds, epochs, 3)
    # The same instances are hard for every size, but not equally.
    logits = 2.5 * np.random.default_rng(5).normal(size=(instances, 1, 1, 1, 3))
    logits = logits + 1.2 * random.normal(size=logits.shape)
    logits = logits + 0.9 * random.normal(size=(*shape[:2], 1, 1, 3))
    logits = logits + 0.9 * random.normal(size=(*shape[:3], 1, 3))
    logits = logits + 0.5 * random.normal(size=shape)
    logits[..., 0] += skill
    exponential = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (exponential / exponential.sum(axis=-1, keepdims=True)).astype(np.float32)


def write_store(
    path: Path,
    probability: dict[str, NDArray[np.float32]],
    *,
    task: str = "inference",
    splits: Sequence[str] = ("dev",),
    epochs: Sequence[float] | None = None,
    unfinished: Sequence[tuple[str, int, int]] = (),
    gold: Sequence[str] | None = None,
    probability_dtype: str | None = "float32",
    configuration: str = "simulated",
) -> Path:
    """Write a store whose gold label is, unless given, the first label of each instance.

    Parameters
    ----------
    path : Path
    probability : dict
        By size: shape [instance, pretrain_seed, finetune_seed, epoch, label].
    splits : sequence of str
        Dealt to the instances in turn.
    unfinished : sequence of (size, pretrain_seed, finetune_seed)
        Runs, by seeds from 1, left unfinished.
    """
    first = next(iter(probability.values()))
    instances, pretrain_seeds, finetune_seeds, checkpoints, _ = first.shape
    frame = pd.DataFrame(
        {
            "guid": [f"{splits[i % len(splits)]}-{i}" for i in range(instances)],
            "text_a": "a",
            "text_b": None,
            "label": list(gold) if gold is not None else [LABELS[0]] * instances,
        }
    )
    numbers = list(epochs or [float(epoch + 1) for epoch in range(checkpoints)])
    specification = TensorSpecification(
        task=task,
        sizes=list(probability),
        instances=frame,
        labels=list(LABELS),
        pretrain_seeds=list(range(1, pretrain_seeds + 1)),
        finetune_seeds=list(range(1, finetune_seeds + 1)),
        epochs=numbers,
        probability_dtype=probability_dtype,
        optional_variables=("probability", "ensemble_correct") if probability_dtype else (),
    )
    create_store(path, specification, configuration={"made": configuration})
    for size, values in probability.items():
        for p in range(pretrain_seeds):
            runs = []
            for f in range(finetune_seeds):
                if (size, p + 1, f + 1) in unfinished:
                    continue
                for e, epoch in enumerate(numbers):
                    write_run(
                        path,
                        size=size,
                        pretrain_seed=p + 1,
                        finetune_seed=f + 1,
                        epoch=epoch,
                        probability=values[:, p, f, e],
                    )
                    runs.append((f + 1, epoch))
            finish_runs(path, size=size, pretrain_seed=p + 1, runs=runs)
    return path
