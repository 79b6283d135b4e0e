from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from configs.errors import InputError
from configs.folder import prepare_folder
from configs.loading import load_experiment
from configs.schema import Examples, Task, World
from finetune.command import main as finetune
from finetune.preparation import prepare_task
from finetune.tasks import TaskData, load_task
from pretrain.text.wordpiece import SPECIAL_TOKENS
from pretrain.text.world import inference_rows
from tests.experiments import small, write_config

LABELS = ["contradiction", "entailment", "neutral"]


def rows(n: int, first: int = 0, **changed: Any) -> list[dict[str, Any]]:
    return [
        {
            "guid": f"dev-{i}",
            "text_a": f"premise {i}",
            "text_b": f"hypothesis {i}",
            "label": LABELS[i % 3],
            **changed,
        }
        for i in range(first, first + n)
    ]


def source(path: Path, data: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    path.write_text(json.dumps({"predict": data}))
    return {"path": "json", "data_files": str(path), "field": "predict", **options}


def load(
    folder: Path,
    train: list[dict[str, Any]],
    evaluation: list[dict[str, Any]],
    folds: int | None = None,
    labels: list[str] = LABELS,
    task: dict[str, Any] | None = None,
    **options: Any,
) -> TaskData:
    made = Task(
        name="task",
        labels=labels,
        train=Examples(**source(folder / "train.json", train, **options)),
        evaluation={"dev": Examples(**source(folder / "dev.json", evaluation, **options))},
        folds=folds,
        **(task or {}),
    )
    return load_task(made, None)


def test_instances_of_local_files(tmp_path: Path) -> None:
    data = load(tmp_path, rows(5), rows(4, genre="x"), guid="guid", metadata=[])
    assert data.train["guid"].tolist() == [f"dev-{i}" for i in range(5)]
    assert data.evaluation["guid"].tolist() == [f"dev-{i}" for i in range(4)]
    assert data.evaluation["text_a"].tolist() == [f"premise {i}" for i in range(4)]
    assert data.evaluation["text_b"].tolist() == [f"hypothesis {i}" for i in range(4)]
    assert data.evaluation["label"].tolist() == [LABELS[i % 3] for i in range(4)]
    assert data.folds == 1
    assert (data.fold_of_train == 0).all()


def test_without_guids_they_are_made_of_split_and_row(tmp_path: Path) -> None:
    data = load(tmp_path, rows(2), rows(3))
    assert data.train["guid"].tolist() == ["train-0", "train-1"]
    assert data.evaluation["guid"].tolist() == ["dev-0", "dev-1", "dev-2"]


def test_guids_take_their_numbers_from_a_column(tmp_path: Path) -> None:
    numbered = [{**row, "idx": 350000 + i} for i, row in enumerate(rows(3))]
    data = load(tmp_path, numbered, numbered, row="idx")
    assert data.evaluation["guid"].tolist() == ["dev-350000", "dev-350001", "dev-350002"]


def test_labels_are_mapped_and_rows_mapped_to_null_left_out(tmp_path: Path) -> None:
    data = load(
        tmp_path,
        [{**row, "label": i} for i, row in enumerate(rows(3))],
        [{**row, "label": i - 1} for i, row in enumerate(rows(4))],
        labels=["no", "yes"],
        label_map={"-1": None, "0": "no", "1": "yes", "2": "no"},
    )
    assert data.train["label"].tolist() == ["no", "yes", "no"]
    assert data.evaluation["label"].tolist() == ["no", "yes", "no"]
    assert data.evaluation["guid"].tolist() == ["dev-1", "dev-2", "dev-3"]


def test_hans_says_non_entailment_of_what_is_predicted_alone(tmp_path: Path) -> None:
    data = load(tmp_path, rows(3), rows(2, label="non-entailment"))
    assert data.evaluation["label"].tolist() == ["non-entailment"] * 2
    message = r"^tasks\.task\.train: train-0 has the label 'non-entailment'"
    with pytest.raises(InputError, match=message):
        load(tmp_path, rows(2, label="non-entailment"), rows(2))
    with pytest.raises(InputError, match=r"^tasks\.task\.dev: dev-0 has the label 'non-"):
        load(tmp_path, rows(3), rows(2, label="non-entailment"), folds=2)


def test_folds_deal_every_instance_to_one_fold(tmp_path: Path) -> None:
    data = load(tmp_path, rows(20), rows(11, first=20), folds=4, guid="guid")
    assert data.train.equals(data.evaluation)
    assert data.train["guid"].tolist() == [f"dev-{i}" for i in range(31)]
    assert data.train["split"].tolist() == ["train"] * 20 + ["dev"] * 11
    assert (data.fold_of_train == data.fold_of_evaluation).all()
    assert sorted(np.bincount(data.fold_of_train).tolist()) == [7, 8, 8, 8]
    # Dealt at random, not in turn.
    assert (data.fold_of_train != np.arange(31) % 4).any()


BAD: list[tuple[dict[str, Any], list[dict[str, Any]], str]] = [
    ({"text_b": "hypothesis"}, rows(3), "tasks.task.dev: no column 'hypothesis'; its columns are"),
    ({"guid": "id"}, rows(3), "tasks.task.dev: no column 'id'"),
    ({"metadata": ["genre"]}, rows(3), "tasks.task.dev: no column 'genre'"),
    (
        {},
        [*rows(2), *rows(1, label="maybe")],
        "tasks.task.dev: dev-2 has the label 'maybe', which is not among contradiction,",
    ),
    ({}, [*rows(2), *rows(1, label=None)], "tasks.task.dev: dev-2 has no label; "),
    (
        {"label_map": {"entailment": "entailment", "neutral": "neutral"}},
        rows(3),
        "tasks.task.dev.label_map: does not map the label 'contradiction'",
    ),
    (
        {"label_map": dict.fromkeys(LABELS)},
        rows(3),
        "tasks.task.dev: has no instances; check its split and label_map",
    ),
    ({"guid": "guid"}, [*rows(3), *rows(1)], "tasks.task: the guid 'dev-0' occurs twice"),
    ({}, [*rows(1), *rows(1, text_b=None)], "tasks.task.dev: dev-1 has no text in text_b"),
    (
        {"split": "validation"},
        rows(3),
        "tasks.task.dev: {dev}: cannot be loaded (ValueError Unknown split",
    ),
    (
        {"data_files": "absent.json", "origin": "https://example.org"},
        rows(3),
        "tasks.task.dev: absent.json: no such file in {cwd}; put it there, from "
        "https://example.org, or remove this entry",
    ),
    (
        {"field": "predictions"},
        rows(3),
        "tasks.task.dev: {dev}: cannot be loaded (KeyError 'predictions')",
    ),
]


@pytest.fixture
def quiet_log() -> Iterator[None]:
    """Take away the handlers that a command adds to the log."""
    before = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = before


@pytest.mark.parametrize(("options", "data", "message"), BAD)
@pytest.mark.usefixtures("quiet_log")
def test_bad_instances_are_refused_in_one_line(
    tmp_path: Path, options: dict[str, Any], data: list[dict[str, Any]], message: str
) -> None:
    experiment = small(tmp_path / "out")
    experiment["tasks"] = [
        {
            "name": "task",
            "labels": LABELS,
            "train": source(tmp_path / "train.json", rows(6)),
            "evaluation": {"dev": source(tmp_path / "dev.json", data) | options},
        }
    ]
    config = write_config(tmp_path / "experiment.yaml", experiment)
    # As if pretraining were done.
    (tmp_path / "out").mkdir()
    runner = CliRunner()
    assert runner.invoke(finetune, [str(config)]).exit_code == 2
    for size in ("mini", "base"):
        for seed in (1, 2):
            encoder = tmp_path / "out" / "pretrain" / size / f"p{seed}" / "encoder.safetensors"
            encoder.parent.mkdir(parents=True)
            encoder.touch()
    (tmp_path / "out" / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "a"]))
    result = runner.invoke(finetune, [str(config)])
    assert result.exit_code == 2
    # After what `datasets` shows of its progress, one line.
    *progress, line = result.stderr.splitlines()
    assert all("Generating" in one or not one or "Failed" in one for one in progress)
    assert line.startswith("Error: " + message.format(dev=tmp_path / "dev.json", cwd=Path.cwd()))
    assert not (tmp_path / "out" / "tasks" / "task" / "evaluation.parquet").exists()


