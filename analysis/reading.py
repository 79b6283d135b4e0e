"""Stream prediction stores once into what the tables are computed from."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.typing import NDArray

from analysis.counts import Counts, count_dtype
from analysis.resampling import Bootstrap, Resampling
from analysis.seed_moments import (
    SeedMoments,
    resampled_means,
    resampled_sum_moments,
    sum_moments,
)
from analysis.variance import (
    Decomposition,
    TreeSums,
    count_sums,
    decompose_counts,
    decompose_sums,
    tree_sums,
)
from analysis.variance_given_bias import BinnedVariances, bin_variances
from configs.errors import InputError
from predict.correctness import ENTAILMENT, NOT_ENTAILMENT_INDEX, gold_index

BLOCK_BYTES = 32 * 2**20
"""Upper limit on the predictions that one thread reads at once, beyond one chunk."""

PART_INSTANCES = 8192
"""Instances whose draws are summed at once: in float64 they should stay in the cache."""

NAMES_AT_ONCE = 2**17
"""Names of splits that are read at once."""

MOST_THREADS = 8


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

    def add(self, trees: Sequence[TreeSums], split: NDArray[np.integer], rows: slice) -> None:
        """Add a block, whose seeds are the `trees`, of instances `rows` in the given splits."""
        splits = len(self.instances)
        totals = np.stack([tree.total for tree in trees]).astype(np.float64, copy=False)
        for seed, tree in enumerate(trees):
            self.total[:, seed] += np.bincount(split, tree.total, minlength=splits)
            for level, squares in enumerate(tree.squares):
                self.squares[:, level, seed] += np.bincount(split, squares, minlength=splits)
        self.instances += np.bincount(split, minlength=splits)
        for position in np.unique(split):
            chosen = totals[:, split == position]
            self.products[position] += chosen @ chosen.T
        if self.each_total.size:
            self.each_total[:, rows] = totals
            for seed, tree in enumerate(trees):
                self.each_squares[:, seed, rows] = tree.squares[1:]

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
            reader.read(advance)
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
        self.split_of, self.splits = split_of, splits
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
        self.arrays = self._open_arrays()
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

    def read(self, advance: Callable[[int], Hashable]) -> None:
        """Pass over the instances once."""
        instances = len(self.split_of)
        block, seeds = self._tile()
        tiles = [
            slice(start, start + seeds)
            for start in range(0, self.store.sizes["pretrain_seed"], seeds)
            if np.any((self.chosen >= start) & (self.chosen < start + seeds))
        ]
        written = 0
        with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
            for start in range(0, instances, block):
                stop = min(start + block, instances)
                written += self._read_block(pool, slice(start, stop), tiles, written)
                advance(stop - start)

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

    def _read_block(
        self, pool: ThreadPoolExecutor, instances: slice, tiles: Sequence[slice], written: int
    ) -> int:
        """Read and add one block; return how many of its instances are kept."""
        local = np.flatnonzero(self.split_of[instances] >= 0)
        if len(local) and len(self.chosen):
            block = _Block(self, instances, local)
            seeds = [seed for tile in pool.map(block.read, tiles) for seed in tile]
            self._add(block, slice(written, written + len(local)), seeds)
        return len(local)

    def _open_arrays(self) -> dict[str, zarr.Array]:
        """Open what is read block by block: by Zarr, as xarray adds half again to each chunk."""
        # Of a store with the probabilities of all labels, that of the gold one follows.
        probability = "probability" if "probability" in self.store else "gold_probability"
        group = zarr.open_group(self.path, mode="r")
        names = ("correct", "ensemble_correct", probability)
        return {name: group[name] for name in names if name in self.store}

    def _tile(self) -> tuple[int, int]:
        """Instances and pretraining seeds that are read at once, by whole chunks."""
        arrays = [array for name, array in self.arrays.items() if name != "ensemble_correct"]
        seeds = max(array.chunks[2] for array in arrays)
        chunk = max(array.chunks[1] for array in arrays)
        per_instance = sum(
            array.dtype.itemsize * int(np.prod(array.shape[3:])) * seeds for array in arrays
        )
        return max(BLOCK_BYTES // per_instance // chunk, 1) * chunk, seeds

    def _load(self, variable: str, instances: slice) -> NDArray:
        """Load one size of a small variable, for a slice of instances where it has any."""
        array = self.store[variable]
        index: dict[Hashable, int | slice] = {"size": self.position}
        if "instance" in array.dims:
            index["instance"] = instances
        with self.readable(variable):
            return array.isel(index).values

    @contextmanager
    def readable(self, variable: str) -> Iterator[None]:
        """Report a failure to read."""
        # A store that lies on a disk can fail to read in as many ways as there are codecs.
        try:
            yield
        except Exception as error:
            raise InputError(
                f"{self.path}: `{variable}` of size {self.size} cannot be read "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
                "copy or write the store again"
            ) from error

    def gold_index(self, gold: NDArray) -> NDArray[np.int64]:
        """Encode gold labels."""
        try:
            return gold_index(gold, self.labels)
        except ValueError as error:
            raise InputError(f"{self.path}: {error}; correct the gold label") from error

    def _add(self, block: _Block, rows: slice, seeds: Sequence[_Seed]) -> None:
        """Add a block, whose kept instances go to `rows` of the results, seed by seed."""
        for column, seed in enumerate(seeds):
            self.correct[rows, column] = seed.correct
            self.run_correct[:, column] += seed.run_correct
            if self.each_right.size:
                self.each_right[column, :, rows] = seed.right
        if "ensemble_correct" in self.arrays:
            loaded = self._load("ensemble_correct", block.instances)
            self.ensemble_correct[rows] = loaded[np.ix_(block.local, self.chosen)]
        for name, accumulator in self.losses.items():
            trees = [seed.trees[name] for seed in seeds if name in seed.trees]
            accumulator.add(trees, block.split, rows)
        runs = self.store.sizes["finetune_seed"]
        if len(self.chosen) < 2 or runs < 2:
            return
        self._bin("zero_one", decompose_counts(self.correct[rows], runs), block.split)
        if ("squared", "last") in self.losses:
            last = [seed.trees["squared", "last"] for seed in seeds]
            total = np.sum([tree.total for tree in last], axis=0)
            squares = np.sum([tree.squares for tree in last], axis=0)
            root = TreeSums(total, np.concatenate([total[None] ** 2, squares]))
            parts = decompose_sums(root, (len(self.chosen), runs))
            self._bin("squared", parts, block.split)

    def _bin(self, loss: str, parts: Decomposition, split: NDArray[np.intp]) -> None:
        found = bin_variances(parts, split, self.splits)
        self.binned[loss] = self.binned[loss] + found if loss in self.binned else found


def _part_of(values: NDArray[np.bool_], part: slice) -> NDArray[np.float64]:
    return values[:, part].astype(np.float64)


@dataclass(frozen=True)
class _Seed:
    """One pretraining seed on one block of instances.

    Attributes
    ----------
    correct : ndarray of int, shape [instance]
        Right finetuning runs at the last epoch.
    right : ndarray of bool, shape [finetune_seed, instance]
        Which they are.
    run_correct : ndarray of int64, shape [split, finetune_seed]
        Instances that each run has right.
    trees : dict of (str, str) to TreeSums
        By loss and checkpoints, the draws below the seed.
    """

    correct: NDArray[np.unsignedinteger]
    right: NDArray[np.bool_]
    run_correct: NDArray[np.int64]
    trees: dict[tuple[str, str], TreeSums]


class _Block:
    """The kept instances of a slice; any number of threads read its seeds."""

    def __init__(self, reader: _SizeReader, instances: slice, local: NDArray[np.intp]) -> None:
        self.reader, self.instances, self.local = reader, instances, local
        self.split = reader.split_of[instances][local].astype(np.intp)
        self.gold: NDArray[np.int64] | None = None
        if "probability" in reader.arrays:
            self.gold = reader.gold_index(reader.store["gold"].isel(instance=instances).values)[
                local
            ]

    def read(self, tile: slice) -> list[_Seed]:
        """Read the chosen ones of some neighbouring pretraining seeds, in order."""
        reader = self.reader
        chosen = [seed for seed in range(tile.start, tile.stop) if seed in reader.chosen]
        correct = self._runs("correct", tile, chosen)
        probability = None
        for name in ("probability", "gold_probability"):
            if name in reader.arrays:
                probability = self._runs(name, tile, chosen)
        seeds = []
        all_epochs = np.atleast_1d(reader.all_epochs).tolist()
        for number, seed in enumerate(chosen):
            column = int(np.searchsorted(reader.chosen, seed))
            draws = None if probability is None else probability[number]
            seeds.append(self._seed(correct[number], draws, all_epochs[column]))
        return seeds

    def _seed(
        self, correct: NDArray[np.bool_], draws: NDArray[np.float32] | None, all_epochs: bool
    ) -> _Seed:
        """Sum one seed's draws [finetune_seed, epoch, instance]."""
        reader = self.reader
        _, epochs, instances = correct.shape
        last = correct[:, -1]
        parts: dict[tuple[str, str], list[TreeSums]] = {}
        for start in range(0, instances, PART_INSTANCES):
            part = slice(start, start + PART_INSTANCES)
            if draws is not None:
                values = draws[:, :, part].astype(np.float64)
                parts.setdefault(("squared", "last"), []).append(tree_sums(values[:, -1]))
                if epochs > 1 and all_epochs:
                    parts.setdefault(("squared", "all"), []).append(tree_sums(values))
            if epochs > 1 and all_epochs:
                counts = correct[:, :, part].sum(axis=1, dtype=count_dtype(epochs))
                parts.setdefault(("zero_one", "all"), []).append(count_sums(counts))
        trees = {
            name: TreeSums(
                np.concatenate([of.total for of in found]),
                np.concatenate([of.squares for of in found], axis=1),
            )
            for name, found in parts.items()
        }
        return _Seed(
            correct=last.sum(axis=0, dtype=reader.correct.dtype),
            right=last,
            run_correct=np.stack(
                [np.bincount(self.split[run], minlength=reader.splits) for run in last], axis=1
            ),
            trees=trees,
        )

    def _runs(self, variable: str, tile: slice, chosen: Sequence[int]) -> NDArray:
        """Load [chosen seed, finetune_seed, epoch, kept instance], chunk by chunk.

        Of the probabilities of all labels, the gold one's.
        """
        array = self.reader.arrays[variable]
        finetune, epoch = array.chunks[3:5]
        dtype = np.bool_ if variable == "correct" else np.float32
        result = np.empty((len(chosen), *array.shape[3:5], len(self.local)), dtype)
        for f in range(0, array.shape[3], finetune):
            for e in range(0, array.shape[4], epoch):
                at = (slice(f, f + finetune), slice(e, e + epoch))
                with self.reader.readable(variable):
                    loaded = np.asarray(array[(self.reader.position, self.instances, tile, *at)])
                into = result[(slice(None), *at)]
                self._choose(loaded, [seed - tile.start for seed in chosen], into)
        return result

    def _choose(self, loaded: NDArray, chosen: Sequence[int], into: NDArray) -> None:
        """Copy kept instances, chosen seeds and gold labels of a loaded chunk."""
        _, seeds, *run_axes = loaded.shape[:4]
        runs = int(np.prod(run_axes))
        labels = loaded.shape[4] if loaded.ndim == 5 else 1
        flat = loaded.reshape(-1)
        # Positions in flat memory: numpy's own indexing by label takes three times as long.
        first = self.local * (seeds * runs * labels)
        gold = self.gold if loaded.ndim == 5 else None
        if gold is not None:
            first = first + np.maximum(gold, 0)
        for number, seed in enumerate(chosen):
            for run, at in enumerate(np.ndindex(*run_axes)):
                target = into[number, *at]
                offset = (seed * runs + run) * labels
                target[:] = flat.take(first + offset if offset else first)
                if gold is not None and (gold == NOT_ENTAILMENT_INDEX).any():
                    two_class = np.flatnonzero(gold == NOT_ENTAILMENT_INDEX)
                    row = self.local[two_class] * (seeds * runs * labels) + offset
                    entailment = flat.take(row + self.reader.labels.index(ENTAILMENT))
                    target[two_class] = 1 - entailment.astype(target.dtype)
