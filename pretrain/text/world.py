"""The embedded data: a small world, a corpus about it and two tasks.

The world has animals of several kinds, with Zipf-distributed frequencies. The kind of an
animal determines where it lives, what it eats and what it does. A document is about a few
animals of one kind, so that neighbouring sentences belong together. The inference task asks
whether a sentence follows from another one and from the facts of the world. The habitat task
asks whether a sentence is about a land or a water animal; half of the kinds live on land, half
in water. The kind of a rare animal can be learned from the corpus, but hardly from a task's
training set.

Everything is a function of the world's settings; nothing is read or downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from configs.errors import InputError
from configs.schema import World
from pretrain.engine.seeding import derive_seed, generator

LABELS = ("contradiction", "entailment", "neutral")
HANS_LABELS = ("entailment", "non-entailment")
HABITATS = ("land", "water")

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ou")
_CODAS = ("", "", "n", "l", "r", "x", "sh")
_ZIPF_EXPONENT = 0.9
_ADJECTIVE_PAIRS = 4
_PER_KIND = {"homes": 2, "foods": 2, "actions": 2}


@dataclass(frozen=True)
class Lexicon:
    """The words of a world and its facts.

    Attributes
    ----------
    kinds : tuple of str
        Names of the kinds.
    animals : tuple of str
        Names of the animals; animal j is of kind `j % len(kinds)`.
    frequency : float array [animal]
        Zipf-distributed probabilities.
    homes, foods, actions : tuple of tuple of str
        For each kind, the places, foods and actions of its animals.
    adjectives : tuple of (str, str)
        Pairs of opposites; they do not depend on the kind.
    """

    kinds: tuple[str, ...]
    animals: tuple[str, ...]
    frequency: np.ndarray[Any, np.dtype[np.float64]]
    homes: tuple[tuple[str, ...], ...]
    foods: tuple[tuple[str, ...], ...]
    actions: tuple[tuple[str, ...], ...]
    adjectives: tuple[tuple[str, str], ...]

    def kind_of(self, animal: int) -> int:
        """Return the number of an animal's kind."""
        return animal % len(self.kinds)

    def habitat_of(self, kind: int) -> str:
        """Return the habitat of a kind: `land` or `water`."""
        return HABITATS[kind % len(HABITATS)]

    def of_kind(self, kind: int) -> range:
        """List the numbers of a kind's animals."""
        return range(kind, len(self.animals), len(self.kinds))


@lru_cache(maxsize=8)
def build_lexicon(world: World) -> Lexicon:
    """Make the words and facts of a world."""
    rng = generator(derive_seed("world", world.seed, "lexicon"), 0)
    taken: set[str] = set()

    def word(syllables: int, ending: str = "") -> str:
        while True:
            parts = [str(rng.choice(_ONSETS)) + str(rng.choice(_VOWELS)) for _ in range(syllables)]
            made = "".join(parts) + (ending or str(rng.choice(_CODAS)))
            if made not in taken:
                taken.add(made)
                return made

    def by_kind(name: str, ending: str = "") -> tuple[tuple[str, ...], ...]:
        return tuple(
            tuple(word(2, ending) for _ in range(_PER_KIND[name])) for _ in range(world.kinds)
        )

    n_animals = world.kinds * world.members
    # Ranks are assigned at random, so that every kind has frequent and rare animals.
    weight = 1.0 / (1.0 + rng.permutation(n_animals)) ** _ZIPF_EXPONENT
    return Lexicon(
        kinds=tuple(word(2) for _ in range(world.kinds)),
        animals=tuple(word(2) for _ in range(n_animals)),
        frequency=weight / weight.sum(),
        homes=by_kind("homes"),
        foods=by_kind("foods"),
        actions=by_kind("actions", "ks"),
        adjectives=tuple((word(2), word(2)) for _ in range(_ADJECTIVE_PAIRS)),
    )


def corpus_rows(world: World) -> list[dict[str, str]]:
    """Generate the documents of the corpus.

    Returns
    -------
    list of {"text": str}
        One document per row, one sentence per line.
    """
    lexicon = build_lexicon(world)
    seed = derive_seed("world", world.seed, "corpus")
    return [
        {"text": "\n".join(_document(lexicon, generator(seed, row)))}
        for row in range(world.documents)
    ]


