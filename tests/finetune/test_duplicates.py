from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from configs.errors import InputError
from configs.schema import Experiment
from finetune.duplicates import count_removed, occurs_once
from finetune.preparation import prepare_task, prepared_for
from pretrain.text.wordpiece import SPECIAL_TOKENS
from tests.experiments import small
from tests.finetune.test_tasks import LABELS, load, rows, source


def frame(pairs: list[tuple[str, str | None]]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["text_a", "text_b"])


def test_pairs_are_counted_over_all_frames() -> None:
    train = frame([("a", "b"), ("c", "d"), ("e", "f"), ("c", "d")])
    evaluation = frame([("b", "a"), ("e", "f"), ("a", "B"), ("ab", ""), ("a", "b ")])
    once = occurs_once([train, evaluation])
    assert once[0].tolist() == [True, False, False, False]
    assert once[1].tolist() == [True, False, True, True, True]


def test_single_texts_are_counted_alone() -> None:
    once = occurs_once([frame([("a", None), ("b", None)]), frame([("b", None), ("c", None)])])
    assert [one.tolist() for one in once] == [[True, False], [False, True]]


def test_as_counting_one_by_one() -> None:
    draws = np.random.default_rng(0).integers(30, size=(900, 2)).astype(str)
    parts = [frame([(a, b) for a, b in part]) for part in np.split(draws, [500, 500])]
    count = Counter((a, b) for a, b in draws)
    expected = [count[a, b] == 1 for a, b in draws]
    assert np.concatenate(occurs_once(parts)).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_removed_instances_are_counted_by_split() -> None:
    split = pd.Series(["dev", "dev", "HANS", "dev"])
    table = count_removed("evaluation", split, np.array([True, False, True, False]))
    assert table.to_dict("records") == [
        {"used_for": "evaluation", "split": "dev", "instances": 3, "removed": 2},
        {"used_for": "evaluation", "split": "HANS", "instances": 1, "removed": 0},
    ]


def test_duplicates_are_removed_from_training_and_evaluation(tmp_path: Path) -> None:
    train = [*rows(6), rows(1, first=0)[0], *rows(1, first=8)]
    evaluation = rows(3, first=5)
    kept = load(tmp_path, train, evaluation)
    assert kept.removed is None
    assert (len(kept.train), len(kept.evaluation)) == (8, 3)
    data = load(tmp_path, train, evaluation, task={"remove_duplicates": True})
    assert data.train["guid"].tolist() == [f"train-{i}" for i in (1, 2, 3, 4, 7)]
    assert data.evaluation["guid"].tolist() == ["dev-1", "dev-2"]
    assert len(data.fold_of_train) == 5 and len(data.fold_of_evaluation) == 2
    assert data.removed is not None
    assert data.removed["removed"].tolist() == [3, 1]


def test_with_folds_a_duplicate_is_in_none(tmp_path: Path) -> None:
    folds: dict[str, Any] = {"folds": 2, "task": {"remove_duplicates": True}}
    data = load(tmp_path, rows(6), rows(4, first=4), **folds)
    assert data.train.equals(data.evaluation)
    assert data.train["text_a"].tolist() == [f"premise {i}" for i in (0, 1, 2, 3, 6, 7)]
    assert np.bincount(data.fold_of_train).tolist() == [3, 3]


def test_a_set_of_nothing_but_duplicates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^tasks\.task\.dev: the texts of every instance occur"):
        load(tmp_path, rows(6), rows(2), task={"remove_duplicates": True})


def test_the_counts_are_logged_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = small(tmp_path / "out")
    config["tasks"] = [
        {
            "name": "task",
            "labels": LABELS,
            "remove_duplicates": True,
            "train": source(tmp_path / "train.json", rows(6)),
            "evaluation": {"dev": source(tmp_path / "dev.json", rows(4, first=5))},
        }
    ]
    experiment = Experiment.model_validate(config)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "premise"]))
    with caplog.at_level("INFO"):
        prepare_task(experiment, experiment.tasks[0])
    assert caplog.messages == [
        "task: 5 instances to train on, 3 to predict (dev 3)",
        "task: removed 2 of 10 instances, whose texts occur more than once "
        "(training train 1, evaluation dev 1)",
    ]
    table = (tmp_path / "out" / "tasks" / "task" / "duplicates.csv").read_text()
    assert table == ("used_for,split,instances,removed\ntraining,train,6,1\nevaluation,dev,4,1\n")
    prepared = prepared_for(experiment, "task")
    assert len(prepared.train["label"]) == 5 and len(prepared.evaluation["fold"]) == 3
