"""Labelled instances of a task: its training set and its evaluation sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import infer_dtype

from configs.errors import InputError
from configs.schema import Examples, Task, World
from finetune.duplicates import count_removed, occurs_once
from pretrain.engine.seeding import derive_seed, generator
from pretrain.text.sources import load_rows, require_files

if TYPE_CHECKING:
    import datasets

NON_ENTAILMENT = "non-entailment"

COLUMNS = ("guid", "split", "text_a", "text_b", "label")
"""Columns of every task's instances; metadata comes after them."""

_PLAIN = {
    **dict.fromkeys(("string", "empty"), "text"),
    **dict.fromkeys(("integer", "floating", "mixed-integer-float"), "numbers"),
    "boolean": "booleans",
}
"""The types that metadata may have, by the names that pandas gives them."""


@dataclass(frozen=True)
class TaskSize:
    """Numbers of instances of a task.

    Attributes
    ----------
    train : tuple of int
        For each fold, the instances on which its classifier is finetuned.
    evaluation : int
        Instances to predict.
    """

    train: tuple[int, ...]
    evaluation: int


@dataclass(frozen=True)
class TaskData:
    """The instances of a task.

    Attributes
    ----------
    train : pandas.DataFrame
        Columns `guid`, `split`, `text_a`, `text_b`, `label`; training instances.
    evaluation : pandas.DataFrame
        The same columns and any metadata; instances to predict.
    fold_of_train, fold_of_evaluation : int array [instance]
        With folds, the fold of each instance; an instance of fold k trains the classifiers of
        the other folds and is predicted by that of fold k. Without, all zero.
    folds : int
        Classifiers per run: 1 without folds.
    removed : pandas.DataFrame or None
        How many instances were removed as duplicates, by split: see
        `finetune.duplicates.count_removed`. None if the task keeps duplicates.
    """

    train: pd.DataFrame
    evaluation: pd.DataFrame
    fold_of_train: NDArray[np.int64]
    fold_of_evaluation: NDArray[np.int64]
    folds: int
    removed: pd.DataFrame | None = None

    @property
    def size(self) -> TaskSize:
        """Numbers of instances."""
        if self.folds == 1:
            return TaskSize((len(self.train),), len(self.evaluation))
        train = (int(np.sum(self.fold_of_train != fold)) for fold in range(self.folds))
        return TaskSize(tuple(train), len(self.evaluation))


def load_task(task: Task, world: World | None) -> TaskData:
    """Load the instances of a task, and check that no later stage would refuse them.

    Parameters
    ----------
    task : Task
        The sources of the instances, and the meaning of their columns.
    world : World or None
        The embedded world.

    Returns
    -------
    TaskData

    Raises
    ------
    InputError
        If a source cannot be read, a column is missing, a label is not one of the task's, a
        guid is missing or occurs twice, metadata is neither text nor numbers nor booleans, all
        instances of a set are duplicates, or there are fewer instances than folds; the message
        names the task, the set and the row.
    """
    train = _read(task, "train", task.train, world)
    sets = [_read(task, name, source, world) for name, source in task.evaluation.items()]
    if task.folds is None:
        used = {"training": train, "evaluation": pd.concat(sets, ignore_index=True)}
    else:
        used = {"training and evaluation": pd.concat([train, *sets], ignore_index=True)}
    removed = None
    if task.remove_duplicates:
        once = dict(zip(used, occurs_once(list(used.values())), strict=True))
        counts = [count_removed(use, used[use]["split"], once[use]) for use in used]
        removed = pd.concat(counts, ignore_index=True)
        used = {use: frame[once[use]].reset_index(drop=True) for use, frame in used.items()}
    if task.folds is None:
        train, evaluation = used.values()
        zeros = [np.zeros(len(frame), dtype=np.int64) for frame in (train, evaluation)]
        data = TaskData(train, evaluation, zeros[0], zeros[1], 1, removed)
    else:
        (pool,) = used.values()
        order = generator(derive_seed("folds", task.name), 0).permutation(len(pool))
        data = TaskData(pool, pool, order % task.folds, order % task.folds, task.folds, removed)
    if removed is not None and (removed["removed"] == removed["instances"]).any():
        empty = removed.loc[removed["removed"] == removed["instances"], "split"].iloc[0]
        raise InputError(
            f"tasks.{task.name}.{empty}: the texts of every instance occur more than once among "
            "training and evaluation; check the sources, or set remove_duplicates: false"
        )
    twice = data.evaluation["guid"].duplicated()
    if twice.any():
        guid = data.evaluation.loc[twice, "guid"].iloc[0]
        raise InputError(f"tasks.{task.name}: the guid {guid!r} occurs twice; make guids unique")
    if len(data.evaluation) < data.folds:
        raise InputError(
            f"tasks.{task.name}.folds: {len(data.evaluation)} instances cannot be divided into "
            f"{data.folds} folds; give fewer folds"
        )
    return replace(data, evaluation=_with_plain_metadata(task, data.evaluation))


