"""The exception by which every command reports bad input."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import click


class InputError(click.ClickException):
    """Bad input: one line that names the file, field or run and says what to do.

    Click prints the message to standard error without a traceback and exits with code 2.

    Parameters
    ----------
    message : str
        One line, starting with the file, field or run at fault.
    """

    exit_code = 2


class FieldError(InputError):
    """Bad input in a field of the experiment, which the message begins with.

    The command puts the name of the experiment's file before it.
    """


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def no_space(error: BaseException | None, where: Path) -> InputError | None:
    """Recognise a write that failed for want of space, by what raised it or what that came from.

    Parameters
    ----------
    error : exception
        What was raised: with the error number of a full disk, a spent quota or a limit on the
        size of files, or from a library that puts the system's words into its own error.
    where : Path
        What was being written, or the folder of it.

    Returns
    -------
    InputError or None
        What to tell the user; None if `error` is something else.
    """
    while error is not None:
        named = isinstance(error, OSError) and error.errno in _NO_SPACE
        if named or any(os.strerror(number) in str(error) for number in _NO_SPACE):
            return InputError(
                f"{where}: no space left to write it; free some and run the same command again, "
                "which goes on from what was written before"
            )
        error = error.__cause__ or error.__context__
    return None
