"""Names for the array shapes that the statistics share.

An alias names an element type, which mypy checks, and a shape, which only its docstring states:
nothing is checked at run time. F is the number of finetuning runs of one pretraining seed. 2k is
the number of pretraining seeds (or of independent models) on each side of a comparison.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

CorrectCounts: TypeAlias = NDArray[np.integer]
"""Shape [instance, pretrain_seed]: correct finetuning runs of each pretraining seed, 0..F."""

InstanceIntegers: TypeAlias = NDArray[np.integer]
"""Shape [instance]: one integer for each instance."""

InstanceValues: TypeAlias = NDArray[np.float64]
"""Shape [instance]: one value for each instance."""

JointCounts: TypeAlias = NDArray[np.int64]
"""Shape [2k + 1, 2k + 1]: instances by the number of correct models of two sizes.

Element [a, b] counts the instances on which `a` models of the smaller size and `b` models of the
larger size are correct.
"""

LatticeCounts: TypeAlias = NDArray[np.int64]
"""Shape [4kF + 1]: instances at each difference j / (2kF), for j = -2kF..2kF."""

LatticeValues: TypeAlias = NDArray[np.float64]
"""Shape [4kF + 1]: one value for each difference j / (2kF), for j = -2kF..2kF."""

MultisetRows: TypeAlias = NDArray[np.int64]
"""Shape [multiset, pretrain_seed]: distinct rows of correct counts, each in ascending order."""

SeedWeights: TypeAlias = NDArray[np.float64]
"""Shape [pretrain_seed, replicate]: how often each replicate draws each seed; whole numbers."""

SeedPositions: TypeAlias = NDArray[np.int64]
"""Shape [group member]: positions of the pretraining seeds of one group."""

BucketCounts: TypeAlias = NDArray[np.int64]
"""Shape [bucket]: instances in each bucket of the accuracy of the middle size."""

BucketValues: TypeAlias = NDArray[np.float64]
"""Shape [bucket]: one value for each bucket of the accuracy of the middle size."""

LevelValues: TypeAlias = NDArray[np.float64]
"""Shape [level, instance]: outermost level first (pretraining seeds, finetuning seeds, ...)."""

BinValues: TypeAlias = NDArray[np.float64]
"""Shape [..., bin]: sums over the instances of each bin of the bias."""

CurvePoints: TypeAlias = NDArray[np.float64]
"""Shape [point]: one value for each point of a curve over the squared bias."""
