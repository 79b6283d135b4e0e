"""The corpus, tokenized once into memory-mapped arrays."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from configs.errors import InputError

_DOCUMENTS_AT_A_TIME = 2000


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus.

    Attributes
    ----------
    tokens : uint16 array [token]
        Token ids of all sentences, one after another.
    sentences : int64 array [sentence + 1]
        Where each sentence begins in `tokens`; the last entry is the number of tokens.
    documents : int64 array [document + 1]
        Where each document begins in `sentences`; the last entry is the number of sentences.
    """

    tokens: NDArray[np.uint16]
    sentences: NDArray[np.int64]
    documents: NDArray[np.int64]


def tokenize_corpus(
    documents: Iterable[list[str]],
    tokenizer: Tokenizer,
    folder: Path,
    on_progress: Callable[[int, int], object] = lambda documents, characters: None,
) -> None:
    """Tokenize documents into `folder`, which appears whole or not at all.

    Documents of one sentence are left out: no sentence follows in them.

    Parameters
    ----------
    documents : iterable of list of str
        The sentences of each document.
    tokenizer : tokenizers.Tokenizer
        A WordPiece tokenizer of at most 65,536 entries.
    folder : Path
        Gets `tokens.bin` (uint16), `sentences.npy`, `documents.npy` and `corpus.json`.
    on_progress : callable
        Called with the documents and characters done since the last call.

    Raises
    ------
    InputError
        If no document has two sentences.
    """
    # What killed processes left behind can be as large as the corpus.
    for leftover in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(leftover)
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    sentence_lengths: list[NDArray[np.int64]] = []
    document_lengths: list[int] = []
    with (partial / "tokens.bin").open("wb") as file:
        stream = iter(documents)
        while group := list(itertools.islice(stream, _DOCUMENTS_AT_A_TIME)):
            sentences = [sentence for document in group for sentence in document]
            encoded = tokenizer.encode_batch_fast(sentences, add_special_tokens=False)
            lengths = np.array([len(one.ids) for one in encoded], dtype=np.int64)
            begins = np.concatenate([[0], np.cumsum([len(document) for document in group])])
            for begin, end in itertools.pairwise(begins):
                kept = [i for i in range(begin, end) if lengths[i]]
                if len(kept) < 2:
                    continue
                ids = np.concatenate([encoded[i].ids for i in kept]).astype(np.uint16)
                file.write(ids.tobytes())
                sentence_lengths.append(lengths[kept])
                document_lengths.append(len(kept))
            on_progress(len(group), sum(map(len, sentences)))
        file.flush()
        os.fsync(file.fileno())
    if not document_lengths:
        shutil.rmtree(partial)
        raise InputError(
            "corpus: no document has two sentences, so no sentence follows another; "
            "check corpus.text and corpus.sentences"
        )
    np.save(partial / "sentences.npy", _offsets(np.concatenate(sentence_lengths)))
    np.save(partial / "documents.npy", _offsets(np.array(document_lengths, dtype=np.int64)))
    counts = {
        "documents": len(document_lengths),
        "sentences": int(sum(document_lengths)),
        "tokens": int(sum(int(lengths.sum()) for lengths in sentence_lengths)),
    }
    (partial / "corpus.json").write_text(json.dumps(counts, indent=2) + "\n")
    partial.rename(folder)


def open_corpus(folder: Path) -> Corpus:
    """Open a tokenized corpus; the tokens stay on disk until they are used."""
    return Corpus(
        tokens=np.memmap(folder / "tokens.bin", dtype=np.uint16, mode="r"),
        sentences=np.load(folder / "sentences.npy", mmap_mode="r"),
        documents=np.load(folder / "documents.npy", mmap_mode="r"),
    )


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
