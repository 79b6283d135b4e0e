"""`python -m predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.interruption import run_command

if TYPE_CHECKING:
    import click


def _load() -> click.Command:
    from predict.command import main

    return main


if __name__ == "__main__":
    run_command(_load, "python -m predict")
