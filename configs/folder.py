"""The experiment's folder: of one experiment, never two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from configs.atomic import is_leftover, write_text
from configs.errors import InputError
from configs.paths import claims_folder, experiment_record, logs_folder
from configs.reading import read_json_object
from configs.schema import Experiment

_ADVICE = "give another output folder, or remove this one"


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
        something else, or cannot be made; nothing in it is touched.
    """
    folder = experiment.output
    try:
        return _prepare_folder(experiment, folder)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror}); give another output folder"
        ) from error


def _prepare_folder(experiment: Experiment, folder: Path) -> Path:
    record = experiment_record(folder)
    here = experiment.as_plain()
    text = json.dumps(here, indent=2, sort_keys=True) + "\n"
    if record.exists():
        there = _with_defaults(read_json_object(record, _ADVICE), folder)
        if there == here:
            return folder
        # As long as nothing is made, a corrected experiment may take the folder over.
        kept = {record, logs_folder(folder), claims_folder(folder)}
        if any(path not in kept and not _is_half_made(path) for path in folder.iterdir()):
            raise InputError(
                f"{folder}: holds another experiment ({_difference(there, here)}); {_ADVICE}"
            )
        write_text(record, text)
        return folder
    if folder.exists() and not (folder.is_dir() and all(map(_is_half_made, folder.iterdir()))):
        if record.exists():  # made by another process since
            return _prepare_folder(experiment, folder)
        raise InputError(f"{folder}: is there already and is no experiment; give another output")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(record, text)
    return folder


def recorded_experiment(experiment: Experiment) -> dict[str, Any]:
    """Read the configuration as `prepare_folder` recorded it.

    It is the same in every process and for every later version, which may have more fields.
    """
    return read_json_object(experiment_record(experiment.output), _ADVICE)


def _with_defaults(there: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fill fields that the schema got after the record was written with their defaults."""
    try:
        return Experiment.model_validate({**there, "output": folder}).as_plain()
    except ValueError:  # of which pydantic's ValidationError is one
        return there


def _is_half_made(path: Path) -> bool:
    """Whether a process that makes the folder, or was killed while it did, wrote this."""
    return is_leftover(path) and path.name.startswith(experiment_record(path.parent).name)


def _difference(there: Any, here: Any, field: str = "") -> str:
    """Name the first field in which two configurations differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            if there.get(key) != here.get(key):
                return _difference(there.get(key), here.get(key), f"{field}.{key}".lstrip("."))
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for i, (value, other) in enumerate(zip(there, here, strict=True)):
            if value != other:
                return _difference(value, other, f"{field}.{i}")
    return f"{field} is {there!r} there and {here!r} here"
