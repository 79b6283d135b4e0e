from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predict.tensor.correctness import correctness, gold_index

LABELS = ["contradiction", "entailment", "neutral"]


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_a_three_class_model_on_two_classes_by_enumeration(seed: int, instances: int) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.ones(3), instances)
    gold = rng.choice([*LABELS, "non-entailment"], instances)
    expected = []
    for row, label in zip(probability.tolist(), gold.tolist(), strict=True):
        predicted = LABELS[row.index(max(row))]
        two_class = "entailment" if predicted == "entailment" else "non-entailment"
        expected.append(label in (predicted, two_class))
    assert correctness(probability, gold, LABELS).tolist() == expected


def test_non_entailment_is_a_class_like_others_where_the_model_has_it() -> None:
    labels = ["entailment", "non-entailment", "unsure"]
    probability = np.array([[0.1, 0.2, 0.7], [0.1, 0.7, 0.2]])
    gold = ["non-entailment", "non-entailment"]
    assert correctness(probability, gold, labels).tolist() == [False, True]


def test_further_dimensions_lie_between_instance_and_label() -> None:
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(3), (7, 4, 2)).astype(np.float32)
    gold = rng.choice([*LABELS, "non-entailment"], 7)
    for p in range(4):
        for f in range(2):
            np.testing.assert_array_equal(
                correctness(probability, gold, LABELS)[:, p, f],
                correctness(probability[:, p, f], gold, LABELS),
            )


def test_an_unknown_gold_label_is_named() -> None:
    with pytest.raises(ValueError, match="'maybe' of instance 1"):
        gold_index(["neutral", "maybe"], LABELS)
    with pytest.raises(ValueError, match="'non-entailment' of instance 0"):
        gold_index(["non-entailment"], ["yes", "no"])
