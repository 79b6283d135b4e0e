from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from configs.atomic import write_text
from configs.errors import InputError
from configs.folder import prepare_folder, recorded_experiment
from configs.schema import Experiment
from pretrain.command import main as pretrain
from tests.experiments import files_of, small, small_experiment, write_config


def made(output: Path, **parts: Any) -> Experiment:
    experiment = small_experiment(output, **parts)
    prepare_folder(experiment)
    return experiment


def test_the_folder_records_the_experiment_and_takes_it_again(tmp_path: Path) -> None:
    experiment = made(tmp_path / "out")
    record = tmp_path / "out" / "experiment.json"
    assert json.loads(record.read_text()) == experiment.as_plain()
    (tmp_path / "out" / "vocab.txt").write_text("x")
    before = files_of(tmp_path / "out")
    assert prepare_folder(experiment) == tmp_path / "out"
    assert files_of(tmp_path / "out") == before


def test_a_field_that_the_schema_has_got_since_has_its_default(tmp_path: Path) -> None:
    output = tmp_path / "out"
    experiment = made(output)
    (output / "vocab.txt").write_text("x")
    record = output / "experiment.json"
    old = json.loads(record.read_text())
    del old["pretraining"]["masks"]
    record.write_text(json.dumps(old))
    assert prepare_folder(experiment) == output
    static = small_experiment(output, pretraining={"masks": {"static": 2}})
    with pytest.raises(
        InputError, match=r"pretraining\.masks is 'fresh' there and \{'static': 2\}"
    ):
        prepare_folder(static)


@pytest.mark.parametrize(
    ("part", "changed", "difference"),
    [
        ("pretraining", {"steps": 70}, "pretraining.steps is 60 there and 70 here"),
        ("world", {"seed": 1}, "world.seed is 0 there and 1 here"),
        ("finetuning", {"checkpoints": [2, 4]}, "finetuning.checkpoints.0 is 3.0 there and 2.0"),
        ("prediction", {"probability": "float16"}, "prediction.probability is 'float32' there"),
    ],
)
def test_another_experiment_is_refused_by_the_field_that_differs(
    tmp_path: Path, part: str, changed: dict[str, Any], difference: str
) -> None:
    output = tmp_path / "out"
    made(output)
    (output / "vocab.txt").write_text("x")
    before = files_of(output)
    config = write_config(tmp_path / "other.yaml", small(output, **{part: changed}))
    result = CliRunner().invoke(pretrain, [str(config)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {output}: holds another experiment ({difference}")
    assert result.stderr.count("\n") == 1
    assert files_of(output) == before


def test_a_corrected_experiment_takes_over_a_folder_in_which_nothing_is_made(
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    made(output)
    write_text(output / "logs" / "pretrain.log", "a line")
    (output / "experiment.json.partial-1").write_text("{")
    corrected = made(output, world={"seed": 1})
    assert json.loads((output / "experiment.json").read_text()) == corrected.as_plain()


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"out: exists already and is not the folder"):
        prepare_folder(small_experiment(output))
    assert files_of(output) == {"thesis.txt": b"mine"}


def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text("mine")
    with pytest.raises(InputError, match=r"out: exists already and is not the folder"):
        prepare_folder(small_experiment(output))
    with pytest.raises(InputError, match=r"inside: cannot be made"):
        prepare_folder(small_experiment(output / "inside"))
    assert output.read_text() == "mine"


def test_a_broken_record_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "out"
    made(output)
    (output / "experiment.json").write_text("{")
    with pytest.raises(InputError, match=r"experiment\.json: cannot be read"):
        prepare_folder(small_experiment(output))
    assert (output / "experiment.json").read_text() == "{"


def test_a_process_killed_before_the_record_was_whole_does_no_harm(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "experiment.json.partial-123").write_text('{"name": "sm')
    experiment = made(output)
    assert json.loads((output / "experiment.json").read_text()) == experiment.as_plain()


def test_another_place_for_the_output_is_the_same_experiment(tmp_path: Path) -> None:
    made(tmp_path / "out")
    (tmp_path / "out" / "vocab.txt").write_text("x")
    (tmp_path / "out").rename(tmp_path / "moved")
    assert prepare_folder(small_experiment(tmp_path / "moved")) == tmp_path / "moved"


def test_a_record_of_before_a_field_was_added_is_the_same_experiment(tmp_path: Path) -> None:
    output = tmp_path / "out"
    experiment = made(output)
    (output / "vocab.txt").write_text("x")
    record = output / "experiment.json"
    older = experiment.as_plain()
    for task in older["tasks"]:
        del task["remove_duplicates"]
    record.write_text(json.dumps(older))
    assert prepare_folder(experiment) == output
    # As it was: the hash of a prediction store is computed from it.
    assert recorded_experiment(experiment) == older
    older["tasks"][0]["remove_duplicates"] = True
    record.write_text(json.dumps(older))
    with pytest.raises(InputError, match=r"holds another experiment \(tasks\.0\.remove_dup"):
        prepare_folder(experiment)
