"""The corpus, tokenized once into shards of memory-mapped arrays.

A shard holds the documents of one stretch of the text. Shards are tokenized by several
processes at a time, each shard is written whole or not at all, and what is in it depends on
the text and the vocabulary alone, so that a killed command goes on after the shards that are
finished. In `corpus/`:

    plan.json                   where each shard begins and ends in the text
    shards/00000.tokens.npy     uint16 [token], the sentences one after another
    shards/00000.sentences.npy  int32 [sentence], tokens in each sentence
    shards/00000.documents.npy  int32 [document], sentences in each document
    shards/00000.json           counts and checksum; written last
    sentences.npy               int64 [sentence + 1], where each begins among all tokens
    documents.npy               int64 [document + 1], where each begins among all sentences
    corpus.json                 counts and checksums; the corpus is finished when it is there
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tokenizers import Tokenizer

from configs.atomic import write_text, written_beside
from configs.errors import InputError
from configs.processes import results_as_completed
from pretrain.text.sources import Stretch, Texts, cut

logger = logging.getLogger(__name__)

SHARD_BYTES = 32 << 20
# Every shard that is mapped takes one of the 1,024 files that a process may usually open.
_MOST_SHARDS = 500
_SENTENCES_AT_A_TIME = 20_000
_MOST_WORDS = 300_000

_COUNTS = ("tokens", "sentences", "documents")


class ShardedTokens:
    """Tokens of several shards, as if they were one array.

    Parameters
    ----------
    shards : sequence of uint16 array [token]
        In order; memory-mapped.
    """

    def __init__(self, shards: Sequence[NDArray[np.uint16]]) -> None:
        self._shards = shards
        self._starts = np.cumsum([0, *map(len, shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Tokens at places among all tokens.

        Parameters
        ----------
        places : int64 array [...]
            From 0 to the number of tokens, exclusive.

        Returns
        -------
        uint16 array [...]
        """
        flat = np.ravel(places)
        shard = np.searchsorted(self._starts, flat, side="right") - 1
        found = np.empty(flat.shape, dtype=np.uint16)
        # Sorted by shard, the places of each are one stretch.
        order = np.argsort(shard, kind="stable")
        present, begins = np.unique(shard[order], return_index=True)
        for one, begin, end in zip(present, begins, [*begins[1:], len(flat)], strict=True):
            here = order[begin:end]
            found[here] = self._shards[one][flat[here] - self._starts[one]]
        return found.reshape(np.shape(places))


@dataclass(frozen=True)
class Corpus:
    """A tokenized corpus.

    Attributes
    ----------
    tokens : uint16 array [token], or ShardedTokens
        Token ids of all sentences, one after another; indexed by arrays of places.
    sentences : int64 array [sentence + 1]
        Where each sentence begins in `tokens`; the last entry is the number of tokens.
    documents : int64 array [document + 1]
        Where each document begins in `sentences`; the last entry is the number of sentences.
    """

    tokens: NDArray[np.uint16] | ShardedTokens
    sentences: NDArray[np.int64]
    documents: NDArray[np.int64]

    @cached_property
    def successors(self) -> NDArray[np.int64]:
        """Sentences with a successor in their document, before each document.

        Returns
        -------
        int64 array [document + 1]
            The last entry counts all of them.
        """
        return np.asarray(self.documents) - np.arange(len(self.documents))


