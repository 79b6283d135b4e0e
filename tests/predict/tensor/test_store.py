from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import predict.tensor.creating
import predict.tensor.writing
from configs.errors import InputError
from predict.tensor.contract import instances_path, require_probabilities
from predict.tensor.creating import create_store, new_store, set_configuration
from predict.tensor.opening import open_store
from predict.tensor.specification import TensorSpecification
from predict.tensor.writing import finish_runs, finished_runs, write_run

LABELS = ["contradiction", "entailment", "neutral"]
EPOCHS = [3.0, 10 / 3, 4.0]


def instances(rows: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "guid": [f"dev_{'ab'[i % 2]}-{i}" for i in range(rows)],
            "text_a": [f"Größe {i}" for i in range(rows)],
            "text_b": None,
            "label": rng.choice([*LABELS, "non-entailment"], rows),
            "genre": rng.choice(["fiction", "travel"], rows),
            "words": rng.integers(1, 9, rows),
        }
    )


def specification(**changed: Any) -> TensorSpecification:
    arguments: dict[str, Any] = {
        "task": "mnli",
        "sizes": ["mini", "base"],
        "instances": instances(),
        "labels": LABELS,
        "pretrain_seeds": [1, 2],
        "finetune_seeds": [1, 2, 3],
        "epochs": EPOCHS,
        "probability_dtype": "float16",
    }
    return TensorSpecification(**{**arguments, **changed})


CONFIGURATION = {"name": "test", "seeds": [1, 2]}


def create(path: Path, configuration: dict[str, Any] = CONFIGURATION, **changed: Any) -> None:
    create_store(path, specification(**changed), configuration=configuration)


def draw(seed: int, rows: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(3), rows)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def is_correct(probability: np.ndarray, gold: np.ndarray) -> np.ndarray:
    predicted = np.array(LABELS)[probability.argmax(1)]
    return np.where(gold == "non-entailment", predicted != "entailment", predicted == gold)


