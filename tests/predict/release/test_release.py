from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from predict.command import main
from predict.release.layout import ReleasedRun, order_sizes, parse_probabilities
from predict.tensor.contract import instances_path
from predict.tensor.opening import open_store
from predict.tensor.writing import finished_runs
from tests.predict.tensor.test_store import tree
from tests.released import write_release

LABELS = ["contradiction", "entailment", "neutral"]


def released(
    folder: Path,
    *,
    rows: int = 30,
    sizes: tuple[str, ...] = ("large", "mini"),
    pretrain_seeds: int = 2,
    finetune_seeds: int = 3,
    thirds: tuple[int, ...] = (9, 12),
    seed: int = 0,
) -> Path:
    rng = np.random.default_rng(seed)
    gold = rng.choice([*LABELS, "non-entailment"], rows)
    items: list[dict[str, Any]] = [
        {"guid": f"dev_matched-{i}", "text_a": f'say "{i}"\t', "text_b": None, "label": str(label)}
        for i, label in enumerate(gold)
    ]
    items[0]["heuristic"] = "lexical_overlap"
    (folder / "results").mkdir(parents=True)
    data = {"task_name": "mnli", "label_list": LABELS, "train": [], "predict": items}
    (folder / "data.json").write_text(json.dumps(data))
    for size in sizes:
        for p in range(1, pretrain_seeds + 1):
            for f in range(1, finetune_seeds + 1):
                for e in thirds:
                    np.savetxt(
                        folder / "results" / f"s{size}p{p}f{f}epoch{e}over3.tsv",
                        rng.dirichlet(np.ones(3), rows),
                        delimiter="\t",
                        fmt="%.9g",
                    )
    return folder


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_import_is_what_numpy_reads(tmp_path: Path) -> None:
    source = released(tmp_path / "mnli")
    result = run("import-release", source, "--out", tmp_path / "mnli.zarr")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    dataset = open_store(tmp_path / "mnli.zarr").load()
    assert dataset["size"].values.tolist() == ["mini", "large"]
    assert dataset["epoch"].values.tolist() == [3.0, 4.0]
    assert dataset["finished"].all()
    gold = dataset["gold"].values
    accuracies = []
    for size, p, f, e in itertools.product(("mini", "large"), (1, 2), (1, 2, 3), (9, 12)):
        at = {"size": size, "pretrain_seed": p, "finetune_seed": f, "epoch": e / 3}
        probability = np.loadtxt(source / "results" / f"s{size}p{p}f{f}epoch{e}over3.tsv")
        predicted = np.array(LABELS)[probability.argmax(1)]
        correct = np.where(gold == "non-entailment", predicted != "entailment", predicted == gold)
        stored = dataset.sel(at)
        np.testing.assert_array_equal(stored["correct"], correct)
        np.testing.assert_array_equal(stored["probability"], probability.astype(np.float16))
        accuracies.append(correct.mean())
    assert f"mean accuracy {np.mean(accuracies):.4f}" in result.output
    texts = pd.read_parquet(instances_path(tmp_path / "mnli.zarr"))
    assert texts["text_a"][3] == 'say "3"\t'
    assert texts["heuristic"][0] == "lexical_overlap" and texts["heuristic"][1:].isna().all()


def test_absent_runs_stay_unfinished(tmp_path: Path) -> None:
    source = released(tmp_path / "mnli")
    (source / "results" / "sminip2f3epoch12over3.tsv").unlink()
    result = run("import-release", source, "--out", tmp_path / "mnli.zarr")
    assert result.output.startswith("1 runs have no file and stay unfinished")
    finished = finished_runs(tmp_path / "mnli.zarr")
    assert len(finished) == 23 and ("mini", 2, 3, 4.0) not in finished
    ensemble = open_store(tmp_path / "mnli.zarr")["ensemble_correct"].load()
    assert not ensemble.sel(size="mini", pretrain_seed=2).any()
    assert ensemble.sel(size="mini", pretrain_seed=1).any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "none"])
