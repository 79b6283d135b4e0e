"""The command `python -m pretrain`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from configs.schema import Experiment
from pretrain.jobs.frame import (
    PlanStage,
    devices_option,
    plan_option,
    run_stage,
    show_plans,
    workers_option,
)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@workers_option
@devices_option
@plan_option
def main(config: Path, workers: int | None, only_plan: bool) -> None:
    """Pretrain every size of CONFIG with every pretraining seed; finished runs are skipped."""
    if only_plan:
        show_plans(config, workers, _load_plan)
    else:
        run_stage("pretrain", config, workers, _load)


def _load_plan() -> Sequence[PlanStage]:
    from pretrain.plan import pretraining_plan

    return [pretraining_plan]


def _load() -> Callable[[Experiment, int | None], None]:
    from pretrain.stage import pretrain_experiment

    return pretrain_experiment
