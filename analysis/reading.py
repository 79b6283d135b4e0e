"""Stream prediction stores once into what the tables are computed from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from analysis.counts import Counts, count_dtype
from analysis.seed_moments import SeedMoments, draw_moments, resample_decomposition
from configs.errors import InputError
from predict.correctness import gold_index, gold_probability

BLOCK_BYTES = 64 * 2**20
"""Upper limit on the predictions read at once, as they lie in the store, beyond one chunk."""

PART_INSTANCES = 8192
"""Instances whose loss is decomposed at once: in float64 they take several times the space."""


@dataclass(frozen=True)
class LossSums:
    """A decomposed loss, summed over the instances of each split.

    Attributes
    ----------
    bias2 : ndarray of float64, shape [split]
    variances : ndarray of float64, shape [split, level]
        Pretraining seeds, finetuning seeds and, where they are a level, checkpoints.
    moments : tuple of SeedMoments
        For each split, what a resampling of the pretraining seeds needs.
    """

    bias2: NDArray[np.float64]
    variances: NDArray[np.float64]
    moments: tuple[SeedMoments, ...]


@dataclass(frozen=True)
class TaskPredictions:
    """Everything that the analysis of one task needs; of its size only `runs` and `ensembles`.

    Attributes
    ----------
    task : str
        Name of the task.
    splits : tuple of str
        The chosen evaluation splits, in order of appearance.
    split_of : ndarray of int, shape [instance]
        Position in `splits` of each kept instance.
    runs : Counts
        Correct finetuning runs at the last epoch.
    ensembles : Counts or None
        Correct ensembles (0 or 1) of each pretraining seed; None where the store has none.
    run_correct : tuple of ndarray of int64, each of shape [split, seed, finetune_seed]
        For each size, the instances that each run has right.
    losses : dict of (str, str, str) to LossSums
        By size, loss (``zero_one``, ``squared``) and checkpoints (``last``, ``all``). The 0/1
        loss at the last checkpoint is not here: it follows from `runs`.
    epochs : tuple of float
        The evaluated checkpoints, in order.
    notes : tuple of str
        One line for each thing that is missing.
    """

    task: str
    splits: tuple[str, ...]
    split_of: NDArray[np.intp]
    runs: Counts
    ensembles: Counts | None
    run_correct: tuple[NDArray[np.int64], ...]
    losses: dict[tuple[str, str, str], LossSums]
    epochs: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def sizes(self) -> tuple[str, ...]:
        """Model sizes, smallest first."""
        return self.runs.sizes

    def instances_of(self, split: int) -> NDArray[np.intp]:
        """Positions of the instances of one split."""
        return np.flatnonzero(self.split_of == split)


class _Loss:
    """Sums of the moments of a loss, by split, while the blocks of instances pass."""

    def __init__(self, splits: int) -> None:
        self.sums: list[list[NDArray[np.float64]]] = [[] for _ in range(splits)]
        self.instances = np.zeros(splits, dtype=np.int64)

    def add(self, draws: NDArray[np.floating] | NDArray[np.bool_], split: NDArray[np.intp]) -> None:
        for position in np.unique(split):
            chosen = draws[split == position]
            found = draw_moments(chosen)
            parts = (found.loss, found.inner, found.noise, found.products)
            weighted = [part * len(chosen) for part in parts]
            before = self.sums[position]
            if before:
                weighted = [a + b for a, b in zip(before, weighted, strict=True)]
            self.sums[position] = weighted
            self.instances[position] += len(chosen)

    def finish(self) -> LossSums:
        moments = tuple(
            SeedMoments(*(part / number for part in sums))
            for sums, number in zip(self.sums, self.instances, strict=True)
        )
        parts = np.array(
            [
                number * resample_decomposition(one, np.ones((len(one.loss), 1)))[0]
                for one, number in zip(moments, self.instances, strict=True)
            ]
        )
        return LossSums(bias2=parts[:, 0], variances=parts[:, 1:], moments=moments)


def read_task(
    stores: Sequence[tuple[Path, xr.Dataset]],
    splits: Sequence[str] = (),
    advance: Callable[[int], Hashable] = lambda _: None,
) -> TaskPredictions:
    """Read all stores of one task, block by block of instances.

    Parameters
    ----------
    stores : sequence of (Path, xarray.Dataset)
        Opened stores of one task, which hold different sizes of the same instances, in the order
        of the sizes. The data variables are read here, a block at a time.
    splits : sequence of str, optional
        Names of the evaluation splits to keep; all where empty.
    advance : callable, optional
        Told the number of instances after each block of one size (for a progress bar).

    Returns
    -------
    TaskPredictions

    Raises
    ------
    InputError
        If the stores disagree, a split is not there, or a block cannot be read.
    """
    _require_same_instances(stores)
    path, first = stores[0]
    task = str(first.attrs["task"])
    split_names, split_of, kept = _choose_splits(path, first, splits)
    epochs = tuple(float(epoch) for epoch in first["epoch"].values)
    finetune_seeds = first.sizes["finetune_seed"]

    sizes: list[str] = []
    seeds: list[tuple[int, ...]] = []
    correct: list[NDArray[np.unsignedinteger]] = []
    ensemble_seeds: list[tuple[int, ...]] = []
    ensemble_correct: list[NDArray[np.unsignedinteger]] = []
    run_correct: list[NDArray[np.int64]] = []
    losses: dict[tuple[str, str, str], LossSums] = {}
    notes: list[str] = []
    for path, store in stores:
        if not _has_gold_probability(store):
            notes.append(f"{path}: no probabilities, so the squared loss is left out")
        if "ensemble_correct" not in store:
            notes.append(f"{path}: no ensembles, so their cells are empty")
        for position, size in enumerate(str(name) for name in store["size"].values):
            reader = _SizeReader(path, store, position, size, split_of, len(split_names), kept)
            reader.read(advance)
            sizes.append(size)
            seeds.append(reader.seeds)
            correct.append(reader.correct)
            run_correct.append(reader.run_correct)
            has_ensembles = "ensemble_correct" in store
            ensemble_seeds.append(reader.seeds if has_ensembles else ())
            ensemble_correct.append(reader.ensemble_correct)
            for (loss, checkpoints), sums in reader.losses.items():
                losses[size, loss, checkpoints] = sums.finish()
            notes.extend(f"{task}, {note}" for note in reader.notes)

    names = tuple(sizes)
    ensembles = None
    if any("ensemble_correct" in store for _, store in stores):
        ensembles = Counts(names, tuple(ensemble_seeds), tuple(ensemble_correct), runs=1)
    return TaskPredictions(
        task=task,
        splits=split_names,
        split_of=split_of[kept],
        runs=Counts(names, tuple(seeds), tuple(correct), runs=finetune_seeds),
        ensembles=ensembles,
        run_correct=tuple(run_correct),
        losses=losses,
        epochs=epochs,
        notes=tuple(notes),
    )


def _has_gold_probability(store: xr.Dataset) -> bool:
    """Tell whether the squared loss can be computed, from all labels' probabilities or one."""
    return "probability" in store or "gold_probability" in store


