from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from configs.errors import InputError
from configs.schema import Corpus, Source, Text, World
from pretrain.sources import documents, load_rows


def write_release(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"task_name": "t", "train": [], "predict": rows}))
    return path


def read(source: Text) -> list[list[str]]:
    return list(documents(Corpus(sources=[source]), None))


def test_sentences_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    rows = [
        {"text": "One day. It rained! Why?\n\n(Nobody knew.) e.g. this one. 3 men left."},
        {"text": None},
        {"text": "  no end here  "},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read(Text(path="json", data_files=str(path))) == [
        ["One day.", "It rained!", "Why?", "(Nobody knew.) e.g. this one.", "3 men left."],
        ["no end here"],
    ]
    assert read(Text(path="json", data_files=str(path), sentences="lines")) == [
        ["One day. It rained! Why?", "(Nobody knew.) e.g. this one. 3 men left."],
        ["no end here"],
    ]


def test_rows_and_columns_of_a_release_make_documents(tmp_path: Path) -> None:
    path = write_release(
        tmp_path / "data.json",
        [{"text_a": f"A {i}.", "text_b": f"B {i}.", "label": "x"} for i in range(5)],
    )
    source = Text(
        path="json",
        data_files=str(path),
        field="predict",
        text=["text_a", "text_b"],
        rows_per_document=2,
    )
    assert read(source) == [
        ["A 0.", "B 0.", "A 1.", "B 1."],
        ["A 2.", "B 2.", "A 3.", "B 3."],
        ["A 4.", "B 4."],
    ]


def test_a_slice_of_local_rows(tmp_path: Path) -> None:
    path = write_release(tmp_path / "data.json", [{"text_a": str(i)} for i in range(10)])
    source = Source(path="json", data_files=str(path), field="predict", split="train[7:]")
    assert load_rows(source, None)["text_a"] == ["7", "8", "9"]


def test_csv_and_text_files(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["A b. C d.", "E f."]}).to_csv(tmp_path / "x.csv", index=False)
    (tmp_path / "x.txt").write_text("A b. C d.\nE f.\n")
    expected = [["A b.", "C d."], ["E f."]]
    assert read(Text(path="csv", data_files=str(tmp_path / "x.csv"))) == expected
    assert read(Text(path="text", data_files=[str(tmp_path / "x.txt")])) == expected


def test_what_cannot_be_read_is_refused_by_its_name(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.json")
    with pytest.raises(InputError, match=r"absent\.json: no such file"):
        load_rows(Source(path="json", data_files=absent), None)
    broken = tmp_path / "broken.json"
    broken.write_text('{"predict": [')
    without = write_release(tmp_path / "without.json", [{"text_a": "x"}])
    for path, field in ((broken, "predict"), (without, "prediction")):
        with pytest.raises(InputError) as caught:
            load_rows(Source(path="json", data_files=str(path), field=field), None)
        assert caught.value.message.startswith(f"{path}: cannot be loaded (")
        assert "\n" not in caught.value.message
    with pytest.raises(InputError, match=r"has no column 'text'; its columns are text_a"):
        read(Text(path="json", data_files=str(without), field="predict"))
    numbers = write_release(tmp_path / "numbers.json", [{"text": 3}])
    with pytest.raises(InputError, match=r"the column 'text' does not hold text"):
        read(Text(path="json", data_files=str(numbers), field="predict"))


def test_the_world_has_a_corpus_and_tasks() -> None:
    world = World(documents=5, train=7, evaluation=3, hans=4, habitat_train=6, habitat_evaluation=2)
    assert len(load_rows(Source(path="world", name="corpus"), world)) == 5
    for name, split, count in (
        ("inference", "train", 7),
        ("inference", "evaluation", 3),
        ("hans", "evaluation", 4),
        ("habitat", "train", 6),
        ("habitat", "evaluation", 2),
    ):
        assert len(load_rows(Source(path="world", name=name, split=split), world)) == count
    with pytest.raises(InputError, match=r"^world: has no 'tasks'; name is one of corpus, inf"):
        load_rows(Source(path="world", name="tasks"), world)
    with pytest.raises(InputError, match=r"^world: inference has no split 'dev'; use train or eva"):
        load_rows(Source(path="world", name="inference", split="dev"), world)
    with pytest.raises(InputError, match=r"^world: hans has no split 'train'; use evaluation$"):
        load_rows(Source(path="world", name="hans", split="train"), world)
