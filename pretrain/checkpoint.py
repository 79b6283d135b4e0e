"""Weights and training states on disk, written whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from configs.errors import InputError

Arrays = dict[str, NDArray[Any]]

_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.safetensors$")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays to a safetensors file beside `path`, then rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    with partial.open("wb") as file:
        file.write(save(dict(sorted(arrays.items()))))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_arrays(path: Path) -> Arrays:
    """Read named arrays.

    Raises
    ------
    InputError
        If the file is missing or is not a whole safetensors file.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: cannot be read as safetensors; remove it, and run the stage that makes it"
        ) from error


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the training state after `step` steps is kept."""
    return folder / f"checkpoint-{step}.safetensors"


def latest_checkpoint(folder: Path) -> tuple[int, Path] | None:
    """Step and path of the newest training state in a run's folder, if there is one."""
    found = [
        (int(match.group(1)), path)
        for path in folder.glob("checkpoint-*.safetensors")
        if (match := _CHECKPOINT.search(path.name))
    ]
    return max(found) if found else None


def remove_checkpoints(folder: Path, *, before: int | None = None) -> None:
    """Remove a run's training states: those before a step, or all of them."""
    for path in folder.glob("checkpoint-*.safetensors*"):
        match = _CHECKPOINT.search(path.name)
        if match is None or before is None or int(match.group(1)) < before:
            path.unlink()
