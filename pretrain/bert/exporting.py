"""Encoders and classifiers as Hugging Face folders, which `transformers` loads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken

from configs.atomic import folder_written_beside
from configs.errors import InputError
from configs.schema import Size
from pretrain.bert.encoder import Gelu
from pretrain.bert.names import (
    BERT_CONSTANTS,
    Weight,
    classifier_weights,
    encoder_weights,
    masked_token_weights,
    next_sentence_weights,
    shape_fields,
)
from pretrain.text.wordpiece import SPECIAL_TOKENS, add_pair_template, build_tokenizer

# The names in `transformers` of the tanh approximation and of the exact function.
_ACTIVATION = {"tanh": "gelu_new", "erf": "gelu"}


def export_checkpoint(
    folder: Path,
    weights: Mapping[str, NDArray[Any]],
    *,
    size: Size,
    vocabulary: Sequence[str],
    positions: int,
    lowercase: bool,
    gelu: Gelu,
    dropout: float,
    labels: Sequence[str] | None = None,
) -> str:
    """Write a folder with `config.json`, `model.safetensors`, `vocab.txt` and the tokenizer.

    Parameters
    ----------
    folder : Path
        The folder to write; it must not exist or be empty.
    weights : mapping of str to array
        Weights by their paths, as pretraining or finetuning saves them.
    size : Size
        The architecture.
    vocabulary : sequence of str
        Entries by id.
    positions : int
        The longest sequence.
    lowercase : bool
        Whether the tokenizer lowercases text.
    gelu : str
        The encoder's activation.
    dropout : float
        Dropout rate to record, for training the exported weights further.
    labels : sequence of str, optional
        Labels of a classifier, in order. Without them the weights are those of an encoder and of
        the pretraining heads that it has.

    Returns
    -------
    str
        The class of `transformers` that the folder is for.

    Raises
    ------
    InputError
        If `folder` exists and is not empty, or the weights are of another architecture.
    """
    architecture, table = _architecture(weights, size, vocabulary, positions, labels)
    arrays = {}
    for weight in table:
        value = weights.get(weight.path)
        if value is None or value.shape != weight.shape:
            problem = "is missing" if value is None else f"has shape {value.shape}"
            raise InputError(
                f"{folder}: {weight.path} {problem}, and should have shape {weight.shape}; the "
                "weights are of another architecture"
            )
        arrays[weight.hugging_face] = weight.to_hugging_face(value)
    config: dict[str, Any] = {
        "architectures": [architecture],
        **BERT_CONSTANTS,
        **shape_fields(size, vocabulary=len(vocabulary), positions=positions),
        "hidden_act": _ACTIVATION[gelu],
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "pad_token_id": vocabulary.index("[PAD]"),
    }
    if labels is not None:
        config |= {
            "problem_type": "single_label_classification",
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }
    with folder_written_beside(folder) as partial:
        save_file(arrays, partial / "model.safetensors", metadata={"format": "pt"})
        _write_json(partial / "config.json", config)
        _write_tokenizer(partial, list(vocabulary), positions, lowercase=lowercase)
    return architecture


def _architecture(
    weights: Mapping[str, NDArray[Any]],
    size: Size,
    vocabulary: Sequence[str],
    positions: int,
    labels: Sequence[str] | None,
) -> tuple[str, list[Weight]]:
    """Choose the class of `transformers` that has the heads of these weights, and list them."""
    encoder = encoder_weights(size, vocabulary=len(vocabulary), positions=positions)
    if labels is not None:
        last = classifier_weights(size, labels=len(labels))
        return "BertForSequenceClassification", [*encoder, *last]
    masked = masked_token_weights(size, vocabulary=len(vocabulary))
    following = next_sentence_weights(size)
    heads = (masked[0].path in weights, following[0].path in weights)
    return {
        (True, True): ("BertForPreTraining", [*encoder, *masked, *following]),
        (True, False): ("BertForMaskedLM", [*encoder, *masked]),
        (False, True): ("BertForNextSentencePrediction", [*encoder, *following]),
        (False, False): ("BertModel", encoder),
    }[heads]


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tokenizer(
    folder: Path, vocabulary: list[str], positions: int, *, lowercase: bool
) -> None:
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = build_tokenizer(vocabulary, lowercase=lowercase)
    add_pair_template(tokenizer)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": lowercase,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            "model_max_length": positions,
            **{f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS},
        },
    )