def test_importing_the_store_loads_no_training_library() -> None:
    code = (
        "import sys, predict.tensor.writing, predict.command;"
        " sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read_back(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "deep" / "mnli.zarr"
    rows = instances()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create(path, probability_dtype=dtype)
        probability = draw(1)
        write_run(
            path,
            size="base",
            pretrain_seed=2,
            finetune_seed=3,
            epoch=3.3333333,
            probability=probability,
        )
        finish_runs(path, size="base", pretrain_seed=2, runs=[(3, 10 / 3)])
        dataset = open_store(path).load()
    assert finished_runs(path) == {("base", 2, 3, 10 / 3)}
    run = dataset.sel(size="base", pretrain_seed=2, finetune_seed=3, epoch=10 / 3)
    gold = rows["label"].to_numpy(object)
    np.testing.assert_array_equal(run["correct"], is_correct(probability, gold))
    np.testing.assert_array_equal(run["probability"], probability.astype(dtype))
    assert dataset["correct"].sum() == run["correct"].sum()
    assert dataset["finished"].sum() == 1
    assert dataset["guid"].values.tolist() == rows["guid"].tolist()
    assert dataset["gold"].values.tolist() == rows["label"].tolist()
    assert dataset["split"].values.tolist() == ["dev_a", "dev_b"] * 20
    assert dataset["epoch"].values.tolist() == EPOCHS
    assert dataset["size"].values.tolist() == ["mini", "base"]
    assert dataset.attrs["task"] == "mnli"

    texts = pd.read_parquet(instances_path(path))
    assert list(texts)[:5] == ["guid", "split", "text_a", "text_b", "label"]
    pd.testing.assert_frame_equal(
        texts[["guid", "text_a", "label", "genre", "words"]],
        rows[["guid", "text_a", "label", "genre", "words"]],
    )
    assert texts["text_b"].isna().all()
    assert sorted(p.name for p in path.parent.iterdir()) == ["mnli.instances.parquet", "mnli.zarr"]


def test_correctness_is_decided_before_rounding(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    rows = instances(1).assign(label="entailment")
    create(path, instances=rows)
    close = np.array([[0.49999, 0.50001, 0.0]])
    assert close.astype(np.float16)[0, 0] == close.astype(np.float16)[0, 1]
    write_run(path, size="mini", pretrain_seed=1, finetune_seed=1, epoch=3, probability=close)
    assert open_store(path)["correct"][0, 0, 0, 0, 0]


def test_split_column_wins_over_the_guid(tmp_path: Path) -> None:
    rows = instances().assign(split=["train", "test"] * 20)
    create(tmp_path / "mnli.zarr", instances=rows)
    assert set(open_store(tmp_path / "mnli.zarr")["split"].values) == {"train", "test"}


@pytest.mark.parametrize("dtype", ["float16", "float32", None])
def test_ensemble_is_the_plain_mean_of_given_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    monkeypatch.setattr(predict.tensor.creating, "INSTANCES_PER_CHUNK", 16)
    path = tmp_path / "mnli.zarr"
    create(path, probability_dtype=dtype)
    gold = instances()["label"].to_numpy(object)
    for p in (1, 2):
        given = []
        for f in (1, 2, 3):
            for epoch in EPOCHS:
                probability = draw(int(100 * p + 10 * f + epoch))
                write_run(
                    path,
                    size="base",
                    pretrain_seed=p,
                    finetune_seed=f,
                    epoch=epoch,
                    probability=probability,
                )
            given.append(probability)
        finish_runs(
            path, size="base", pretrain_seed=p, runs=[(f, e) for f in (1, 2, 3) for e in EPOCHS]
        )
        ensemble = open_store(path)["ensemble_correct"].sel(size="base", pretrain_seed=p)
        np.testing.assert_array_equal(ensemble, is_correct(np.mean(given, axis=0), gold))
    assert not open_store(path)["ensemble_correct"].sel(size="mini").any()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mnli.instances.parquet", "mnli.zarr"]


# Three runs whose mean favours the second class by a millionth: rounded to half precision it
# favours the first, or neither.
CLOSE = [[0.4 + 1e-4, 0.4 + 2e-4, 0.2], [0.5 - 2e-4, 0.5 - 1e-4, 0.0], [0.45, 0.45 - 1.99e-4, 0.1]]


def close_runs(rows: int) -> list[np.ndarray]:
    return [np.tile(run / np.sum(run), (rows, 1)) for run in np.array(CLOSE)]


def test_rounding_would_flip_these_ensembles() -> None:
    given = np.mean(close_runs(1), axis=0)
    rounded = np.mean([run.astype(np.float16).astype(float) for run in close_runs(1)], axis=0)
    assert given.argmax() != rounded.argmax()


@pytest.mark.parametrize("dtype", ["float16", "float32", None])
def test_ensembles_do_not_depend_on_the_precision_of_storage(
    tmp_path: Path, dtype: str | None
) -> None:
    path = tmp_path / "mnli.zarr"
    rows = instances().assign(label=LABELS[int(np.mean(close_runs(1), axis=0).argmax())])
    create(path, instances=rows, probability_dtype=dtype)
    for f, probability in enumerate(close_runs(len(rows)), start=1):
        run: dict[str, Any] = {"pretrain_seed": 1, "finetune_seed": f, "epoch": 4.0}
        write_run(path, size="mini", **run, probability=probability)
        finish_runs(path, size="mini", pretrain_seed=1, runs=[(f, 4.0)])
    assert open_store(path)["ensemble_correct"].sel(size="mini", pretrain_seed=1).all()


class Killed(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", None])
def test_killed_at_any_point_and_resumed_the_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    small: dict[str, Any] = {"sizes": ["mini"], "pretrain_seeds": [1], "epochs": [4.0]}

    def predict_missing(path: Path) -> None:
        create(path, probability_dtype=dtype, **small)
        finished = finished_runs(path)
        missing = [(f, 4.0) for f in (1, 2, 3) if ("mini", 1, f, 4.0) not in finished]
        for f, e in missing:
            run: dict[str, Any] = {"pretrain_seed": 1, "finetune_seed": f, "epoch": e}
            write_run(path, size="mini", **run, probability=draw(int(10 * f + e)))
            if f == 1:
                finish_runs(path, size="mini", pretrain_seed=1, runs=[(f, e)])
        if missing:
            finish_runs(path, size="mini", pretrain_seed=1, runs=missing)

    whole = tmp_path / "whole" / "mnli.zarr"
    predict_missing(whole)
    steps = 0
    array_type = zarr.Array
    set_values = array_type.__setitem__
    left = 0

    def counted(array: zarr.Array, selection: Any, values: Any) -> None:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        set_values(array, selection, values)

    while True:
        path = tmp_path / str(steps) / "mnli.zarr"
        create(path, probability_dtype=dtype, **small)
        left = steps
        monkeypatch.setattr(array_type, "__setitem__", counted)
        try:
            predict_missing(path)
        except Killed:
            done = False
        else:
            done = True
        monkeypatch.undo()
        assert open_store(path).sizes["instance"] == 40
        predict_missing(path)
        assert tree(path.parent) == tree(whole.parent)
        if done:
            break
        steps += 1
    # Every run, its checksum and its mark, the ensemble and its checksum.
    assert steps == 3 * (4 if dtype else 3) + 2


def test_what_a_killed_process_kept_is_removed_when_the_stage_runs_again(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    create(path)
    for f in (1, 2, 3):
        run: dict[str, Any] = {"pretrain_seed": 1, "finetune_seed": f, "epoch": 4.0}
        write_run(path, size="mini", **run, probability=draw(f))
    kept = sorted(tmp_path.glob("*.npz"))
    assert len(kept) == 3
    content = kept[0].read_bytes()
    finish_runs(path, size="mini", pretrain_seed=1, runs=[(f, 4.0) for f in (1, 2, 3)])
    assert not list(tmp_path.glob("*.npz"))
    kept[0].write_bytes(content)
    create(path)
    assert not list(tmp_path.glob("*.npz"))


def flip_in_the_middle(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda file: file.write_bytes(b"no array"), flip_in_the_middle]
)
def test_an_ensemble_whose_probabilities_are_gone_is_refused(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    path = tmp_path / "mnli.zarr"
    create(path)
    for f in (1, 2, 3):
        run: dict[str, Any] = {"pretrain_seed": 1, "finetune_seed": f, "epoch": 4.0}
        write_run(path, size="mini", **run, probability=draw(f))
    finish_runs(path, size="mini", pretrain_seed=1, runs=[(1, 4.0)])
    file = sorted(tmp_path.glob("*.npz"))[0]
    damage(file)
    with pytest.raises(InputError) as caught:
        finish_runs(path, size="mini", pretrain_seed=1, runs=[(2, 4.0), (3, 4.0)])
    assert str(file) in caught.value.message and "\n" not in caught.value.message
    assert len(finished_runs(path)) == 1


def write_and_finish(path: Path, seeds: list[int], barrier: Any) -> None:
    for p in range(1, 7):
        for f in seeds:
            write_run(
                path,
                size="mini",
                pretrain_seed=p,
                finetune_seed=f,
                epoch=4.0,
                probability=draw(10 * p + f),
            )
        barrier.wait()
        finish_runs(path, size="mini", pretrain_seed=p, runs=[(f, 4.0) for f in seeds])


def test_two_processes_share_a_model(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    create(path, sizes=["mini"], pretrain_seeds=list(range(1, 7)), epochs=[4.0])
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    writers = [
        context.Process(target=write_and_finish, args=(path, seeds, barrier))
        for seeds in ([1, 3], [2])
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]

    dataset = open_store(path).load()
    assert dataset["finished"].all()
    gold = instances()["label"].to_numpy(object)
    for p in range(1, 7):
        drawn = [draw(10 * p + f) for f in (1, 2, 3)]
        for f in (1, 2, 3):
            np.testing.assert_array_equal(
                dataset["correct"].sel(size="mini", pretrain_seed=p, finetune_seed=f, epoch=4),
                is_correct(drawn[f - 1], gold),
            )
        np.testing.assert_array_equal(
            dataset["ensemble_correct"].sel(size="mini", pretrain_seed=p),
            is_correct(np.mean(drawn, axis=0), gold),
        )
    assert not [*tmp_path.rglob("*.lock"), *tmp_path.glob("*.npz")]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    create(path)
    run: dict[str, Any] = {"size": "mini", "pretrain_seed": 1, "finetune_seed": 1, "epoch": 3.0}
    first = write_run(path, **run, probability=draw(1))
    finish_runs(path, size="mini", pretrain_seed=1, runs=[(1, 3.0)])
    before = tree(path)
    np.testing.assert_array_equal(write_run(path, **run, probability=draw(2)), first)
    finish_runs(path, size="mini", pretrain_seed=1, runs=[(1, 3.0)])
    assert tree(path) == before


def test_creating_again_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    create(path)
    write_run(path, size="mini", pretrain_seed=1, finetune_seed=1, epoch=3, probability=draw(1))
    before = tree(tmp_path)
    create(path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"configuration": {"name": "other"}}, "another configuration"),
        ({"sizes": ["tiny", "base"]}, "'size'"),
        ({"epochs": [3.0, 4.0]}, "'epoch'"),
        ({"labels": LABELS[::-1]}, "'label'"),
        ({"instances": instances(41)}, "'guid'|'gold'|'split'"),
        ({"probability_dtype": None}, r"probability \(float16\)"),
    ],
)
def test_creating_something_else_is_refused(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    path = tmp_path / "mnli.zarr"
    create(path)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=named) as caught:
        create(path, **changed)
    assert "\n" not in caught.value.message
    assert tree(tmp_path) == before


def test_foreign_files_in_the_way_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"mnli\.zarr"):
        create(path)
    assert tree(tmp_path) == {"mnli.zarr/notes.txt": b"mine"}
    shutil.rmtree(path)
    instances_path(path).write_bytes(b"mine")
    with pytest.raises(InputError, match=r"mnli\.instances\.parquet: cannot be read"):
        create(path)
    assert tree(tmp_path) == {"mnli.instances.parquet": b"mine"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"instances": instances().assign(guid="dev-1")}, "'dev-1' twice"),
        ({"instances": instances().assign(label="maybe")}, "'maybe'"),
        ({"instances": instances().drop(columns="text_b")}, "'text_b'"),
        ({"instances": instances(1).assign(guid="7")}, "'7'"),
        ({"instances": instances(1).assign(split=None)}, "'dev_a-0'"),
        ({"instances": instances(2).assign(genre=["a", 1])}, "'genre'"),
        ({"instances": instances(0)}, "'guid' is empty"),
        ({"pretrain_seeds": [1, 1]}, "'pretrain_seed'"),
        ({"epochs": [4.0, 3.0]}, "'epoch'"),
        ({"sizes": []}, "'size'"),
        ({"probability_dtype": "float8"}, "float8"),
    ],
)
def test_bad_coordinates_leave_nothing(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        create(tmp_path / "mnli.zarr", **changed)
    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def bad_probability(row: int, values: list[float]) -> np.ndarray:
    probability = draw(0)
    probability[row] = values
    return probability


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"size": "huge"}, "size 'huge'"),
        ({"pretrain_seed": 9}, "pretrain_seed 9"),
        ({"finetune_seed": 0}, "finetune_seed 0"),
        ({"epoch": 3.5}, "epoch 3.5"),
        ({"probability": draw(0)[:-1]}, r"\(39, 3\)"),
        ({"probability": bad_probability(6, [np.nan, 0.5, 0.5])}, "row 7"),
        ({"probability": bad_probability(39, [0.3, 0.3, 0.398])}, "row 40"),
        ({"probability": bad_probability(0, [-0.1, 0.6, 0.5])}, "row 1 "),
        ({"probability": bad_probability(0, [np.inf, 0.6, 0.5])}, "row 1 "),
    ],
)
def test_a_bad_run_is_refused(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    path = tmp_path / "mnli.zarr"
    create(path)
    before = tree(path)
    run: dict[str, Any] = {"size": "mini", "pretrain_seed": 1, "finetune_seed": 1, "epoch": 3.0}
    with pytest.raises(InputError, match=named) as caught:
        write_run(path, **{**run, "probability": draw(0), **changed})
    assert "\n" not in caught.value.message
    assert tree(path) == before


def test_a_store_that_fails_while_it_is_filled_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="torn"),
        new_store(tmp_path / "mnli.zarr", specification()) as partial,
    ):
        assert partial.exists() and not (tmp_path / "mnli.zarr").exists()
        raise RuntimeError("torn")
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_is_known_at_the_end(tmp_path: Path) -> None:
    with new_store(tmp_path / "a.zarr", specification()) as partial:
        set_configuration(partial, CONFIGURATION)
    create(tmp_path / "b.zarr")
    first, second = (open_store(tmp_path / name) for name in ("a.zarr", "b.zarr"))
    assert first.identical(second)