@pytest.mark.usefixtures("quiet_log")
def test_finetuning_before_pretraining_says_what_to_run(tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.yaml", small(tmp_path / "out"))
    result = CliRunner().invoke(finetune, [str(config)])
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: {tmp_path / 'out'}: 4 encoders are not pretrained yet (mini/p1 first); "
        "run python -m pretrain\n"
    )


def test_the_world_s_instances_keep_their_metadata() -> None:
    world = World(train=5, evaluation=40)
    columns = ["true_label", "wrong_label", "construction", "heuristic"]
    task = Task(
        name="inference",
        labels=LABELS,
        train=Examples(path="world", name="inference", split="train"),
        evaluation={
            "dev": Examples(path="world", name="inference", split="evaluation", metadata=columns)
        },
    )
    data = load_task(task, world)
    made = inference_rows(world, "evaluation")
    for column in ("text_a", "text_b", "label", *columns):
        assert data.evaluation[column].tolist() == [row[column] for row in made]


def test_a_check_reads_every_task_before_anything_is_there(tmp_path: Path) -> None:
    experiment = small(tmp_path / "out")
    dev = source(tmp_path / "dev.json", rows(4))
    task = {"labels": LABELS, "train": source(tmp_path / "train.json", rows(16)), "folds": 2}
    experiment["tasks"] += [{**task, "name": "task", "evaluation": {"dev": dev}}]
    config = write_config(tmp_path / "experiment.yaml", experiment)
    result = CliRunner().invoke(finetune, [str(config), "--check"])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "inference: 80 instances to train on, 50 to predict (dev 50)",
        "task: 20 instances to train on, 20 to predict (train 16, dev 4)",
    ]
    dev["label"] = "gold_label"
    experiment["tasks"][1]["evaluation"] = {"dev": dev}
    result = CliRunner().invoke(finetune, [str(write_config(config, experiment)), "--check"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(
        "Error: tasks.task.dev: no column 'gold_label'; its columns are"
    )
    assert not (tmp_path / "out").exists()


def test_a_check_leaves_out_what_is_prepared(tmp_path: Path) -> None:
    (tmp_path / "gone.json").write_text(json.dumps({"predict": rows(40)}))
    train = {"path": "json", "data_files": str(tmp_path / "gone.json"), "field": "predict"}
    experiment = small(tmp_path / "out")
    experiment["tasks"][0]["train"] = train
    config = write_config(tmp_path / "experiment.yaml", experiment)
    loaded = load_experiment(config)
    prepare_folder(loaded)
    (tmp_path / "out" / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "a"]))
    prepare_task(loaded, loaded.tasks[0])
    (tmp_path / "gone.json").unlink()
    result = CliRunner().invoke(finetune, [str(config), "--check"])
    assert (result.exit_code, result.stdout) == (0, "inference: prepared already\n")
    # What is prepared of another experiment is not looked at.
    experiment["finetuning"]["seeds"] = 1
    other = write_config(tmp_path / "other.yaml", experiment)
    result = CliRunner().invoke(finetune, [str(other), "--check"])
    assert result.exit_code == 2 and "holds another experiment" in result.stderr
    # What is damaged is.
    prepared = tmp_path / "out" / "tasks" / "inference" / "evaluation.parquet"
    whole = prepared.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 4] ^= 1
    for damaged in (whole[: len(whole) // 2], bytes(flipped), b""):
        prepared.write_bytes(damaged)
        result = CliRunner().invoke(finetune, [str(config), "--check"])
        assert result.exit_code == 2
        assert result.stderr.startswith(f"Error: {prepared}: cannot be read (")
        assert result.stderr.endswith(f"remove {prepared.parent}, and run python -m finetune\n")
    (prepared.parent / "train.safetensors").unlink()
    assert CliRunner().invoke(finetune, [str(config), "--check"]).exit_code == 2


REFUSED_BY_A_CHECK: list[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]], str]] = [
    ({}, {"metadata": ["genre"]}, rows(6, genre={"a": 1}), ".*metadata 'genre' has mixed values"),
    ({}, {"metadata": ["genre"]}, rows(6, genre=["a"]), ".*metadata 'genre' has mixed values"),
    (
        {},
        {"metadata": ["label"]},
        rows(6),
        r"\.dev\.metadata: 'label' is the name of another",
    ),
    ({}, {"guid": "guid"}, [*rows(5), *rows(1, guid="")], r"\.dev\.guid: row 5 has no value in"),
    ({}, {"guid": "guid"}, [*rows(5), *rows(1, guid=None)], r"\.dev\.guid: row 5 has no value in"),
    ({}, {"guid": "genre"}, rows(6, genre=[1]), r"\.dev\.guid: the column 'genre' has neither"),
    ({}, {}, [*rows(5), *rows(1, label="")], r"\.dev: dev-5 has the label '', which is not among"),
    ({"folds": 13}, {}, rows(6), r"\.folds: 12 instances cannot be divided into 13 folds"),
    ({"labels": [0, 1]}, {"label": "gold"}, rows(6, gold=2), r"\.dev: dev-0 has the label '2', .*"),
]


