from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import pretrain.corpus
from configs.errors import InputError
from pretrain.corpus import Corpus, open_corpus, tokenize_corpus
from pretrain.wordpiece import SPECIAL_TOKENS, build_tokenizer
from tests.experiments import files_of

WORDS = ["a", "b", "c", "d", "##e", "."]
DOCUMENTS = [
    ["a b .", "c d ."],
    ["alone ."],
    ["ae", "be ce", "d"],
    ["a", "\u200b\x01", "b b b b"],
    ["\x01", "c"],
    [],
    ["d", "d", "unheard of", "d"],
]
# The same, as entries: documents with fewer than two sentences that have a token are left out.
KEPT = [
    [["a", "b", "."], ["c", "d", "."]],
    [["a", "##e"], ["b", "##e", "c", "##e"], ["d"]],
    [["a"], ["b", "b", "b", "b"]],
    [["d"], ["d"], ["[UNK]", "[UNK]"], ["d"]],
]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return build_tokenizer([*SPECIAL_TOKENS, *WORDS], lowercase=True)


def read_back(corpus: Corpus) -> list[list[list[str]]]:
    vocabulary = [*SPECIAL_TOKENS, *WORDS]
    found = []
    for first, last in itertools.pairwise(corpus.documents):
        bounds = corpus.sentences[first : last + 1]
        found.append(
            [
                [vocabulary[i] for i in corpus.tokens[begin:end]]
                for begin, end in itertools.pairwise(bounds)
            ]
        )
    return found


def test_round_trip(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenize_corpus(DOCUMENTS, tokenizer, tmp_path / "corpus")
    corpus = open_corpus(tmp_path / "corpus")
    assert read_back(corpus) == KEPT
    assert corpus.tokens.dtype == np.uint16
    assert corpus.sentences[-1] == len(corpus.tokens)
    assert corpus.documents[-1] == len(corpus.sentences) - 1


def test_the_size_of_groups_does_not_matter(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize_corpus(DOCUMENTS, tokenizer, tmp_path / "one")
    monkeypatch.setattr(pretrain.corpus, "_DOCUMENTS_AT_A_TIME", 2)
    progress: list[tuple[int, int]] = []
    tokenize_corpus(
        iter(DOCUMENTS), tokenizer, tmp_path / "two", lambda *done: progress.append(done)
    )
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert [documents for documents, _ in progress] == [2, 2, 2, 1]
    assert sum(c for _, c in progress) == sum(len(s) for d in DOCUMENTS for s in d)


def test_whole_or_not_at_all(tmp_path: Path, tokenizer: Tokenizer) -> None:
    def broken() -> Iterator[list[str]]:
        yield from DOCUMENTS
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        tokenize_corpus(broken(), tokenizer, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    (tmp_path / "corpus.partial-1").mkdir()
    (tmp_path / "corpus.partial-1" / "tokens.bin").write_bytes(b"x")
    tokenize_corpus(DOCUMENTS, tokenizer, tmp_path / "corpus")
    assert read_back(open_corpus(tmp_path / "corpus")) == KEPT
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_without_two_sentences_in_a_document_there_is_nothing_to_predict(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with pytest.raises(InputError, match=r"^corpus: no document has two sentences"):
        tokenize_corpus([["a"], ["b ."], []], tokenizer, tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []
