"""Reading of text and JSON from regular files of a bounded size."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from configs.errors import InputError

LARGEST = 256 << 20
"""Default limit to the bytes of a file that is read whole."""


def read_bytes(path: Path, advice: str, *, largest: int = LARGEST) -> bytes:
    """Read a file whole.

    Parameters
    ----------
    path : Path
        The file.
    advice : str
        What the user should do if it cannot be read: the end of the error message.
    largest : int
        Largest accepted number of bytes.

    Raises
    ------
    InputError
        If the file cannot be read, is too large, or is not a regular file: reading a named pipe,
        for example, might never end.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise InputError(f"{path}: is {kind}; {advice}")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > largest:
                raise InputError(f"{path}: has more than {largest:,} bytes; {advice}")
            # `file.read(largest)` would reserve that many bytes.
            return file.read(size)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {advice}") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read ({reason}); {advice}") from error


def read_text(path: Path, advice: str, *, largest: int = LARGEST) -> str:
    """Read a UTF-8 text file whole; parameters and errors as in `read_bytes`."""
    try:
        return read_bytes(path, advice, largest=largest).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read (not UTF-8 text); {advice}") from error


def read_json(path: Path, advice: str, *, largest: int = LARGEST) -> Any:
    """Read a JSON file; parameters and errors as in `read_bytes`, or if it is not JSON."""
    text = read_text(path, advice, largest=largest)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError(f"{path}: cannot be read (nested too deep); {advice}") from error
    except ValueError as error:
        raise InputError(f"{path}: cannot be read (not JSON); {advice}") from error


def read_json_object(path: Path, advice: str, *, largest: int = LARGEST) -> dict[str, Any]:
    """Read a JSON file that must contain an object; parameters and errors as in `read_json`."""
    content = read_json(path, advice, largest=largest)
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a JSON object; {advice}")
    return content