@pytest.mark.parametrize(("task", "options", "data", "message"), REFUSED_BY_A_CHECK)
def test_a_check_refuses_what_later_stages_would(
    tmp_path: Path,
    task: dict[str, Any],
    options: dict[str, Any],
    data: list[dict[str, Any]],
    message: str,
) -> None:
    experiment = small(tmp_path / "out")
    train = source(tmp_path / "train.json", rows(6, gold=1))
    if options.get("label"):
        train["label"] = options["label"]
    dev = source(tmp_path / "dev.json", data) | options
    experiment["tasks"] = [
        {"name": "task", "labels": LABELS, "train": train, "evaluation": {"dev": dev}} | task
    ]
    config = write_config(tmp_path / "experiment.yaml", experiment)
    result = CliRunner().invoke(finetune, [str(config), "--check"])
    assert result.exit_code == 2, result.output
    assert re.match(rf"Error: tasks\.task{message}", result.stderr.splitlines()[-1])
    assert "np." not in result.stderr


def test_a_check_counts_the_steps_of_every_run(tmp_path: Path) -> None:
    experiment = small(tmp_path / "out", finetuning={"batch_size": 400})
    config = write_config(tmp_path / "experiment.yaml", experiment)
    result = CliRunner().invoke(finetune, [str(config), "--check"])
    assert result.exit_code == 2
    assert "batches of 400" in result.stderr and "too few for its checkpoint" in result.stderr


