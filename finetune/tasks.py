"""Labelled instances of a task: what it trains on, and what it predicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from configs.errors import InputError
from configs.schema import Examples, Task, World
from finetune.duplicates import count_removed, occurs_once
from pretrain.engine.seeding import derive_seed, generator
from pretrain.text.sources import load_rows, require_files

NON_ENTAILMENT = "non-entailment"


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
        `finetune.duplicates.count_removed`. None where the task does not ask for it.
    """

    train: pd.DataFrame
    evaluation: pd.DataFrame
    fold_of_train: NDArray[np.int64]
    fold_of_evaluation: NDArray[np.int64]
    folds: int
    removed: pd.DataFrame | None = None


def load_task(task: Task, world: World | None) -> TaskData:
    """Load the instances of a task.

    Parameters
    ----------
    task : Task
        Where the instances are, and what their columns mean.
    world : World or None
        The embedded world.

    Returns
    -------
    TaskData

    Raises
    ------
    InputError
        If a source cannot be read, a column is missing, a label is not one of the task's, a
        guid stands twice, or nothing is left of a set without its duplicates; the message names
        the task, the set and the row.
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
        dealt = generator(derive_seed("folds", task.name), 0).permutation(len(pool)) % task.folds
        data = TaskData(pool, pool, dealt, dealt, task.folds, removed)
    if removed is not None and (removed["removed"] == removed["instances"]).any():
        empty = removed.loc[removed["removed"] == removed["instances"], "split"].iloc[0]
        raise InputError(
            f"tasks.{task.name}.{empty}: the texts of every instance occur more than once among "
            "training and evaluation; check the sources, or set remove_duplicates: false"
        )
    twice = data.evaluation["guid"].duplicated()
    if twice.any():
        guid = data.evaluation.loc[twice, "guid"].iloc[0]
        raise InputError(f"tasks.{task.name}: the guid {guid!r} stands twice; make guids unique")
    return data


def require_local_files(tasks: Sequence[Task]) -> None:
    """Check that the local files of every task are there, without reading them.

    Raises
    ------
    InputError
        If some are not; the message names the entry and the file of the first, where it can be
        had, and counts the others.
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
    """Name the entry of a source that cannot be read, and say whether the task can do without."""
    try:
        yield
    except InputError as error:
        choice = "" if source is task.train else ", or leave this entry out"
        raise InputError(f"tasks.{task.name}.{split}: {error.message}{choice}") from error


def describe(task: Task, data: TaskData) -> list[str]:
    """Say what a task trains on and predicts, and how many duplicates were removed."""
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
    label_values = rows.features[source.label]
    table = rows.select_columns(list(dict.fromkeys(columns))).to_pandas()
    frame = pd.DataFrame({"text_a": table[source.text_a]})
    frame["text_b"] = table[source.text_b] if source.text_b is not None else None
    names = getattr(label_values, "names", None)
    labels = table[source.label].tolist()
    if source.label_map is not None:
        unknown = [str(one) for one in labels if str(one) not in source.label_map]
        if unknown:
            raise InputError(f"{where}.label_map: says nothing of the label {unknown[0]!r}; add it")
        labels = [source.label_map[str(one)] for one in labels]
    elif names is not None:
        labels = [names[one] if isinstance(one, int) and one >= 0 else str(one) for one in labels]
    frame["label"] = labels
    if source.guid is not None:
        frame["guid"] = table[source.guid].astype(str)
    else:
        numbers = range(len(frame)) if source.row is None else table[source.row].tolist()
        frame["guid"] = [f"{split}-{row}" for row in numbers]
    frame["split"] = split
    for column in source.metadata:
        frame[column] = table[column]
    if source.label_map is not None:
        frame = frame[frame["label"].notna()].reset_index(drop=True)
    allowed = set(task.labels)
    # With folds, what is predicted is trained on as well.
    if split != "train" and task.folds is None and "entailment" in allowed:
        allowed.add(NON_ENTAILMENT)
    wrong = ~frame["label"].isin(allowed)
    if wrong.any():
        row = frame[wrong].iloc[0]
        raise InputError(
            f"{where}: {row['guid']} has the label {row['label']!r}, which is not among "
            f"{', '.join(task.labels)}; mend it, or map it in label_map"
        )
    for column in ("text_a", "text_b") if source.text_b is not None else ("text_a",):
        bad = ~frame[column].map(lambda text: isinstance(text, str))
        if bad.any():
            raise InputError(f"{where}: {frame.loc[bad, 'guid'].iloc[0]} has no text in {column}")
    if frame.empty:
        raise InputError(f"{where}: has no instances; check its split and label_map")
    return frame
