"""The main numbers of an analysis, one line each."""

from __future__ import annotations

from collections.abc import Iterator

from analysis.predictions.annotations import CATEGORIES, GROUPS, Annotation, count_categories
from analysis.predictions.split import PREDICTIONS, SplitPredictions
from analysis.statistics.accuracy import overall_accuracy
from analysis.statistics.decay import decay_bound


def split_headlines(split: SplitPredictions) -> Iterator[str]:
    """State the accuracies, and the bounds between the smallest and the largest size.

    Parameters
    ----------
    split : SplitPredictions

    Yields
    ------
    str
        One line each; there is no line without numbers.
    """
    name = f"{split.task}, {split.split}"
    accuracies = [
        f"{size} {overall_accuracy(correct, split.runs.runs):.4f}"
        for size, correct in zip(split.sizes, split.runs.correct, strict=True)
        if correct.size
    ]
    if accuracies:
        yield f"{name}: accuracy {', '.join(accuracies)}"
    bounds = []
    for predictions in PREDICTIONS:
        extremes = split.extremes(predictions)
        if extremes is not None and extremes.curves is not None:
            decay = decay_bound(extremes.curves).bound
            improvement = decay_bound(extremes.curves.exchanged()).bound
            bounds.append(f"{decay:.2%} decay and {improvement:.2%} improve ({predictions})")
    if bounds:
        s1, s2 = split.sizes[0], split.sizes[-1]
        yield f"{name}: from {s1} to {s2} at least {', '.join(bounds)}"


def annotation_headline(annotation: Annotation) -> str:
    """State how many labels of the annotated instances an annotator finds wrong."""
    counts = count_categories(annotation.groups, annotation.categories)
    wrong = list(CATEGORIES.values()).index("wrong")
    shares = [
        f"{group_counts[wrong]} of {group_counts.sum()} {group}"
        for group, group_counts in zip(GROUPS.values(), counts, strict=True)
        if group_counts.sum()
    ]
    return (
        f"{annotation.task}, {annotation.split}: {' and '.join(shares)} instances have a wrong "
        f"label (annotator {annotation.annotator})"
    )
