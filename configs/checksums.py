"""Checksums of text files that one stage writes and others read.

The SHA-256 of `vocab.txt`, for example, is in `vocab.txt.sha256` beside it, in the format of the
program `sha256sum`, which can check it (`sha256sum -c`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from configs.atomic import write_text
from configs.errors import InputError
from configs.reading import read_bytes, read_text


def write_with_checksum(path: Path, text: str) -> None:
    """Write a text file and, before it, its checksum, so that no file exists without one."""
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    write_text(checksum_file(path), f"{digest}  {path.name}\n")
    write_text(path, text)


def check_checksum(path: Path, made_by: str) -> None:
    """Check that a file matches the checksum beside it, if there is one.

    Parameters
    ----------
    path : Path
        The file.
    made_by : str
        The command that makes the file again, for the error.

    Raises
    ------
    InputError
        If the file cannot be read, or does not match its checksum.
    """
    checksum = checksum_file(path)
    if checksum.exists():
        advice = f"remove it, and run {made_by}, which makes it again"
        digest = hashlib.sha256(read_bytes(path, advice)).hexdigest()
        if read_text(checksum, advice).split() != [digest, path.name]:
            raise InputError(f"{path}: is damaged: it does not match {checksum.name}; {advice}")


def checksum_file(path: Path) -> Path:
    """Return the path of a file's checksum."""
    return path.with_name(f"{path.name}.sha256")
