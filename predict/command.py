"""The commands of ``python -m predict``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from tqdm import tqdm

from configs.errors import InputError
from configs.schema import Experiment
from predict.release import computed_tensors as tensors
from predict.release.exporting import export_release
from predict.release.importing import import_release, is_imported
from predict.release.layout import Release, order_sizes, read_release
from pretrain.jobs.frame import PlanStage, plan_option, run_stage, show_plans, workers_option


@click.group()
def main() -> None:
    """Class probabilities of many classifiers, in one prediction tensor."""


@main.command("run")
@click.argument("config", type=click.Path(path_type=Path))
@workers_option
@plan_option
def run_command(config: Path, workers: int | None, only_plan: bool) -> None:
    """Predict with the finetuned classifiers of CONFIG; does only what is missing."""
    if only_plan:
        show_plans(config, workers, _load_plan)
    else:
        run_stage("predict", config, workers, _load)


def _load() -> Callable[[Experiment, int], None]:
    # Here, so that the other commands work where TensorFlow is not installed.
    from predict.stage import predict_experiment

    return predict_experiment


def _load_plan() -> Sequence[PlanStage]:
    from predict.plan import prediction_plan

    return [prediction_plan]


@main.command("import-release")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The store to write.")
@click.option(
    "--probability-dtype",
    type=click.Choice(["float16", "float32", "none"]),
    default="float16",
    show_default=True,
    help="Type in which to store the probabilities; none to store correctness only.",
)
@click.option("--sizes", help="Sizes, smallest first, separated by commas.")
@click.option("--task", help="Which TASK.pkl to import, where DIRECTORY holds several.")
def import_release_command(
    directory: Path, out: Path, probability_dtype: str, sizes: str | None, task: str | None
) -> None:
    """Write the predictions published in DIRECTORY into a store.

    DIRECTORY holds data.json and results/s{size}p{P}f{F}epoch{E}over3.tsv, or correctness/TASK.pkl
    with correctness_p/TASK.pkl and ensemble_c/TASK.pkl where there are such, or both: then the
    .tsv files are imported, and must agree with the correctness tensor.
    """
    start = time.perf_counter()
    if not (directory / "data.json").exists():
        computed = tensors.find_tensors(directory, task)
        if computed is not None:
            _import_tensors(computed, out, probability_dtype, sizes)
            return
        if task is not None:
            raise InputError(
                f"{directory}: no tensors of task {task}; put correctness/{task}.pkl there"
            )
    found = read_release(directory)
    computed = tensors.find_tensors(directory, task or found.task)
    ordered = _sizes(found, sizes)
    dtype = None if probability_dtype == "none" else probability_dtype
    if is_imported(found, out, sizes=ordered, probability_dtype=dtype):
        click.echo(f"{out}: already holds this release")
        return
    if found.absent:
        click.echo(f"runs absent, which stay unfinished: {found.absent}")
    rows = len(found.instances) * len(found.runs)
    with tqdm(total=rows, unit="row", unit_scale=True, leave=False, disable=None) as progress:
        checked: list[int] = []

        def check(store: Path) -> None:
            if computed is not None:
                checked.append(tensors.check_tensors(computed, store))

        imported = import_release(
            found,
            out,
            sizes=ordered,
            probability_dtype=dtype,
            advance=progress.update,
            check=check,
        )
    seconds = time.perf_counter() - start
    click.echo(
        f"{out}: {len(found.instances):,} instances; sizes {_listed(ordered)};"
        f" pretraining seeds {_listed(found.pretrain_seeds)};"
        f" finetuning seeds {_listed(found.finetune_seeds)};"
        f" epochs {_listed([f'{thirds / 3:.4g}' for thirds in found.thirds])};"
        f" {imported.runs} runs, mean accuracy {imported.accuracy:.4f}"
    )
    click.echo(f"{rows:,} rows in {seconds:.1f} s, {rows / seconds:,.0f} rows/s")
    for runs in checked:
        click.echo(f"{runs} runs agree with the correctness tensor")


def _import_tensors(
    found: tensors.ReleasedTensors, out: Path, probability_dtype: str, sizes: str | None
) -> None:
    dtype = None if probability_dtype == "none" else probability_dtype
    wanted = [name.strip() for name in sizes.split(",")] if sizes is not None else None
    if tensors.is_imported(found, out, sizes=wanted, dtype=dtype):
        click.echo(f"{out}: already holds this release")
        return
    with tqdm(unit="run", leave=False, disable=None) as progress:
        imported = tensors.import_tensors(
            found, out, sizes=wanted, dtype=dtype, advance=progress.update
        )
    click.echo(
        f"{out}: {', '.join(sorted(path.parent.name for path in found.files.values()))} of"
        f" {found.task}; {imported.runs} runs, mean accuracy {imported.accuracy:.4f}"
    )


def _sizes(found: Release, wanted: str | None) -> list[str]:
    if wanted is None:
        ordered, known = order_sizes(found.sizes)
        if not known:
            click.echo(f"sizes in the order {', '.join(ordered)}; --sizes sets another")
        return ordered
    ordered = [name.strip() for name in wanted.split(",")]
    if sorted(ordered) != sorted(found.sizes):
        raise InputError(
            f"--sizes {wanted}: name each size in the release once: {','.join(found.sizes)}"
        )
    return ordered


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


@main.command("export-release")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="The folder to write; new."
)
def export_release_command(store: Path, out: Path) -> None:
    """Write the finished runs of STORE in the published layout."""
    with tqdm(unit="row", unit_scale=True, leave=False, disable=None) as progress:
        runs = export_release(store, out, advance=progress.update)
    click.echo(f"{out}: {runs} runs")
