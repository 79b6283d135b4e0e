from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from analysis.tables import published
from analysis.tables.accuracy import ACCURACY
from analysis.tables.decomposition import DECOMPOSITION
from analysis.tables.families import FAMILIES
from analysis.tables.label_quality import LABEL_QUALITY
from analysis.tables.published import Digits, published_numbers
from analysis.tables.published_comparison import SPLITS, compare_published
from analysis.tables.seed_differences import SEED_DIFFERENCES
from analysis.tables.table import Table

SOURCES = [source for family in FAMILIES for source in family.published]

# Tables as the paper's PDF prints them; those of several tasks or pairs of sizes are parts of the
# longer appendix's. Percent, except Tables 6 and 7.
SIZES = ["mini", "small", "medium", "base", "large"]
TABLE_1 = """
7.2 10.7 0.2
7.2 10.7 0.3
8.0 10.7 0.3
8.5 10.6 0.2
8.6 10.1 0.2
"""
TABLE_2 = """
nan 9 18 21
3 nan 14 18
6 5 nan 10
6 5 2 nan
"""
TABLE_3 = """
-0.4 4.22 3.49e-1 3.87
-0.9 0.91 1.44e-5 0.91
-1.0 0.48 2.06e-6 0.48
"""
TABLE_4 = """
1.9 3.1 4.0
0.0 0.9 1.9
0.4 0.9 1.2
0.0 0.0 0.0
"""
TABLE_5 = """
66 17 9 5
86 5 5 1
55 8 10 25
88 4 0 6
60 26 10 2
87 10 1 0
"""
TABLE_6 = """
0.07 0.22 0.29 0.40 0.35 0.33 0.38 0.27 0.24 0.13
0.03 0.15 0.18 0.33 0.17 0.16 0.22 0.20 0.19 0.09
"""
TABLE_7 = """
0.203 0.017 0.036
0.179 0.017 0.036
0.157 0.014 0.040
0.134 0.010 0.043
0.111 0.007 0.043
"""
TABLE_8 = """
88.2 74.6 92.8
87.3 74.3 92.8
89.1 77.3 93.9
88.7 76.7 93.9
89.8 79.6 94.2
89.5 78.9 94.2
90.8 83.8 95.0
90.6 81.2 94.6
91.3 86.8 95.2
91.0 83.8 94.8
"""
DIGESTS = {
    "sst2_notebook": ("fb8e32585f103305a3133f9bef5d3d131a4caa8f6a56f943a6e6d6b141084bd2"),
    "table01_seed_differences": (
        "00ce56d583f9d12fffa4c4bfea17831695e84b8a2072b777464f5cdeba2329aa"
    ),
    "table03_thresholds": ("dd4e0be4948ef8d5ec182cc2d6a35bbfcd810f39d68f5459aebab9081e983052"),
    "table05_labels": ("432df4e2ffd2469f83bdcfb5bec7db92f7aa78234838d7b5fe98b3e3a55d1394"),
    "table07_decomposition": ("dfcba91a1089e8b42ae08805b022d90e6a90f7c8914f97f7f3c8d3b98d31d362"),
    "table08_accuracy": ("4278317b732300d820782164d12d3898456b2a8f93212d728a03c80ad56969c9"),
    "table09_lower_bounds": ("ec60b254617ea92f7e75b000b2a6c218bc717e23db1f50f531e6acd685888194"),
    "table10_relative_bias": ("e9535e1ae5d2629a677729be21ca920fb45e8da17b854263c235d6715651f102"),
    "table11_baseline_vs_bh": ("93eda80a5b3657d546296524ea65ebfb9c23f071b0d6d963d16efb5f58c92b81"),
    "table12_momentum": ("586b73e5147c087ae1153a4c6abfa9d84a59fa4758653cdbb3f81ab49982aca5"),
}
"""SHA-256 of each file as it was compared with the paper, its longer appendix and its notebook."""


def mnli(name: str, *index: str) -> pd.DataFrame:
    numbers = published_numbers(name)
    return numbers[numbers["task"] == "mnli"].drop(columns="task").set_index([*index])


def assert_printed(numbers: pd.DataFrame | NDArray[np.float64], table: str) -> None:
    printed = np.array([line.split() for line in table.split("\n") if line], dtype=float)
    np.testing.assert_allclose(np.asarray(numbers, dtype=float), printed, rtol=1e-12)


def test_the_shipped_numbers_are_those_printed_in_the_paper() -> None:
    assert_printed(100 * mnli("table01_seed_differences", "size").loc[SIZES], TABLE_1)
    assert_printed(mnli("table07_decomposition", "size").loc[SIZES], TABLE_7)

    bounds = mnli("table09_lower_bounds", "s1", "s2").unstack()["fraction_improving"]
    four = ["mini", "small", "base", "large"]
    assert_printed(np.round(100 * bounds.loc[four, four].to_numpy()), TABLE_2)

    thresholds = mnli("table03_thresholds", "threshold").drop(columns=["s1", "s2"])
    assert_printed(np.column_stack([thresholds.index, 100 * thresholds.to_numpy()]), TABLE_3)

    methods = mnli("table11_baseline_vs_bh", "s1", "s2", "method", "pretraining_seeds").unstack()
    by_seeds = pd.DataFrame(methods["lower_bound"])
    pairs = [(s1, "large", method) for s1 in ("mini", "base") for method in ("baseline", "bh")]
    assert_printed(100 * by_seeds.loc[pairs, [2, 6, 10]], TABLE_4)

    labels = published_numbers("table05_labels").set_index(["task", "group"])
    groups = [(t, group) for t in ("mnli", "sst-2", "qqp") for group in ("decaying", "control")]
    assert_printed(100 * labels.loc[groups], TABLE_5)

    buckets = mnli("table12_momentum", "s1", "s2", "s3", "bucket_upper").unstack()
    momentum = pd.DataFrame(buckets["pearson_r"])
    triplets = [("small", "medium", "base"), ("mini", "medium", "large")]
    assert_printed(momentum.loc[triplets], TABLE_6)

    accuracy = published_numbers("table08_accuracy").set_index(["size", "task"])
    for column, first in (("original", 0), ("reproduced", 1)):
        by_task = pd.DataFrame(accuracy[[column]].unstack()[column])
        lines = TABLE_8.strip().split("\n")[first::2]
        assert_printed(100 * by_task.loc[SIZES, ["qqp", "mnli", "sst-2"]], "\n".join(lines))


def test_the_shipped_numbers_are_those_that_were_compared() -> None:
    assert {source.file for source in SOURCES} == set(DIGESTS)
    shipped = Path(published.__path__[0]).glob("*.csv")
    digests = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in shipped}
    assert digests == DIGESTS


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
