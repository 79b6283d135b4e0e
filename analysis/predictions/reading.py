"""Read all prediction stores of a task, in one pass over the instances of each size."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from analysis.bootstrap.draws import Bootstrap, Resampling
from analysis.predictions.size import (
    KeptInstances,
    SizePredictions,
    SizeReader,
    has_gold_probability,
)
from analysis.predictions.split import SplitPredictions, TaskPredictions
from analysis.statistics.counts import Counts
from configs.errors import InputError
from configs.processes import Workers

NAMES_AT_ONCE = 2**17
"""Instances whose split names are read at once."""


def read_task(
    stores: Sequence[tuple[Path, xr.Dataset]],
    splits: Sequence[str] = (),
    *,
    bootstrap: Bootstrap | None = None,
    baseline_seed: int | None = None,
    workers: Workers | None = None,
    advance: Callable[[int], Hashable] = lambda _: None,
) -> TaskPredictions:
    """Read all stores of one task, block by block of instances.

    Parameters
    ----------
    stores : sequence of (Path, xarray.Dataset)
        Opened stores of one task, which hold different sizes of the same instances, in the order
        of the sizes. The data variables are read here, a block at a time.
    splits : sequence of str, optional
        Names of the evaluation splits to keep; all if empty.
    bootstrap : Bootstrap, optional
        Draws of the replicates. If it resamples instances, the statistics that need each
        instance's probabilities or single runs are resampled here, size by size, because these
        are not kept.
    baseline_seed : int, optional
        Take the baseline from one split of the pretraining seeds, drawn with this seed, instead of
        averaging over all splits.
    workers : Workers, optional
        Processes that read blocks; by default this process alone.
    advance : callable, optional
        Called with the number of instances after each block of one size (for a progress bar).

    Returns
    -------
    TaskPredictions

    Raises
    ------
    InputError
        If the stores disagree, have no instances, lack a split, or a block cannot be read.
    """
    _require_same_instances(stores)
    path, first = stores[0]
    task = str(first.attrs["task"])
    kept, resamplings = _choose_instances(path, first, splits, bootstrap)
    sizes: dict[str, SizePredictions] = {}
    notes: list[str] = []
    for path, store in stores:
        if not has_gold_probability(store):
            notes.append(f"{path}: no probabilities, so the squared loss is not computed")
        if "ensemble_correct" not in store:
            notes.append(f"{path}: no ensembles, so their cells are empty")
        for position, name in enumerate(store["size"].values):
            reader = SizeReader(path, store, position, kept)
            sizes[str(name)] = size = reader.read(workers or Workers(), advance)
            notes += [f"{task}, {note}" for note in size.notes]

    names = tuple(sizes)
    seeds = tuple(size.seeds for size in sizes.values())
    # A size of a store without ensembles has no seeds among the ensembles.
    ensemble_seeds = tuple(
        size.seeds if size.ensemble_correct[0].shape[1] else () for size in sizes.values()
    )
    has_ensembles = any("ensemble_correct" in store for _, store in stores)
    chosen = []
    for split, split_name in enumerate(kept.splits):
        correct = tuple(size.correct[split] for size in sizes.values())
        ensemble_correct = tuple(size.ensemble_correct[split] for size in sizes.values())
        ensembles = Counts(names, ensemble_seeds, ensemble_correct, 1) if has_ensembles else None
        chosen.append(
            SplitPredictions(
                task=task,
                split=split_name,
                epochs=tuple(float(epoch) for epoch in first["epoch"].values),
                runs=Counts(names, seeds, correct, first.sizes["finetune_seed"]),
                ensembles=ensembles,
                sums=tuple(size.sums[split] for size in sizes.values()),
                baseline_seed=baseline_seed,
                resampling=resamplings[split] if resamplings else None,
            )
        )
    return TaskPredictions(task, tuple(chosen), tuple(notes))


def _require_same_instances(stores: Sequence[tuple[Path, xr.Dataset]]) -> None:
    """Refuse stores of one task that share a size or differ in anything but their sizes."""
    first_path, first = stores[0]
    owner: dict[str, Path] = {}
    for path, store in stores:
        for size in store["size"].values:
            if str(size) in owner:
                raise InputError(
                    f"{path}: size {size} of task {store.attrs['task']} is also in "
                    f"{owner[str(size)]}; give one store for each size"
                )
            owner[str(size)] = path
        if store is first:
            continue
        for name in ("guid", "split", "gold", "finetune_seed", "epoch", "label"):
            if (name in store) and (name in first):
                same = np.array_equal(store[name].values, first[name].values)
            else:
                same = name == "label" or (name in store) == (name in first)
            if not same:
                what = "instances" if name == "guid" else f"`{name}`"
                raise InputError(
                    f"{path}: its {what} differ from those of {first_path}, which has the same "
                    f"task {store.attrs['task']}; analyze the stores separately"
                )


def _choose_instances(
    path: Path, store: xr.Dataset, wanted: Sequence[str], bootstrap: Bootstrap | None
) -> tuple[KeptInstances, tuple[Resampling, ...]]:
    """Find the instances of the wanted splits, and the draws of each split, if there are any."""
    names, split_of = _choose_splits(path, store, wanted)
    kept_split = split_of[split_of >= 0]
    rows: list[slice | NDArray[np.intp]] = []
    instances: list[int] = []
    resamplings: list[Resampling] = []
    for split in range(len(names)):
        positions = np.flatnonzero(kept_split == split)
        first, last = int(positions[0]), int(positions[-1])
        consecutive = last - first == len(positions) - 1
        rows.append(slice(first, last + 1) if consecutive else positions)
        instances.append(len(positions))
        if bootstrap is not None and bootstrap.replicates:
            task = str(store.attrs["task"])
            resamplings.append(bootstrap.of_instances(task, positions))
    draws_instances = bootstrap is not None and bootstrap.clusters is not None
    draws = tuple(resamplings) if draws_instances else ()
    kept = KeptInstances(names, split_of, tuple(rows), tuple(instances), draws)
    return kept, tuple(resamplings)


def _choose_splits(
    path: Path, store: xr.Dataset, wanted: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Name the kept splits, and find the position of each instance's split (-1: not kept)."""
    codes: dict[str, int] = {}
    instances = store.sizes["instance"]
    code_of = np.empty(instances, dtype=np.int32)
    # Block by block, because a name takes fifty times the memory of its code.
    for start in range(0, instances, NAMES_AT_ONCE):
        block = slice(start, start + NAMES_AT_ONCE)
        numbers, names = pd.factorize(store["split"].isel(instance=block).values.astype(object))
        known = [codes.setdefault(str(name), len(codes)) for name in names]
        code_of[block] = np.array(known, dtype=np.int32)[numbers]
    missing = [name for name in wanted if name not in codes]
    if missing:
        raise InputError(f"{path}: no split {', '.join(missing)}; choose from {', '.join(codes)}")
    if not codes:
        raise InputError(f"{path}: has no instances; give a store with predictions")
    chosen = [name for name in codes if not wanted or name in wanted]
    position = np.full(len(codes), -1, dtype=np.int32)
    position[[codes[name] for name in chosen]] = np.arange(len(chosen))
    return tuple(chosen), position[code_of]
