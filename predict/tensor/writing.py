"""Write runs into a prediction store, and mark them finished."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from configs.errors import InputError
from predict.tensor.contract import ROW_SUM_TOLERANCE, RUN, bad_row
from predict.tensor.correctness import correctness, gold_index
from predict.tensor.creating import _lock
from predict.tensor.opening import _check_attributes, _check_variables, _open_unchecked


def write_size(
    path: Path | str, *, size: str, variable: str, values: NDArray[Any] | np.bool_ | bool
) -> None:
    """Write one variable of all runs of one size, in a store that nobody else writes.

    Parameters
    ----------
    path : path
        The store, from `new_store`.
    size : str
        The size.
    variable : str
        The variable; ``finished`` last.
    values : ndarray
        Its values without the dimension ``size``, or one value for all.
    """
    store = _open_for_writing(Path(path))
    array = _with_empty_chunks(zarr.open_group(Path(path), mode="r+")[variable])
    s = store.sizes.index(size)
    if variable == "finished":
        array[s] = values
        return
    step = array.chunks[1]
    for start in range(0, len(store.gold), step):
        block = slice(start, min(start + step, len(store.gold)))
        array[s, block] = np.asarray(values)[block].astype(array.dtype)


def write_run(
    path: Path | str,
    *,
    size: str,
    pretrain_seed: int,
    finetune_seed: int,
    epoch: float,
    probability: NDArray[np.floating],
) -> NDArray[np.bool_]:
    """Write the predictions of one run, without marking the run finished.

    A run that is marked finished is left as it is.

    Parameters
    ----------
    path : path
        The store.
    size, pretrain_seed, finetune_seed, epoch
        The run.
    probability : ndarray of float, shape (instance, label)
        Class probabilities, 0 to 1. Correctness is decided at the precision given, before the
        probabilities are rounded to the precision stored.

    Returns
    -------
    ndarray of bool, shape (instance,)
        Correctness as it is in the store.

    Raises
    ------
    InputError
        If the store has no such run, or if the array has another shape, a NaN, a value outside
        0 to 1 or a row that does not sum to 1, each to 1e-3; the message names the run.
    """
    store = _open_for_writing(Path(path))
    s, p, f, e = store.position(size, pretrain_seed, finetune_seed, epoch)
    if store.finished[s, p, f, e]:
        return np.asarray(store.correct[s, :, p, f, e])
    name = f"{path}: size {size}, pretrain_seed {pretrain_seed}, finetune_seed {finetune_seed}"
    name += f", epoch {epoch:.6g}"
    shape = (len(store.gold), len(store.labels))
    if probability.shape != shape:
        raise InputError(
            f"{name}: probabilities have shape {probability.shape}; give {shape}, one row per"
            " instance and one column per label"
        )
    row = bad_row(probability, ROW_SUM_TOLERANCE)
    if row is not None:
        raise InputError(
            f"{name}: row {row + 1} is {probability[row].tolist()}; give probabilities that sum"
            " to 1"
        )
    correct = correctness(probability, store.gold, store.labels)
    store.correct[s, :, p, f, e] = correct
    if store.probability is not None:
        rounded = probability.astype(store.probability.dtype, order="C")
        store.probability[s, :, p, f, e] = rounded
    return correct


def finish_runs(
    path: Path | str, *, size: str, pretrain_seed: int, runs: Sequence[tuple[int, float]]
) -> None:
    """Mark written runs of one pretrained model as finished.

    When these are the last finetuning seeds that the model's last epoch waited for, the ensemble
    over finetuning seeds is computed from the stored probabilities and written before any mark:
    a model whose runs are all finished at the last epoch has a valid ensemble, whenever a process
    is killed.

    Parameters
    ----------
    path : path
        The store.
    size, pretrain_seed
        The pretrained model.
    runs : sequence of (finetune_seed, epoch)
        Runs whose slices `write_run` has written.

    Raises
    ------
    InputError
        If the store has no such run.
    """
    store = _open_for_writing(Path(path))
    positions = [store.position(size, pretrain_seed, seed, epoch) for seed, epoch in runs]
    if not positions:
        return
    s, p = positions[0][:2]
    # Two processes that each finish a different half of the seeds must not both conclude that
    # the other half is missing.
    with _lock(Path(path) / "finished" / f"{s}.{p}"):
        before = np.asarray(store.finished[s, p])
        after = before.copy()
        for _, _, f, e in positions:
            after[f, e] = True
        whole = after[:, -1].all() and not before[:, -1].all()
        if whole and store.probability is not None and store.ensemble_correct is not None:
            _write_ensemble(store, s, p)
        for f, e in np.argwhere(after & ~before):
            store.finished[s, p, int(f), int(e)] = True


def finished_runs(path: Path | str) -> set[tuple[str, int, int, float]]:
    """List the runs marked finished as (size, pretrain_seed, finetune_seed, epoch).

    Parameters
    ----------
    path : path
        The store.

    Returns
    -------
    set of tuple
        The epochs are exactly those that the store was created with.

    Raises
    ------
    InputError
        If there is no readable store at `path`.
    """
    store = _open_for_writing(Path(path))
    return {
        (
            store.sizes[s],
            store.pretrain_seeds[p],
            store.finetune_seeds[f],
            store.epochs[e],
        )
        for s, p, f, e in np.argwhere(np.asarray(store.finished[...])).tolist()
    }


def are_finished(
    path: Path | str, *, size: str, pretrain_seed: int, runs: Sequence[tuple[int, float]]
) -> bool:
    """Whether some runs of one pretrained model are all marked finished.

    Parameters
    ----------
    path : path
        The store.
    size, pretrain_seed
        The pretrained model.
    runs : sequence of (finetune_seed, epoch)
        Its runs.

    Raises
    ------
    InputError
        If the store has no such run.
    """
    store = _open_for_writing(Path(path))
    positions = (store.position(size, pretrain_seed, seed, epoch) for seed, epoch in runs)
    return all(bool(store.finished[position]) for position in positions)


@dataclass(frozen=True)
class _Store:
    """A store's arrays, and its coordinates in memory."""

    path: Path
    sizes: list[str]
    pretrain_seeds: list[int]
    finetune_seeds: list[int]
    epochs: list[float]
    labels: list[str]
    gold: NDArray[np.int64]
    correct: zarr.Array
    finished: zarr.Array
    probability: zarr.Array | None
    ensemble_correct: zarr.Array | None

    def position(
        self, size: str, pretrain_seed: int, finetune_seed: int, epoch: float
    ) -> tuple[int, int, int, int]:
        """Find the indices of a run along size, pretrain_seed, finetune_seed and epoch."""
        nearest = int(np.argmin(np.abs(np.asarray(self.epochs) - epoch)))
        wanted: list[tuple[str, Any, list[Any]]] = [
            ("size", size, self.sizes),
            ("pretrain_seed", pretrain_seed, self.pretrain_seeds),
            ("finetune_seed", finetune_seed, self.finetune_seeds),
            (
                "epoch",
                self.epochs[nearest] if abs(self.epochs[nearest] - epoch) < 1e-6 else epoch,
                self.epochs,
            ),
        ]
        for name, value, known in wanted:
            if value not in known:
                raise InputError(
                    f"{self.path}: {name} {value!r} is not in the store; it has"
                    f" {', '.join(map(str, known))}"
                )
        s, p, f, e = (known.index(value) for _, value, known in wanted)
        return s, p, f, e


