"""Published predictions and annotations that tests read; `tests/data/README.md` has the sources."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"
RUNS = DATA / "mnli_bert_base.npz"
ANNOTATIONS = DATA / "annotations.csv"
INSTANCES = DATA / "annotated_instances.csv"

SCALE = 65535
"""What a probability of 1 is stored as."""


@dataclass(frozen=True)
class Runs:
    """Ten runs of BERT-base on MNLI's matched development set, and counts of 100 others.

    Attributes
    ----------
    labels : tuple of str
    gold : ndarray of uint8, shape [instance]
        Positions in `labels`.
    scaled : ndarray of uint16, shape [run, instance, label - 1]
        Probabilities of all classes but the last, in units of 1 / `SCALE`.
    correct_of_100 : ndarray of uint8, shape [instance]
        How many of 100 other runs predict the gold label.
    """

    labels: tuple[str, ...]
    gold: NDArray[np.uint8]
    scaled: NDArray[np.uint16]
    correct_of_100: NDArray[np.uint8]

    @property
    def probability(self) -> NDArray[np.float64]:
        """Class probabilities, shape [run, instance, label]."""
        first = self.scaled.astype(np.int64)
        last = SCALE - first.sum(axis=-1, keepdims=True)
        return np.concatenate([first, last], axis=-1) / SCALE


def read_runs() -> Runs:
    """Read the runs."""
    with np.load(RUNS) as arrays:
        return Runs(
            labels=tuple(arrays["labels"].tolist()),
            gold=arrays["gold"],
            scaled=arrays["scaled"],
            correct_of_100=arrays["correct_of_100"],
        )


def write_release(folder: Path) -> Path:
    """Write the ten runs in the layout of the paper's release; each text is the guid."""
    runs = read_runs()
    (folder / "results").mkdir(parents=True)
    guids = [f"dev_matched-{row}" for row in range(len(runs.gold))]
    instances = [
        {"guid": guid, "text_a": guid, "text_b": None, "label": runs.labels[gold]}
        for guid, gold in zip(guids, runs.gold, strict=True)
    ]
    data = {"task_name": "mnli", "label_list": runs.labels, "train": [], "predict": instances}
    (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
    for seed, probability in enumerate(runs.probability, start=1):
        frame = pd.DataFrame(probability)
        path = folder / "results" / f"sbasep1f{seed}epoch9over3.tsv"
        frame.to_csv(path, sep="\t", header=False, index=False, float_format="%.7f")
    return folder


def write_annotations(folder: Path) -> Path:
    """Write pickles as the paper's authors released them, with nothing but guids as instances."""
    folder.mkdir()
    for task, of_task in pd.read_csv(ANNOTATIONS, keep_default_na=False).groupby("task"):
        content: dict[str, tuple[list[Any], list[str], dict[str, list[str | None]]]] = {}
        for (split, annotator), counts in of_task.groupby(["split", "annotator"]):
            rows = counts.loc[counts.index.repeat(counts["count"])]
            instances = [{"guid": f"{split}-{row}"} for row in range(len(rows))]
            labels = [label or None for label in rows["label"]]
            content[str(split)] = (instances, rows["group"].tolist(), {str(annotator): labels})
        (folder / f"{task}LargeWorseThanMini.pkl").write_bytes(pickle.dumps(content))
    return folder
