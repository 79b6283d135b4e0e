"""Run the analysis stage: `python -m analysis FILE.zarr... --out DIR`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.interruption import run_command

if TYPE_CHECKING:
    import click


def _load() -> click.Command:
    from analysis.command import analyze

    return analyze


if __name__ == "__main__":
    run_command(_load, "python -m analysis")
