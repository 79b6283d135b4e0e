from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from analysis.command import analyze
from analysis.tables.printing import printed_parts
from analysis.tables.published import published_numbers
from analysis.tables.published_comparison import SPLITS, compare_published, reported
from analysis.tables.reference_accuracy import REFERENCE_ACCURACY, join_reference_accuracy
from analysis.tables.table import Table
from predict.tensor.opening import open_store
from tests.analysis.simulation import simulate_probability, write_store

REPOSITORY = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("not_drawn_in_module")


def accuracies(*rows: tuple[str, str, str, float], runs: int = 50, **more: float) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["task", "split", "size", "accuracy"])
    return frame.assign(runs=runs, instances=100, **more)


OURS = accuracies(
    ("mnli", "dev_matched", "mini", 0.743),
    ("mnli", "dev_matched", "large", 0.838),
    ("mnli", "HANS", "mini", 0.5),
    ("qqp", "dev", "mini", 0.873),
)
THEIRS = accuracies(
    ("qqp", "dev", "mini", 0.882),
    ("mnli", "dev_matched", "large", 0.868),
    ("mnli", "dev_matched", "mini", 0.746),
    ("mnli", "dev_matched", "tiny", 0.7),
    ("sst-2", "train", "mini", 0.928),
    runs=5,
    std_accuracy=0.002,
)


def test_rows_are_joined_by_task_split_and_size() -> None:
    frame, notes = join_reference_accuracy(OURS, THEIRS)
    assert notes == ()
    assert frame[["task", "split", "size"]].to_numpy().tolist() == [
        ["mnli", "dev_matched", "mini"],
        ["mnli", "dev_matched", "large"],
        ["qqp", "dev", "mini"],
    ]
    assert frame["reference"].tolist() == [0.746, 0.868, 0.882]
    assert frame["difference"].round(9).tolist() == [-0.003, -0.03, -0.009]
    assert frame["runs"].tolist() == [50] * 3
    assert frame["reference_runs"].tolist() == [5] * 3
    assert frame["reference_std"].tolist() == [0.002] * 3
    assert "difference_low" not in frame


def test_intervals_are_those_of_our_accuracy() -> None:
    ours = OURS.assign(accuracy_low=OURS["accuracy"] - 0.01, accuracy_high=OURS["accuracy"] + 0.02)
    frame, _ = join_reference_accuracy(ours, THEIRS)
    assert frame["difference_low"].round(9).tolist() == [-0.013, -0.04, -0.019]
    assert frame["difference_high"].round(9).tolist() == [0.017, -0.01, 0.011]


def test_what_cannot_be_compared_is_said() -> None:
    frame, notes = join_reference_accuracy(OURS, THEIRS.assign(size="BERT"))
    assert frame.empty
    assert notes[0].startswith("the references have no task, split and size of these predictions")
    frame, notes = join_reference_accuracy(OURS, THEIRS.assign(instances=90))
    assert len(frame) == 3
    assert notes[0].startswith("mnli, dev_matched: the references predict 90 instances and these")
    frame, _ = join_reference_accuracy(OURS, THEIRS.assign(accuracy=float("nan")))
    assert frame.empty


def published() -> pd.DataFrame:
    """Return what Table 8 prints, as our table has it."""
    numbers = published_numbers("table08_accuracy")
    numbers = numbers.rename(columns={"original": "reference", "reproduced": "accuracy"})
    return numbers.assign(split=numbers["task"].map(SPLITS))


def test_it_is_printed_as_table_8() -> None:
    frame = pd.concat([published(), accuracies(("mnli", "HANS", "mini", 0.5))])
    first, *others = printed_parts(Table(REFERENCE_ACCURACY, frame))
    assert list(first.cells) == ["Size", "qqp", "mnli", "sst-2"]
    rows = first.cells.to_numpy().tolist()
    assert len(rows) == 10
    assert rows[0] == ["mini, reference", "88.2%", "74.6%", "92.8%"]
    assert rows[1] == ["mini, ours", "87.3%", "74.3%", "92.8%"]
    assert rows[9] == ["large, ours", "91.0%", "83.8%", "94.8%"]
    assert [part.heading for part in others] == [
        "qqp, all splits",
        "mnli, all splits",
        "sst-2, all splits",
    ]
    mnli = others[1].cells
    assert mnli["HANS"].tolist()[:4] == ["", "50.0%", "", ""]