def test_ensembles_come_from_the_probabilities_as_given(tmp_path: Path, dtype: str) -> None:
    source = released(tmp_path / "mnli", rows=200, sizes=("mini",), pretrain_seeds=1, thirds=(12,))
    rng = np.random.default_rng(1)
    given = []
    for file in sorted((source / "results").iterdir()):
        half = rng.uniform(-3e-4, 3e-4, 200)
        np.savetxt(file, np.column_stack([0.5 + half, 0.5 - half, 0 * half]), delimiter="\t")
        given.append(np.loadtxt(file))
    predicted = np.mean(given, axis=0).argmax(axis=1)
    rounded = np.mean([run.astype(np.float16).astype(float) for run in given], axis=0)
    assert (rounded.argmax(axis=1) != predicted).sum() > 5
    out = tmp_path / "mnli.zarr"
    assert run("import-release", source, "--probability-dtype", dtype, "--out", out).exit_code == 0
    store = open_store(out)
    names, gold = np.array(LABELS)[predicted], store["gold"].values
    expected = np.where(gold == "non-entailment", names != "entailment", names == gold)
    np.testing.assert_array_equal(store["ensemble_correct"].values[0, :, 0], expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "none"])
def test_importing_again_changes_nothing_and_is_deterministic(tmp_path: Path, dtype: str) -> None:
    source = released(tmp_path / "mnli")
    words = ["import-release", str(source), "--probability-dtype", dtype, "--out"]
    assert run(*words, tmp_path / "a" / "mnli.zarr").exit_code == 0
    assert run(*words, tmp_path / "b" / "mnli.zarr").exit_code == 0
    before = tree(tmp_path / "a")
    assert tree(tmp_path / "b") == before
    again = run(*words, tmp_path / "a" / "mnli.zarr")
    assert again.exit_code == 0 and "already holds" in again.output
    assert tree(tmp_path / "a") == before
    assert ("probability" in open_store(tmp_path / "a" / "mnli.zarr")) == (dtype != "none")


def test_another_input_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out" / "mnli.zarr"
    source = released(tmp_path / "mnli")
    assert run("import-release", source, "--out", out).exit_code == 0
    before = tree(tmp_path / "out")
    other = released(tmp_path / "other", seed=1)
    for words in ([str(other)], [str(source), "--sizes", "large,mini"]):
        result = run("import-release", *words, "--out", out)
        assert_one_line(result, str(out))
        assert tree(tmp_path / "out") == before


def test_order_of_sizes(tmp_path: Path) -> None:
    assert order_sizes(["large", "base", "mini", "tiny", "small", "medium"]) == (
        ["tiny", "mini", "small", "medium", "base", "large"],
        True,
    )
    assert order_sizes(["L12", "L2", "L4H512", "L4H256"]) == (
        ["L2", "L4H256", "L4H512", "L12"],
        False,
    )
    source = released(tmp_path / "mnli", sizes=("L12", "small", "L2"), thirds=(9,))
    result = run("import-release", source, "--out", tmp_path / "a.zarr")
    assert "L2, L12, small; --sizes" in result.output
    result = run("import-release", source, "--out", tmp_path / "b.zarr", "--sizes", "small,L12,L2")
    assert result.exit_code == 0 and "--sizes" not in result.output
    assert open_store(tmp_path / "b.zarr")["size"].values.tolist() == ["small", "L12", "L2"]
    np.testing.assert_array_equal(
        open_store(tmp_path / "a.zarr")["correct"].sel(size="small"),
        open_store(tmp_path / "b.zarr")["correct"].sel(size="small"),
    )
    assert_one_line(
        run("import-release", source, "--out", tmp_path / "c.zarr", "--sizes", "small,L12"),
        "--sizes",
    )
    assert not (tmp_path / "c.zarr").exists()


def assert_one_line(result: Result, *named: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    for text in named:
        assert text in result.stderr


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / "data.json").read_text())
        change(data)
        (folder / "data.json").write_text(json.dumps(data))

    return apply


def put(instance: int, field: str, value: Any) -> Callable[[Path], None]:
    return edit(lambda data: data["predict"][instance].update({field: value}))


def line(row: int, text: str | None) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "results" / "sminip2f3epoch12over3.tsv"
        lines = path.read_text().splitlines()
        lines[row - 1 : row] = [] if text is None else [text]
        path.write_text("\n".join(lines) + "\n")

    return apply


def rename(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "results" / RUN_FILE).rename(folder / "results" / name)


def without_runs(folder: Path) -> None:
    shutil.rmtree(folder / "results")
    (folder / "results").mkdir()