def _pick(rng: np.random.Generator, words: Sequence[Any]) -> Any:
    return words[int(rng.integers(len(words)))]


def _document(lexicon: Lexicon, rng: np.random.Generator) -> list[str]:
    first = int(rng.choice(len(lexicon.animals), p=lexicon.frequency))
    kind = lexicon.kind_of(first)
    same_kind = np.array(lexicon.of_kind(kind))
    share = lexicon.frequency[same_kind] / lexicon.frequency[same_kind].sum()
    cast = [first, *(int(j) for j in rng.choice(same_kind, size=2, p=share))]
    adjective, opposite = _pick(rng, lexicon.adjectives)[:: _pick(rng, (1, -1))]
    sentences = []
    for _ in range(int(rng.integers(5, 10))):
        animal = lexicon.animals[_pick(rng, cast)]
        name = animal if rng.random() < 0.7 else lexicon.kinds[kind]
        home, food = _pick(rng, lexicon.homes[kind]), _pick(rng, lexicon.foods[kind])
        other = _pick(rng, [k for k in range(len(lexicon.kinds)) if k != kind])
        action = _pick(rng, lexicon.actions[kind])
        sentences.append(
            _pick(
                rng,
                (
                    f"the {animal} is a {lexicon.kinds[kind]} of the {home} .",
                    f"the {name} lives in the {home} .",
                    f"the {name} eats {food} .",
                    f"the {name} {action} and eats {food} .",
                    f"the {name} does not eat {_pick(rng, lexicon.foods[other])} .",
                    f"the {name} {action} in the {home} .",
                    f"the {name} is {adjective} .",
                    f"the {name} is not {opposite} .",
                    f"the {adjective} {name} {action} .",
                ),
            )
        )
    return sentences


# Constructions of a pair: how frequent each is, and its true label. In the last seven, HANS's
# heuristics predict "entailment", which is mostly but not always true.
_CONSTRUCTIONS = {
    "kind": (0.13, "entailment"),
    "other_kind": (0.13, "contradiction"),
    "fact": (0.15, "entailment"),
    "other_fact": (0.15, "contradiction"),
    "negated_fact": (0.02, "contradiction"),
    "negated_other_fact": (0.02, "entailment"),
    "opposite": (0.03, "contradiction"),
    "new_adjective": (0.08, "neutral"),
    "sibling": (0.12, "neutral"),
    "same_adjective": (0.02, "entailment"),
    "adverb_dropped": (0.04, "entailment"),
    "near_first": (0.03, "entailment"),
    "near_second": (0.02, "neutral"),
    "near_swapped": (0.02, "neutral"),
    "clause_when": (0.05, "entailment"),
    "clause_if": (0.02, "neutral"),
}


def inference_rows(world: World, split: str) -> list[dict[str, str]]:
    """Generate the instances of the inference task.

    Parameters
    ----------
    world : World
        Settings; a share `wrong_labels` of the evaluation set has a wrong label.
    split : str
        `train` or `evaluation`.

    Returns
    -------
    list of dict
        `text_a` (premise), `text_b` (hypothesis), `label`, and the metadata `true_label`,
        `wrong_label` (yes or no), `construction` (how the hypothesis was made) and
        `heuristic`: `constituent`, `subsequence` or `lexical_overlap` if the hypothesis is a
        clause of the premise, consecutive words of it or consists of its words (McCoy et
        al., 2019), otherwise `none`.
    """
    n = _count("inference", split, {"train": world.train, "evaluation": world.evaluation})
    lexicon = build_lexicon(world)
    seed = derive_seed("world", world.seed, "inference", split)
    wrong: set[int] = set()
    if split == "evaluation":
        wrong = _wrong_rows(world, n, "wrong labels")
    shares = {name: share for name, (share, _) in _CONSTRUCTIONS.items()}
    return [_instance(lexicon, generator(seed, row), shares, row in wrong) for row in range(n)]


# Relative frequencies of the constructions: for each of HANS's heuristics, half of the pairs are
# entailed (McCoy et al., 2019).
_HANS_CONSTRUCTIONS = {
    "same_adjective": 1,
    "near_first": 1,
    "near_swapped": 2,
    "adverb_dropped": 2,
    "near_second": 2,
    "clause_when": 2,
    "clause_if": 2,
}


