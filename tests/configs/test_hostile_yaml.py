"""Whatever is in a configuration file, it is an experiment or refused in one line, soon."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import pytest
import yaml
from click.testing import CliRunner

from analysis.command import analyze
from configs.errors import InputError
from configs.folder import prepare_folder
from configs.loading import load_experiment
from configs.schema import Experiment, Pretraining
from finetune.command import main as finetune
from pretrain.command import main as pretrain
from tests.configs.hostile import bomb, chain, hostile_experiment
from tests.experiments import small, write_config

SECONDS = 10
MEBIBYTES = 200


@contextmanager
def bounded() -> Iterator[None]:
    """Fail what takes longer, or more memory, than any configuration should."""

    def fail(_: int, frame: FrameType | None) -> None:
        raise AssertionError(f"takes more than {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    usual = signal.signal(signal.SIGALRM, fail)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, usual)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert held < MEBIBYTES << 10, f"takes {held >> 10} MiB"


def is_one_line(text: str) -> bool:
    return len(text.splitlines()) == 1 and text.isprintable()


def use(experiment: Experiment) -> None:
    """Do with an experiment what every stage does first."""
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment
    assert len(experiment.pretrain_seeds) * len(experiment.finetune_seeds) <= 1_000_000
    if isinstance(experiment.pretraining, Pretraining):
        assert len(experiment.recipe.kept_steps) <= 10_000
    assert experiment.sources()
    if not experiment.output.is_absolute() and ".." not in experiment.output.parts:
        prepare_folder(experiment)
        prepare_folder(experiment)


def outcome(path: Path) -> str | None:
    """Load an experiment; the message if it is refused."""
    try:
        with bounded():
            use(load_experiment(path))
    except InputError as error:
        assert is_one_line(error.message), error.message
        return error.message
    return None


def invoke(command: click.Command, *arguments: str) -> None:
    """Run a command that must refuse its configuration in one line."""
    with bounded():
        result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ")
    assert is_one_line(result.stderr.rstrip("\n")), result.stderr


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.yaml").write_text("tasks: &x [*x]\n")


def test_mutated_experiments_are_used_or_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    refused = used = 0
    end = time.monotonic() + 100
    for seed in range(int(os.environ.get("HOSTILE_SEEDS", "250"))):
        assert time.monotonic() < end or "HOSTILE_SEEDS" in os.environ
        path.write_bytes(hostile_experiment(seed))
        try:
            message = outcome(path)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
        if message is None:
            used += 1
        else:
            assert message.startswith(str(path.parent)) or "/" not in message, f"seed {seed}"
            refused += 1
    # The mutations reach what is behind the loader, too.
    assert refused > used > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *(
            (bomb(kind, 25), "line 6: more than 100,000 values")
            for kind in ("list", "map", "merge")
        ),
        (chain(200), "line 50: nested deeper than 50"),
        ("[" * 100_000, "line 1: nested deeper than 50"),
        ("a: &a [*a]\n", "line 1: an alias refers to a value that contains it"),
        ("x: 1\ny: !!int x\n", "line 2: 'x' is not of type int; correct it"),
        ("a: {b: {c: 1, 0x10: 2, 16: 3}}\n", "line 1: 16 is given twice; keep one"),
        ('"a\\nb": 1\n"a\\nb": 2\n', r"line 2: a\nb is given twice; keep one"),
        ('a: "\\ud800"\n', "line 1: a character that is not valid text"),
        ('a: "\\UFFFFFFFF"\n', "not valid YAML"),
        ("a: " + "x" * 300_000, "has more than 262,144 bytes"),
    ],
)
def test_what_would_hang_or_break_a_line_is_named(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(content)
    refusal = outcome(path)
    assert refusal is not None
    assert refusal.startswith(f"{path}")
    assert message in refusal


def field(value: str, *places: str | int) -> str:
    """The small experiment as YAML, with one field replaced by text."""
    plain = small("out")
    part = plain
    for place in places[:-1]:
        part = part[place]  # type: ignore[index]
    part[places[-1]] = "HOSTILE"  # type: ignore[index]
    return yaml.safe_dump(plain).replace("HOSTILE", value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (field("1e999999999", "finetuning", "epochs"), "finetuning.epochs: "),
        (field("[1e999999999]", "finetuning", "checkpoints"), "finetuning.checkpoints.0: '1e9"),
        (field("[1.0e+400]", "finetuning", "checkpoints"), "finetuning.checkpoints.0: "),
        (field("2147483648", "finetuning", "seeds"), "finetuning.seeds: Input should be less"),
        (field("2147483648", "pretraining", "seeds"), "pretraining.seeds: Input should be less"),
        (field("9" * 5000, "pretraining", "steps"), ", line "),
        (field("0x" + "f" * 5000, "pretraining", "steps"), "pretraining.steps: "),
        (field('"a\\0b"', "output"), ", line "),
        (field("x" * 5000, "output"), "output: has 5000 characters; a path may have 2,000"),
        (field("x" * 201, "output"), "output: a folder's or file's name may have 200 bytes"),
        (field("x" * 5000, "tasks", 0, "train", "path"), "tasks.0.train.path: has 5000 char"),
        (field("x" * 300, "tasks", 0, "name"), "tasks.0.name: String should have at most 100"),
        (field('{"a\\nb": 1}', "prediction"), r"prediction.a\nb: unknown key"),
        (field("missing.yaml", "tasks"), "missing.yaml: no such file; give"),
        (field("x" * 5000, "tasks"), "cannot be read (File name too long)"),
        (field("..", "tasks"), "..: is a folder; give an experiment file"),
        (field("[0, '0']", "tasks", 0, "labels"), "tasks.0: labels: a label is given twice"),
        (field("[a, '']", "tasks", 0, "labels"), "tasks.0.labels.1: "),
    ],
)
def test_a_hostile_field_is_named_by_every_command(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(content)
    refusal = outcome(path)
    assert refusal is not None
    assert message in refusal
    for command, options in ((pretrain, ()), (finetune, ("--check",)), (analyze, ())):
        given = ("--config", str(path)) if command is analyze else (str(path),)
        invoke(command, *given, *options)
    assert {entry.name for entry in tmp_path.iterdir()} == {"hostile.yaml", "other.yaml"}


def test_kept_encoders_and_runs_are_bounded() -> None:
    settings = {"steps": 1_000_000, "keep": [{"every": 50}]}
    with pytest.raises(ValueError, match="keeps 20,000 encoders of each run; 10,000 are the most"):
        Experiment.model_validate(small("out", pretraining=settings))
    with pytest.raises(ValueError, match="make 2,000,000 classifiers; 1,000,000 are the most"):
        Experiment.model_validate(
            small("out", pretraining={"seeds": 1000}, finetuning={"seeds": 1000})
        )


def test_a_named_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        for command in (pretrain, finetune):
            invoke(command, str(path))
        assert outcome(path) == f"{path}: is not a regular file; give an experiment file"
    refusal = outcome(write_config(tmp_path / "x.yaml", {**small("out"), "tasks": "pipe.yaml"}))
    assert refusal == f"{tmp_path / 'pipe.yaml'}: is not a regular file; give an experiment file"


@pytest.mark.parametrize("name", ["a\0b.yaml", "x" * 5000, "x/" * 2500, "a\nb", "é" * 200, ".."])
def test_a_hostile_name_of_the_configuration_is_refused(name: str) -> None:
    refusal = outcome(Path(name))
    assert refusal is not None
    assert any(reason in refusal for reason in ("cannot be read (", "no such file", "is a folder"))
    # The command line itself has no name with a NUL character.
    if "\0" not in name:
        invoke(pretrain, name)


def test_labels_may_be_numbers_and_truth_values() -> None:
    experiment = small("out")
    experiment["tasks"][0]["labels"] = [0, True, "2"]
    experiment["tasks"][0]["train"]["label_map"] = {0: 0, True: True, "x": None}
    (task,) = Experiment.model_validate(experiment).tasks
    assert task.labels == ["0", "True", "2"]
    experiment["tasks"][0]["train"]["label_map"] = {1: 0, "1": True}
    with pytest.raises(ValueError, match="a label is given twice, as a number and as text"):
        Experiment.model_validate(experiment)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a\nb\tc\r\x1b[31m", r"a\nb\tc\r\x1b[31m"),
        ("\u2028\x85\ud800\u202e\ufeff", r"\u2028\x85\ud800\u202e\ufeff"),
        ("a \\ é 中", "a \\ é 中"),
        ("x" * 3000, "x" * 1000 + " ... " + "x" * 1000),
    ],
)
def test_every_message_is_one_line_that_can_be_printed(message: str, line: str) -> None:
    error = InputError(message)
    assert error.message == line
    assert InputError(line).message == line or len(message) > 2000
