"""How a command ends when it is interrupted: one line, exit code 130 or 143, no process left."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import click

_WORDS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}


class Interrupted(BaseException):
    """Raised when this process receives Ctrl-C (SIGINT) or SIGTERM.

    It is not a KeyboardInterrupt, because click handles that in its own way.

    Parameters
    ----------
    number : int
        The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def run_command(load: Callable[[], click.Command], prog_name: str) -> NoReturn:
    """Run a command, and end the process with its exit code.

    Ctrl-C and SIGTERM stop it at any point. Its worker processes are killed: every stage can be
    killed at any moment, keeps what is finished and continues from there.

    Parameters
    ----------
    load : callable
        Imports the command and returns it. The import takes seconds, and can be interrupted too.
    prog_name : str
        Name of the command in its help.
    """
    for number in _WORDS:
        signal.signal(number, _interrupt)
    try:
        load().main(prog_name=prog_name)
    except Interrupted as interruption:
        for number in _WORDS:
            signal.signal(number, signal.SIG_IGN)
        _end(interruption)
        sys.exit(128 + interruption.number)
    sys.exit(0)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _end(interruption: Interrupted) -> None:
    from configs.processes import kill_workers

    kill_workers()
    # This releases the frames, which closes their progress bars before the line is printed.
    interruption.__traceback__ = interruption.__context__ = None
    word = _WORDS[interruption.number]
    message = f"{word}; run the same command again to continue from what is finished"
    print(message, file=sys.stderr)
