from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from configs.schema import World
from pretrain.text.world import (
    HABITATS,
    HANS_LABELS,
    LABELS,
    TASK_ROWS,
    build_lexicon,
    corpus_rows,
    habitat_rows,
    hans_rows,
    heuristic,
    inference_rows,
)

WORLD = World(documents=400, train=2000, evaluation=2000, hans=1200, habitat_train=2000)


def test_the_world_is_a_function_of_its_settings() -> None:
    assert corpus_rows(WORLD) == corpus_rows(World(**WORLD.model_dump()))
    for split in ("train", "evaluation"):
        assert inference_rows(WORLD, split) == inference_rows(World(**WORLD.model_dump()), split)
    other = World(**{**WORLD.model_dump(), "seed": 1})
    assert not set(build_lexicon(WORLD).animals) & set(build_lexicon(other).animals[:5])
    assert hans_rows(WORLD, "evaluation") == hans_rows(World(hans=1200), "evaluation")
    assert habitat_rows(WORLD, "train") == habitat_rows(World(habitat_train=2000), "train")
    # More documents or instances add to those that were there.
    fewer = World(**{**WORLD.model_dump(), "documents": 10, "train": 10})
    assert corpus_rows(fewer) == corpus_rows(WORLD)[:10]
    assert inference_rows(fewer, "train") == inference_rows(WORLD, "train")[:10]


def test_words_mean_one_thing_and_animals_follow_zipf() -> None:
    lexicon = build_lexicon(WORLD)
    words = [*lexicon.kinds, *lexicon.animals]
    for group in (lexicon.homes, lexicon.foods, lexicon.actions, lexicon.adjectives):
        words += [word for part in group for word in part]
    assert len(words) == len(set(words))
    assert lexicon.frequency.sum() == pytest.approx(1)
    ordered = np.sort(lexicon.frequency)[::-1]
    slope = np.polyfit(np.log(1 + np.arange(len(ordered))), np.log(ordered), 1)[0]
    assert slope == pytest.approx(-0.9)


def test_a_document_tells_of_animals_of_one_kind() -> None:
    lexicon = build_lexicon(WORLD)
    kind_of = {name: lexicon.kind_of(j) for j, name in enumerate(lexicon.animals)}
    kind_of |= {name: k for k, name in enumerate(lexicon.kinds)}
    kinds = []
    for row in corpus_rows(WORLD):
        lines = row["text"].splitlines()
        assert 5 <= len(lines) <= 9
        named = {kind_of[word] for line in lines for word in line.split() if word in kind_of}
        assert len(named) == 1
        kinds.append(named.pop())
    # So that the next document is mostly of another kind.
    assert len(set(kinds)) == WORLD.kinds
    assert np.mean([one == other for one, other in pairwise(kinds)]) < 0.3


def test_what_the_corpus_says_holds_in_the_world() -> None:
    lexicon = build_lexicon(WORLD)
    kind_of = {name: lexicon.kind_of(j) for j, name in enumerate(lexicon.animals)}
    kind_of |= {name: k for k, name in enumerate(lexicon.kinds)}
    checked = 0
    for row in corpus_rows(WORLD):
        for line in row["text"].splitlines():
            words = line.split()
            name = next(word for word in words if word in kind_of)
            kind = kind_of[name]
            if "eat" in words:
                assert words[-2] not in lexicon.foods[kind]
            elif "eats" in words:
                assert words[-2] in lexicon.foods[kind]
            elif "lives" in words:
                assert words[-2] in lexicon.homes[kind]
            else:
                continue
            checked += 1
    assert checked > 500


def test_wrong_labels_are_recorded_and_are_in_the_evaluation_set_alone() -> None:
    rows = inference_rows(WORLD, "evaluation")
    wrong = [row for row in rows if row["wrong_label"] == "yes"]
    assert len(wrong) == round(0.04 * 2000)
    assert all((row["label"] != row["true_label"]) == (row in wrong) for row in rows)
    assert {row["label"] for row in rows} == set(LABELS)
    train = inference_rows(WORLD, "train")
    assert all(row["label"] == row["true_label"] for row in train)
    assert {row["wrong_label"] for row in train} == {"no"}
    none = World(**{**WORLD.model_dump(), "wrong_labels": 0})
    assert all(row["label"] == row["true_label"] for row in inference_rows(none, "evaluation"))


@pytest.mark.parametrize(("task", "labels"), [("inference", LABELS), ("habitat", HABITATS)])
def test_no_label_is_rare(task: str, labels: tuple[str, ...]) -> None:
    counts = Counter(row["label"] for row in TASK_ROWS[task](WORLD, "train"))
    assert set(counts) == set(labels)
    assert min(counts.values()) > 0.6 / len(labels) * 2000


