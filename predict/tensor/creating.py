"""The prediction tensor on disk: one Zarr store per task, filled run by run.

A run is one classifier at one checkpoint: (size, pretraining seed, finetuning seed, epoch). Each
run has chunks of its own, so that any number of processes write different runs at the same time
without locks. A run counts once it is marked finished; the mark comes last.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from zarr.codecs import Crc32cCodec

from configs.errors import InputError
from predict.tensor.contract import (
    BOOLEAN_CODEC,
    DIMENSIONS,
    FLOATS,
    INSTANCE_COLUMNS,
    INSTANCES_PER_CHUNK,
    PROBABILITY_CODEC,
    SCHEMA_VERSION,
    WRITTEN_WHOLE,
    _one_line,
    canonical_json,
    configuration_hash,
    instance_split,
    instances_path,
)
from predict.tensor.correctness import gold_index
from predict.tensor.opening import _check_coordinates, open_store


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