def test_one_builder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    with (
        new_store(path, specification()),
        pytest.raises(InputError, match="another process"),
        new_store(path, specification()),
    ):
        pass
    assert open_store(path).sizes["instance"] == 40


def foreign() -> xr.Dataset:
    """A store as somebody else would make it: plain xarray, required variables only."""
    rng = np.random.default_rng(3)
    dims = ("size", "instance", "pretrain_seed", "finetune_seed", "epoch")
    return xr.Dataset(
        {
            "correct": (dims, rng.random((2, 5, 2, 3, 1)) < 0.5),
            "finished": (tuple(d for d in dims if d != "instance"), np.ones((2, 2, 3, 1), bool)),
        },
        coords={
            "size": ["small", "big"],
            "guid": ("instance", [f"dev-{i}" for i in range(5)]),
            "split": ("instance", ["dev"] * 5),
            "gold": ("instance", ["a", "b", "a", "b", "b"]),
            "pretrain_seed": [0, 1],
            "finetune_seed": [0, 1, 2],
            "epoch": [3],
        },
        attrs={"schema_version": 1, "task": "mine"},
    )


@pytest.mark.filterwarnings("ignore")  # whoever writes it may use types that zarr warns of
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_written_by_others_opens(tmp_path: Path, zarr_format: Any) -> None:
    foreign().to_zarr(tmp_path / "mine.zarr", zarr_format=zarr_format)
    dataset = open_store(tmp_path / "mine.zarr")
    np.testing.assert_array_equal(dataset["correct"], foreign()["correct"])
    assert dataset["correct"].dtype == bool


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("broken", "named"),
    [
        *((foreign().drop_vars(name), f"'{name}'") for name in ("correct", "finished")),
        *(
            (foreign().drop_vars(name), f"'{name}'")
            for name in ("size", "guid", "split", "gold", "pretrain_seed", "finetune_seed", "epoch")
        ),
        (foreign().transpose("instance", ...), "'correct' has dimensions"),
        (foreign().assign(correct=foreign()["correct"].astype(float)), "'correct' is float64"),
        (foreign().isel(instance=[0, 1, 0]), "'dev-0' twice"),
        (foreign().isel(instance=[]), "'guid' is empty"),
        (foreign().assign_coords(size=["big", "big"]), "'big' twice"),
        (foreign().assign_coords(pretrain_seed=[0.5, 1.5]), "'pretrain_seed' is float64"),
        (foreign().assign_attrs(schema_version=7), "'schema_version' is 7"),
        (foreign().drop_attrs(), "'schema_version' is missing"),
        (
            foreign().assign(
                probability=foreign()["correct"].expand_dims(label=2, axis=-1).astype(np.float32)
            ),
            "'label' is missing",
        ),
    ],
)
def test_a_store_against_the_contract_is_refused(
    tmp_path: Path, broken: xr.Dataset, named: str
) -> None:
    broken.to_zarr(tmp_path / "mine.zarr")
    with pytest.raises(InputError, match=named) as caught:
        open_store(tmp_path / "mine.zarr")
    assert caught.value.message.startswith(str(tmp_path / "mine.zarr"))
    assert "\n" not in caught.value.message


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.zarr").write_text("text")
    (tmp_path / "empty.zarr").mkdir()
    create(tmp_path / "torn.zarr")
    (tmp_path / "torn.zarr" / "zarr.json").write_text("{")
    create(tmp_path / "chunk.zarr")
    (tmp_path / "chunk.zarr" / "guid" / "c" / "0").write_bytes(b"torn")
    for name in ("missing", "file", "empty", "torn", "chunk"):
        with pytest.raises(InputError, match=rf"{name}\.zarr: ") as caught:
            open_store(tmp_path / f"{name}.zarr")
        assert "\n" not in caught.value.message
    with pytest.raises(InputError, match="missing"):
        finished_runs(tmp_path / "missing.zarr")