def _require_same_instances(stores: Sequence[tuple[Path, xr.Dataset]]) -> None:
    """Refuse stores of one task that repeat a size or differ in anything else."""
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
        for name in ("guid", "split", "gold", "finetune_seed", "epoch", "label"):
            if (name in store) and (name in first):
                same = np.array_equal(store[name].values, first[name].values)
            else:
                same = name == "label" or (name in store) == (name in first)
            if not same:
                what = "instances" if name == "guid" else f"`{name}`"
                raise InputError(
                    f"{path}: other {what} than {first_path}, which has the same task "
                    f"{store.attrs['task']}; analyze them apart"
                )


def _choose_splits(
    path: Path, store: xr.Dataset, wanted: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.intp], NDArray[np.intp]]:
    """Name the kept splits, the position of each instance's (-1: not kept), and the kept."""
    codes, uniques = pd.factorize(store["split"].values.astype(object))
    names = [str(name) for name in uniques]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(f"{path}: no split {', '.join(missing)}; it has {', '.join(names)}")
    chosen = [code for code, name in enumerate(names) if not wanted or name in wanted]
    position = np.full(len(names), -1, dtype=np.intp)
    position[chosen] = np.arange(len(chosen))
    split_of = position[codes]
    return tuple(names[code] for code in chosen), split_of, np.flatnonzero(split_of >= 0)


