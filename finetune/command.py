"""The command `python -m finetune`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from configs.schema import Experiment
from pretrain.command import run_stage, workers_option


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@workers_option
def main(config: Path, workers: int | None) -> None:
    """Finetune every encoder of CONFIG on every task; does only what is missing."""
    run_stage("finetune", config, workers, _load)


def _load() -> Callable[[Experiment, int], None]:
    from finetune.stage import finetune_experiment

    return finetune_experiment