def all_wrong(path: Path, **changed: Any) -> None:
    """Write a store of one size whose runs are wrong on every instance."""
    rows = instances().assign(label="neutral")
    create(path, sizes=["base"], epochs=[3.0, 4.0], instances=rows, **changed)
    wrong = np.tile([0.9, 0.1, 0.0], (len(rows), 1))
    for p, f, e in itertools.product([1, 2], [1, 2, 3], [3.0, 4.0]):
        run: dict[str, Any] = {"pretrain_seed": p, "finetune_seed": f, "epoch": e}
        write_run(path, size="base", **run, probability=wrong)
    for p in (1, 2):
        # Seed 2 stays without its last epoch.
        runs = [(f, e) for f in (1, 2, 3) for e in (3.0, 4.0)[: 3 - p]]
        finish_runs(path, size="base", pretrain_seed=p, runs=runs)


@pytest.mark.parametrize(
    ("chunk", "named"),
    [
        ("correct/c/0/0/1/2/0", "pretrain_seed 2, finetune_seed 3, epoch 3;"),
        ("probability/c/0/0/0/0/1/0", "pretrain_seed 1, finetune_seed 1, epoch 4;"),
        ("ensemble_correct/c/0/0/0", "size base, pretrain_seed 1;"),
    ],
)
def test_a_lost_chunk_of_a_finished_run_is_named(tmp_path: Path, chunk: str, named: str) -> None:
    path = tmp_path / "mnli.zarr"
    all_wrong(path)
    assert not open_store(path)["correct"].values.any()
    (path / chunk).unlink()
    with pytest.raises(InputError) as caught:
        open_store(path)
    assert str(path / chunk) in caught.value.message
    assert named in caught.value.message


