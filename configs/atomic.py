"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import no_space


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written_beside(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yield a place beside `path` to write a file to, and put it in the place of `path`.

    What is there already stays until the new file is on disk whole; an error leaves it there,
    and nothing beside it.

    Raises
    ------
    InputError
        If there is no space left for the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by the process id: processes on several hosts may share one.
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(6)}")
    try:
        yield partial
        _to_disk(partial)
        partial.replace(path)
        _to_disk(path.parent)
    except OSError as error:
        if (full := no_space(error, path)) is not None:
            raise full from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
