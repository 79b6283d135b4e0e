from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.tables.accuracy import ACCURACY
from analysis.tables.decomposition import DECOMPOSITION
from analysis.tables.families import FAMILIES
from analysis.tables.label_quality import LABEL_QUALITY
from analysis.tables.published import Digits, published_numbers
from analysis.tables.published_comparison import SPLITS, compare_published
from analysis.tables.seed_differences import SEED_DIFFERENCES
from analysis.tables.table import Table

SOURCES = [source for family in FAMILIES for source in family.published]

PAPER = Path(__file__).parents[3].parent / "shared" / "paper"


@pytest.mark.skipif(not PAPER.exists(), reason="needs ../shared/paper")
def test_the_shipped_numbers_are_the_published_ones() -> None:
    files = sorted(PAPER.glob("*.csv"))
    assert {source.file for source in SOURCES} == {path.stem for path in files}
    for path in files:
        pd.testing.assert_frame_equal(published_numbers(path.stem), pd.read_csv(path))


@pytest.mark.parametrize(
    ("digits", "published", "ours", "agree"),
    [
        (Digits(3), 0.072, 0.07249, True),
        (Digits(3), 0.072, 0.07251, False),
        (Digits(3), 0.0, -0.0004, True),
        (Digits(2), -0.02, -0.0249, True),
        (Digits(3, significant=True), 1.44e-7, 1.4449e-7, True),
        (Digits(3, significant=True), 1.44e-7, 1.446e-7, False),
        (Digits(3, significant=True), 0.045, 0.04496, True),
        (Digits(3, significant=True), 0.045, 0.0451, False),
        (Digits(2, truncated=True), 0.66, 34 / 51, True),
        (Digits(2, truncated=True), 0.67, 34 / 51, False),
        (Digits(2, truncated=True), 0.25, 0.25, True),
        (Digits(2, truncated=True), 0.29, 0.29, True),
        (Digits(2, truncated=True), 0.28, 0.29, False),
    ],
)
def test_rounding_as_printed(digits: Digits, published: float, ours: float, agree: bool) -> None:
    assert digits.agree(published, ours) is agree


def published_tables() -> list[Table]:
    """Tables of ours that hold exactly what was published, in our layout, and more."""
    tables = []
    for family, source in [(table, s) for table in FAMILIES for s in table.published]:
        numbers = published_numbers(source.file)
        if "task" not in numbers:
            continue
        numbers = numbers.rename(
            columns={theirs: own for theirs, (own, _) in source.values.items()}
        )
        if family is LABEL_QUALITY:
            numbers = numbers.melt(["task", "group"], var_name="category", value_name="fraction")
        split = numbers["task"].map(SPLITS)
        frame = numbers.assign(split=split, **source.only)
        elsewhere = frame.assign(split="another split")
        tables.append(Table(family, pd.concat([frame, elsewhere], ignore_index=True)))
    return tables


def test_every_published_number_is_found_and_agrees() -> None:
    compared = compare_published(published_tables())
    assert compared["within_rounding"].all()
    assert (compared["difference"] == 0).all()
    assert set(compared["split"]) == set(SPLITS.values())
    with_task = [source for source in SOURCES if source.table != "notebook"]
    cells = sum(len(published_numbers(s.file)) * len(s.values) for s in with_task)
    assert (compared["table"] != "notebook").sum() == cells
    first = compared[compared["table"] == "Table 11"].iloc[0]
    assert (first["task"], first["row"]) == ("mnli", "mini, small, baseline, 2")


def test_other_tasks_sizes_and_empty_cells_are_left_out() -> None:
    accuracy = pd.DataFrame(
        [
            ("SST2", "train", "mini", 0.9284),
            ("SST2", "dev", "mini", 0.5),
            ("mnli", "dev_matched", "mini", float("nan")),
            ("mnli", "dev_matched", "huge", 0.9),
            ("cola", "dev", "mini", 0.7),
        ],
        columns=["task", "split", "size", "accuracy"],
    )
    compared = compare_published([Table(ACCURACY, accuracy)])
    assert compared["ours"].tolist() == [0.9284]
    assert compared["published"].tolist() == [0.928]
    assert compared["within_rounding"].tolist() == [True]
    assert compared["task"].tolist() == ["SST2"]
    assert compare_published([Table(ACCURACY, accuracy.iloc[:0])]).empty


def test_the_notebook_is_about_sst_2() -> None:
    numbers = published_numbers("sst2_notebook")
    frame = numbers.assign(task="sst-2", split="train", loss="zero_one", checkpoints="last")
    compared = compare_published([Table(SEED_DIFFERENCES, frame), Table(DECOMPOSITION, frame)])
    assert (compared["table"] == "notebook").sum() == 5 * 5
    assert compared["within_rounding"].all()
