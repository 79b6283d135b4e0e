from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer

from finetune.encoding import encode_instances
from pretrain.text.wordpiece import SPECIAL_TOKENS, build_tokenizer

VOCABULARY = [*SPECIAL_TOKENS, *"abcdefghij", "##x"]
IDS = {entry: i for i, entry in enumerate(VOCABULARY)}


@pytest.fixture
def tokenizer() -> Tokenizer:
    return build_tokenizer(VOCABULARY, lowercase=True)


def encode(
    tokenizer: Tokenizer, pairs: list[tuple[str, str | None]], length: int
) -> dict[str, np.ndarray]:
    frame = pd.DataFrame(pairs, columns=["text_a", "text_b"])
    return encode_instances(frame, tokenizer, length)


def tokens(row: np.ndarray) -> str:
    return " ".join(VOCABULARY[i] for i in row)


def test_pairs_and_single_texts(tokenizer: Tokenizer) -> None:
    arrays = encode(tokenizer, [("a bx", "C"), ("a b", None), ("", "a"), ("q", "")], 9)
    assert [tokens(row) for row in arrays["token_ids"]] == [
        "[CLS] a b ##x [SEP] c [SEP] [PAD] [PAD]",
        "[CLS] a b [SEP] [PAD] [PAD] [PAD] [PAD] [PAD]",
        "[CLS] [SEP] a [SEP] [PAD] [PAD] [PAD] [PAD] [PAD]",
        "[CLS] [UNK] [SEP] [SEP] [PAD] [PAD] [PAD] [PAD] [PAD]",
    ]
    assert arrays["segment_ids"].tolist() == [
        [0, 0, 0, 0, 0, 1, 1, 0, 0],
        [0] * 9,
        [0, 0, 1, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0, 0],
    ]
    assert (arrays["padding_mask"] == (arrays["token_ids"] != IDS["[PAD]"])).all()
    assert arrays["token_ids"].dtype == np.uint16


@pytest.mark.parametrize("length", [8, 11, 16])
def test_a_long_pair_loses_the_end_of_its_longer_side(tokenizer: Tokenizer, length: int) -> None:
    letters = "abcdefghij"
    cases = list(product(range(1, 25), range(1, 25)))
    texts = [(" ".join(letters[i % 10] for i in range(n)) for n in case) for case in cases]
    arrays = encode(tokenizer, [(a, b) for a, b in texts], length)
    for (a, b), ids in zip(cases, arrays["token_ids"], strict=True):
        first, second = np.flatnonzero(ids == IDS["[SEP]"])
        kept_a, kept_b = int(first) - 1, int(second - first) - 1
        while a + b > length - 3:
            a, b = (a - 1, b) if a > b else (a, b - 1)
        # On a tie, whose token goes is not settled by the rule.
        assert kept_a + kept_b == a + b
        assert abs(kept_a - a) <= (1 if abs(a - b) <= 1 else 0)
        assert tokens(ids[1:first]) == " ".join(letters[i % 10] for i in range(kept_a))
        assert tokens(ids[first + 1 : second]) == " ".join(letters[i % 10] for i in range(kept_b))


def test_a_long_single_text_loses_its_end(tokenizer: Tokenizer) -> None:
    arrays = encode(tokenizer, [("a b c d e f g h", None)], 6)
    assert tokens(arrays["token_ids"][0]) == "[CLS] a b c d [SEP]"


def test_blocks_of_instances_make_no_difference(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs: list[tuple[str, str | None]] = [("a b", "c"), ("d", None), ("e", "f g"), ("h i", "j")]
    whole = encode(tokenizer, pairs, 10)
    monkeypatch.setattr("finetune.encoding._INSTANCES_AT_A_TIME", 3)
    parts = encode(tokenizer, pairs, 10)
    assert all((whole[name] == parts[name]).all() for name in whole)
