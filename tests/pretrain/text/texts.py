"""Sources of text made from lists."""

from __future__ import annotations

from collections.abc import Sequence

import datasets

from configs.schema import Text
from pretrain.text.sources import Texts


def texts_of(documents: Sequence[Sequence[str]]) -> Texts:
    """Return a source whose rows are documents and whose lines are sentences."""
    rows = datasets.Dataset.from_dict({"text": ["\n".join(one) for one in documents]})
    source = Text(path="text", data_files="text.txt", sentences="lines")
    return Texts(source, rows)