def test_metadata_of_two_sets_is_of_one_type(tmp_path: Path) -> None:
    def task(first: Any, second: Any) -> Task:
        dev = {
            name: Examples(**source(tmp_path / name, rows(3, genre=genre), metadata=["genre"]))
            for name, genre in (("one.json", first), ("other.json", second))
        }
        train = Examples(**source(tmp_path / "train.json", rows(3)))
        return Task(name="task", labels=LABELS, train=train, evaluation=dev)

    assert load_task(task(1, 2.5), None).evaluation["genre"].tolist() == [1] * 3 + [2.5] * 3
    with pytest.raises(InputError, match=r"^tasks\.task: the metadata 'genre' has mixed"):
        load_task(task("a", 2), None)
    # A reader of JSON takes such text for a date.
    genres = load_task(task("2020-01-02", None), None).evaluation["genre"]
    assert genres.tolist()[0].startswith("2020-01-02")
    assert genres.isna().tolist() == [False] * 3 + [True] * 3


@pytest.mark.parametrize(
    ("labels", "given", "expected"),
    [
        ([0, 1], [0, 1, 0], ["0", "1", "0"]),
        ([0, 1], [False, True, False], ["0", "1", "0"]),
        ([False, True], [False, True, False], ["False", "True", "False"]),
        ([0, 1], [0.0, 1.0, 0.0], ["0", "1", "0"]),
        (["0", "1"], ["0", "1", "0"], ["0", "1", "0"]),
    ],
)
def test_labels_that_are_no_text_match(
    tmp_path: Path, labels: list[Any], given: list[Any], expected: list[str]
) -> None:
    data = [{**row, "label": label} for row, label in zip(rows(3), given, strict=True)]
    loaded = load(tmp_path, data, data, labels=labels)
    assert loaded.evaluation["label"].tolist() == expected