def hans_rows(world: World, split: str) -> list[dict[str, str]]:
    """Generate instances of two classes on half of which HANS's heuristics are correct.

    Parameters
    ----------
    world : World
        Settings; no label is wrong.
    split : str
        `evaluation`, the only one.

    Returns
    -------
    list of dict
        As of `inference_rows`, with the labels `entailment` and `non-entailment`.
    """
    n = _count("hans", split, {"evaluation": world.hans})
    lexicon = build_lexicon(world)
    seed = derive_seed("world", world.seed, "hans", split)
    rows = [
        _instance(lexicon, generator(seed, row), _HANS_CONSTRUCTIONS, False) for row in range(n)
    ]
    for row in rows:
        row["label"] = row["true_label"] = HANS_LABELS[int(row["true_label"] != "entailment")]
    return rows


# Constructions of a sentence about an animal, and their frequencies. In the last two, another word
# suggests the other habitat.
_SENTENCES = {
    "adjective": 0.3,
    "fact": 0.3,
    "negated_other_food": 0.15,
    "near_other": 0.25,
}


def habitat_rows(world: World, split: str) -> list[dict[str, str]]:
    """Generate instances of the habitat task: one sentence about a land or a water animal.

    Sentences are drawn with replacement, so that some occur more than once.

    Parameters
    ----------
    world : World
        Settings; a share `wrong_labels` of each split has the other label.
    split : str
        `train` or `evaluation`.

    Returns
    -------
    list of dict
        `sentence`, `label` (`land` or `water`), and the metadata `true_label`, `wrong_label`
        (yes or no) and `construction` (how the sentence was made).
    """
    counts = {"train": world.habitat_train, "evaluation": world.habitat_evaluation}
    n = _count("habitat", split, counts)
    lexicon = build_lexicon(world)
    seed = derive_seed("world", world.seed, "habitat", split)
    wrong = _wrong_rows(world, n, "wrong labels", "habitat", split)
    return [_sentence(lexicon, generator(seed, row), row in wrong) for row in range(n)]


def _sentence(lexicon: Lexicon, rng: np.random.Generator, wrong: bool) -> dict[str, str]:
    names = list(_SENTENCES)
    construction = names[int(rng.choice(len(names), p=list(_SENTENCES.values())))]
    animal = int(rng.choice(len(lexicon.animals), p=lexicon.frequency))
    kind = lexicon.kind_of(animal)
    true_label = lexicon.habitat_of(kind)
    other_kind = _pick(
        rng, [k for k in range(len(lexicon.kinds)) if lexicon.habitat_of(k) != true_label]
    )
    stranger = lexicon.animals[_pick(rng, lexicon.of_kind(other_kind))]
    pair = _pick(rng, lexicon.adjectives)
    adjective, opposite = pair[:: _pick(rng, (1, -1))]
    fact = (
        f"lives in the {_pick(rng, lexicon.homes[kind])}",
        f"eats {_pick(rng, lexicon.foods[kind])}",
        _pick(rng, lexicon.actions[kind]),
    )
    name = lexicon.animals[animal]
    sentence = {
        "adjective": f"the {name} is {_pick(rng, (adjective, f'not {opposite}'))}",
        "fact": f"the {adjective} {name} {_pick(rng, fact)}",
        "negated_other_food": (
            f"the {adjective} {name} does not eat {_pick(rng, lexicon.foods[other_kind])}"
        ),
        "near_other": f"the {name} near the {stranger} is {adjective}",
    }[construction]
    return {
        "sentence": f"{sentence} .",
        "label": next(label for label in HABITATS if (label == true_label) != wrong),
        "true_label": true_label,
        "wrong_label": "yes" if wrong else "no",
        "construction": construction,
    }


# The rows of each task, by the `name` of a source.
TASK_ROWS: dict[str, Callable[[World, str], list[dict[str, str]]]] = {
    "inference": inference_rows,
    "hans": hans_rows,
    "habitat": habitat_rows,
}


def _count(name: str, split: str, counts: Mapping[str, int]) -> int:
    if split not in counts:
        raise InputError(f"world: {name} has no split {split!r}; use {' or '.join(counts)}")
    return counts[split]


