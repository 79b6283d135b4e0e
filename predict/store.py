"""The prediction tensor on disk: one Zarr store per task, filled run by run.

A run is one classifier at one checkpoint: (size, pretraining seed, finetuning seed, epoch). Each
run has chunks of its own, so that any number of processes write different runs at the same time
without locks. A run counts once it is marked finished; the mark comes last.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import shutil
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from configs.errors import InputError
from predict.correctness import correctness, gold_index

SCHEMA_VERSION = 1
INSTANCE_COLUMNS = ("guid", "split", "text_a", "text_b", "label")

RUN = ("size", "pretrain_seed", "finetune_seed", "epoch")
DIMENSIONS = {
    "correct": ("size", "instance", "pretrain_seed", "finetune_seed", "epoch"),
    "probability": ("size", "instance", "pretrain_seed", "finetune_seed", "epoch", "label"),
    "ensemble_correct": ("size", "instance", "pretrain_seed"),
    "gold_probability": ("size", "instance", "pretrain_seed", "finetune_seed", "epoch"),
    "finished": RUN,
}
REQUIRED = ("correct", "finished")
FLOATS = ("probability", "gold_probability")

# One byte per prediction in a chunk: 128 KiB, small enough to stream over instances, large enough
# that a run of 770,000 instances is six files.
INSTANCES_PER_CHUNK = 131_072

# Bit planes of the booleans and of the exponents are what there is to compress.
BOOLEAN_CODEC = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle")
PROBABILITY_CODEC = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")

ROW_SUM_TOLERANCE = 1e-3

WRITTEN_WHOLE = "written_whole"
"""Attribute of a store whose finished runs have all their chunks as files.

By variable, its shape and that of its chunks. Zarr reads a chunk without a file as all wrong.
Stores of others, and those that this project wrote before, leave out the files of such chunks, and
there a lost file cannot be told from one that was never written. So it is where other software has
written a part of a store, or in other chunks: the attribute is then that of another array.
"""


def instances_path(path: Path | str) -> Path:
    """Path of the Parquet file with the texts of a store: ``x.zarr`` -> ``x.instances.parquet``."""
    path = Path(path)
    return path.with_name(path.name.removesuffix(".zarr") + ".instances.parquet")


def canonical_json(configuration: Mapping[str, Any]) -> str:
    """Write a configuration as JSON text that is the same for equal configurations."""
    return json.dumps(configuration, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def configuration_hash(configuration: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON of a configuration."""
    return hashlib.sha256(canonical_json(configuration).encode()).hexdigest()


def create_store(
    path: Path | str,
    *,
    task: str,
    sizes: Sequence[str],
    instances: pd.DataFrame,
    labels: Sequence[str],
    pretrain_seeds: Sequence[int],
    finetune_seeds: Sequence[int],
    epochs: Sequence[float],
    probability_dtype: str | None,
    configuration: Mapping[str, Any],
    versions: Mapping[str, str] | None = None,
) -> None:
    """Create an empty prediction store, or keep the one that is there if it is the same.

    Parameters
    ----------
    path : path
        The store, by custom ``<task>.zarr``. The texts go to `instances_path` beside it.
    task : str
        Name of the task.
    sizes : sequence of str
        Model sizes, smallest first.
    instances : DataFrame
        One row per instance: ``guid``, ``text_a``, ``text_b`` (None where there is no second
        text), ``label`` (gold, a string), ``split`` (optional: otherwise the text before the last
        ``-`` of the guid), and any metadata.
    labels : sequence of str
        Classes of the models, in the order of their probabilities.
    pretrain_seeds, finetune_seeds : sequence of int
        Seeds.
    epochs : sequence of float
        Checkpoints in epochs of finetuning, ascending.
    probability_dtype : {"float16", "float32", None}
        Type in which to store the probabilities; None for a store without them.
    configuration : mapping
        What made the predictions, as it would go into JSON.
    versions : mapping, optional
        Versions of further libraries that make the predictions.

    Raises
    ------
    InputError
        If the instances are not as described, or if something else is at `path`, which is then
        left as it is.
    """
    path = Path(path)
    arguments: dict[str, Any] = {
        "task": task,
        "sizes": sizes,
        "instances": instances,
        "labels": labels,
        "pretrain_seeds": pretrain_seeds,
        "finetune_seeds": finetune_seeds,
        "epochs": epochs,
        "probability_dtype": probability_dtype,
    }
    empty = _empty(path, **arguments)
    with _lock(path):
        if path.exists():
            _refuse_other_store(path, empty, configuration, probability_dtype)
            return
        with _building(path, instances) as partial:
            variables = _variables(probability_dtype)
            _write_empty(partial, empty, variables, configuration, versions)


