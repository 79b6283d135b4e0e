"""Import the runs of a release into a prediction store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import InputError
from predict.release.layout import Release, ReleasedRun, _read_run, _workers, parse_probabilities
from predict.tensor.contract import (
    configuration_hash,
)
from predict.tensor.creating import new_store, set_configuration
from predict.tensor.opening import open_store
from predict.tensor.writing import finish_runs, write_run


@dataclass(frozen=True)
class Imported:
    """What an import wrote: the runs, and the mean of their accuracies (0 to 1)."""

    runs: int
    accuracy: float


def _configuration(
    release: Release,
    sizes: Sequence[str],
    probability_dtype: str | None,
    digests: Sequence[str],
) -> dict[str, Any]:
    """Describe an imported store; the digest covers every byte that was read."""
    content = hashlib.sha256(_read_run(release.directory / "data.json"))
    for run, digest in zip(release.runs, digests, strict=True):
        content.update(f"{run.file_name}\t{digest}\n".encode())
    return {
        "source": "release",
        "digest": content.hexdigest(),
        "sizes": list(sizes),
        "probability_dtype": probability_dtype,
    }


def is_imported(
    release: Release, out: Path | str, *, sizes: Sequence[str], probability_dtype: str | None
) -> bool:
    """Tell whether a store holds this release already.

    Parameters
    ----------
    release : Release
        The release; its files are read.
    out : path
        Where the store would be.
    sizes : sequence of str
        Sizes, smallest first.
    probability_dtype : {"float16", "float32", None}
        Type in which to store the probabilities.

    Returns
    -------
    bool
        False if there is nothing at `out`; True if there is what `import_release` would write.

    Raises
    ------
    InputError
        If there is something else at `out`.
    """
    out = Path(out)
    if not out.exists():
        return False
    there = open_store(out).attrs.get("configuration_hash")
    digests = [hashlib.sha256(_read_run(path)).hexdigest() for path in release.runs.values()]
    here = configuration_hash(_configuration(release, sizes, probability_dtype, digests))
    if there != here:
        raise InputError(
            f"{out}: already holds other predictions, or these with other options; remove it or"
            " choose another --out"
        )
    return True


def import_release(
    release: Release,
    out: Path | str,
    *,
    sizes: Sequence[str],
    probability_dtype: str | None,
    advance: Callable[[int], object],
    check: Callable[[Path], object] = lambda _: None,
) -> Imported:
    """Write a release into a new prediction store, which appears whole or not at all.

    Parameters
    ----------
    release : Release
        The release.
    out : path
        The store.
    sizes : sequence of str
        Sizes, smallest first.
    probability_dtype : {"float16", "float32", None}
        Type in which to store the probabilities; None to store correctness only.
    advance : callable
        Called with the number of rows after each run.
    check : callable, optional
        Called with the whole store before it is put in place; raises to refuse it.

    Returns
    -------
    Imported
        The number of runs, and the mean of their accuracies.

    Raises
    ------
    InputError
        If there is something at `out`, or a run's file is bad; then nothing is left behind.
    """
    rows = len(release.instances)
    with new_store(
        out,
        task=release.task,
        sizes=sizes,
        instances=release.instances,
        labels=release.labels,
        pretrain_seeds=release.pretrain_seeds,
        finetune_seeds=release.finetune_seeds,
        epochs=[thirds / 3 for thirds in release.thirds],
        probability_dtype=probability_dtype,
        configuration={},
    ) as partial:

        def write(item: tuple[ReleasedRun, Path]) -> tuple[str, float]:
            run, path = item
            content = _read_run(path)
            probability = parse_probabilities(
                content, name=path, labels=release.labels, instances=rows
            )
            correct = write_run(
                partial,
                size=run.size,
                pretrain_seed=run.pretrain_seed,
                finetune_seed=run.finetune_seed,
                epoch=run.epoch,
                probability=probability,
            )
            return hashlib.sha256(content).hexdigest(), float(correct.mean())

        models: dict[tuple[str, int], list[tuple[int, float]]] = {}
        for run in release.runs:
            models.setdefault((run.size, run.pretrain_seed), []).append(
                (run.finetune_seed, run.epoch)
            )

        def finish(model: tuple[str, int]) -> None:
            finish_runs(partial, size=model[0], pretrain_seed=model[1], runs=models[model])

        digests: list[str] = []
        accuracies: list[float] = []
        with ThreadPoolExecutor(_workers()) as pool:
            for digest, accuracy in pool.map(write, release.runs.items()):
                digests.append(digest)
                accuracies.append(accuracy)
                advance(rows)
            for _ in pool.map(finish, models):
                pass
        configuration = _configuration(release, sizes, probability_dtype, digests)
        set_configuration(partial, configuration)
        check(partial)
    return Imported(len(accuracies), float(np.mean(accuracies)))
