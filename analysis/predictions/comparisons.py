"""Every pair of sizes of one task compared, once, for all tables and figures that need it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from analysis.predictions.reading import TaskPredictions
from analysis.statistics.counts import Counts
from analysis.statistics.decay import DecayCurves, decay_curves, one_split
from analysis.statistics.multisets import Multisets, multisets


@dataclass(frozen=True)
class Comparison:
    """Two sizes on one split.

    Attributes
    ----------
    split : str
        Evaluation split.
    predictions : str
        ``runs`` or ``ensembles``.
    s1, s2 : str
        The smaller and the larger size.
    curves : DecayCurves or None
        Of Acc[s2] - Acc[s1]; None where a side has fewer than two pretraining seeds.
    """

    split: str
    predictions: str
    s1: str
    s2: str
    curves: DecayCurves | None


@dataclass(frozen=True)
class Comparisons:
    """All pairs of sizes of one task.

    Attributes
    ----------
    task : str
        Name of the task.
    pairs : tuple of Comparison
        By split, kind of predictions and pair, s1 before s2 in the order of the sizes.
    notes : tuple of str
        One line for what was left out, and why.
    split_seed : int or None
        What the single split of the baseline was drawn with; None where it is the average over
        all splits.
    """

    task: str
    pairs: tuple[Comparison, ...]
    notes: tuple[str, ...]
    split_seed: int | None = None

    def extremes(self, split: str, predictions: str) -> Comparison | None:
        """Return the smallest against the largest size; None where they cannot be compared."""
        found = [p for p in self.pairs if p.split == split and p.predictions == predictions]
        # The last pair that starts with the first size ends with the last one.
        ends = [p for p in found if p.s1 == found[0].s1]
        return ends[-1] if ends and ends[-1].curves is not None else None


def compare_sizes(task: TaskPredictions, split_seed: int | None = None) -> Comparisons:
    """Compute discovery and baseline of every pair of sizes, by split, for runs and ensembles.

    Both sides of a pair use the same even number of pretraining seeds: the first ones in order of
    as many as both have.

    Parameters
    ----------
    task : TaskPredictions
    split_seed : int, optional
        Take the baseline from one split of the seeds, drawn with this seed, instead of averaging
        over all splits.

    Returns
    -------
    Comparisons
    """
    kinds = {"runs": task.runs}
    if task.ensembles is not None:
        kinds["ensembles"] = task.ensembles
    notes = _notes(task)
    if split_seed is not None:
        notes += (f"{task.task}: the baseline is that of one split, drawn with seed {split_seed}",)
    pairs = []
    for position, split in enumerate(task.splits):
        instances = task.instances_of(position)
        for predictions in ("runs", "ensembles"):
            counts = kinds[predictions].at(instances) if predictions in kinds else None
            pairs += _compare_split(task.sizes, split, predictions, counts, split_seed)
    return Comparisons(task.task, tuple(pairs), notes, split_seed)


def _compare_split(
    sizes: tuple[str, ...],
    split: str,
    predictions: str,
    counts: Counts | None,
    split_seed: int | None,
) -> list[Comparison]:
    reduced: dict[tuple[int, int], Multisets] = {}
    pairs = []
    for first, second in combinations(range(len(sizes)), 2):
        seeds = counts.common_even_seeds(first, second) if counts is not None else 0
        curves = None
        if counts is not None and seeds:
            sides = [counts.correct[size][:, :seeds] for size in (first, second)]
            if split_seed is None:
                for size, correct in zip((first, second), sides, strict=True):
                    if (size, seeds) not in reduced:
                        reduced[size, seeds] = multisets(correct)
                curves = decay_curves(reduced[first, seeds], reduced[second, seeds], counts.runs)
            else:
                random = np.random.Generator(np.random.Philox(key=split_seed))
                curves = one_split(sides[0], sides[1], counts.runs, random)
        pairs.append(Comparison(split, predictions, sizes[first], sizes[second], curves))
    return pairs


def _notes(task: TaskPredictions) -> tuple[str, ...]:
    """Say which pretraining seeds the comparisons leave out, and which pairs have too few."""
    if len(task.sizes) < 2:
        return (f"{task.task}: one size only, so no sizes are compared",)
    left_out: dict[tuple[str, int, int], list[str]] = {}
    too_few: dict[str, int] = {}
    for first, second in combinations(range(len(task.sizes)), 2):
        used = task.runs.common_even_seeds(first, second)
        for size, other in ((first, second), (second, first)):
            name, having = task.sizes[size], len(task.runs.seeds[size])
            if having < 2:
                too_few[name] = having
            elif used and used < having:
                left_out.setdefault((name, used, having), []).append(task.sizes[other])
    notes = [
        f"{task.task}, {name}: {having} complete pretraining "
        f"{'seed' if having == 1 else 'seeds'}, and a comparison needs two; its cells are empty"
        for name, having in too_few.items()
    ]
    alike: dict[tuple[int, int, str], list[str]] = {}
    for (name, used, having), others in left_out.items():
        alike.setdefault((used, having, ", ".join(others)), []).append(name)
    notes += [
        f"{task.task}, {', '.join(names)}: the first {used} of {having} pretraining seeds are "
        f"compared with {others}, as both sides need the same even number"
        for (used, having, others), names in alike.items()
    ]
    return tuple(notes)