def test_what_no_finished_run_needs_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    all_wrong(path)
    (path / "correct/c/0/0/1/2/1").unlink()
    assert not (path / "ensemble_correct/c/0/0/1").exists()
    open_store(path)


def test_stores_without_the_files_of_empty_chunks_are_read(tmp_path: Path) -> None:
    path, part = tmp_path / "mnli.zarr", tmp_path / "part.zarr"
    all_wrong(path, probability_dtype=None)
    # xarray leaves out the files of chunks that are all wrong.
    open_store(path).isel(pretrain_seed=[0]).to_zarr(part, consolidated=False)
    assert not (part / "correct/c").exists()
    assert open_store(part)["finished"].values.all()


def test_a_store_that_was_changed_on_purpose_opens_without_its_checksums(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    all_wrong(path, probability_dtype=None)
    (path / "correct/c/0/0/0/0/0").unlink()
    with pytest.raises(InputError, match="remove the attribute 'checksum' and the folders"):
        zarr.open_group(path, mode="r+", use_consolidated=False).attrs["task"] = "other"
        open_store(path)
    del zarr.open_group(path, mode="r+", use_consolidated=False).attrs["checksum"]
    for name in ("run_checksum", "ensemble_checksum"):
        shutil.rmtree(path / name)
    assert open_store(path).attrs["task"] == "other"


def exchange(path: Path, first: str, second: str) -> None:
    """Exchange two files."""
    other = path / "other"
    (path / first).rename(other)
    (path / second).rename(path / first)
    other.rename(path / second)


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = json.loads((path / name).read_text())
        change(content)
        (path / name).write_text(json.dumps(content))

    return apply


def metadata(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return edit(f"{name}/zarr.json", change)


def cut(place: int, array: dict[str, Any]) -> None:
    array["shape"][place] = 2


def without_last_seed(path: Path) -> None:
    """Cut the last finetuning seed off all metadata."""
    places = {"finetune_seed": 0, "finished": 2, "run_checksum": 2, "correct": 3, "probability": 3}
    for name, place in places.items():
        metadata(name, partial(cut, place))(path)
    edit("zarr.json", lambda group: group.pop("consolidated_metadata"))(path)


OTHER_NUMBERS: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda path: exchange(path, "correct/c/0/0/0/0/0", "correct/c/0/0/0/1/0"),
        "size base, pretrain_seed 1, finetune_seed 1, epoch 3 do not match its checksum",
    ),
    (
        lambda path: exchange(path, "probability/c/0/0/0/0/0/0", "probability/c/0/0/0/0/1/0"),
        "finetune_seed 1, epoch 3 do not match its checksum",
    ),
    (
        lambda path: exchange(path, "ensemble_correct/c/0/0/0", "ensemble_correct/c/0/0/1"),
        "ensemble of size base, pretrain_seed 1 do not match its checksum",
    ),
    (lambda path: (path / "run_checksum/c/0/0/0/0").unlink(), "do not match its checksum"),
    (lambda path: exchange(path, "split/c/0", "gold/c/0"), "coordinates"),
    (without_last_seed, "metadata"),
    (edit("zarr.json", lambda group: group["attributes"].update(task="other")), "metadata"),
    (edit("zarr.json", lambda group: group["attributes"].update(task=7)), "'task' is 7"),
    (edit("zarr.json", lambda group: group["attributes"].update(task=["a"])), "'task' is"),
    (edit("zarr.json", lambda group: group["attributes"].update(task="a" * 300)), "too long"),
    (edit("zarr.json", lambda group: group["attributes"].pop("checksum")), "metadata"),
    (edit("zarr.json", lambda group: group["attributes"].update(checksum={"a": 1})), "metadata"),
    (
        edit(
            "zarr.json",
            lambda group: group["consolidated_metadata"]["metadata"]["correct"]["shape"].append(2),
        ),
        "consolidated metadata of 'correct'",
    ),
]


