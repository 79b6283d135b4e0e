"""Instances whose texts occur more than once in a task's training and evaluation sets.

Source: the authors' `process_input.py` counts every pair (text_a, text_b) over the training
instances and all predicted ones together, out-of-domain sets included, and keeps those that
occur once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def occurs_once(frames: Sequence[pd.DataFrame]) -> list[NDArray[np.bool_]]:
    """Find the instances whose texts no other instance has.

    Parameters
    ----------
    frames : sequence of pandas.DataFrame
        Columns `text_a` and `text_b` (missing where there is one text); counted together.

    Returns
    -------
    list of bool array [instance]
        For each frame, whether the pair of texts, character by character and in this order,
        occurs once in all frames together.
    """
    texts = pd.concat([frame[["text_a", "text_b"]] for frame in frames], ignore_index=True)
    once = ~texts.duplicated(keep=False).to_numpy()
    return np.split(once, np.cumsum([len(frame) for frame in frames])[:-1])


def count_removed(name: str, split: pd.Series, kept: NDArray[np.bool_]) -> pd.DataFrame:
    """Count the instances that are removed, by split.

    Parameters
    ----------
    name : str
        Use of the instances, such as `training`.
    split : pandas.Series
        The split of each instance.
    kept : bool array [instance]
        Whether each instance is kept.

    Returns
    -------
    pandas.DataFrame
        Columns `used_for`, `split`, `instances` (before), `removed`; splits in their order.
    """
    counts = pd.DataFrame({"split": split.to_numpy(), "removed": ~kept})
    table = counts.groupby("split", sort=False)["removed"].agg(["size", "sum"]).reset_index()
    table.columns = ["split", "instances", "removed"]
    table.insert(0, "used_for", name)
    return table
