"""The published numbers of the paper, its longer appendix and its notebook, as CSV files.

Zhong, Ghosh, Klein and Steinhardt: Are Larger Pretrained Language Models Uniformly Better?
Comparing Performance at the Instance Level. Findings of ACL 2021. All numbers are fractions, not
percent. The README beside the files lists the table of each file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from math import floor, inf, log10

import pandas as pd

# Ties of decimal fractions, such as 0.0125, are not exact in binary.
EPSILON = 1e-12


@dataclass(frozen=True)
class Digits:
    """The number of digits with which a number is printed.

    Attributes
    ----------
    digits : int
        Decimals of the fraction, or significant digits.
    significant : bool
        Whether `digits` counts significant digits.
    truncated : bool
        Whether the number is truncated instead of rounded.
    """

    digits: int
    significant: bool = False
    truncated: bool = False

    def agree(self, published: float, ours: float) -> bool:
        """Whether `ours` would be printed as `published`."""
        unit = 10.0**-self.digits
        if self.significant and published:
            unit = 10.0 ** (floor(log10(abs(published))) + 1 - self.digits)
        if self.truncated:
            return -EPSILON <= ours - published < unit - EPSILON
        return abs(ours - published) <= unit / 2 + EPSILON


THREE_DECIMALS = Digits(3)
THREE_SIGNIFICANT = Digits(3, significant=True)


def unchanged(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame as it is, for tables with the layout of the published numbers."""
    return frame


@dataclass(frozen=True)
class Source:
    """A published table with which a table of ours is compared.

    Attributes
    ----------
    table : str
        Where the numbers are printed: ``Table N`` of the paper, or ``notebook``.
    file : str
        Name of the file of published numbers.
    keys : tuple of str
        Columns that, with ``task``, identify a row in both tables.
    values : dict of str to (str, Digits)
        For each published column, our column, and how the number is printed.
    only : dict
        Columns and values that select our rows, where our table has more rows than the published.
    prepare : callable
        Gives our rows the layout of the published ones, if it differs. Keeps the columns task,
        split and `keys`, and the column ``known``, the paper's name of the task.
    """

    table: str
    file: str
    keys: tuple[str, ...]
    values: Mapping[str, tuple[str, Digits]]
    only: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[pd.DataFrame], pd.DataFrame] = unchanged

    @property
    def number(self) -> float:
        """Number of the table; infinity for the notebook, which comes last."""
        name, _, number = self.table.partition(" ")
        return float(number) if name == "Table" else inf


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
