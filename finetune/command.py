"""The command `python -m finetune`."""

from __future__ import annotations

from pathlib import Path

import click

from pretrain.command import open_experiment, workers_option


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@workers_option
def main(config: Path, workers: int | None) -> None:
    """Finetune every encoder of CONFIG on every task; does only what is missing."""
    experiment = open_experiment(config, "finetune")

    from finetune.stage import finetune_experiment
    from pretrain.workers import default_workers

    finetune_experiment(experiment, workers or default_workers())
