"""The specification of a prediction tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import xarray as xr

from configs.errors import InputError
from predict.tensor.contract import (
    INSTANCE_COLUMNS,
    PROBABILITY_DTYPES,
    SCHEMA_VERSION,
    VARIABLES,
    check_attributes,
    check_coordinates,
    instance_split,
    one_line,
)
from predict.tensor.correctness import gold_index

MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True, eq=False)
class TensorSpecification:
    """The specification of a prediction tensor: its coordinates, instances and variables.

    Attributes
    ----------
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
        Type in which probabilities are stored; None for a store without them.
    optional_variables : sequence of str
        Variables of the store that the contract does not require. Those of probabilities are left
        out if `probability_dtype` is None.

    Raises
    ------
    InputError
        If a field does not fit its description; the message names the coordinate, column or
        instance.
    """

    task: str
    sizes: Sequence[str]
    instances: pd.DataFrame
    labels: Sequence[str]
    pretrain_seeds: Sequence[int]
    finetune_seeds: Sequence[int]
    epochs: Sequence[float]
    probability_dtype: str | None
    optional_variables: Sequence[str] = ("probability", "ensemble_correct")

    def __post_init__(self) -> None:
        if self.probability_dtype not in (*PROBABILITY_DTYPES, None):
            raise InputError(
                f"probability type {self.probability_dtype!r}; choose"
                f" {', '.join(PROBABILITY_DTYPES)} or none"
            )
        for column in ("guid", "text_a", "text_b", "label"):
            if column not in self.instances:
                raise InputError(f"the instances have no {column!r}; add it")
        dataset = self.coordinates
        check_coordinates("prediction tensor", dataset)
        check_attributes("prediction tensor", dataset)
        try:
            gold_index(dataset["gold"].values, list(self.labels))
        except ValueError as error:
            raise InputError(f"{error}; correct the label") from error
        # A column that cannot be stored is refused now.
        _ = self.texts

    @property
    def dtypes(self) -> dict[str, str]:
        """Type of each variable that the store has."""
        dtypes: dict[str, str] = {}
        for name, variable in VARIABLES.items():
            if not variable.required and name not in self.optional_variables:
                continue
            if not variable.is_probability:
                dtypes[name] = variable.dtypes[0]
            elif self.probability_dtype is not None:
                dtypes[name] = self.probability_dtype
        return dtypes

    @cached_property
    def coordinates(self) -> xr.Dataset:
        """A dataset of the coordinates and of the attributes that the contract requires."""
        split = instance_split(self.instances)
        return xr.Dataset(
            coords={
                "size": _text("size", self.sizes),
                "guid": ("instance", _text("guid", self.instances["guid"])),
                "split": ("instance", _text("split", split)),
                "gold": ("instance", _text("label", self.instances["label"])),
                "pretrain_seed": _integers("pretrain_seed", self.pretrain_seeds),
                "finetune_seed": _integers("finetune_seed", self.finetune_seeds),
                "epoch": np.array(list(self.epochs), np.float64),
                "label": _text("label", self.labels),
            },
            attrs={"schema_version": SCHEMA_VERSION, "task": self.task},
        )

    @cached_property
    def texts(self) -> pa.Table:
        """The instances with their splits, as they are written beside the store.

        Raises
        ------
        InputError
            If a column cannot be stored; the message names it.
        """
        split = pd.Series(instance_split(self.instances), index=self.instances.index, dtype=object)
        frame = self.instances.assign(split=split)
        columns: dict[str, pa.Array] = {}
        for name in [*INSTANCE_COLUMNS, *(c for c in frame if c not in INSTANCE_COLUMNS)]:
            kind = pa.string() if name in INSTANCE_COLUMNS else None
            try:
                columns[str(name)] = pa.Array.from_pandas(frame[name], type=kind)
                _require_storable(columns[str(name)].type)
            # Arrow raises errors of many types; the usual reason is a column of mixed types.
            except Exception as error:
                raise InputError(
                    f"column {str(name)!r} of the instances cannot be stored ({one_line(error)});"
                    " make its values all text or all numbers of at most 64 bits"
                ) from error
        return pa.table(columns)


def _require_storable(kind: pa.DataType) -> None:
    """Refuse a type that Parquet cannot store: an object without fields."""
    if pa.types.is_struct(kind) and not kind.num_fields:
        raise ValueError("an object without fields")
    for position in range(kind.num_fields):
        _require_storable(kind.field(position).type)


def _text(name: str, values: Iterable[object]) -> np.ndarray:
    """Convert to NumPy's strings of any length, and refuse values that are not text."""
    values = list(values)
    for position, value in enumerate(values):
        if not isinstance(value, str):
            raise InputError(f"{name!r} number {position} is {value!r:.40}; make it text")
    try:
        return np.array(values, np.dtypes.StringDType())
    except UnicodeEncodeError as error:
        raise InputError(f"{name!r} has a value that is not Unicode text ({error})") from error


def _integers(name: str, values: Iterable[int]) -> np.ndarray:
    try:
        return np.array(list(values), np.int64)
    except OverflowError as error:
        raise InputError(f"{name!r} has a value beyond 64 bits; use smaller seeds") from error