@contextmanager
def new_store(
    path: Path | str,
    *,
    task: str,
    sizes: Sequence[str],
    instances: pd.DataFrame,
    labels: Sequence[str],
    pretrain_seeds: Sequence[int],
    finetune_seeds: Sequence[int],
    epochs: Sequence[float],
    probability_dtype: str | None,
    configuration: Mapping[str, Any],
    versions: Mapping[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """Build a store beside `path` and put it there, whole, when the block ends without an error.

    For importers, which fill a store in one go; the parameters are those of `create_store`, and

    Parameters
    ----------
    variables : mapping of str to str, optional
        Names and types of the variables, where they are not the usual ones for
        `probability_dtype`. ``gold_probability`` (the dimensions of ``correct``) serves where only
        the probability of the gold label is known.

    Yields
    ------
    Path
        The store under its temporary name, for `write_run`, `finish_runs`, `write_size`,
        `set_configuration`.

    Raises
    ------
    InputError
        If the instances are not as described, if there is something at `path`, or if another
        process is building it.
    """
    path = Path(path)
    empty = _empty(
        path,
        task=task,
        sizes=sizes,
        instances=instances,
        labels=labels,
        pretrain_seeds=pretrain_seeds,
        finetune_seeds=finetune_seeds,
        epochs=epochs,
        probability_dtype=probability_dtype,
    )
    with _lock(path, wait=False):
        if path.exists():
            raise InputError(f"{path}: already exists; remove it or choose another path")
        with _building(path, instances) as partial:
            chosen = _variables(probability_dtype) if variables is None else variables
            _write_empty(partial, empty, chosen, configuration, versions)
            yield partial


def _variables(probability_dtype: str | None) -> dict[str, str]:
    """Names and types of the variables of a store that is filled run by run."""
    variables = {"correct": "bool", "finished": "bool"}
    if probability_dtype is not None:
        variables |= {"probability": probability_dtype, "ensemble_correct": "bool"}
    return variables


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


def set_configuration(path: Path | str, configuration: Mapping[str, Any]) -> None:
    """Replace the configuration of a store, and its hash."""
    group = zarr.open_group(Path(path), mode="r+", use_consolidated=False)
    group.attrs.update(_configuration_attributes(configuration))
    _consolidate(Path(path))


def _consolidate(path: Path) -> None:
    """Gather the metadata in one file, which `xarray.open_zarr` looks for first."""
    with warnings.catch_warnings():
        # Zarr 3 warns that this file is not part of its specification yet.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)


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


def bad_row(probability: NDArray[np.floating], range_tolerance: float) -> int | None:
    """Find the first row that is no distribution.

    Parameters
    ----------
    probability : ndarray of float, shape (instance, label)
        Class probabilities.
    range_tolerance : float
        How far a value may lie outside 0 to 1.

    Returns
    -------
    int or None
        Index of the first row with a NaN, with a value outside 0 to 1 or whose sum differs from 1
        by more than 1e-3.
    """
    if probability.dtype == np.float16:
        probability = probability.astype(np.float32)
    # Column by column is ten times as fast as row by row. A NaN fails each comparison.
    total = functools.reduce(np.add, probability.T)
    sums = np.abs(total - 1) <= ROW_SUM_TOLERANCE
    low, high = -range_tolerance, 1 + range_tolerance
    if sums.all() and probability.min() >= low and probability.max() <= high:
        return None
    fine = sums & ((probability >= low) & (probability <= high)).all(axis=1)
    return int(np.argmin(fine))


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


def open_store(path: Path | str) -> xr.Dataset:
    """Open a prediction store, lazily, after checking that it is what it should be.

    Parameters
    ----------
    path : path
        The store: written by this project, or by anybody to the same contract. ``probability``
        and ``ensemble_correct`` may be absent.

    Returns
    -------
    Dataset
        Variables ``correct`` (size, instance, pretrain_seed, finetune_seed, epoch), ``finished``
        (size, pretrain_seed, finetune_seed, epoch) and, where stored, ``probability`` (the
        dimensions of ``correct``, then label) and ``ensemble_correct`` (size, instance,
        pretrain_seed); where only the gold label's probability is known, ``gold_probability``
        with the dimensions of ``correct``; coordinates ``guid``, ``split`` and ``gold`` on
        instance.

    Raises
    ------
    InputError
        If the store is missing, unreadable or not to the contract; names the variable, coordinate
        or attribute at fault. If the file of a chunk of a finished run is missing; names both
        (`WRITTEN_WHOLE` says which stores can tell).
    """
    path = Path(path)
    dataset = _open_unchecked(path)
    _check_variables(path, dataset)
    try:
        _check_coordinates(path, dataset)
    except InputError:
        raise
    except Exception as error:  # so does a damaged chunk
        raise InputError(
            f"{path}: a coordinate cannot be read ({_one_line(error)}); restore or rebuild the"
            " store"
        ) from error
    _check_attributes(path, dataset)
    _check_chunks(path, dataset)
    return dataset


def _check_chunks(path: Path, dataset: xr.Dataset) -> None:
    """Refuse a store that has lost a chunk of a finished run; Zarr would read it as all wrong."""
    whole = json.loads(dataset.attrs.get(WRITTEN_WHOLE, "{}"))
    group = zarr.open_group(path, mode="r")
    finished = dataset["finished"].values
    with_ensemble = finished[:, :, :, -1].all(axis=2)
    for name, dims in DIMENSIONS.items():
        if name == "finished" or name not in dataset:
            continue
        metadata = group[name].metadata
        grid = metadata.chunk_grid.chunk_shape
        if whole.get(name) != [list(metadata.shape), list(grid)]:
            continue
        per_run = {dim: number for number, dim in enumerate(dims) if dim in RUN}
        others = [
            range(1 if dim in RUN else -(-length // step))
            for dim, length, step in zip(dims, dataset[name].shape, grid, strict=True)
        ]
        known = with_ensemble if name == "ensemble_correct" else finished
        for position in np.argwhere(known).tolist():
            at = dict(zip(per_run, position, strict=True))
            for rest in itertools.product(*others):
                chunk = tuple(
                    at[dim] // step if dim in at else number
                    for dim, step, number in zip(dims, grid, rest, strict=True)
                )
                file = path / name / metadata.encode_chunk_key(chunk)
                if not file.exists():
                    values = {dim: dataset[dim].values[k] for dim, k in at.items()}
                    run = ", ".join(
                        f"{dim} {value:.6g}" if dim == "epoch" else f"{dim} {value}"
                        for dim, value in values.items()
                    )
                    raise InputError(
                        f"{file}: no such file, and it holds {name!r} of the finished run {run};"
                        f" restore it, or write the store again (or remove {WRITTEN_WHOLE!r} from"
                        " the attributes, if other software copied the store)"
                    )


def _open_unchecked(path: Path) -> xr.Dataset:
    if not path.exists():
        raise InputError(f"{path}: no such prediction store; check the path")
    if not path.is_dir():
        raise InputError(f"{path}: is a file, and a prediction store is a folder; give another")
    try:
        dataset = xr.open_zarr(
            path, chunks=None, consolidated=False, mask_and_scale=False, decode_times=False
        )
    except Exception as error:  # damaged metadata raises whatever the damage runs into
        raise InputError(
            f"{path}: cannot be read as a Zarr store ({_one_line(error)}); give a prediction store"
        ) from error
    return dataset.set_coords([name for name in ("guid", "split", "gold") if name in dataset])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_variables(path: Path, dataset: xr.Dataset) -> None:
    kinds = dict.fromkeys(FLOATS, "float16 or float32")
    for name, dims in DIMENSIONS.items():
        if name not in dataset:
            if name in REQUIRED:
                raise InputError(
                    f"{path}: variable {name!r} is missing; a prediction store has"
                    f" {name}[{', '.join(dims)}]"
                )
            continue
        variable = dataset[name]
        if variable.dims != dims:
            raise InputError(
                f"{path}: variable {name!r} has dimensions ({', '.join(map(str, variable.dims))});"
                f" write it as ({', '.join(dims)})"
            )
        expected = (np.float16, np.float32) if name in FLOATS else (np.bool_,)
        if variable.dtype not in expected:
            raise InputError(
                f"{path}: variable {name!r} is {variable.dtype};"
                f" write it as {kinds.get(name, 'bool')}"
            )


def _check_coordinates(path: Path, dataset: xr.Dataset) -> None:
    text, whole, number = ("OUT", "text"), ("iu", "integers"), ("iuf", "numbers")
    coordinates = {
        "size": ("size", text),
        "pretrain_seed": ("pretrain_seed", whole),
        "finetune_seed": ("finetune_seed", whole),
        "epoch": ("epoch", number),
        "guid": ("instance", text),
        "split": ("instance", text),
        "gold": ("instance", text),
    }
    if "probability" in dataset:
        coordinates["label"] = ("label", text)
    for name, (dim, (kinds, words)) in coordinates.items():
        if name not in dataset.coords:
            raise InputError(
                f"{path}: coordinate {name!r} is missing; a prediction store has it on {dim!r}"
            )
        coordinate = dataset.coords[name]
        if coordinate.dims != (dim,):
            raise InputError(
                f"{path}: coordinate {name!r} has dimensions"
                f" ({', '.join(map(str, coordinate.dims))}); write it on ({dim})"
            )
        if coordinate.dtype.kind not in kinds:
            raise InputError(
                f"{path}: coordinate {name!r} is {coordinate.dtype}; write it as {words}"
            )
        if not coordinate.size:
            raise InputError(f"{path}: coordinate {name!r} is empty; a store has at least one")
        if name in ("split", "gold"):
            _require_text(path, coordinate)
            continue
        twice = _repeated(coordinate)
        if twice is not None:
            raise InputError(
                f"{path}: coordinate {name!r} holds {twice!r} twice; each may occur once"
            )
    if not dataset["epoch"].to_index().is_monotonic_increasing:
        raise InputError(f"{path}: coordinate 'epoch' is not ascending; write the last one last")


def _blocks_of(coordinate: xr.DataArray) -> Iterator[NDArray[Any]]:
    (dim,) = coordinate.dims
    for start in range(0, coordinate.size, INSTANCES_PER_CHUNK):
        yield coordinate.isel({dim: slice(start, start + INSTANCES_PER_CHUNK)}).values


def _require_text(path: Path, coordinate: xr.DataArray) -> None:
    """Refuse an empty text, which Zarr also gives for a chunk whose file is missing."""
    first = 0
    for block in _blocks_of(coordinate):
        empty = np.flatnonzero(block == "")
        if len(empty):
            raise InputError(
                f"{path}: coordinate {coordinate.name!r} is empty for instance {first + empty[0]};"
                f" restore the files in {path / str(coordinate.name)}, or write the store again"
            )
        first += len(block)


def _repeated(coordinate: xr.DataArray) -> Any:
    """Find the most frequent value, None if all values differ."""
    # Names are hashed block by block: a million of them as Python text fill 100 MB.
    blocks = [pd.util.hash_array(block.astype(object)) for block in _blocks_of(coordinate)]
    hashes = np.concatenate(blocks)
    hashes.sort()
    if (hashes[1:] != hashes[:-1]).all():
        return None
    value, times = Counter(coordinate.values.tolist()).most_common(1)[0]
    return value if times > 1 else None


def _check_attributes(path: Path, dataset: xr.Dataset) -> None:
    for name in ("schema_version", "task"):
        if name not in dataset.attrs:
            raise InputError(f"{path}: attribute {name!r} is missing; a prediction store has it")
    if dataset.attrs["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{path}: attribute 'schema_version' is {dataset.attrs['schema_version']!r};"
            f" this version reads {SCHEMA_VERSION}"
        )


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


def _empty(
    path: Path,
    *,
    task: str,
    sizes: Sequence[str],
    instances: pd.DataFrame,
    labels: Sequence[str],
    pretrain_seeds: Sequence[int],
    finetune_seeds: Sequence[int],
    epochs: Sequence[float],
    probability_dtype: str | None,
) -> xr.Dataset:
    """Coordinates and attributes of a store, checked."""
    if probability_dtype not in ("float16", "float32", None):
        raise InputError(
            f"{path}: probability type {probability_dtype!r}; choose float16, float32 or none"
        )
    for column in ("guid", "text_a", "text_b", "label"):
        if column not in instances:
            raise InputError(f"{path}: instances have no {column!r}; add it")
    text = np.dtypes.StringDType()
    dataset = xr.Dataset(
        coords={
            "size": np.array(list(sizes), text),
            "guid": ("instance", instances["guid"].to_numpy(object).astype(text)),
            "split": ("instance", instance_split(instances).astype(text)),
            "gold": ("instance", instances["label"].to_numpy(object).astype(text)),
            "pretrain_seed": np.array(list(pretrain_seeds), np.int64),
            "finetune_seed": np.array(list(finetune_seeds), np.int64),
            "epoch": np.array(list(epochs), np.float64),
            "label": np.array(list(labels), text),
        },
        attrs={"schema_version": SCHEMA_VERSION, "task": task},
    )
    _check_coordinates(path, dataset)
    try:
        gold_index(dataset["gold"].values, list(labels))
    except ValueError as error:
        raise InputError(f"{path}: {error}; correct the label") from error
    return dataset


def instance_split(instances: pd.DataFrame) -> NDArray[np.object_]:
    """Find the evaluation split of each instance.

    Parameters
    ----------
    instances : DataFrame
        ``guid`` and, optionally, ``split``.

    Returns
    -------
    ndarray of str, shape (instance,)
        The column ``split`` if there is one, otherwise the text before the last ``-`` of the guid.

    Raises
    ------
    InputError
        If a row has no split, or its guid no ``-``; names the guid.
    """
    if "split" in instances:
        split = instances["split"].to_numpy(object)
        bad = next((k for k, s in enumerate(split) if not isinstance(s, str) or not s), None)
        if bad is not None:
            guid = instances["guid"].iloc[bad]
            raise InputError(f"instance {guid!r} has no text in 'split'; add it, or to none")
        return split
    guids = [str(guid) for guid in instances["guid"]]
    split = np.array([guid.rpartition("-")[0] for guid in guids], dtype=object)
    if not split.all():
        guid = guids[list(split).index("")]
        raise InputError(f"guid {guid!r} is not SPLIT-NUMBER; rename it or give instances a split")
    return split


def _configuration_attributes(configuration: Mapping[str, Any]) -> dict[str, str]:
    return {
        "configuration": canonical_json(configuration),
        "configuration_hash": configuration_hash(configuration),
    }


def _write_empty(
    path: Path,
    empty: xr.Dataset,
    variables: Mapping[str, str],
    configuration: Mapping[str, Any],
    versions: Mapping[str, str] | None,
) -> None:
    libraries = {
        name: metadata.version(name) for name in ("instance-level", "numpy", "xarray", "zarr")
    }
    empty = empty.assign_attrs(
        **_configuration_attributes(configuration),
        versions=canonical_json({**libraries, **(versions or {})}),
    )
    block = min(empty.sizes["instance"], INSTANCES_PER_CHUNK)
    steps = {"instance": block, "label": empty.sizes["label"]}
    layout = {
        name: (
            tuple(empty.sizes[dim] for dim in dims),
            tuple(steps.get(dim, 1) for dim in dims),
        )
        for name, dims in DIMENSIONS.items()
        if name in variables
    }
    empty.attrs[WRITTEN_WHOLE] = canonical_json(layout)
    encoding = {name: {"chunks": (block,)} for name in ("guid", "split", "gold")}
    empty.to_zarr(path, mode="w-", zarr_format=3, consolidated=False, encoding=encoding)
    group = zarr.open_group(path, mode="r+")
    for name, (shape, chunks) in layout.items():
        is_probability = name in FLOATS
        codec = PROBABILITY_CODEC if is_probability else BOOLEAN_CODEC
        group.create_array(
            name,
            shape=shape,
            chunks=chunks,
            dtype=variables[name],
            fill_value=0.0 if is_probability else False,
            # What does not compress is kept as it is, so that only a checksum tells damage.
            compressors=None if name == "finished" else (codec, Crc32cCodec()),
            dimension_names=DIMENSIONS[name],
        )
    _consolidate(path)


def _refuse_other_store(
    path: Path,
    empty: xr.Dataset,
    configuration: Mapping[str, Any],
    probability_dtype: str | None,
) -> None:
    there = open_store(path)
    remedy = "remove it or choose another path"
    if there.attrs.get("configuration_hash") != configuration_hash(configuration):
        raise InputError(f"{path}: already holds another configuration's predictions; {remedy}")
    for name in empty.coords:
        if name not in there.coords or not np.array_equal(
            empty.coords[name].values, there.coords[name].values
        ):
            raise InputError(f"{path}: already there with another {name!r}; {remedy}")
    stored = str(there["probability"].dtype) if "probability" in there else None
    if stored != probability_dtype:
        raise InputError(
            f"{path}: already there with probabilities as {stored or 'none'}; {remedy}"
        )


def _instances_table(path: Path, instances: pd.DataFrame) -> pa.Table:
    split = pd.Series(instance_split(instances), index=instances.index, dtype=object)
    frame = instances.assign(split=split)
    columns: dict[str, pa.Array] = {}
    for name in [*INSTANCE_COLUMNS, *(c for c in frame if c not in INSTANCE_COLUMNS)]:
        kind = pa.string() if name in INSTANCE_COLUMNS else None
        try:
            columns[str(name)] = pa.Array.from_pandas(frame[name], type=kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(
                f"{instances_path(path)}: column {name!r} of the instances mixes types"
                f" ({_one_line(error)}); make its values all text or all numbers"
            ) from error
    return pa.table(columns)


@contextmanager
def _lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock that goes with `path`; the operating system frees it if the process dies."""
    name = path.with_name(path.name + ".lock")
    lock = filelock.FileLock(name, timeout=-1 if wait else 0)
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise InputError(
            f"{path}: another process is writing it; wait for it or choose another path"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another path"
        ) from error
    try:
        yield
    finally:
        # Removed while held: whoever waits on the removed file sees that and starts again.
        name.unlink(missing_ok=True)
        lock.release()


@contextmanager
def _building(path: Path, instances: pd.DataFrame) -> Iterator[Path]:
    """Yield a temporary path for a store; afterwards put the texts, then the store in place."""
    table = _instances_table(path, instances)
    texts = instances_path(path)
    if texts.exists():
        try:
            same = pa.parquet.read_table(texts).equals(table)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{texts}: cannot be read ({_one_line(error)}); remove it or choose another path"
            ) from error
        if not same:
            raise InputError(
                f"{texts}: already holds other instances; remove it or choose another path"
            )
    # The lock is held, so that whatever is there was left by a process that died.
    folder = path.with_name(path.name + ".partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder / path.name
        pa.parquet.write_table(table, folder / texts.name)
        (folder / texts.name).replace(texts)
        (folder / path.name).rename(path)
    finally:
        shutil.rmtree(folder)
