"""The one exception by which every command reports bad input."""

from __future__ import annotations

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