def test_the_originals_are_compared_with_the_published_ones() -> None:
    compared = compare_published([Table(REFERENCE_ACCURACY, published())])
    assert set(compared["column"]) == {"original"}
    assert len(compared) == 15
    assert (compared["difference"] == 0).all()
    other = compare_published([Table(REFERENCE_ACCURACY, published().assign(reference=0.5))])
    assert not other["within_rounding"].any()


def test_the_splits_of_the_paper() -> None:
    assert reported("MNLI", "dev_matched")
    assert reported("sst2", "train")
    assert not reported("mnli", "dev_mismatched")
    assert not reported("cola", "dev")


def simulated(path: Path, seeds: int, skills: dict[str, float], **options: object) -> Path:
    probability = {
        size: simulate_probability(80, seeds, 5, 2, skill=skill, seed=number)
        for number, (size, skill) in enumerate(skills.items())
    }
    return write_store(path, probability, splits=("dev", "hans"), **options)  # type: ignore[arg-type]


def overall(path: Path, size: str, split: str) -> float:
    """Accuracy from the store itself."""
    correct = open_store(path)["correct"].sel(size=size)
    return float(correct.isel(epoch=-1, instance=correct["split"].values == split).mean())


@pytest.mark.slow
@pytest.mark.parametrize("bootstrap", ["0", "50"])
def test_the_command_joins_stores(tmp_path: Path, bootstrap: str) -> None:
    skills = {"mini": 0.6, "base": 1.2}
    ours = simulated(tmp_path / "ours.zarr", 4, skills)
    theirs = simulated(tmp_path / "theirs.zarr", 1, {"mini": 0.9, "base": 0.9, "huge": 2.0})
    out = tmp_path / "out"
    options = ["--out", str(out), "--bootstrap", bootstrap, "--split", "dev"]
    result = CliRunner().invoke(analyze, [str(ours), *options, "--references", str(theirs)])
    assert result.exit_code == 0, result.output
    assert "references, inference: 80 instances in 2 splits, 3 sizes" in result.stdout
    table = pd.read_csv(out / "tables" / "reference_accuracy.csv")
    assert table["size"].tolist() == list(skills)
    for row in table.to_dict("records"):
        assert row["split"] == "dev"
        assert row["accuracy"] == pytest.approx(overall(ours, row["size"], "dev"), abs=1e-12)
        assert row["reference"] == pytest.approx(overall(theirs, row["size"], "dev"), abs=1e-12)
        assert (row["runs"], row["reference_runs"]) == (20, 5)
        assert row["reference_std"] > 0
        if bootstrap == "0":
            assert "difference_low" not in row
        else:
            assert row["difference_low"] < row["difference"] < row["difference_high"]
    accuracy = pd.read_csv(out / "tables" / "accuracy.csv")
    assert np.allclose(table["accuracy"], accuracy["accuracy"])
    assert "Mean accuracy of these models" in (out / "report.html").read_text()
    # Without references the same analysis has no such table.
    again = CliRunner().invoke(analyze, [str(ours), *options])
    assert again.exit_code == 0
    assert not (out / "tables" / "reference_accuracy.csv").exists()


def test_an_experiment_names_its_stores(tmp_path: Path) -> None:
    ours = simulated(tmp_path / "ours.zarr", 2, {"mini": 0.6, "base": 1.2})
    predictions = tmp_path / "references" / "predictions"
    predictions.mkdir(parents=True)
    simulated(predictions / "inference.zarr", 1, {"mini": 0.9, "base": 0.9})
    config = yaml.safe_load((REPOSITORY / "configs" / "references.yaml").read_text())
    source = {"path": "json", "data_files": "x.json"}
    task = {"name": "inference", "labels": ["entailment", "neutral", "contradiction"]}
    config["output"] = str(tmp_path / "references")
    config["tasks"] = [{**task, "train": source, "evaluation": {"dev": source}}]
    (tmp_path / "references.yaml").write_text(yaml.safe_dump(config))
    out = tmp_path / "out"
    options = ["--out", str(out), "--bootstrap", "0", "--bias-replicates", "0"]
    options += ["--references", str(tmp_path / "references.yaml")]
    result = CliRunner().invoke(analyze, [str(ours), *options])
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(out / "tables" / "reference_accuracy.csv")) == 4


def test_references_need_something_to_be_compared_with(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        analyze, ["--annotations", str(tmp_path), "--out", "x", "--references", "y.zarr"]
    )
    assert result.exit_code == 2
    assert "--references: give prediction stores or --config" in result.stderr
