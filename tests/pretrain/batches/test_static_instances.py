from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.batches.pair_batches import PairBatches
from pretrain.batches.static_instances import StaticInstances
from pretrain.engine.runs import Run, run_seeds
from pretrain.text.corpus import Corpus
from pretrain.text.wordpiece import SPECIAL_TOKENS
from tests.experiments import small_experiment

SEQUENCE_LENGTH, BATCH_SIZE = 40, 8
FIELDS = ("token_ids", "segment_ids", "mask_positions", "mask_ids", "mask_weights", "is_random")
N_ENTRIES = 20_000


def varied_corpus() -> Corpus:
    """Return documents of 2 to 29 sentences; no two tokens of the corpus are the same."""
    rng = np.random.default_rng(0)
    sentences = [rng.integers(1, 12, size=rng.integers(2, 30)) for _ in range(60)]
    lengths = np.concatenate(sentences)
    return Corpus(
        (np.arange(lengths.sum()) + len(SPECIAL_TOKENS)).astype(np.uint16),
        np.concatenate([[0], np.cumsum(lengths)]),
        np.concatenate([[0], np.cumsum([len(one) for one in sentences])]),
    )


def batches_of(masks: Any, **changed: Any) -> PairBatches:
    settings = {
        "masks": masks,
        "sequence_length": SEQUENCE_LENGTH,
        "batch_size": BATCH_SIZE,
        "max_masked": 8,
        # A pair of a few tokens can come twice.
        "short_share": 0.0,
        **changed,
    }
    experiment = small_experiment("out", pretraining=settings)
    vocabulary = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(N_ENTRIES))]
    return PairBatches(experiment, varied_corpus(), vocabulary)


def run_of(name: str) -> Run:
    return Run(name, Path("nowhere"), run_seeds("pretrain", name), 0.1)


def rows_of(batches: PairBatches, name: str, steps: range) -> list[bytes]:
    rows = []
    for step in steps:
        batch = batches(run_of(name), step)
        for i in range(len(batch["token_ids"])):
            rows.append(b"".join(batch[field][i].tobytes() for field in FIELDS))
    return rows


@pytest.mark.parametrize("duplicates", [1, 5])
def test_static_instances_are_a_finite_set_that_repeats(duplicates: int) -> None:
    batches = batches_of({"static": duplicates}, batch_size=1)
    assert batches.instances is not None
    positions = len(batches.corpus.tokens) // (SEQUENCE_LENGTH - 3)
    assert batches.instances.positions == positions > 100
    n = batches.instances.count
    assert n == duplicates * positions
    first = rows_of(batches, "mini/p1", range(n))
    second = rows_of(batches, "mini/p1", range(n, 2 * n))
    other = rows_of(batches, "base/p7", range(n))
    assert len(set(first)) == n
    # The same ones, in other orders.
    assert sorted(first) == sorted(second) == sorted(other)
    for one in (second, other):
        assert np.mean([a == b for a, b in zip(first, one, strict=True)]) < 0.05


def test_fresh_masks_do_not_repeat() -> None:
    fresh, static = batches_of("fresh"), batches_of({"static": 2})
    assert static.instances is not None
    epochs = range(3 * static.instances.count // BATCH_SIZE)
    rows = rows_of(fresh, "mini/p1", epochs)
    assert len(set(rows)) == len(rows)
    assert len(set(rows_of(static, "mini/p1", epochs))) == static.instances.count < 0.5 * len(rows)


def test_an_instance_does_not_depend_on_the_batch_in_which_it_comes() -> None:
    one, many = (batches_of({"static": 3}, batch_size=size) for size in (1, 7))
    assert rows_of(one, "mini/p1", range(70)) == rows_of(many, "mini/p1", range(10))


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    batches, again = batches_of({"static": 3}), batches_of({"static": 3})
    for step in (0, 5, 2**40):
        expected = rows_of(batches, "mini/p1", range(step, step + 1))
        assert rows_of(again, "mini/p1", range(step, step + 1)) == expected


def test_every_part_of_the_corpus_has_its_instances() -> None:
    corpus = varied_corpus()
    instances = StaticInstances(corpus, 4, sequence_length=SEQUENCE_LENGTH, max_masked=4)
    starts = instances.starts(np.arange(instances.count)).reshape(4, instances.positions)
    document = np.searchsorted(corpus.documents, starts, side="right") - 1
    # A sentence follows in the document.
    assert (starts + 1 < corpus.documents[document + 1]).all()
    assert (starts >= corpus.documents[document]).all()
    assert (np.diff(starts, axis=1) >= 0).all()
    # In each duplicate instances start about as far apart as they are long: one starts at most
    # a stretch and the longest sentence after where another does, or a sentence before it.
    places = corpus.sentences[starts]
    stretch = SEQUENCE_LENGTH - 3
    assert np.diff(places, axis=1).max() <= stretch + 2 * 11
    expected = np.arange(instances.positions) * stretch
    assert np.abs(places - expected).max() <= stretch + 2 * 11
    # Nor do all duplicates start at the same sentences.
    assert len(np.unique(starts)) > 2 * len(np.unique(starts[0]))


def test_static_masks_hide_replace_and_keep_80_10_10_percent() -> None:
    batches = batches_of({"static": 10}, batch_size=1000)
    hidden = kept = replaced = total = 0
    random = 0.0
    for step in range(2):
        batch = batches(run_of("mini/p1"), step)
        seen = np.take_along_axis(batch["token_ids"], batch["mask_positions"], axis=1)
        chosen = batch["mask_weights"] == 1
        total += int(chosen.sum())
        hidden += int((seen == SPECIAL_TOKENS.index("[MASK]"))[chosen].sum())
        kept += int((seen == batch["mask_ids"])[chosen].sum())
        random += float(batch["is_random"].mean()) / 2
        # 15% of the tokens of each row, at least one and at most `max_masked`.
        lengths = batch["padding_mask"].sum(axis=1)
        expected = np.clip(np.rint(0.15 * lengths), 1, 8)
        assert (chosen.sum(axis=1) == expected).all()
    replaced = total - hidden - kept
    for count, share in ((hidden, 0.8), (kept, 0.1), (replaced, 0.1)):
        assert abs(count / total - share) < 4 * np.sqrt(share * (1 - share) / total)
    assert abs(random - 0.5) < 4 * np.sqrt(0.25 / 2000)
