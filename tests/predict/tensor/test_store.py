from __future__ import annotations

import itertools
import multiprocessing
import shutil
import subprocess
import sys
import warnings
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
from predict.tensor.contract import instances_path
from predict.tensor.creating import create_store, new_store, set_configuration
from predict.tensor.opening import open_store
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


def arguments(**changed: Any) -> dict[str, Any]:
    return {
        "task": "mnli",
        "sizes": ["mini", "base"],
        "instances": instances(),
        "labels": LABELS,
        "pretrain_seeds": [1, 2],
        "finetune_seeds": [1, 2, 3],
        "epochs": EPOCHS,
        "probability_dtype": "float16",
        "configuration": {"name": "test", "seeds": [1, 2]},
        **changed,
    }


def draw(seed: int, rows: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(3), rows)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def is_right(probability: np.ndarray, gold: np.ndarray) -> np.ndarray:
    predicted = np.array(LABELS)[probability.argmax(1)]
    return np.where(gold == "non-entailment", predicted != "entailment", predicted == gold)


def test_importing_the_store_loads_no_training_library() -> None:
    code = (
        "import sys, predict.store, predict.command;"
        " sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read_back(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "deep" / "mnli.zarr"
    rows = instances()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_store(path, **arguments(probability_dtype=dtype))
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
    np.testing.assert_array_equal(run["correct"], is_right(probability, gold))
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
    create_store(path, **arguments(instances=rows))
    close = np.array([[0.49999, 0.50001, 0.0]])
    assert close.astype(np.float16)[0, 0] == close.astype(np.float16)[0, 1]
    write_run(path, size="mini", pretrain_seed=1, finetune_seed=1, epoch=3, probability=close)
    assert open_store(path)["correct"][0, 0, 0, 0, 0]


def test_split_column_wins_over_the_guid(tmp_path: Path) -> None:
    rows = instances().assign(split=["train", "test"] * 20)
    create_store(tmp_path / "mnli.zarr", **arguments(instances=rows))
    assert set(open_store(tmp_path / "mnli.zarr")["split"].values) == {"train", "test"}


def test_ensemble_is_the_plain_mean_of_stored_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict.tensor.creating, "INSTANCES_PER_CHUNK", 16)
    path = tmp_path / "mnli.zarr"
    create_store(path, **arguments())
    gold = instances()["label"].to_numpy(object)
    for p in (1, 2):
        stored = []
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
            stored.append(probability.astype(np.float16).astype(np.float64))
        finish_runs(
            path, size="base", pretrain_seed=p, runs=[(f, e) for f in (1, 2, 3) for e in EPOCHS]
        )
        ensemble = open_store(path)["ensemble_correct"].sel(size="base", pretrain_seed=p)
        np.testing.assert_array_equal(ensemble, is_right(np.mean(stored, axis=0), gold))
    assert not open_store(path)["ensemble_correct"].sel(size="mini").any()


def test_ensemble_precedes_the_mark_that_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mnli.zarr"
    create_store(path, **arguments())
    for f in (1, 2, 3):
        write_run(path, size="mini", pretrain_seed=1, finetune_seed=f, epoch=4, probability=draw(f))
    seen: list[int] = []
    original = predict.tensor.writing._write_ensemble

    def killed(store: Any, s: int, p: int) -> None:
        seen.append(len(finished_runs(path)))
        original(store, s, p)
        raise KeyboardInterrupt

    finish_runs(path, size="mini", pretrain_seed=1, runs=[(1, 4.0)])
    monkeypatch.setattr(predict.tensor.writing, "_write_ensemble", killed)
    finish_runs(path, size="mini", pretrain_seed=1, runs=[(2, 4.0)])
    assert seen == []
    with pytest.raises(KeyboardInterrupt):
        finish_runs(path, size="mini", pretrain_seed=1, runs=[(3, 4.0)])
    assert seen == [2] and len(finished_runs(path)) == 2
    monkeypatch.undo()
    finish_runs(path, size="mini", pretrain_seed=1, runs=[(3, 4.0)])
    mean = np.mean([draw(f).astype(np.float16).astype(float) for f in (1, 2, 3)], axis=0)
    np.testing.assert_array_equal(
        open_store(path)["ensemble_correct"].sel(size="mini", pretrain_seed=1),
        is_right(mean, instances()["label"].to_numpy(object)),
    )


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
    create_store(path, **arguments(sizes=["mini"], pretrain_seeds=list(range(1, 7)), epochs=[4.0]))
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
                is_right(drawn[f - 1], gold),
            )
        stored = [probability.astype(np.float16).astype(float) for probability in drawn]
        np.testing.assert_array_equal(
            dataset["ensemble_correct"].sel(size="mini", pretrain_seed=p),
            is_right(np.mean(stored, axis=0), gold),
        )
    assert not list(tmp_path.rglob("*.lock"))


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    create_store(path, **arguments())
    run: dict[str, Any] = {"size": "mini", "pretrain_seed": 1, "finetune_seed": 1, "epoch": 3.0}
    first = write_run(path, **run, probability=draw(1))
    finish_runs(path, size="mini", pretrain_seed=1, runs=[(1, 3.0)])
    before = tree(path)
    np.testing.assert_array_equal(write_run(path, **run, probability=draw(2)), first)
    finish_runs(path, size="mini", pretrain_seed=1, runs=[(1, 3.0)])
    assert tree(path) == before


