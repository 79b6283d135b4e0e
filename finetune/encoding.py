"""Instances as arrays: `[CLS] A [SEP] B [SEP]`, cut to length and padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pretrain.text.wordpiece import add_pair_template

_INSTANCES_AT_A_TIME = 10_000


def encode_instances(
    instances: pd.DataFrame, tokenizer: Tokenizer, sequence_length: int
) -> dict[str, NDArray[Any]]:
    """Tokenize instances; a pair that is too long loses tokens of its longer text.

    Parameters
    ----------
    instances : pandas.DataFrame
        Columns `text_a` and `text_b` (missing values where there is one text).
    tokenizer : tokenizers.Tokenizer
        BERT's tokenizer. Its padding and truncation are set to this function's.
    sequence_length : int
        Positions in a row.

    Returns
    -------
    dict of str to array
        `token_ids` uint16, `segment_ids` uint8 and `padding_mask` uint8 [instance, position].
    """
    add_pair_template(tokenizer)
    tokenizer.enable_truncation(sequence_length, strategy="longest_first")
    tokenizer.enable_padding(
        length=sequence_length, pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]"
    )
    shape = (len(instances), sequence_length)
    arrays: dict[str, NDArray[Any]] = {
        "token_ids": np.empty(shape, np.uint16),
        "segment_ids": np.empty(shape, np.uint8),
        "padding_mask": np.empty(shape, np.uint8),
    }
    texts: Sequence[Any] = [
        a if not isinstance(b, str) else (a, b)
        for a, b in zip(instances["text_a"], instances["text_b"], strict=True)
    ]
    for begin in range(0, len(texts), _INSTANCES_AT_A_TIME):
        block = slice(begin, begin + _INSTANCES_AT_A_TIME)
        encoded = tokenizer.encode_batch(texts[block])
        arrays["token_ids"][block] = [encoding.ids for encoding in encoded]
        arrays["segment_ids"][block] = [encoding.type_ids for encoding in encoded]
        arrays["padding_mask"][block] = [encoding.attention_mask for encoding in encoded]
    return arrays