@pytest.mark.parametrize(("damage", "named"), OTHER_NUMBERS)
def test_what_would_silently_give_other_numbers_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], named: str
) -> None:
    path = tmp_path / "mnli.zarr"
    create(path, sizes=["base"], epochs=[3.0, 4.0])
    for p, f, e in itertools.product([1, 2], [1, 2, 3], [3.0, 4.0]):
        run: dict[str, Any] = {"pretrain_seed": p, "finetune_seed": f, "epoch": e}
        write_run(path, size="base", **run, probability=draw(int(100 * p + 10 * f + e)))
    for p in (1, 2):
        runs = [(f, e) for f in (1, 2, 3) for e in (3.0, 4.0)]
        finish_runs(path, size="base", pretrain_seed=p, runs=runs)
    open_store(path)
    damage(path)
    with pytest.raises(InputError) as caught:
        open_store(path)
    assert named in caught.value.message and "\n" not in caught.value.message


def chunk_shape(name: str, length: int) -> Callable[[Path], None]:
    return metadata(
        name,
        lambda array: array["chunk_grid"]["configuration"].update(
            chunk_shape=[length] * len(array["shape"])
        ),
    )


def pipe(name: str) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        (path / name).unlink()
        os.mkfifo(path / name)

    return apply


def lengthen(*names: str, to: int) -> Callable[[Path], None]:
    """Have the metadata claim instances or seeds that are not there."""

    def apply(path: Path) -> None:
        for name in names:
            metadata(
                name,
                lambda array: array.update(
                    shape=[to if n in (3, 5) else n for n in array["shape"]]
                ),
            )(path)

    return apply


