"""Names and layouts of BERT's weights and configuration, here and in other software.

One table serves import and export. Google's names are those of the TensorFlow-1 code of Devlin
et al. (2019), Hugging Face's those of `transformers`. Google stores an attention kernel as a matrix
[hidden, hidden], this project as [hidden, head, width] or [head, width, hidden]; Hugging Face
stores every kernel as [output, input].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.schema import Size

BERT_CONSTANTS = {"model_type": "bert", "type_vocab_size": 2, "layer_norm_eps": 1e-12}
"""Fields of a configuration that are the same in every BERT."""


def shape_fields(size: Size, *, vocabulary: int, positions: int) -> dict[str, int]:
    """List the fields of `config.json` and `bert_config.json` that give an encoder's shape."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.feedforward,
        "max_position_embeddings": positions,
    }


@dataclass(frozen=True)
class Weight:
    """One weight.

    Attributes
    ----------
    path : str
        Its name in this project: the path of the Keras variable.
    shape : tuple of int
        Its shape in this project.
    flat : tuple of int
        Its shape as a vector, or as a matrix [input, output].
    google, hugging_face : str
        Its name in Google's layout and in Hugging Face's.
    google_transposed, hugging_face_transposed : bool
        Whether that layout stores it as [output, input].
    """

    path: str
    shape: tuple[int, ...]
    flat: tuple[int, ...]
    google: str
    hugging_face: str
    google_transposed: bool = False
    hugging_face_transposed: bool = False

    def name(self, *, google: bool) -> str:
        """Return the name in Google's layout or in Hugging Face's."""
        return self.google if google else self.hugging_face

    def stored_shape(self, *, google: bool) -> tuple[int, ...]:
        """Return the shape in Google's layout or in Hugging Face's."""
        transposed = self.google_transposed if google else self.hugging_face_transposed
        return self.flat[::-1] if transposed else self.flat

    def from_stored(self, stored: NDArray[Any], *, google: bool) -> NDArray[np.float32]:
        """Turn an array of `stored_shape` into this project's, in float32."""
        transposed = self.google_transposed if google else self.hugging_face_transposed
        array = stored.T if transposed else stored
        return np.ascontiguousarray(array, dtype=np.float32).reshape(self.shape)

    def to_hugging_face(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Turn this project's array into Hugging Face's."""
        array = weight.reshape(self.flat)
        return np.ascontiguousarray(array.T if self.hugging_face_transposed else array)


def _hugging_face(google: str) -> str:
    return google.replace("/", ".").replace("layer_", "layer.")


def _embedding(path: str, google: str, rows: int, width: int) -> list[Weight]:
    shape = (rows, width)
    return [Weight(f"{path}/embeddings", shape, shape, google, f"{_hugging_face(google)}.weight")]


def _norm(path: str, google: str, width: int) -> list[Weight]:
    hugging_face = _hugging_face(google)
    return [
        Weight(f"{path}/gamma", (width,), (width,), f"{google}/gamma", f"{hugging_face}.weight"),
        Weight(f"{path}/beta", (width,), (width,), f"{google}/beta", f"{hugging_face}.bias"),
    ]


def _dense(
    path: str, google: str, inputs: tuple[int, ...], outputs: tuple[int, ...]
) -> list[Weight]:
    hugging_face, flat = _hugging_face(google), (math.prod(inputs), math.prod(outputs))
    kernel = Weight(
        f"{path}/kernel",
        (*inputs, *outputs),
        flat,
        f"{google}/kernel",
        f"{hugging_face}.weight",
        hugging_face_transposed=True,
    )
    bias = Weight(f"{path}/bias", outputs, flat[1:], f"{google}/bias", f"{hugging_face}.bias")
    return [kernel, bias]


def _logits(
    path: str, google: tuple[str, str], hugging_face: str, inputs: int, outputs: int
) -> list[Weight]:
    shape = (inputs, outputs)
    return [
        Weight(f"{path}/kernel", shape, shape, google[0], f"{hugging_face}.weight", True, True),
        Weight(f"{path}/bias", shape[1:], shape[1:], google[1], f"{hugging_face}.bias"),
    ]


def encoder_weights(size: Size, *, vocabulary: int, positions: int) -> list[Weight]:
    """List the weights of an encoder with its pooler.

    Parameters
    ----------
    size : Size
        Layers, hidden size, heads and feed-forward width.
    vocabulary, positions : int
        Entries of the vocabulary, and the longest sequence.
    """
    hidden, wide = (size.hidden,), (size.feedforward,)
    heads = (size.heads, size.hidden // size.heads)
    weights = [
        *_embedding("token_embedding", "bert/embeddings/word_embeddings", vocabulary, size.hidden),
        *_embedding(
            "position_embedding", "bert/embeddings/position_embeddings", positions, size.hidden
        ),
        *_embedding("segment_embedding", "bert/embeddings/token_type_embeddings", 2, size.hidden),
        *_norm("embeddings_layer_norm", "bert/embeddings/LayerNorm", size.hidden),
    ]
    for i in range(size.layers):
        path, google = f"transformer_layer_{i}", f"bert/encoder/layer_{i}"
        attention = f"{path}/self_attention_layer"
        for name in ("query", "key", "value"):
            weights += _dense(
                f"{attention}/{name}", f"{google}/attention/self/{name}", hidden, heads
            )
        weights += [
            *_dense(
                f"{attention}/attention_output", f"{google}/attention/output/dense", heads, hidden
            ),
            *_norm(
                f"{path}/self_attention_layer_norm",
                f"{google}/attention/output/LayerNorm",
                size.hidden,
            ),
            *_dense(
                f"{path}/feedforward_intermediate_dense",
                f"{google}/intermediate/dense",
                hidden,
                wide,
            ),
            *_dense(f"{path}/feedforward_output_dense", f"{google}/output/dense", wide, hidden),
            *_norm(f"{path}/feedforward_layer_norm", f"{google}/output/LayerNorm", size.hidden),
        ]
    return [*weights, *_dense("pooled_dense", "bert/pooler/dense", hidden, hidden)]


def masked_token_weights(size: Size, *, vocabulary: int) -> list[Weight]:
    """List the weights of the masked-token head; its kernel is the token embedding."""
    hidden, entries = (size.hidden,), (vocabulary,)
    return [
        *_dense(
            "masked_token/intermediate_dense", "cls/predictions/transform/dense", hidden, hidden
        ),
        *_norm(
            "masked_token/intermediate_layer_norm",
            "cls/predictions/transform/LayerNorm",
            size.hidden,
        ),
        Weight(
            "masked_token/output_bias",
            entries,
            entries,
            "cls/predictions/output_bias",
            "cls.predictions.bias",
        ),
    ]


def next_sentence_weights(size: Size) -> list[Weight]:
    """List the weights of the next-sentence head: class 1 is a random next sentence."""
    google = ("cls/seq_relationship/output_weights", "cls/seq_relationship/output_bias")
    return _logits("next_sentence", google, "cls.seq_relationship", size.hidden, 2)


def classifier_weights(size: Size, *, labels: int) -> list[Weight]:
    """List the weights of a classifier's last layer."""
    google = ("output_weights", "output_bias")
    return _logits("classifier", google, "classifier", size.hidden, labels)