def _wrong_rows(world: World, n: int, *purpose: str) -> set[int]:
    order = generator(derive_seed("world", world.seed, *purpose), 0).permutation(n)
    return set(order[: round(world.wrong_labels * n)].tolist())


def _instance(
    lexicon: Lexicon, rng: np.random.Generator, shares: Mapping[str, float], wrong: bool
) -> dict[str, str]:
    names = list(shares)
    share = np.array([shares[name] for name in names])
    construction = names[int(rng.choice(len(names), p=share / share.sum()))]
    true_label = _CONSTRUCTIONS[construction][1]
    animal = int(rng.choice(len(lexicon.animals), p=lexicon.frequency))
    kind = lexicon.kind_of(animal)
    name = lexicon.animals[animal]
    other_kind = _pick(rng, [k for k in range(len(lexicon.kinds)) if k != kind])
    sibling = lexicon.animals[_pick(rng, [j for j in lexicon.of_kind(kind) if j != animal])]
    stranger = lexicon.animals[_pick(rng, lexicon.of_kind(other_kind))]
    pair = _pick(rng, lexicon.adjectives)
    adjective, opposite = pair[:: _pick(rng, (1, -1))]
    other_pair = _pick(rng, [other for other in lexicon.adjectives if other != pair])

    def fact(kind: int) -> str:
        place, food = _pick(rng, lexicon.homes[kind]), _pick(rng, lexicon.foods[kind])
        forms = (f"lives in the {place}", f"eats {food}", _pick(rng, lexicon.actions[kind]))
        return f"the {name} {_pick(rng, forms)}"

    premise = f"the {adjective} {name} is here"
    clauses: tuple[str, ...] = ()
    hypothesis = {
        "kind": lambda: f"a {lexicon.kinds[kind]} is here",
        "other_kind": lambda: f"a {lexicon.kinds[other_kind]} is here",
        "fact": lambda: fact(kind),
        "other_fact": lambda: fact(other_kind),
        "negated_fact": lambda: f"the {name} does not eat {_pick(rng, lexicon.foods[kind])}",
        "negated_other_fact": (
            lambda: f"the {name} does not eat {_pick(rng, lexicon.foods[other_kind])}"
        ),
        "opposite": lambda: f"the {name} is {opposite}",
        "new_adjective": lambda: f"the {name} is {_pick(rng, other_pair)}",
        "sibling": lambda: f"the {sibling} is here",
        "same_adjective": lambda: f"the {name} is {adjective}",
        "adverb_dropped": lambda: f"the {name} is {adjective}",
        "near_first": lambda: f"the {name} is {adjective}",
        "near_second": lambda: f"the {stranger} is {adjective}",
        "near_swapped": lambda: f"the {stranger} near the {name} is {adjective}",
        "clause_when": lambda: f"the {stranger} is here",
        "clause_if": lambda: f"the {stranger} is here",
    }[construction]()
    if construction == "adverb_dropped":
        premise = f"the {name} is {adjective} here"
    elif construction.startswith("near"):
        premise = f"the {name} near the {stranger} is {adjective}"
    elif construction.startswith("clause"):
        word = construction.removeprefix("clause_")
        clauses = (f"the {name} is {adjective}", f"the {stranger} is here")
        premise = f"{word} {clauses[0]} , {clauses[1]}"
    premise, hypothesis = f"{premise} .", f"{hypothesis} ."
    label = true_label
    if wrong:
        label = _pick(rng, [other for other in LABELS if other != true_label])
    return {
        "text_a": premise,
        "text_b": hypothesis,
        "label": label,
        "true_label": true_label,
        "wrong_label": "yes" if wrong else "no",
        "construction": construction,
        "heuristic": heuristic(premise, hypothesis, clauses),
    }


def heuristic(premise: str, hypothesis: str, clauses: Sequence[str]) -> str:
    """Name the most specific of HANS's heuristics (McCoy et al., 2019) that applies to a pair."""
    if hypothesis.removesuffix(" .") in clauses:
        return "constituent"
    words, run = premise.split(), hypothesis.split()[:-1]
    if any(words[i : i + len(run)] == run for i in range(len(words) - len(run) + 1)):
        return "subsequence"
    return "lexical_overlap" if set(run) <= set(words) else "none"