DAMAGED: list[Callable[[Path], object]] = [
    *(
        lambda path, content=content: (path / "finished/c/0/0/0/0").write_bytes(content)
        for content in (b"", b"\1\1", b"\1" * 100)
    ),
    edit("zarr.json", lambda group: group["attributes"].update(schema_version="1")),
    edit("zarr.json", lambda group: group["attributes"].update(schema_version=True)),
    edit("zarr.json", lambda group: group["attributes"].update(task="")),
    *(chunk_shape(name, 0) for name in ("correct", "finished", "guid", "epoch")),
    metadata("finished", lambda array: array.update(data_type=">f2")),
    lengthen("guid", "split", "gold", "correct", to=10**8),
    lengthen("finetune_seed", "correct", "finished", to=10**8),
    pipe("correct/c/0/0/0/0/0"),
    pipe("zarr.json"),
    pipe("correct/zarr.json"),
    pipe("guid/c/0"),
    edit("zarr.json", lambda group: group["attributes"].update(task="a" * 300)),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_store_of_others_is_refused_at_once(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    path = tmp_path / "mine.zarr"
    chunks = {name: {"chunks": array.shape} for name, array in foreign().variables.items()}
    foreign().to_zarr(path, consolidated=False, encoding=chunks, zarr_format=3)
    damage(path)
    with pytest.raises(InputError) as caught:
        open_store(path)
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message


def test_probabilities_of_others_are_checked_when_they_are_read() -> None:
    require_probabilities("x", np.array([0.0, 1.0005, -0.0005], np.float32))
    require_probabilities("x", np.array([], np.float16))
    for value in (np.nan, np.inf, -np.inf, -0.01, 1.01):
        with pytest.raises(InputError, match=r"^x holds a value that is not between 0 and 1"):
            require_probabilities("x", np.array([0.5, value], np.float16))