def test_labels_follow_from_the_world() -> None:
    lexicon = build_lexicon(WORLD)
    kind_of = {name: lexicon.kind_of(j) for j, name in enumerate(lexicon.animals)}
    facts = [lexicon.homes, lexicon.foods, lexicon.actions]
    for row in inference_rows(WORLD, "train"):
        construction, words = row["construction"], row["text_b"].split()
        animal = row["text_a"].split()[2]
        if construction in ("kind", "other_kind"):
            right = lexicon.kinds.index(words[1]) == kind_of[animal]
        elif construction in ("fact", "other_fact"):
            right = any(words[-2] in group[kind_of[animal]] for group in facts)
        elif construction in ("negated_fact", "negated_other_fact"):
            right = words[-2] not in lexicon.foods[kind_of[animal]]
        else:
            continue
        assert row["label"] == ("entailment" if right else "contradiction")


def test_heuristics_mostly_but_not_always_agree_with_the_label() -> None:
    rows = [row for row in inference_rows(WORLD, "train") if row["heuristic"] != "none"]
    assert {row["heuristic"] for row in rows} == {"lexical_overlap", "subsequence", "constituent"}
    for name in ("lexical_overlap", "subsequence", "constituent"):
        share = np.mean([row["label"] == "entailment" for row in rows if row["heuristic"] == name])
        assert 0.5 < share < 1


def test_hans_has_two_classes_and_each_heuristic_is_right_half_of_the_time() -> None:
    rows = hans_rows(WORLD, "evaluation")
    counts = Counter((row["heuristic"], row["label"]) for row in rows)
    assert len(counts) == 6
    assert {label for _, label in counts} == set(HANS_LABELS)
    assert all(count == pytest.approx(200, abs=50) for count in counts.values())
    assert all(row["label"] == row["true_label"] for row in rows)
    # The same kinds of pair have the same label as in the task.
    entailed = {row["construction"]: row["label"] for row in inference_rows(WORLD, "train")}
    for row in rows:
        assert (row["label"] == "entailment") == (entailed[row["construction"]] == "entailment")


def test_a_habitat_is_that_of_the_animal_that_the_sentence_is_about() -> None:
    lexicon = build_lexicon(WORLD)
    kind_of = {name: lexicon.kind_of(j) for j, name in enumerate(lexicon.animals)}
    assert Counter(map(lexicon.habitat_of, range(len(lexicon.kinds)))) == {"land": 4, "water": 4}
    facts = {
        word: kind
        for group in (lexicon.homes, lexicon.foods, lexicon.actions)
        for kind, words in enumerate(group)
        for word in words
    }
    for row in habitat_rows(WORLD, "train"):
        words = row["sentence"].split()
        animals = [word for word in words if word in kind_of]
        named = lexicon.habitat_of(kind_of[animals[0]])
        assert row["true_label"] == named
        others = [lexicon.habitat_of(kind_of[animal]) for animal in animals[1:]]
        others += [lexicon.habitat_of(facts[word]) for word in words if word in facts]
        misled = row["construction"] in ("near_other", "negated_other_food")
        assert len(others) == (0 if row["construction"] == "adjective" else 1)
        assert all((other != named) == misled for other in others)


def test_habitats_have_wrong_labels_and_duplicates_in_both_splits() -> None:
    train, evaluation = (habitat_rows(WORLD, split) for split in ("train", "evaluation"))
    for rows in (train, evaluation):
        wrong = [row for row in rows if row["wrong_label"] == "yes"]
        assert len(wrong) == round(0.04 * len(rows))
        assert all((row["label"] != row["true_label"]) == (row in wrong) for row in rows)
    sentences = Counter(row["sentence"] for row in train + evaluation)
    assert sum(sentences[row["sentence"]] > 1 for row in evaluation) > 10
    assert len(sentences) > 0.6 * sentences.total()


@pytest.mark.parametrize(
    ("premise", "hypothesis", "clauses", "expected"),
    [
        ("if the cat is old , the dog is here .", "the dog is here .", True, "constituent"),
        ("the cat near the dog is old .", "the dog is old .", False, "subsequence"),
        ("the cat near the dog is old .", "the cat is old .", False, "lexical_overlap"),
        ("the cat is old .", "the cat is new .", False, "none"),
    ],
)
def test_heuristics_of_hans(premise: str, hypothesis: str, clauses: bool, expected: str) -> None:
    parts = ("the cat is old", "the dog is here") if clauses else ()
    assert heuristic(premise, hypothesis, parts) == expected