def test_creating_again_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    create_store(path, **arguments())
    write_run(path, size="mini", pretrain_seed=1, finetune_seed=1, epoch=3, probability=draw(1))
    before = tree(tmp_path)
    create_store(path, **arguments())
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"configuration": {"name": "other"}}, "another configuration"),
        ({"sizes": ["tiny", "base"]}, "'size'"),
        ({"epochs": [3.0, 4.0]}, "'epoch'"),
        ({"labels": LABELS[::-1]}, "'label'"),
        ({"instances": instances(41)}, "'guid'|'gold'|'split'"),
        ({"probability_dtype": None}, "float16"),
    ],
)
def test_creating_something_else_is_refused(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    path = tmp_path / "mnli.zarr"
    create_store(path, **arguments())
    before = tree(tmp_path)
    with pytest.raises(InputError, match=named) as caught:
        create_store(path, **arguments(**changed))
    assert "\n" not in caught.value.message
    assert tree(tmp_path) == before


def test_foreign_files_in_the_way_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"mnli\.zarr"):
        create_store(path, **arguments())
    assert tree(tmp_path) == {"mnli.zarr/notes.txt": b"mine"}
    shutil.rmtree(path)
    instances_path(path).write_bytes(b"mine")
    with pytest.raises(InputError, match=r"mnli\.instances\.parquet: cannot be read"):
        create_store(path, **arguments())
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
        create_store(tmp_path / "mnli.zarr", **arguments(**changed))
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
    create_store(path, **arguments())
    before = tree(path)
    run: dict[str, Any] = {"size": "mini", "pretrain_seed": 1, "finetune_seed": 1, "epoch": 3.0}
    with pytest.raises(InputError, match=named) as caught:
        write_run(path, **{**run, "probability": draw(0), **changed})
    assert "\n" not in caught.value.message
    assert tree(path) == before


def test_a_store_that_fails_while_it_is_filled_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="torn"),
        new_store(tmp_path / "mnli.zarr", **arguments()) as partial,
    ):
        assert partial.exists() and not (tmp_path / "mnli.zarr").exists()
        raise RuntimeError("torn")
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_is_known_at_the_end(tmp_path: Path) -> None:
    with new_store(tmp_path / "a.zarr", **arguments(configuration={})) as partial:
        set_configuration(partial, arguments()["configuration"])
    create_store(tmp_path / "b.zarr", **arguments())
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "b.zarr")


def test_one_builder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "mnli.zarr"
    with (
        new_store(path, **arguments()),
        pytest.raises(InputError, match="another process"),
        new_store(path, **arguments()),
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
    create_store(tmp_path / "torn.zarr", **arguments())
    (tmp_path / "torn.zarr" / "zarr.json").write_text("{")
    create_store(tmp_path / "chunk.zarr", **arguments())
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
    create_store(path, **arguments(sizes=["base"], epochs=[3.0, 4.0], instances=rows, **changed))
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
    del zarr.open_group(path, mode="r+", use_consolidated=False).attrs["written_whole"]
    (path / "correct/c/0/0/0/0/0").unlink()
    open_store(path)
