"""Numbers that the paper, its longer appendix and its notebook print, as CSV files.

Zhong, Ghosh, Klein and Steinhardt: Are Larger Pretrained Language Models Uniformly Better?
Comparing Performance at the Instance Level. Findings of ACL 2021. Fractions, not percent; the
README beside the files says which table each holds.
"""

from __future__ import annotations

from importlib.resources import files

import pandas as pd


def published_numbers(name: str) -> pd.DataFrame:
    """Read one file of published numbers.

    Parameters
    ----------
    name : str
        File name without ``.csv``.

    Returns
    -------
    pandas.DataFrame
        Keys (``task``, ``size``, ...) and values, as fractions.
    """
    with (files(__name__) / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)
