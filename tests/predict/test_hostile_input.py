"""A fuzzer of releases and of stores: any damage ends in one line, and changes no number.

Each seed damages one file, name or value of a small valid input. Run more of them with
``FUZZ_SEEDS=2000 python -m pytest tests/predict/test_hostile_input.py``.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from predict.command import main
from predict.tensor.contract import VARIABLES, require_probabilities
from predict.tensor.opening import open_store
from tests.analysis.simulation import simulate_probability, write_store
from tests.predict.release.test_release import released
from tests.predict.tensor.test_store import tree

SEEDS = int(os.environ.get("FUZZ_SEEDS", "30"))
SECONDS = 20

DEEP: list[Any] = []
for _ in range(900):
    DEEP = [DEEP]

HOSTILE: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    2,
    7,
    10**8,
    2**63,
    10**30,
    -(2**70),
    1e308,
    float("nan"),
    float("inf"),
    0.5,
    "",
    "a",
    "a" * 300,
    "a\nb",
    "a/b",
    "../../x",
    "\x00",
    "\ud800",
    "\U0001f600" * 90,
    [],
    {},
    [[]],
    [1, "a"],
    {"a": {}},
    {"\ud800": 1},
    DEEP,
]
"""What a value in JSON is replaced with."""


class TooLong(Exception):
    pass


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON document."""
    keys: list[Any] = []
    if isinstance(content, dict):
        keys = list(content)
    elif isinstance(content, list):
        keys = list(range(len(content)))
    result = [(content, key) for key in keys]
    for key in keys:
        result += places(content[key])
    return result


def damage_json(path: Path, draw: random.Random) -> str:
    """Replace, remove, add or repeat a value of a JSON file."""
    content = json.loads(path.read_text())
    container, key = draw.choice(places(content))
    kind = draw.choice(["replace", "replace", "replace", "remove", "add", "repeat"])
    value = copy.copy(draw.choice(HOSTILE))
    if kind == "replace":
        container[key] = value
    elif kind == "remove":
        del container[key]
    elif isinstance(container, dict):
        container[draw.choice(["extra", "", "\ud800", "a\nb", "heuristic"])] = value
    else:
        container.insert(draw.randrange(len(container) + 1), container[key])
    path.write_text(json.dumps(content))
    return f"{kind} {key!r} with {value!r:.60}"


def damage_bytes(path: Path, draw: random.Random) -> str:
    content = bytearray(path.read_bytes())
    kind = draw.choice(["flip", "flip", "cut", "empty", "append", "random"])
    if kind == "flip" and content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del content[draw.randrange(len(content) + 1) :]
    elif kind == "append":
        content += draw.randbytes(draw.randrange(1, 40))
    elif kind == "random":
        content[:] = draw.randbytes(len(content))
    else:
        content.clear()
    path.write_bytes(content)
    return kind


def damage_file(path: Path, draw: random.Random) -> str:
    """Put something else in the place of a file, or give it another name."""
    kind = draw.choice(["remove", "folder", "pipe", "loop", "rename"])
    if kind == "rename":
        name = draw.choice(
            [
                b"sminip99999999999999999999f1epoch12over3.tsv",
                b"sminip1f1epoch99999999999999999999over3.tsv",
                b"smi\xffip1f1epoch12over3.tsv",
                b"smi\nnip1f1epoch12over3.tsv",
                b"x.tsv",
                b".tsv",
                b"other",
            ]
        )
        path.rename(path.with_name(os.fsdecode(name)))
        return f"rename to {name!r}"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    return kind


def exchange_files(path: Path, folder: Path, draw: random.Random) -> str:
    other = draw.choice(files_of(folder))
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return f"exchange with {other.relative_to(folder)}"


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def damage(folder: Path, draw: random.Random) -> str:
    """Damage one thing in a folder, and say what."""
    files = files_of(folder)
    documents = [path for path in files if path.suffix == ".json"]
    if draw.random() < 0.5:
        path = draw.choice(documents)
        what = damage_json(path, draw)
    else:
        path = draw.choice(files)
        kind = draw.choice(["bytes", "bytes", "file", "exchange"])
        if kind == "bytes":
            what = damage_bytes(path, draw)
        elif kind == "file":
            what = damage_file(path, draw)
        else:
            what = exchange_files(path, folder, draw)
    return f"{path.relative_to(folder)}: {what}"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def assert_one_line_or_success(result: Result, what: str) -> None:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(what) from result.exception
    assert result.exit_code in (0, 2), what
    if result.exit_code == 2:
        lines = result.stderr.strip().split("\n")
        assert len(lines) == 1 and lines[0].startswith("Error: "), (what, result.stderr)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "mnli"
    return released(folder, rows=6, sizes=("mini",), pretrain_seeds=2, finetune_seeds=2)


