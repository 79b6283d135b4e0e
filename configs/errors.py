"""The exception by which every command reports bad input."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import click

_LONGEST = 2000
"""Most characters of a message; of a longer one, the middle is replaced by dots."""


class InputError(click.ClickException):
    """Bad input: one line that names the file, field or run and says what to do.

    Click prints the message to standard error without a traceback and exits with code 2.

    Parameters
    ----------
    message : str
        Starts with the file, field or run at fault. Line breaks and other control characters,
        which names and values in the input may contain, are escaped.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


class FieldError(InputError):
    """Bad input in a field of the experiment; the message begins with the field.

    The command puts the name of the experiment's file before the message.
    """


def _one_line(message: str) -> str:
    """Escape characters that cannot be printed on one line, and shorten long messages."""
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in message
    )


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def no_space(error: BaseException | None, where: Path) -> InputError | None:
    """Recognise an error that a full disk caused, by the exception or its causes.

    Parameters
    ----------
    error : exception
        The exception: of the system, with the error number of a full disk, an exhausted quota or
        a limit on the size of files; or of a library that quotes the system's message.
    where : Path
        The file that was being written, or its folder.

    Returns
    -------
    InputError or None
        The error to report; None if `error` has another cause.
    """
    while error is not None:
        numbered = isinstance(error, OSError) and error.errno in _NO_SPACE
        if numbered or any(os.strerror(number) in str(error) for number in _NO_SPACE):
            return InputError(
                f"{where}: no space left to write it; free some and run the same command again to "
                "continue from what is finished"
            )
        error = error.__cause__ or error.__context__
    return None