class _SizeReader:
    """Reads one size of one store; after `read` its attributes hold the results."""

    def __init__(
        self,
        path: Path,
        store: xr.Dataset,
        position: int,
        size: str,
        split_of: NDArray[np.intp],
        splits: int,
        kept: NDArray[np.intp],
    ) -> None:
        self.path, self.store, self.position, self.size = path, store, position, size
        self.split_of, self.splits, self.kept = split_of, splits, kept
        self.notes: list[str] = []
        finished = self._load("finished", slice(None))
        runs, epochs = finished.shape[1:]
        complete = finished[:, :, -1].all(axis=1)
        self.chosen = np.flatnonzero(complete)
        self.all_epochs = finished[self.chosen].all(axis=(1, 2))
        seed_names = store["pretrain_seed"].values
        self.labels = [str(label) for label in store["label"].values] if "label" in store else []
        self.seeds = tuple(int(seed_names[seed]) for seed in self.chosen)
        if not complete.all():
            missing = int((~finished[:, :, -1]).sum())
            left_out = ", ".join(str(seed_names[seed]) for seed in np.flatnonzero(~complete))
            self.notes.append(
                f"{size}: {missing} of {finished[:, :, -1].size} runs are not finished; "
                f"pretraining seeds left out: {left_out}"
            )
        if epochs > 1 and not self.all_epochs.all():
            self.notes.append(
                f"{size}: {int((~self.all_epochs).sum())} pretraining seeds lack an earlier "
                "checkpoint and are left out where all checkpoints are used"
            )
        shape = (len(kept), len(self.chosen))
        self.correct = np.zeros(shape, dtype=count_dtype(runs))
        has_ensembles = "ensemble_correct" in store
        self.ensemble_correct = np.zeros(shape if has_ensembles else (len(kept), 0), dtype=np.uint8)
        self.run_correct = np.zeros((splits, len(self.chosen), runs), dtype=np.int64)
        self.losses: dict[tuple[str, str], _Loss] = {}
        if len(self.chosen) and _has_gold_probability(store):
            self.losses["squared", "last"] = _Loss(splits)
        if epochs > 1 and self.all_epochs.any():
            self.losses["zero_one", "all"] = _Loss(splits)
            if _has_gold_probability(store):
                self.losses["squared", "all"] = _Loss(splits)

    def read(self, advance: Callable[[int], Hashable]) -> None:
        """Pass over the instances once."""
        instances = len(self.split_of)
        block = self._block_length()
        written = 0
        for start in range(0, instances, block):
            stop = min(start + block, instances)
            local = np.flatnonzero(self.split_of[start:stop] >= 0)
            if len(local) and len(self.chosen):
                self._add(slice(start, stop), local, slice(written, written + len(local)))
                written += len(local)
            advance(stop - start)

    def _block_length(self) -> int:
        """Whole chunks of instances, as many as `BLOCK_BYTES` allows."""
        per_instance = sum(
            self.store[name].nbytes // (self.store.sizes["instance"] * self.store.sizes["size"])
            for name in ("correct", "probability", "gold_probability")
            if name in self.store
        )
        chunks = self.store["correct"].encoding.get("preferred_chunks", {})
        chunk = int(chunks.get("instance", 1))
        return max(BLOCK_BYTES // max(per_instance, 1) // chunk, 1) * chunk

    def _load(self, variable: str, instances: slice) -> NDArray:
        """Load one size of a variable, for a slice of instances where it has that dimension."""
        array = self.store[variable]
        index: dict[Hashable, int | slice] = {"size": self.position}
        if "instance" in array.dims:
            index["instance"] = instances
        # A store that lies on a disk can fail to read in as many ways as there are codecs.
        try:
            return array.isel(index).values
        except Exception as error:
            raise InputError(
                f"{self.path}: `{variable}` of size {self.size} cannot be read "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
                "copy or write the store again"
            ) from error

    def _add(self, instances: slice, local: NDArray[np.intp], rows: slice) -> None:
        """Add the kept instances (`local`) of one block, which go to `rows` of the results."""
        # Of a store with the probabilities of all labels, that of the gold one follows.
        probability = "probability" if "probability" in self.store else "gold_probability"
        names = ("correct", "ensemble_correct", probability)
        loaded = {name: self._load(name, instances) for name in names if name in self.store}
        gold = None
        if "probability" in loaded:
            gold = self._gold_index(self.store["gold"].values[instances])
        for start in range(0, len(local), PART_INSTANCES):
            part = local[start : start + PART_INSTANCES]
            row = slice(rows.start + start, rows.start + start + len(part))
            split = self.split_of[instances][part]
            correct = loaded["correct"][part][:, self.chosen]
            last = correct[..., -1]
            self.correct[row] = last.sum(axis=2, dtype=self.correct.dtype)
            for position in np.unique(split):
                self.run_correct[position] += last[split == position].sum(axis=0, dtype=np.int64)
            if "ensemble_correct" in loaded:
                self.ensemble_correct[row] = loaded["ensemble_correct"][part][:, self.chosen]
            if ("zero_one", "all") in self.losses:
                self.losses["zero_one", "all"].add(correct[:, self.all_epochs], split)
            if probability in loaded:
                draws = loaded[probability][part][:, self.chosen].astype(np.float32)
                if gold is not None:
                    draws = gold_probability(draws, gold[part], self.labels)
                self.losses["squared", "last"].add(draws[..., -1], split)
                if ("squared", "all") in self.losses:
                    self.losses["squared", "all"].add(draws[:, self.all_epochs], split)

    def _gold_index(self, gold: NDArray) -> NDArray[np.int64]:
        try:
            return gold_index(gold, self.labels)
        except ValueError as error:
            raise InputError(f"{self.path}: {error}; correct the gold label") from error