def _open_for_writing(path: Path) -> _Store:
    try:
        status = (path / "zarr.json").stat()
    except OSError as error:
        raise InputError(f"{path}: no such prediction store; check the path") from error
    with _opening:
        return _cached_store(path.absolute(), status.st_ino, status.st_mtime_ns)


_opening = threading.Lock()


# Reading the gold labels of a large store takes longer than writing a run to it. The inode and
# time of its metadata tell apart the stores that succeed each other at a path.
@functools.lru_cache(maxsize=4)
def _cached_store(path: Path, inode: int, mtime_ns: int) -> _Store:
    dataset = _open_unchecked(path)
    _check_variables(path, dataset)
    _check_attributes(path, dataset)
    for name in ("gold", "label", *RUN):
        if name not in dataset.coords:
            raise InputError(f"{path}: coordinate {name!r} is missing; rebuild the store")
    labels = [str(label) for label in dataset["label"].values]
    try:
        gold = gold_index(dataset["gold"].values, labels)
    except ValueError as error:
        raise InputError(f"{path}: {error}; correct the gold label") from error
    group = zarr.open_group(path, mode="r+")
    return _Store(
        path=path,
        sizes=[str(size) for size in dataset["size"].values],
        pretrain_seeds=dataset["pretrain_seed"].values.tolist(),
        finetune_seeds=dataset["finetune_seed"].values.tolist(),
        epochs=dataset["epoch"].values.tolist(),
        labels=labels,
        gold=gold,
        correct=_with_empty_chunks(group["correct"]),
        finished=group["finished"],
        probability=_with_empty_chunks(group["probability"]) if "probability" in group else None,
        ensemble_correct=(
            _with_empty_chunks(group["ensemble_correct"]) if "ensemble_correct" in group else None
        ),
    )


def _with_empty_chunks(array: zarr.Array) -> zarr.Array:
    """Have a chunk written even if all predictions in it are wrong, so that a lost one is told."""
    return array.with_config({"write_empty_chunks": True})


def _write_ensemble(store: _Store, s: int, p: int) -> None:
    assert store.probability is not None and store.ensemble_correct is not None
    step = store.ensemble_correct.chunks[1]
    seeds = len(store.finetune_seeds)
    last = len(store.epochs) - 1
    for start in range(0, len(store.gold), step):
        block = slice(start, min(start + step, len(store.gold)))
        total = np.zeros((block.stop - start, len(store.labels)))
        for f in range(seeds):
            total += np.asarray(store.probability[s, block, p, f, last])
        store.ensemble_correct[s, block, p] = correctness(
            total / seeds, store.gold[block], store.labels
        )