def test_hostile_releases(release: Path, tmp_path: Path) -> None:
    refused = 0
    kept = tmp_path / "kept.zarr"
    assert run("import-release", release, "--out", kept).exit_code == 0
    before = tree(tmp_path)
    for seed in range(SEEDS):
        draw = random.Random(seed)
        folder, out = tmp_path / "in" / "mnli", tmp_path / "new" / "x.zarr"
        shutil.copytree(release, folder)
        what = f"seed {seed}: {damage(folder, draw)}"
        dtype = draw.choice(["float16", "float32", "none"])
        with time_limit(SECONDS):
            result = run("import-release", folder, "--out", out, "--probability-dtype", dtype)
            again = run("import-release", folder, "--out", kept)
        assert_one_line_or_success(result, what)
        assert_one_line_or_success(again, what)
        if result.exit_code:
            refused += 1
            assert not out.parent.exists() or not list(out.parent.iterdir()), what
        else:
            open_store(out)
        shutil.rmtree(folder.parent)
        shutil.rmtree(out.parent, ignore_errors=True)
        assert tree(tmp_path) == before, what
    assert SEEDS / 2 < refused < SEEDS


def read_numbers(path: Path) -> dict[str, np.ndarray]:
    """Everything of the finished runs of a store that the tables are computed from."""
    dataset = open_store(path)
    numbers: dict[str, np.ndarray] = {"finished": dataset["finished"].values}
    for name in ("size", "pretrain_seed", "finetune_seed", "epoch", "split", "gold", "guid"):
        numbers[name] = dataset[name].values
    for name, variable in VARIABLES.items():
        if name in dataset and name != "finished":
            try:
                numbers[name] = dataset[name].values
            except Exception as error:  # as the analysis reports it
                raise ValueError("cannot be read") from error
            if variable.is_probability:
                require_probabilities(name, numbers[name])
    numbers["task"] = np.array(dataset.attrs["task"])
    return numbers


def run_by_run(path: Path) -> Path:
    """Write a store as the prediction stage does, with a run that is not finished."""
    probability = {
        name: simulate_probability(6, 2, 2, 2, skill=1.0, seed=seed)
        for seed, name in enumerate(("mini", "base"))
    }
    return write_store(path, probability, unfinished=[("base", 2, 2)], probability_dtype="float16")


def imported(path: Path) -> Path:
    """Write a store as an import does."""
    released(path.parent / "in", rows=6, sizes=("mini",), pretrain_seeds=2, finetune_seeds=2)
    assert run("import-release", path.parent / "in", "--out", path).exit_code == 0
    return path


def unfinished_only(numbers: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether runs count as unfinished, which the analysis reports, and nothing else differs."""
    fewer = bool((numbers["finished"] <= expected["finished"]).all())
    return fewer and all(
        np.array_equal(numbers[name], values)
        for name, values in expected.items()
        if name != "finished"
    )


@pytest.mark.parametrize("make", [run_by_run, imported])
def test_hostile_stores(make: Callable[[Path], Path], tmp_path: Path) -> None:
    from configs.errors import InputError

    store = make(tmp_path / "made" / "mnli.zarr")
    expected = read_numbers(store)
    refused = 0
    for seed in range(SEEDS):
        draw = random.Random(seed)
        path = tmp_path / "x.zarr"
        shutil.copytree(store, path)
        what = f"seed {seed}: {damage(path, draw)}"
        with time_limit(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                numbers = read_numbers(path)
            except InputError as error:
                refused += 1
                assert "\n" not in error.message, what
            except ValueError as error:
                assert str(error) == "cannot be read", what
                refused += 1
            except TooLong:
                raise AssertionError(what) from None
            except Exception as error:
                raise AssertionError(what) from error
            else:
                same = all(np.array_equal(numbers[name], expected[name]) for name in expected)
                assert numbers.keys() == expected.keys(), what
                assert same or unfinished_only(numbers, expected), what
            if draw.random() < 0.2:
                result = run("export-release", path, "--out", tmp_path / "released")
                assert_one_line_or_success(result, what)
        shutil.rmtree(path)
        shutil.rmtree(tmp_path / "released", ignore_errors=True)
    assert refused > SEEDS / 2
