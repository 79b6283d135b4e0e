"""The contract of the prediction tensor: variables, dimensions, chunks, attributes."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from configs.errors import InputError

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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


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
