"""Open a prediction store, after checking it against the contract."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.typing import NDArray

from configs.errors import InputError
from predict.tensor.contract import (
    DIMENSIONS,
    FLOATS,
    INSTANCES_PER_CHUNK,
    REQUIRED,
    RUN,
    SCHEMA_VERSION,
    WRITTEN_WHOLE,
    _one_line,
)


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