def tokenize_corpus(
    texts: Sequence[Texts],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    workers: int = 1,
    shard_bytes: int = SHARD_BYTES,
    on_progress: Callable[[int, int, bool], object] = lambda done, total, resumed: None,
) -> None:
    """Tokenize whatever of a corpus is missing in `folder`; see the module for what it gets.

    Documents of one sentence are left out: no sentence follows in them. Memory is bounded by
    the size of a shard and of the largest document, for each worker.

    Parameters
    ----------
    texts : sequence of Texts
        The sources.
    tokenizer : tokenizers.Tokenizer
        A WordPiece tokenizer of at most 65,536 entries.
    folder : Path
        Where the corpus goes.
    workers : int
        Processes; the result does not depend on how many.
    shard_bytes : int
        Bytes of text in a shard; more where the corpus would have more than 500 shards.
    on_progress : callable
        Called with the bytes of text in a shard that is done, the bytes in all, and whether
        an earlier call did it.

    Raises
    ------
    InputError
        If no document has two sentences, if the text or the vocabulary has changed since the
        tokenizing began, or if a worker process died.
    """
    sizes = [one.sizes() for one in texts]
    total = int(sum(one.sum() for one in sizes))
    stretches = cut(sizes, max(shard_bytes, -(-total // _MOST_SHARDS)))
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    # A second command on the same folder waits, and finds the corpus finished.
    with FileLock(folder / "lock"):
        if (folder / "corpus.json").is_file():
            return
        _begin(folder, texts, tokenizer, stretches)
        missing = []
        for i, stretch in enumerate(stretches):
            if _is_whole(folder, i):
                on_progress(stretch.size, total, True)
            else:
                missing.append((i, stretch))
        for _, stretch in _tokenize_shards(missing, texts, tokenizer, folder, workers):
            on_progress(stretch.size, total, False)
        _finish(folder, len(stretches))


def _begin(
    folder: Path, texts: Sequence[Texts], tokenizer: Tokenizer, stretches: Sequence[Stretch]
) -> None:
    """Write the plan, or check that what is there follows the same one."""
    plan = {
        "tokenizer": hashlib.sha256(tokenizer.to_str().encode()).hexdigest(),
        "sources": [one.text.model_dump(mode="json") for one in texts],
        "shards": [asdict(one) for one in stretches],
    }
    path = folder / "plan.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != plan:
        raise InputError(
            f"{folder}: the text or the vocabulary has changed since its tokenizing began; "
            "restore them, or remove that folder to begin again"
        )
    for leftover in folder.rglob("*.partial-*"):
        leftover.unlink()
    write_text(path, json.dumps(plan, indent=1) + "\n")


def _tokenize_shards(
    missing: Sequence[tuple[int, Stretch]],
    texts: Sequence[Texts],
    tokenizer: Tokenizer,
    folder: Path,
    workers: int,
) -> Iterator[tuple[int, Stretch]]:
    """Tokenize shards and yield each when it is written."""
    make = partial(_ShardTokenizer, pickle.dumps(list(texts)), tokenizer, folder)
    workers = min(workers, len(missing))
    for shard, _ in results_as_completed(make, missing, workers, name=str(folder)):
        yield shard


class _ShardTokenizer:
    """Tokenizes shards in one process.

    A word that was met before is looked up. The tokenizer's normalizer and pre-tokenizer look
    at no characters across a space, so a sentence's tokens are those of its words; and text
    repeats its words, so that this is several times faster than tokenizing every sentence.
    """

    def __init__(self, pickled: bytes, tokenizer: Tokenizer, folder: Path) -> None:
        self._pickled = pickled
        self._tokenizer = tokenizer
        self._folder = folder
        self._words: dict[str, bytes] = {}

    def __call__(self, shard: tuple[int, Stretch]) -> None:
        index, stretch = shard
        # Opened for every shard: what a mapping has read counts as memory until it is closed.
        texts: list[Texts] = pickle.loads(self._pickled)
        tokens: list[bytes] = []
        sentence_lengths: list[int] = []
        document_lengths: list[int] = []
        documents = texts[stretch.source].documents(stretch.first, stretch.last)
        for group in _groups(documents):
            encoded = iter(self._encode([sentence for document in group for sentence in document]))
            for document in group:
                kept = [one for one in itertools.islice(encoded, len(document)) if one]
                if len(kept) > 1:
                    tokens += kept
                    sentence_lengths += [len(one) // 2 for one in kept]
                    document_lengths.append(len(kept))
        arrays: dict[str, NDArray[Any]] = {
            "tokens": np.frombuffer(b"".join(tokens), dtype=np.uint16),
            "sentences": np.array(sentence_lengths, dtype=np.int32),
            "documents": np.array(document_lengths, dtype=np.int32),
        }
        for name in _COUNTS:
            with (
                written_beside(_shard_file(self._folder, index, name)) as partial,
                partial.open("wb") as file,
            ):
                np.save(file, arrays[name])
        record = {
            **{name: len(arrays[name]) for name in _COUNTS},
            "sha256": _checksum(arrays.values()),
        }
        write_text(_record_file(self._folder, index), json.dumps(record) + "\n")

    def _encode(self, sentences: list[str]) -> list[bytes]:
        """16-bit tokens of each sentence."""
        if len(self._words) > _MOST_WORDS:
            self._words.clear()
        split = [sentence.split(" ") for sentence in sentences]
        unmet = list(set(itertools.chain.from_iterable(split)).difference(self._words))
        for word, one in zip(
            unmet, self._tokenizer.encode_batch_fast(unmet, add_special_tokens=False), strict=True
        ):
            self._words[word] = np.array(one.ids, dtype=np.uint16).tobytes()
        look_up = self._words.__getitem__
        return [b"".join(map(look_up, words)) for words in split]


def _groups(documents: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Documents in groups of some ten thousand sentences."""
    group: list[list[str]] = []
    sentences = 0
    for document in documents:
        group.append(document)
        sentences += len(document)
        if sentences >= _SENTENCES_AT_A_TIME:
            yield group
            group, sentences = [], 0
    if group:
        yield group


def _finish(folder: Path, n_shards: int) -> None:
    """Write where sentences and documents begin, and then the manifest."""
    shards = [json.loads(_record_file(folder, i).read_text("utf-8")) for i in range(n_shards)]
    counts = {name: sum(shard[name] for shard in shards) for name in reversed(_COUNTS)}
    if not counts["documents"]:
        shutil.rmtree(folder)
        raise InputError(
            "corpus: no document has two sentences, so no sentence follows another; "
            "check corpus.sources, their text, sentences and rows_per_document"
        )
    for name in ("sentences", "documents"):
        with written_beside(folder / f"{name}.npy") as partial, partial.open("wb") as file:
            header = {"descr": "<i8", "fortran_order": False, "shape": (counts[name] + 1,)}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(np.zeros(1, dtype="<i8").tobytes())
            done = 0
            for i in range(n_shards):
                lengths = np.load(_shard_file(folder, i, name))
                ends = done + np.cumsum(lengths, dtype="<i8")
                file.write(ends.tobytes())
                done += int(lengths.sum(dtype=np.int64))
    write_text(folder / "corpus.json", json.dumps({**counts, "shards": shards}, indent=1) + "\n")


def open_corpus(folder: Path) -> Corpus:
    """Open a tokenized corpus; the tokens stay on disk until they are used.

    Raises
    ------
    InputError
        If a file is missing or does not hold what `corpus.json` says.
    """
    manifest = read_manifest(folder)
    if "shards" in manifest:
        files = [_shard_file(folder, i, "tokens") for i in range(len(manifest["shards"]))]
        shards = [
            _map(file, one["tokens"]) for file, one in zip(files, manifest["shards"], strict=True)
        ]
        # A shard may have nothing but documents of one sentence.
        shards = [shard for shard in shards if len(shard)]
        tokens = shards[0] if len(shards) == 1 else ShardedTokens(shards)
    else:
        # Written before there were shards.
        tokens = np.memmap(folder / "tokens.bin", dtype=np.uint16, mode="r")
    return Corpus(
        tokens=tokens,
        sentences=_map(folder / "sentences.npy", manifest["sentences"] + 1),
        documents=_map(folder / "documents.npy", manifest["documents"] + 1),
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read `corpus.json`.

    Returns
    -------
    dict
        `documents`, `sentences` and `tokens` in all, and `shards`, a list of the same with
        `sha256` of each.
    """
    path = folder / "corpus.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read; remove {folder} to tokenize the corpus again"
        ) from error
    return manifest


def _map(path: Path, length: int) -> NDArray[Any]:
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(
            f"{path}: is missing or damaged; remove {path.parent} to tokenize the corpus again"
        ) from error
    if len(found) != length:
        raise InputError(
            f"{path}: has {len(found)} entries, corpus.json says {length}; remove the folder "
            "corpus to tokenize again"
        )
    return found


def _is_whole(folder: Path, index: int) -> bool:
    """Whether a shard is finished and what was written of it is still there."""
    record = _record_file(folder, index)
    if not record.is_file():
        return False
    try:
        arrays = [np.load(_shard_file(folder, index, name), mmap_mode="r") for name in _COUNTS]
        if _checksum(arrays) == json.loads(record.read_text(encoding="utf-8"))["sha256"]:
            return True
    except (OSError, EOFError, ValueError, KeyError):
        pass
    logger.warning("%s: damaged, so this shard is tokenized again", record)
    return False


def _shard_file(folder: Path, index: int, name: str) -> Path:
    return folder / "shards" / f"{index:05d}.{name}.npy"


def _record_file(folder: Path, index: int) -> Path:
    return folder / "shards" / f"{index:05d}.json"


def _checksum(arrays: Iterable[NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
