"""Rows of text and of labelled instances, from `datasets` or from the embedded world."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from configs.errors import InputError
from configs.schema import Corpus, Source, Text, World
from pretrain.world import TASK_ROWS, corpus_rows

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")


def load_rows(source: Source, world: World | None) -> datasets.Dataset:
    """Load the rows of a source.

    Parameters
    ----------
    source : Source
        A hub name, a builder with local files, or `world`.
    world : World or None
        The embedded world that `path: world` refers to.

    Returns
    -------
    datasets.Dataset

    Raises
    ------
    InputError
        If the source cannot be read; the message names it.
    """
    if source.path == "world":
        assert world is not None  # the schema refuses such a source without a world
        if source.name == "corpus":
            return datasets.Dataset.from_list(corpus_rows(world))
        if source.name in TASK_ROWS:
            return datasets.Dataset.from_list(TASK_ROWS[source.name](world, source.split))
        names = ", ".join(["corpus", *TASK_ROWS])
        raise InputError(f"world: has no {source.name!r}; name is one of {names}")
    require_files(source)
    try:
        return datasets.load_dataset(
            source.path,
            source.name,
            data_files=source.data_files,
            split=source.split,
            revision=source.revision,
            **_builder_options(source),
        )
    except Exception as error:
        # `datasets` raises whatever its readers raise; a user needs to know which source.
        where = ", ".join(_files(source)) or source.path
        # The error of its own that it puts around a reader's says nothing.
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__} {cause}".strip().splitlines()[0]
        raise InputError(
            f"{where}: cannot be loaded ({reason}); check the source's path, files, field and split"
        ) from error


def require_files(source: Source) -> None:
    """Check that the local files of a source are there, without reading them.

    Raises
    ------
    InputError
        If one is not; the message names it, and where it can be had.
    """
    for file in _files(source):
        pattern = "://" in file or any(character in file for character in "*?[")
        if not pattern and not Path(file).is_file():
            had = f", from {source.origin}" if source.origin is not None else ""
            raise InputError(f"{file}: no such file in {Path.cwd()}; put it there{had}")


def _files(source: Source) -> list[str]:
    files = source.data_files or []
    return [files] if isinstance(files, str) else files


def _builder_options(source: Source) -> dict[str, Any]:
    """Options of a builder of `datasets` that the source asks for."""
    options: dict[str, Any] = {} if source.field is None else {"field": source.field}
    if source.path == "csv":
        # Else pandas would take words such as "null" and "NA" for missing text.
        options |= {"keep_default_na": False, "na_values": [""]}
        if source.delimiter is not None:
            options["sep"] = source.delimiter
        if source.quoting == "none":
            options["quoting"] = csv.QUOTE_NONE
        if source.columns is not None:
            options["column_names"] = source.columns
    return options


def documents(corpus: Corpus, world: World | None) -> Iterator[list[str]]:
    """Documents of a corpus, each a list of its sentences.

    Raises
    ------
    InputError
        If a column that the corpus names is not there, or does not hold text.
    """
    for source in corpus.sources:
        rows = load_rows(source, world)
        missing = [column for column in source.text if column not in rows.column_names]
        if missing:
            raise InputError(
                f"corpus.sources: {source.path} has no column {missing[0]!r}; "
                f"its columns are {', '.join(rows.column_names)}"
            )
        stream = iter(rows.select_columns(source.text))
        while group := list(itertools.islice(stream, source.rows_per_document)):
            sentences = [one for row in group for one in _sentences(row, source)]
            if sentences:
                yield sentences


def _sentences(row: Mapping[str, Any], source: Text) -> Iterator[str]:
    for column in source.text:
        text = row[column]
        if text is None:
            continue
        if not isinstance(text, str):
            raise InputError(f"corpus.sources: the column {column!r} does not hold text")
        for line in text.splitlines():
            parts = [line] if source.sentences == "lines" else _SENTENCE_END.split(line)
            yield from (part.strip() for part in parts if part.strip())
