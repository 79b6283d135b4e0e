"""Stream prediction stores once into what the tables are computed from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.typing import NDArray

from analysis.bootstrap.draws import Bootstrap, Resampling
from analysis.bootstrap.variances import (
    SeedMoments,
    resampled_means,
    resampled_sum_moments,
    sum_moments,
)
from analysis.predictions.blocks import Block, BlockSums, LossBlock, Source, read_block, readable
from analysis.statistics.counts import Counts, count_dtype
from analysis.statistics.variance import TreeSums, decompose_sums
from analysis.statistics.variance_given_bias import BinnedVariances
from configs.errors import InputError
from configs.processes import Workers
from predict.tensor.correctness import ENTAILMENT, gold_index

BLOCK_BYTES = 64 * 2**20
"""Upper limit on what a block of instances takes while it is read, beyond one chunk."""

NAMES_AT_ONCE = 2**17
"""Names of splits that are read at once."""

CHUNKS_PER_SECOND = 500
"""Roughly how many chunks one process reads and adds up in a second."""


@dataclass(frozen=True)
class LossSums:
    """A decomposed loss, summed over the instances of each split.

    Attributes
    ----------
    bias2 : ndarray of float64, shape [split]
    variances : ndarray of float64, shape [split, level]
        Pretraining seeds, finetuning seeds and, where they are a level, checkpoints.
    moments : tuple of SeedMoments
        For each split, what a resampling of the pretraining seeds needs; with a leading axis of
        replicates where instances are resampled too.
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
    resampled_accuracy : tuple of tuple of ndarray, each of shape [replicate, seed, finetune_seed]
        For each size and split, the accuracy of each run on the instances of each replicate; empty
        where instances are not resampled.
    losses : dict of (str, str, str) to LossSums
        By size, loss (``zero_one``, ``squared``) and checkpoints (``last``, ``all``). The 0/1
        loss at the last checkpoint is not here: it follows from `runs`.
    binned : dict of (str, str) to BinnedVariances
        By size and loss, at the last checkpoint: variances by bias, leading axis split; where
        there are two pretraining and two finetuning seeds.
    epochs : tuple of float
        The evaluated checkpoints, in order.
    notes : tuple of str
        One line for each thing that is missing.
    """

    task: str
    splits: tuple[str, ...]
    split_of: NDArray[np.int32]
    runs: Counts
    ensembles: Counts | None
    run_correct: tuple[NDArray[np.int64], ...]
    resampled_accuracy: tuple[tuple[NDArray[np.float64], ...], ...]
    losses: dict[tuple[str, str, str], LossSums]
    binned: dict[tuple[str, str], BinnedVariances]
    epochs: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def sizes(self) -> tuple[str, ...]:
        """Model sizes, smallest first."""
        return self.runs.sizes

    def instances_of(self, split: int) -> NDArray[np.intp]:
        """Positions of the instances of one split."""
        return np.flatnonzero(self.split_of == split)


class _LossAccumulator:
    """Sums of one loss by split and pretraining seed while the blocks of instances pass.

    Where instances are to be resampled (`instances`, otherwise 0) the sums of each of them are
    kept, in single precision, until the size is read: 4 bytes for each seed and level.
    """

    def __init__(self, splits: int, widths: tuple[int, ...], instances: int = 0) -> None:
        self.widths = widths
        self.instances = np.zeros(splits, dtype=np.int64)
        self.total = np.zeros((splits, widths[0]))
        self.squares = np.zeros((splits, len(widths), widths[0]))
        self.products = np.zeros((splits, widths[0], widths[0]))
        self.each_total = np.empty((widths[0], instances), dtype=np.float32)
        self.each_squares = np.empty((len(widths) - 1, widths[0], instances), dtype=np.float32)

    def add(self, block: LossBlock, rows: slice) -> None:
        """Add a block, whose instances go to `rows`."""
        self.instances += block.instances
        self.total += block.total
        self.squares += block.squares
        self.products += block.products
        if self.each_total.size:
            self.each_total[:, rows] = block.each_total
            self.each_squares[:, :, rows] = block.each_squares

    def finish(self, split_of: NDArray[np.integer], resamplings: Sequence[Resampling]) -> LossSums:
        """Decompose the sums, and resample the instances of each split where there are draws."""
        sums = zip(self.instances.tolist(), self.total, self.squares, self.products, strict=True)
        bias2, variances, moments = [], [], []
        _, *below = self.widths
        for position, (instances, total, squares, products) in enumerate(sums):
            root = np.append(products.sum(), squares.sum(axis=1))
            parts = decompose_sums(TreeSums(total.sum(), root), self.widths, instances)
            bias2.append(instances * parts.bias2)
            variances.append(instances * parts.variances)
            if resamplings:
                chosen = split_of == position
                each = self.each_total[:, chosen], self.each_squares[:, :, chosen]
                moments.append(resampled_sum_moments(*each, below, resamplings[position]))
            else:
                averages = [of / instances for of in (total, squares, products)]
                moments.append(sum_moments(averages[0], averages[1], averages[2], below))
        return LossSums(np.array(bias2), np.array(variances), tuple(moments))


def read_task(
    stores: Sequence[tuple[Path, xr.Dataset]],
    splits: Sequence[str] = (),
    advance: Callable[[int], Hashable] = lambda _: None,
    bootstrap: Bootstrap | None = None,
    workers: Workers | None = None,
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
    bootstrap : Bootstrap, optional
        Where it has clusters, what needs each instance's probabilities or single runs is resampled
        here, size by size, as these are not kept.
    workers : Workers, optional
        Processes that read blocks; this one alone where not given.

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
    split_names, split_of = _choose_splits(path, first, splits)
    kept_splits = split_of[split_of >= 0]
    resamplings: list[Resampling] = []
    if bootstrap is not None and bootstrap.replicates and bootstrap.clusters is not None:
        resamplings = [
            bootstrap.of_instances(task, np.flatnonzero(kept_splits == position))
            for position in range(len(split_names))
        ]
    epochs = tuple(float(epoch) for epoch in first["epoch"].values)
    finetune_seeds = first.sizes["finetune_seed"]

    sizes: list[str] = []
    seeds: list[tuple[int, ...]] = []
    correct: list[NDArray[np.unsignedinteger]] = []
    ensemble_seeds: list[tuple[int, ...]] = []
    ensemble_correct: list[NDArray[np.unsignedinteger]] = []
    run_correct: list[NDArray[np.int64]] = []
    resampled_accuracy: list[tuple[NDArray[np.float64], ...]] = []
    losses: dict[tuple[str, str, str], LossSums] = {}
    binned: dict[tuple[str, str], BinnedVariances] = {}
    notes: list[str] = []
    for path, store in stores:
        if not _has_gold_probability(store):
            notes.append(f"{path}: no probabilities, so the squared loss is left out")
        if "ensemble_correct" not in store:
            notes.append(f"{path}: no ensembles, so their cells are empty")
        for position, size in enumerate(str(name) for name in store["size"].values):
            reader = _SizeReader(
                path, store, position, size, split_of, len(split_names), bool(resamplings)
            )
            reader.read(advance, workers or Workers())
            sizes.append(size)
            seeds.append(reader.seeds)
            correct.append(reader.correct)
            run_correct.append(reader.run_correct)
            resampled_accuracy.append(reader.resampled_accuracy(kept_splits, resamplings))
            has_ensembles = "ensemble_correct" in store
            ensemble_seeds.append(reader.seeds if has_ensembles else ())
            ensemble_correct.append(reader.ensemble_correct)
            for (loss, checkpoints), sums in reader.losses.items():
                losses[size, loss, checkpoints] = sums.finish(kept_splits, resamplings)
            for loss, found in reader.binned.items():
                binned[size, loss] = found
            notes.extend(f"{task}, {note}" for note in reader.notes)

    names = tuple(sizes)
    ensembles = None
    if any("ensemble_correct" in store for _, store in stores):
        ensembles = Counts(names, tuple(ensemble_seeds), tuple(ensemble_correct), runs=1)
    return TaskPredictions(
        task=task,
        splits=split_names,
        split_of=kept_splits,
        runs=Counts(names, tuple(seeds), tuple(correct), runs=finetune_seeds),
        ensembles=ensembles,
        run_correct=tuple(run_correct),
        resampled_accuracy=tuple(resampled_accuracy),
        losses=losses,
        binned=binned,
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
                    f"{path}: other {what} than {first_path}, which has the same task "
                    f"{store.attrs['task']}; analyze them apart"
                )


def _choose_splits(
    path: Path, store: xr.Dataset, wanted: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Name the kept splits, and the position of each instance's (-1: not kept)."""
    codes: dict[str, int] = {}
    instances = store.sizes["instance"]
    code_of = np.empty(instances, dtype=np.int32)
    # Block by block, as a name is fifty times as large as its code.
    for start in range(0, instances, NAMES_AT_ONCE):
        block = slice(start, start + NAMES_AT_ONCE)
        numbers, names = pd.factorize(store["split"].isel(instance=block).values.astype(object))
        known = [codes.setdefault(str(name), len(codes)) for name in names]
        code_of[block] = np.array(known, dtype=np.int32)[numbers]
    missing = [name for name in wanted if name not in codes]
    if missing:
        raise InputError(f"{path}: no split {', '.join(missing)}; it has {', '.join(codes)}")
    chosen = [name for name in codes if not wanted or name in wanted]
    position = np.full(len(codes), -1, dtype=np.int32)
    position[[codes[name] for name in chosen]] = np.arange(len(chosen))
    return tuple(chosen), position[code_of]


