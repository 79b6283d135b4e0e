"""The experiment's folder: one experiment each, never two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.atomic import write_text
from configs.errors import InputError
from configs.schema import Experiment

_RECORD = "experiment.json"


def prepare_folder(experiment: Experiment) -> Path:
    """Make the experiment's folder, or check that it holds the same experiment.

    Returns
    -------
    Path
        `experiment.output`, with the whole configuration in `experiment.json`.

    Raises
    ------
    InputError
        If the folder holds another experiment (the message names a field that differs) or
        something else; nothing in it is touched.
    """
    folder = experiment.output
    record = folder / _RECORD
    plain = experiment.as_plain()
    text = json.dumps(plain, indent=2, sort_keys=True) + "\n"
    if record.is_file():
        try:
            there = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{record}: cannot be read; give another output folder") from error
        there = _with_defaults(there, folder)
        if there == plain:
            return folder
        # Before anything is made, a corrected experiment may take the folder over.
        made = [
            path
            for path in folder.iterdir()
            if path.name not in (_RECORD, "logs", "claims") and not _is_leftover(path)
        ]
        if made:
            raise InputError(
                f"{folder}: holds another experiment ({_difference(there, plain)}); "
                "give another output folder, or remove this one"
            )
        write_text(record, text)
        return folder
    if folder.exists() and not (folder.is_dir() and all(map(_is_leftover, folder.iterdir()))):
        if record.is_file():  # made by another process since
            return prepare_folder(experiment)
        raise InputError(f"{folder}: is there already and is no experiment; give another output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from error
    write_text(record, text)
    return folder


def recorded_experiment(experiment: Experiment) -> dict[str, Any]:
    """Read what `prepare_folder` recorded: the same in every process and every later version."""
    recorded: dict[str, Any] = json.loads((experiment.output / _RECORD).read_text("utf-8"))
    return recorded


def _with_defaults(there: Any, folder: Path) -> Any:
    """Fill fields that the schema got after the record was written with their defaults."""
    try:
        return Experiment.model_validate({**there, "output": folder}).as_plain()
    except (TypeError, ValueError):  # a pydantic.ValidationError is a ValueError
        return there


def _is_leftover(path: Path) -> bool:
    """Whether a process that was killed while it made the folder left this in it."""
    return path.name.startswith(f"{_RECORD}.partial-")


def _difference(there: Any, here: Any, field: str = "") -> str:
    """Name the first field in which two configurations differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            if there.get(key) != here.get(key):
                return _difference(there.get(key), here.get(key), f"{field}.{key}".lstrip("."))
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for i, (one, other) in enumerate(zip(there, here, strict=True)):
            if one != other:
                return _difference(one, other, f"{field}.{i}")
    return f"{field} is {there!r} there and {here!r} here"
