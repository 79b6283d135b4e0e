"""Files and folders that appear whole or not at all.

A file or folder is written beside its final path, under a name with `.partial-`, and is renamed
once it is on disk. A process that is killed leaves at most such a partial file or folder behind.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import InputError, no_space

_MARK = ".partial-"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all; see `written_beside`."""
    with written_beside(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write a file to; afterwards move the file to `path`.

    An old file at `path` stays until the new one is on disk whole. If the block raises, the old
    file stays and the new one is removed.

    Raises
    ------
    InputError
        If there is no space left for the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_path(path)
    try:
        yield partial
        _flush_to_disk(partial)
        partial.replace(path)
        _flush_to_disk(path.parent)
    except OSError as error:
        if (full := no_space(error, path)) is not None:
            raise full from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_written_beside(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; afterwards move it to `path`.

    If the block raises, the folder is removed and `path` stays as it was. Without `flush`, the
    folder may appear before its files are on disk. That is for folders of many files with
    checksums, where waiting for each file takes longer than writing it.

    Raises
    ------
    InputError
        If `path` is something other than an empty folder, before or after the block; if the
        folder cannot be made; or if there is no space left for it.
    """
    _require_free(path)
    partial = _partial_path(path)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise no_space(error, path) or InputError(
            f"{path}: cannot be made ({error.strerror}); give another path"
        ) from error
    try:
        yield partial
        for folder, _, files in os.walk(partial) if flush else ():
            for file in files:
                _flush_to_disk(Path(folder, file))
            _flush_to_disk(Path(folder))
        _require_free(path)
        partial.rename(path)
        _flush_to_disk(path.parent)
    except OSError as error:
        if (full := no_space(error, path)) is not None:
            raise full from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_leftover(path: Path) -> bool:
    """Whether a file or folder is half written: in progress, or left by a killed process."""
    return _MARK in path.name


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove the half-written files and folders that killed processes left in a folder.

    Only the one process that may write there, which holds the lock or the claim, may call this.

    Parameters
    ----------
    folder : Path
        The folder; its subfolders are not searched.
    name : str, optional
        Remove only the partial forms of the file or folder of this name.
    """
    for path in folder.glob(f"{'*' if name is None else glob.escape(name)}{_MARK}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _partial_path(path: Path) -> Path:
    # Not named by the process id: processes on two hosts can have the same one.
    return path.with_name(f"{path.name}{_MARK}{secrets.token_hex(6)}")


def _require_free(path: Path) -> None:
    """Refuse a path at which there is something other than an empty folder."""
    empty = path.is_dir() and not any(path.iterdir())
    if not empty and (path.exists() or path.is_symlink()):
        raise InputError(f"{path}: exists already; remove it, or give another path")


def _flush_to_disk(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