RUN_FILE = "sminip2f3epoch12over3.tsv"
BAD_RELEASES: list[tuple[str, Callable[[Path], object], tuple[str, ...]]] = [
    ("no data.json", lambda d: (d / "data.json").unlink(), ("data.json",)),
    ("no JSON", lambda d: (d / "data.json").write_text("{"), ("data.json", "not JSON")),
    ("no UTF-8", lambda d: (d / "data.json").write_bytes(b'{"\xff'), ("data.json",)),
    ("a list", lambda d: (d / "data.json").write_text("[]"), ("data.json",)),
    ("no predict", edit(lambda d: d.pop("predict")), ("data.json", "'predict'")),
    ("empty predict", edit(lambda d: d["predict"].clear()), ("data.json", "'predict'")),
    ("no label_list", edit(lambda d: d.pop("label_list")), ("data.json", "'label_list'")),
    ("same labels", edit(lambda d: d.update(label_list=["a", "a"])), ("'label_list'",)),
    ("no task_name", edit(lambda d: d.pop("task_name")), ("'task_name'",)),
    ("no guid", edit(lambda d: d["predict"][7].pop("guid")), ("predict[7]", "'guid'")),
    ("no label", edit(lambda d: d["predict"][7].pop("label")), ("predict[7]", "'label'")),
    ("odd item", edit(lambda d: d["predict"].insert(4, "text")), ("predict[4]",)),
    ("odd text", edit(lambda d: d["predict"][2].update(text_a=5)), ("predict[2]", "'text_a'")),
    ("no text", edit(lambda d: d["predict"][2].pop("text_a")), ("predict[2]", "'text_a'")),
    ("odd second", edit(lambda d: d["predict"][2].update(text_b=5)), ("predict[2]", "'text_b'")),
    (
        "unknown label",
        edit(lambda d: d["predict"][29].update(label="maybe")),
        ("predict[29]", "'maybe'"),
    ),
    (
        "two classes without entailment",
        edit(lambda d: d.update(label_list=["contradiction", "neutral", "implied"])),
        ("predict[", "not in label_list"),
    ),
    (
        "duplicate guid",
        edit(lambda d: d["predict"][9].update(guid="dev_matched-3")),
        ("data.json", "predict[3] and predict[9]", "'dev_matched-3'"),
    ),
    ("no split", edit(lambda d: d["predict"][9].update(guid="nine")), ("data.json", "'nine'")),
    (
        "mixed metadata",
        edit(lambda d: d["predict"][9].update(heuristic=3)),
        ("'heuristic'",),
    ),
    *(
        (f"a surrogate in {name}", put(9, name, "\ud800"), ("data.json",))
        for name in ("guid", "text_a", "label", "heuristic")
    ),
    ("64 bits", edit(lambda d: d["predict"][9].update(big=2**70)), ("column 'big'", "64 bits")),
    (
        "nested deep",
        lambda d: (d / "data.json").write_text('{"a": ' + "[" * 1000 + "]" * 1000 + "}"),
        ("data.json",),
    ),
    ("empty objects", edit(lambda d: [i.update(more={}) for i in d["predict"]]), ("'more'",)),
    (
        "seed of 80 bits",
        rename(f"sminip{2**80}f3epoch12over3.tsv"),
        ("p1208925819614629174706176f3", "64 bits"),
    ),
    ("name of other bytes", rename(os.fsdecode(b"smi\xffp2f3epoch12over3.tsv")), ("udcff", "text")),
    ("no results", lambda d: (d / "results").rename(d / "other"), ("results",)),
    (
        "no TSV",
        without_runs,
        ("results", "no .tsv"),
    ),
    ("odd name", rename("mini.tsv"), ("mini.tsv", "rename")),
    ("same run", lambda d: (d / "results" / "sminip02f3epoch12over3.tsv").touch(), (RUN_FILE,)),
    ("a folder", lambda d: (d / "results" / "sminip3f3epoch12over3.tsv").mkdir(), ("sminip3f3",)),
    ("empty file", lambda d: (d / "results" / RUN_FILE).write_text(""), (RUN_FILE, "0 rows")),
    ("a row less", line(30, None), (RUN_FILE, "29 rows", "30 instances")),
    ("a row more", line(30, "1\t0\t0\n1\t0\t0"), (RUN_FILE, "31 rows")),
    ("an empty row", line(12, ""), (RUN_FILE, "row 12 ", "columns")),
    ("a column less", line(12, "0.5\t0.5"), (RUN_FILE, "row 12 ", "2 columns")),
    ("a column more", line(12, "0.5\t0.5\t0\t0"), (RUN_FILE, "row 12 ", "4 columns")),
    ("no number", line(12, "0.5\tx\t0.5"), (RUN_FILE, "row 12:", "'x'")),
    ("a header", line(1, "a\tb\tc"), (RUN_FILE, "row 1:", "'a'")),
    ("an empty field", line(12, "0.5\t\t0.5"), (RUN_FILE, "row 12:", "''")),
    ("a NaN", line(30, "0.5\tnan\t0.5"), (RUN_FILE, "row 30 ", "NaN")),
    ("infinity", line(30, "0.5\tinf\t0.5"), (RUN_FILE, "row 30:")),
    ("below 0", line(2, "-0.1\t0.6\t0.5"), (RUN_FILE, "row 2:", "-0.1")),
    ("above 1", line(2, "1.0005\t0\t0"), (RUN_FILE, "row 2:", "1.0005")),
    ("sum", line(2, "0.4\t0.3\t0.302"), (RUN_FILE, "row 2 ", "1.002")),
]


