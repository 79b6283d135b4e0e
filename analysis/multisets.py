"""Instances that share one multiset of counts share every statistic of one model size.

A row of n counts in 0..F is, up to the order of the seeds, one of C(n + F, F) multisets (3,003 for
n = 10, F = 5), however many instances there are. Work per instance becomes work per multiset.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class Multisets:
    """The distinct rows of a count matrix, up to the order of the seeds.

    Attributes
    ----------
    rows : ndarray of int64, shape [distinct, seed]
        Each multiset once, its counts in ascending order.
    index : ndarray of int64, shape [instance]
        Which row of `rows` each instance has.
    """

    rows: NDArray[np.int64]
    index: NDArray[np.int64]

    @property
    def frequency(self) -> NDArray[np.int64]:
        """Number of instances with each multiset, shape [distinct]."""
        return np.bincount(self.index, minlength=len(self.rows))


def multisets(correct: NDArray[np.integer]) -> Multisets:
    """Reduce a count matrix to its distinct multisets.

    Parameters
    ----------
    correct : ndarray of int, shape [instance, seed]
        Correct finetuning runs of each pretraining seed, 0..F.

    Returns
    -------
    Multisets
    """
    seeds = correct.shape[1]
    most = int(correct.max(initial=0))
    base = seeds + 1
    if most == 0 or seeds * base ** (most - 1) < 2**63:
        # The code's digit v - 1 in base n + 1 is how many seeds have count v: it ignores order.
        value = np.array([0] + [base**v for v in range(most)], dtype=np.int64)
        code = np.zeros(len(correct), dtype=np.int64)
        for seed in range(seeds):
            code += value[correct[:, seed]]
        # Hashing takes a third of the time of sorting, which np.unique does.
        index, values = pd.factorize(code, sort=True)
        first = np.zeros(len(values), dtype=np.int64)
        first[index] = np.arange(len(code))
        rows = np.sort(correct[first].astype(np.int64), axis=1)
    else:
        ordered = np.sort(correct.astype(np.int64), axis=1)
        rows, index = np.unique(ordered, axis=0, return_inverse=True)
    return Multisets(rows=rows, index=index.astype(np.int64).reshape(-1))
