"""Write the files of this folder from their sources, without any text.

Run from the root of the project:

    python -m tests.data.make RELEASE COUNTS ANNOTATED

RELEASE is the folder of ten runs on MNLI in the layout of the paper's release, COUNTS the CSV file
of how many of 100 other runs are correct (columns guid, runs, correct), and ANNOTATED the folder
of the paper's annotated pickles. The README beside this file says where they come from.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click
import numpy as np
import pandas as pd

from predict.release.safe_pickles import read_pickle
from tests.released import ANNOTATIONS, INSTANCES, RUNS, SCALE, Runs

RUN_FILES = [f"sbasep1f{seed}epoch9over3.tsv" for seed in range(1, 11)]


def read_runs(release: Path, counts: Path) -> Runs:
    """Read the runs; probabilities are rounded without changing any prediction."""
    data = json.loads((release / "data.json").read_text(encoding="utf-8"))
    labels = data["label_list"]
    others = pd.read_csv(counts)
    instances = len(data["predict"])
    guids = [f"dev_matched-{row}" for row in range(instances)]
    assert [instance["guid"] for instance in data["predict"]] == guids
    assert others["guid"].tolist() == guids and set(others["runs"]) == {100}
    given = np.stack([np.loadtxt(release / "results" / name) for name in RUN_FILES])
    runs = Runs(
        labels=tuple(labels),
        gold=np.array([labels.index(row["label"]) for row in data["predict"]], np.uint8),
        scaled=np.rint(given[..., :-1] * SCALE).astype(np.uint16),
        correct_of_100=others["correct"].to_numpy(np.uint8),
    )
    # The last class has what the others leave.
    assert (runs.probability >= 0).all()
    assert (runs.probability.argmax(-1) == given.argmax(-1)).all()
    assert (runs.probability.mean(0).argmax(-1) == given.mean(0).argmax(-1)).all()
    return runs


def count_annotated(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Count annotations by group and label, and instances by gold label."""
    annotations, instances = [], []
    for path in sorted(folder.glob("*.pkl")):
        task = path.stem.removesuffix("LargeWorseThanMini")
        for split, (rows, groups, annotators) in read_pickle(path).items():
            gold = Counter(row["label"] for row in rows)
            instances += [(task, split, label, gold[label]) for label in sorted(gold)]
            for annotator, given in annotators.items():
                counts = Counter(zip(groups, [label or "" for label in given], strict=True))
                annotations += [
                    (task, split, annotator, *key, count) for key, count in sorted(counts.items())
                ]
    keys = ["task", "split"]
    return (
        pd.DataFrame(annotations, columns=[*keys, "annotator", "group", "label", "count"]),
        pd.DataFrame(instances, columns=[*keys, "label", "count"]),
    )


@click.command()
@click.argument("release", type=click.Path(path_type=Path))
@click.argument("counts", type=click.Path(path_type=Path))
@click.argument("annotated", type=click.Path(path_type=Path))
def main(release: Path, counts: Path, annotated: Path) -> None:
    """Write the files of tests/data from RELEASE, COUNTS and ANNOTATED."""
    runs = read_runs(release, counts)
    np.savez_compressed(
        RUNS,
        labels=np.array(runs.labels),
        gold=runs.gold,
        scaled=runs.scaled,
        correct_of_100=runs.correct_of_100,
    )
    annotations, instances = count_annotated(annotated)
    annotations.to_csv(ANNOTATIONS, index=False)
    instances.to_csv(INSTANCES, index=False)


if __name__ == "__main__":
    main()