def _with_plain_metadata(task: Task, instances: pd.DataFrame) -> pd.DataFrame:
    """Write dates as text, and refuse metadata of types that the prediction tensor lacks."""
    for column in instances.columns.difference(list(COLUMNS), sort=False):
        kind = infer_dtype(instances[column].dropna(), skipna=True)
        if kind in ("date", "datetime", "datetime64"):
            # JSON has no dates; readers may turn text that looks like a date into one.
            instances = instances.assign(
                **{column: instances[column].astype(str).where(instances[column].notna(), None)}
            )
        elif kind not in _PLAIN:
            raise InputError(
                f"tasks.{task.name}: the metadata {column!r} has {kind} values; a column must be "
                "all text, all numbers or all booleans: remove it or change the source"
            )
    return instances


def require_local_files(tasks: Sequence[Task]) -> None:
    """Check that the local files of every task exist, without reading them.

    Raises
    ------
    InputError
        If some do not; the message names the first one, its entry and where to get it, and counts
        the others.
    """
    absent: list[InputError] = []
    for task in tasks:
        for split, source in (("train", task.train), *task.evaluation.items()):
            try:
                with _named(task, split, source):
                    require_files(source)
            except InputError as error:
                absent.append(error)
    if absent:
        others = f" (and {len(absent) - 1} more such entries)" if len(absent) > 1 else ""
        raise InputError(f"{absent[0].message}{others}") from absent[0]


@contextmanager
def _named(task: Task, split: str, source: Examples) -> Iterator[None]:
    """Name the entry of a source that cannot be read, and say whether the entry can be removed."""
    try:
        yield
    except InputError as error:
        choice = "" if source is task.train else ", or remove this entry"
        raise InputError(f"tasks.{task.name}.{split}: {error.message}{choice}") from error


def describe(task: Task, data: TaskData) -> list[str]:
    """State how many instances a task trains on, predicts, and has removed as duplicates."""
    splits: Counter[str] = Counter(data.evaluation["split"].tolist())
    lines = [
        f"{task.name}: {len(data.train)} instances to train on, {len(data.evaluation)} to predict"
        f" ({', '.join(f'{split} {count}' for split, count in splits.items())})"
    ]
    if data.removed is not None:
        total = data.removed[["removed", "instances"]].sum()
        rows = data.removed[["used_for", "split", "removed"]].astype(str).to_numpy()
        where = ", ".join(" ".join(row) for row in rows if row[-1] != "0")
        lines.append(
            f"{task.name}: removed {total['removed']} of {total['instances']} instances, whose "
            f"texts occur more than once" + (f" ({where})" if where else "")
        )
    return lines


