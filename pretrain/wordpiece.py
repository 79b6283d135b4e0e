"""The WordPiece vocabulary: trained on the corpus, or read from a `vocab.txt`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer

from configs.errors import InputError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _tokenizer(model: WordPiece, *, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def train_vocabulary(sentences: Iterable[str], *, size: int, lowercase: bool) -> list[str]:
    """Train a WordPiece vocabulary.

    Parameters
    ----------
    sentences : iterable of str
        The text.
    size : int
        Most entries, the five special tokens included.
    lowercase : bool
        Whether text is lowercased and stripped of accents, as in the uncased BERT models.

    Returns
    -------
    list of str
        The entries, by id; the special tokens come first.
    """
    tokenizer = _tokenizer(WordPiece(unk_token="[UNK]"), lowercase=lowercase)
    trainer = WordPieceTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=lambda entry: vocabulary[entry])


def read_vocabulary(path: Path) -> list[str]:
    """Read a `vocab.txt`: one entry a line, the line number is the id.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a special token, or has an entry twice.
    """
    try:
        entries = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read; give a vocab.txt in UTF-8") from error
    if entries and not entries[-1]:
        entries.pop()
    entries = [entry.rstrip("\r") for entry in entries]
    missing = [token for token in SPECIAL_TOKENS if token not in entries]
    if missing:
        raise InputError(f"{path}: lacks {missing[0]}; give a BERT vocabulary")
    if len(set(entries)) != len(entries):
        twice = next(entry for i, entry in enumerate(entries) if entry in entries[:i])
        raise InputError(f"{path}: has the entry {twice!r} twice; remove one")
    if len(entries) > 1 << 16:
        raise InputError(
            f"{path}: has {len(entries)} entries; 65,536 is the most that 16 bits hold"
        )
    return entries


def build_tokenizer(vocabulary: list[str], *, lowercase: bool) -> Tokenizer:
    """Build BERT's tokenizer (basic tokenization, then WordPiece) from a vocabulary."""
    ids = {entry: i for i, entry in enumerate(vocabulary)}
    return _tokenizer(WordPiece(ids, unk_token="[UNK]"), lowercase=lowercase)