class _SizeReader:
    """Reads one size of one store; after `read` its attributes hold the results."""

    def __init__(
        self,
        path: Path,
        store: xr.Dataset,
        position: int,
        size: str,
        split_of: NDArray[np.int32],
        splits: int,
        resampled: bool,
    ) -> None:
        self.path, self.store, self.position, self.size = path, store, position, size
        self.split_of, self.splits, self.resampled = split_of, splits, resampled
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
        kept = int(np.count_nonzero(split_of >= 0))
        shape = (kept, len(self.chosen))
        self.correct = np.zeros(shape, dtype=count_dtype(runs))
        has_ensembles = "ensemble_correct" in store
        self.ensemble_correct = np.zeros(shape if has_ensembles else (kept, 0), dtype=np.uint8)
        self.run_correct = np.zeros((splits, len(self.chosen), runs), dtype=np.int64)
        # Where instances are resampled, these need what every run has right; otherwise nothing.
        each = kept if resampled else 0
        self.each_right = np.empty((len(self.chosen), runs, each), dtype=np.bool_)
        self.losses: dict[tuple[str, str], _LossAccumulator] = {}
        self.binned: dict[str, BinnedVariances] = {}
        last = (len(self.chosen), runs)
        every = (int(self.all_epochs.sum()), runs, epochs)
        if len(self.chosen) and _has_gold_probability(store):
            self.losses["squared", "last"] = _LossAccumulator(splits, last, each)
        if epochs > 1 and self.all_epochs.any():
            self.losses["zero_one", "all"] = _LossAccumulator(splits, every, each)
            if _has_gold_probability(store):
                self.losses["squared", "all"] = _LossAccumulator(splits, every, each)

    def read(self, advance: Callable[[int], Hashable], workers: Workers) -> None:
        """Pass over the instances once."""
        written = 0
        blocks, chunks = self._blocks()
        # The other sizes are read next, by the same processes.
        for block in workers.map(read_block, blocks, chunks / CHUNKS_PER_SECOND):
            kept = len(block.correct)
            self._add(block, slice(written, written + kept))
            written += kept
            advance(block.read)

    def resampled_accuracy(
        self, split_of: NDArray[np.integer], resamplings: Sequence[Resampling]
    ) -> tuple[NDArray[np.float64], ...]:
        """Accuracy of runs on the instances of every replicate, by split."""
        found: list[NDArray[np.float64]] = []
        for position, resampling in enumerate(resamplings if len(self.chosen) else ()):
            chosen = np.flatnonzero(split_of == position)
            right = self.each_right[:, :, chosen].reshape(-1, len(chosen))
            means = resampled_means(partial(_part_of, right), len(chosen), resampling)
            found.append(means.reshape(-1, *self.each_right.shape[:2]))
        return tuple(found)

    def _blocks(self) -> tuple[Iterator[Block], int]:
        """Divide the instances into blocks of whole chunks, and count the chunks of the store."""
        group = zarr.open_group(self.path, mode="r")
        # Of a store with the probabilities of all labels, that of the gold one follows.
        probability = "probability" if "probability" in self.store else "gold_probability"
        by_run = [name for name in ("correct", probability) if name in self.store]
        names = [*by_run, "ensemble_correct"]
        arrays = {name: group[name] for name in names if name in self.store}
        seeds = max(arrays[name].chunks[2] for name in by_run)
        chunk = max(arrays[name].chunks[1] for name in by_run)
        per_instance = sum(
            arrays[name].dtype.itemsize * int(np.prod(arrays[name].shape[3:])) * seeds
            for name in by_run
        )
        # The sums of each seed's draws, which `_sum_losses` adds up.
        per_instance += 8 * sum(
            of_loss.widths[0] * (len(of_loss.widths) + 1) for of_loss in self.losses.values()
        )
        length = max(BLOCK_BYTES // per_instance // chunk, 1) * chunk
        source = Source(
            path=self.path,
            size=self.size,
            position=self.position,
            arrays=arrays,
            by_run=tuple(by_run),
            seeds_at_once=seeds,
            chosen=self.chosen,
            all_epochs=np.atleast_1d(self.all_epochs),
            entailment=self.labels.index(ENTAILMENT) if ENTAILMENT in self.labels else -1,
            splits=self.splits,
            losses=tuple(self.losses),
            resampled=self.resampled,
        )
        starts = range(0, len(self.split_of), length)
        chunks = sum(arrays[name].nchunks for name in by_run)
        return (self._block(source, slice(start, start + length)) for start in starts), chunks

    def _block(self, source: Source, instances: slice) -> Block:
        split = self.split_of[instances]
        local = np.flatnonzero(split >= 0)
        gold = None
        if "probability" in source.by_run:
            named = self.store["gold"].isel(instance=instances).values
            gold = self._gold_index(named)[local].astype(np.int32)
        return Block(
            source, slice(instances.start, instances.start + len(split)), local, split[local], gold
        )

    def _load(self, variable: str, instances: slice) -> NDArray:
        """Load one size of a small variable, for a slice of instances where it has any."""
        array = self.store[variable]
        index: dict[Hashable, int | slice] = {"size": self.position}
        if "instance" in array.dims:
            index["instance"] = instances
        with readable(self.path, variable, self.size):
            return array.isel(index).values

    def _gold_index(self, gold: NDArray) -> NDArray[np.int64]:
        """Encode gold labels."""
        try:
            return gold_index(gold, self.labels)
        except ValueError as error:
            raise InputError(f"{self.path}: {error}; correct the gold label") from error

    def _add(self, block: BlockSums, rows: slice) -> None:
        """Add a block, whose kept instances go to `rows` of the results."""
        self.correct[rows] = block.correct
        self.ensemble_correct[rows] = block.ensemble_correct
        self.run_correct += block.run_correct
        if self.each_right.size:
            self.each_right[:, :, rows] = block.right
        for name, of_loss in block.losses.items():
            self.losses[name].add(of_loss, rows)
        for loss, found in block.binned.items():
            self.binned[loss] = self.binned[loss] + found if loss in self.binned else found


def _part_of(values: NDArray[np.bool_], part: slice) -> NDArray[np.float64]:
    return values[:, part].astype(np.float64)