def _read(task: Task, split: str, source: Examples, world: World | None) -> pd.DataFrame:
    where = f"tasks.{task.name}.{split}"
    with _named(task, split, source):
        rows = load_rows(source, world)
    named = [source.text_a, source.text_b, source.label, source.guid, source.row]
    named += source.metadata
    columns = [column for column in named if column is not None]
    missing = [column for column in columns if column not in rows.column_names]
    if missing:
        raise InputError(
            f"{where}: no column {missing[0]!r}; its columns are {', '.join(rows.column_names)}"
        )
    reserved = set(source.metadata) & {*COLUMNS, "fold"}
    if reserved:
        raise InputError(
            f"{where}.metadata: {min(reserved)!r} is the name of another column of the instances; "
            "remove it"
        )
    table = rows.select_columns(list(dict.fromkeys(columns))).to_pandas()
    frame = pd.DataFrame({"text_a": table[source.text_a]})
    frame["text_b"] = table[source.text_b] if source.text_b is not None else None
    frame["guid"] = _guids(where, split, source, table)
    frame["label"] = _labels(where, task, source, rows)
    frame["split"] = split
    for column in source.metadata:
        frame[column] = table[column]
    if source.label_map is not None:
        frame = frame[frame["label"].notna()].reset_index(drop=True)
    _check_labels(where, frame, _allowed_labels(task, split))
    for column in ("text_a", "text_b") if source.text_b is not None else ("text_a",):
        bad = ~frame[column].map(lambda text: isinstance(text, str))
        if bad.any():
            raise InputError(f"{where}: {frame.loc[bad, 'guid'].iloc[0]} has no text in {column}")
    if frame.empty:
        raise InputError(f"{where}: has no instances; check its split and label_map")
    return frame


def _guids(where: str, split: str, source: Examples, table: pd.DataFrame) -> list[str]:
    """Name the instances, by a column or by the split and a number."""
    if source.guid is None:
        numbers = range(len(table)) if source.row is None else table[source.row].tolist()
        return [f"{split}-{number}" for number in numbers]
    guids = table[source.guid]
    if infer_dtype(guids, skipna=True) not in ("string", "integer", "empty"):
        raise InputError(
            f"{where}.guid: the column {source.guid!r} has neither text nor integers; give another"
        )
    missing = guids.isna() | (guids.astype(str) == "")
    if missing.any():
        raise InputError(
            f"{where}.guid: row {int(missing.to_numpy().argmax())} has no value in the column "
            f"{source.guid!r}; fill it in"
        )
    return [str(guid) for guid in guids]


def _labels(where: str, task: Task, source: Examples, rows: datasets.Dataset) -> list[str | None]:
    """Return the rows' labels by the task's names; None for rows that `label_map` skips."""
    # Not by pandas, which turns integers into floating-point numbers if one is missing.
    values = rows.select_columns([source.label]).to_dict()[source.label]
    names = getattr(rows.features[source.label], "names", None)
    if source.label_map is None:
        if names is not None:
            values = [
                names[value] if isinstance(value, int) and value >= 0 else value for value in values
            ]
        return [None if value is None else _as_text(value, task.labels) for value in values]
    labels = [_as_text(value, source.label_map) for value in values]
    unknown = next((label for label in labels if label not in source.label_map), None)
    if unknown is not None:
        raise InputError(f"{where}.label_map: does not map the label {unknown!r}; add it")
    return [source.label_map[label] for label in labels]


def _as_text(value: Any, known: Collection[str]) -> str:
    """Write a label as text; `true` and 1.0 as 1 if `known` has that and not the text itself."""
    text = str(value)
    if isinstance(value, bool | float) and text not in known and value == value // 1:
        whole = str(int(value))
        return whole if whole in known else text
    return text


def _allowed_labels(task: Task, split: str) -> list[str]:
    # With folds, the predicted instances are also trained on.
    if split != "train" and task.folds is None and "entailment" in task.labels:
        return [*task.labels, NON_ENTAILMENT]
    return task.labels


def _check_labels(where: str, frame: pd.DataFrame, allowed: Sequence[str]) -> None:
    wrong = ~frame["label"].isin(allowed)
    if not wrong.any():
        return
    instance = frame[wrong].iloc[0]
    label = instance["label"]
    problem = (
        "has no label"
        if pd.isna(label)
        else f"has the label {label!r}, which is not among {', '.join(allowed)}"
    )
    raise InputError(
        f"{where}: {instance['guid']} {problem}; correct the source, or give a label_map such as "
        f"{{{str(label)!r}: {allowed[0]!r}}}"
    )
