"""Preparation of pretraining: the vocabulary and the tokenized corpus."""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path

from tqdm import tqdm

from configs.errors import FieldError, InputError
from configs.paths import corpus_folder, vocabulary_file
from configs.schema import Experiment
from pretrain.jobs.claims import claimed
from pretrain.text.corpus import check_corpus, has_manifest, read_manifest, tokenize_corpus
from pretrain.text.sources import open_texts, sample_documents
from pretrain.text.wordpiece import (
    build_tokenizer,
    read_vocabulary,
    train_vocabulary,
    write_vocabulary,
)

logger = logging.getLogger(__name__)

# Checkpoints have their own vocabulary; before they are imported, BERT's uncased one is assumed.
BERT_VOCABULARY = 30522


def vocabulary_size(experiment: Experiment) -> int:
    """Count the entries of the experiment's vocabulary, or predict them before it is made.

    Raises
    ------
    FieldError
        If the vocabulary's file cannot be read.
    """
    made = vocabulary_file(experiment.output)
    if made.is_file():
        return len(read_vocabulary(made))
    given = experiment.vocabulary
    if given is None:
        return BERT_VOCABULARY
    if given.file is not None:
        try:
            return len(read_vocabulary(given.file))
        except InputError as error:
            raise FieldError(f"vocabulary.file: {error.message}") from error
    assert given.size is not None  # the schema requires one of the two
    return given.size


def prepare_vocabulary(experiment: Experiment) -> None:
    """Make the experiment's `vocab.txt`, once: train it, or copy the given one.

    Raises
    ------
    FieldError
        If a given vocabulary cannot be read.
    InputError
        If the corpus cannot be read.
    """
    target = vocabulary_file(experiment.output)
    if not target.is_file():
        with claimed(experiment, "vocabulary"):
            if not target.is_file():
                _make_vocabulary(experiment, target)


def _make_vocabulary(experiment: Experiment, target: Path) -> None:
    settings, corpus = experiment.vocabulary, experiment.corpus
    assert settings is not None and corpus is not None  # the schema requires both
    if settings.file is not None:
        try:
            entries = read_vocabulary(settings.file)
        except InputError as error:
            raise FieldError(f"vocabulary.file: {error.message}") from error
    else:
        assert settings.size is not None  # the schema requires one of the two
        texts = open_texts(corpus, experiment.world)
        sample_bytes = settings.megabytes * 1_000_000
        entries = train_vocabulary(
            lambda: itertools.chain.from_iterable(sample_documents(texts, sample_bytes)),
            size=settings.size,
            lowercase=settings.lowercase,
        )
    write_vocabulary(target, entries)
    logger.info("vocabulary: %d entries", len(entries))


def prepare_corpus(experiment: Experiment, workers: int | None) -> None:
    """Tokenize the corpus, once, with the vocabulary of `prepare_vocabulary`.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment.
    workers : int or None
        Processes; None for one for each core.

    Raises
    ------
    InputError
        If the corpus cannot be used.
    """
    folder = corpus_folder(experiment.output)
    if not has_manifest(folder):
        with claimed(experiment, "corpus"):
            if not has_manifest(folder):
                _make_corpus(experiment, folder, workers or os.cpu_count() or 1)
    manifest = read_manifest(folder)
    counts = ", ".join(f"{manifest[name]} {name}" for name in ("documents", "sentences", "tokens"))
    logger.info("corpus: %s", counts)
    if manifest["documents"] == 1 and experiment.recipe.random_next_share > 0:
        raise FieldError(
            "pretraining.random_next_share: the corpus has one document, so there is no other one "
            "to draw a random next sentence from; give 0, or fewer rows_per_document"
        )


def check_prepared(experiment: Experiment) -> None:
    """Check vocabulary and corpus against their checksums; takes some seconds per gigabyte.

    Raises
    ------
    InputError
        If one is missing or damaged.
    """
    read_vocabulary(vocabulary_file(experiment.output))
    folder = corpus_folder(experiment.output)
    tokens = read_manifest(folder)["tokens"]
    with tqdm(desc="checking", total=tokens, unit="token", unit_scale=True, delay=5) as bar:
        check_corpus(folder, bar.update)


def _make_corpus(experiment: Experiment, folder: Path, workers: int) -> None:
    assert experiment.corpus is not None  # the schema requires it
    tokenizer = build_tokenizer(
        read_vocabulary(vocabulary_file(experiment.output)), lowercase=experiment.lowercase
    )
    texts = open_texts(experiment.corpus, experiment.world)
    with tqdm(desc="tokenizing", unit="B", unit_scale=True) as bar:

        def progress(done: int, total: int, resumed: bool) -> None:
            bar.total = total
            if resumed:
                # The work of an earlier command would distort the rate.
                bar.initial += done
            bar.update(done)

        tokenize_corpus(texts, tokenizer, folder, workers=workers, on_progress=progress)