@pytest.mark.parametrize(
    ("damage", "named"), [row[1:] for row in BAD_RELEASES], ids=[row[0] for row in BAD_RELEASES]
)
def test_a_bad_release_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], named: tuple[str, ...]
) -> None:
    source = released(tmp_path / "mnli")
    damage(source)
    out = tmp_path / "out"
    out.mkdir()
    assert_one_line(run("import-release", source, "--out", out / "mnli.zarr"), *named)
    assert list(out.iterdir()) == []


def test_sums_within_a_thousandth_pass(tmp_path: Path) -> None:
    source = released(tmp_path / "mnli")
    line(2, "0.4\t0.3\t0.3009")(source)
    line(3, "1.0000001\t0\t0")(source)
    assert run("import-release", source, "--out", tmp_path / "mnli.zarr").exit_code == 0


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    source = released(tmp_path / "mnli")
    (tmp_path / "file").write_text("mine")
    cases: list[tuple[list[str | Path], str]] = [
        ([tmp_path / "missing", "--out", tmp_path / "a.zarr"], "missing"),
        ([tmp_path / "file", "--out", tmp_path / "a.zarr"], "file"),
        ([source, "--out", tmp_path / "file"], "file"),
        ([source, "--out", tmp_path / "file" / "a.zarr"], "a.zarr"),
        ([source, "--out", source], "mnli"),
    ]
    for words, named in cases:
        before = tree(tmp_path)
        assert_one_line(run("import-release", *words), named)
        assert tree(tmp_path) == before


