"""A table of the analysis: its name, title, frame and notes."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

NAN = float("nan")


@dataclass(frozen=True)
class Table:
    """One table of the analysis.

    Attributes
    ----------
    name : str
        Name of its files.
    title : str
        What it holds, in one sentence.
    frame : pandas.DataFrame
        ``task`` and ``split`` first; fractions, not percent. NaN where a quantity needs more
        seeds or sizes than there are.
    notes : tuple of str
        One line for each reason why cells are empty or predictions left out.
    """

    name: str
    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
