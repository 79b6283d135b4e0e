"""The exception by which every command reports bad input."""

from __future__ import annotations

import errno
import os
import unicodedata
from pathlib import Path

import click

_LONGEST = 2000
"""Characters of a message; the middle of a longer one is left out."""


class InputError(click.ClickException):
    """Bad input: one line that names the file, field or run and says what to do.

    Click prints the message to standard error without a traceback and exits with code 2.

    Parameters
    ----------
    message : str
        Starts with the file, field or run at fault. Line breaks and other control characters,
        which names and values from outside may hold, are escaped.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


class FieldError(InputError):
    """Bad input in a field of the experiment, which the message begins with.

    The command puts the name of the experiment's file before it.
    """


def _one_line(message: str) -> str:
    """Escape what would break the line or cannot be printed, and shorten what is very long."""
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    return "".join(
        # Control characters, surrogates, and the separators of lines and paragraphs.
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        else character
        for character in message
    )


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def no_space(error: BaseException | None, where: Path) -> InputError | None:
    """Recognise a write that failed for want of space, by the exception or by what caused it.

    Parameters
    ----------
    error : exception
        What was raised: by the system, with the error number of a full disk, a spent quota or
        a limit on the size of files; or by a library that quotes the system's words.
    where : Path
        What was being written, or its folder.

    Returns
    -------
    InputError or None
        What to tell the user; None if `error` is something else.
    """
    while error is not None:
        numbered = isinstance(error, OSError) and error.errno in _NO_SPACE
        if numbered or any(os.strerror(number) in str(error) for number in _NO_SPACE):
            return InputError(
                f"{where}: no space left to write it; free some and run the same command again, "
                "which goes on from what was written before"
            )
        error = error.__cause__ or error.__context__
    return None
