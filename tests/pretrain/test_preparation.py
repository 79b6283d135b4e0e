"""What the pretraining stage makes before it trains: the vocabulary and the corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from configs.schema import Experiment
from pretrain.command import main
from pretrain.stage import pretrain_experiment
from pretrain.text.corpus import read_manifest
from tests.experiments import files_of, small, work_here, write_config


def refused(tmp_path: Path, **parts: dict[str, Any]) -> str:
    """Run the command on bad input; returns its one line after the configuration's name."""
    config = write_config(tmp_path / "bad.yaml", small(tmp_path / "out", **parts))
    result = CliRunner().invoke(main, [str(config), "--workers", "1"])
    assert result.exit_code == 2, result.output
    # What goes before it is the progress.
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"Error: {config}: ")
    return line.removeprefix(f"Error: {config}: ")


def text_file(path: Path, *rows: str) -> dict[str, Any]:
    path.write_text("\n".join(json.dumps({"body": row}) for row in rows))
    return {"path": "json", "data_files": str(path), "text": ["body"], "sentences": "lines"}


def test_a_missing_column_is_named_with_its_source_and_file(tmp_path: Path) -> None:
    good = text_file(tmp_path / "good.jsonl", "a .\nb .")
    bad = {**text_file(tmp_path / "bad.jsonl", "c ."), "text": ["body", "title"]}
    assert refused(tmp_path, corpus={"sources": [good, bad]}) == (
        f"corpus.sources.1.text: {tmp_path / 'bad.jsonl'} has no column 'title'; "
        "its columns are body"
    )


def test_a_vocabulary_that_is_not_there_is_named(tmp_path: Path) -> None:
    absent = tmp_path / "vocab.txt"
    line = refused(tmp_path, vocabulary={"file": str(absent), "size": None})
    assert line == (
        f"vocabulary.file: {absent}: no such file; give a vocab.txt, such as that of a BERT release"
    )


def test_one_document_has_no_random_next_sentence(tmp_path: Path) -> None:
    rows = [f"the fox is number {i} ." for i in range(40)]
    source = {**text_file(tmp_path / "book.jsonl", *rows), "rows_per_document": 100}
    corpus = {"sources": [source]}
    line = refused(tmp_path, corpus=corpus)
    assert line.startswith("pretraining.random_next_share: the corpus has one document")
    # The folder may be used with what the line asks for.
    pretraining = {"random_next_share": 0.0, "steps": 2, "warmup_steps": 1}
    experiment = small(tmp_path / "without", corpus=corpus, pretraining=pretraining)
    experiment["sizes"] = experiment["sizes"][:1]
    with work_here():
        pretrain_experiment(Experiment.model_validate(experiment), 1)
    assert read_manifest(tmp_path / "without" / "corpus")["documents"] == 1
    assert len(list((tmp_path / "without").glob("pretrain/*/*/encoder.safetensors"))) == 2


def test_a_given_vocabulary_is_used_as_it_is_and_static_masks_train(tmp_path: Path) -> None:
    words = ["the", "a", "is", "of", "lives", "in", "eats", "does", "not", "and", ".", "animal"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    entries = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    entries += [one for letter in letters for one in (letter, f"##{letter}") if one not in words]
    given = tmp_path / "given.txt"
    given.write_text("\n".join(entries) + "\n")
    experiment = small(
        tmp_path / "out",
        vocabulary={"file": str(given), "size": None},
        pretraining={"steps": 4, "warmup_steps": 1, "masks": {"static": 2}},
    )
    experiment["sizes"] = experiment["sizes"][:1]
    with work_here():
        pretrain_experiment(Experiment.model_validate(experiment), 1)
    assert (tmp_path / "out" / "vocab.txt").read_text() == given.read_text()
    made = files_of(tmp_path / "out" / "pretrain")
    assert sum(name.endswith("encoder.safetensors") for name in made) == 2