def test_the_real_command_line_prints_one_line_and_exits_with_2(tmp_path: Path) -> None:
    source = released(tmp_path / "mnli")
    line(12, "0.5\tnan\t0.5")(source)
    words = [sys.executable, "-m", "predict", "import-release", str(source)]
    result = subprocess.run(
        [*words, "--out", str(tmp_path / "mnli.zarr")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "row 12 has a NaN" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mnli"]


@pytest.mark.slow
def test_killed_in_the_middle(tmp_path: Path) -> None:
    source = released(tmp_path / "mnli", rows=5000, pretrain_seeds=3, finetune_seeds=5)
    assert run("import-release", source, "--out", tmp_path / "whole" / "mnli.zarr").exit_code == 0
    out = tmp_path / "killed" / "mnli.zarr"
    words = [sys.executable, "-m", "predict", "import-release", str(source), "--out", str(out)]
    killed_while_building = 0
    for wait in (0.0, 0.02, 0.1, 0.2):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        left = set(out.parent.glob("mnli.zarr.partial-*"))
        while process.poll() is None and set(out.parent.glob("mnli.zarr.partial-*")) in (
            set(),
            left,
        ):
            time.sleep(0.002)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        killed_while_building += process.wait() == -signal.SIGKILL
        if out.exists():
            assert open_store(out)["finished"].all()
    assert killed_while_building > 0
    assert run("import-release", source, "--out", out).exit_code == 0
    assert tree(out.parent) == tree(tmp_path / "whole")


def test_parsing_agrees_with_numpy_on_any_notation() -> None:
    text = b"1\t0\t0\n0.5\t5e-1\t0.0\r\n1E-3\t.999\t0\n+0.25\t0.25\t0.5"
    expected = np.loadtxt(io.BytesIO(text.replace(b"\r", b"")))
    np.testing.assert_array_equal(
        parse_probabilities(text.replace(b"+", b""), name="x.tsv", labels=LABELS, instances=4),
        expected,
    )


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_export_and_import_are_inverse(tmp_path: Path, dtype: str) -> None:
    source = released(tmp_path / "mnli", rows=400)
    (source / "results" / "sminip2f3epoch12over3.tsv").unlink()
    words = ["--probability-dtype", dtype, "--out"]
    first, second = tmp_path / "first.zarr", tmp_path / "second.zarr"
    assert run("import-release", source, *words, first).exit_code == 0
    result = run("export-release", first, "--out", tmp_path / "again")
    assert result.exit_code == 0 and "23 runs" in result.output
    assert sorted(p.name for p in (tmp_path / "again" / "results").iterdir()) == sorted(
        p.name for p in (source / "results").iterdir()
    )
    assert run("import-release", tmp_path / "again", *words, second).exit_code == 0
    assert open_store(first).load().drop_attrs().identical(open_store(second).load().drop_attrs())
    assert instances_path(first).read_bytes() == instances_path(second).read_bytes()


def test_export_keeps_correctness_where_rounding_made_ties(tmp_path: Path) -> None:
    source = released(tmp_path / "mnli", rows=4, sizes=("base",), pretrain_seeds=1, thirds=(9,))
    edit(
        lambda d: [
            item.update(label=label)
            for item, label in zip(
                d["predict"],
                ["entailment", "contradiction", "non-entailment", "non-entailment"],
                strict=True,
            )
        ]
    )(source)
    rows = [
        "0.49999\t0.50001\t0",
        "0.49999\t0.50001\t0",
        "0.49999\t0.50001\t0",
        "0\t0.49999\t.50001",
    ]
    for path in (source / "results").iterdir():
        path.write_text("\n".join(rows))
    first, second = tmp_path / "first.zarr", tmp_path / "second.zarr"
    assert run("import-release", source, "--out", first).exit_code == 0
    stored = open_store(first).load()
    assert (stored["probability"].max("label") == 0.5).all()
    assert stored["correct"][0, :, 0, 0, 0].values.tolist() == [True, False, False, True]
    assert run("export-release", first, "--out", tmp_path / "again").exit_code == 0
    assert run("import-release", tmp_path / "again", "--out", second).exit_code == 0
    again = open_store(second).load()
    np.testing.assert_array_equal(again["correct"], stored["correct"])
    np.testing.assert_array_equal(again["probability"], stored["probability"])


def test_a_store_that_cannot_be_exported(tmp_path: Path) -> None:
    source = released(tmp_path / "mnli", sizes=("base",), thirds=(9,))
    bare, store = tmp_path / "bare.zarr", tmp_path / "mnli.zarr"
    run("import-release", source, "--out", bare, "--probability-dtype", "none")
    run("import-release", source, "--out", store)
    before = tree(tmp_path)
    assert_one_line(
        run("export-release", bare, "--out", tmp_path / "x"),
        "no probabilities",
        "--probability-dtype none",
    )
    assert_one_line(run("export-release", store, "--out", source), "already exists")
    assert_one_line(run("export-release", tmp_path / "none.zarr", "--out", tmp_path / "x"), "none")
    assert tree(tmp_path) == before
    damaged = tmp_path / "damaged.zarr"
    shutil.copytree(store, damaged)
    shutil.copy(instances_path(store), instances_path(damaged))
    for chunk in (damaged / "probability").glob("c.*"):
        chunk.write_bytes(b"no chunk")
    assert_one_line(run("export-release", damaged, "--out", tmp_path / "x"), "do not match")
    instances_path(store).unlink()
    assert_one_line(run("export-release", store, "--out", tmp_path / "x"), "instances.parquet")
    assert not (tmp_path / "x").exists()


def test_names_of_runs() -> None:
    assert ReleasedRun("small", 10, 3, 10).file_name == "ssmallp10f3epoch10over3.tsv"
    assert ReleasedRun("small", 10, 3, 10).epoch == 10 / 3


def test_ten_bert_base_runs_on_mnli(tmp_path: Path) -> None:
    release = write_release(tmp_path / "mnli")
    result = run("import-release", release, "--out", tmp_path / "mnli.zarr")
    assert result.exit_code == 0
    assert "9,815 instances" in result.output and "mean accuracy 0.8472" in result.output
    dataset = open_store(tmp_path / "mnli.zarr").load()
    assert dataset["finished"].sum() == 10
    assert set(dataset["split"].values) == {"dev_matched"}
    # An ensemble of ten is better than its members.
    assert dataset["ensemble_correct"].mean() > dataset["correct"].mean() + 0.002
