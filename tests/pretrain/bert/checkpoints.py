"""Checkpoints as others publish them: `transformers` folders, and Google's layout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.schema import Checkpoints, Size

LAYERS, HIDDEN, HEADS, POSITIONS = 2, 16, 2, 24
SIZE = Size(name="base", layers=LAYERS, hidden=HIDDEN, heads=HEADS)
SPECIAL = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", *(f"##{one}" for one in "aeiou")]


def settings(where: Path | str, **changed: Any) -> Checkpoints:
    """Describe the checkpoints that this module makes."""
    return Checkpoints.model_validate(
        {"checkpoints": {"base": str(where)}, "sequence_length": POSITIONS, **changed}
    )


def peer_model(seed: int = 0, vocabulary: int = len(VOCABULARY), **changed: Any) -> Any:
    """Make the second implementation, with random weights wide enough to tell gelus apart."""
    import torch
    from transformers import BertConfig, BertForPreTraining

    torch.manual_seed(seed)
    config = BertConfig(
        **{
            "vocab_size": vocabulary,
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "intermediate_size": 4 * HIDDEN,
            "max_position_embeddings": POSITIONS,
            "hidden_act": "gelu_new",
            **changed,
        }
    )
    model = BertForPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
    return model


def write_hugging_face(folder: Path, model: Any, vocabulary: list[str] = VOCABULARY) -> Path:
    """Write the folder that `transformers` writes, and `vocab.txt`."""
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    return folder


def google_name(name: str) -> str:
    """Name of a weight of `transformers` in Google's code."""
    exceptions = {
        "cls.predictions.bias": "cls/predictions/output_bias",
        "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
        "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
    }
    if name in exceptions:
        return exceptions[name]
    name = re.sub(r"LayerNorm\.weight$", "LayerNorm/gamma", name)
    name = re.sub(r"LayerNorm\.bias$", "LayerNorm/beta", name)
    name = re.sub(r"_embeddings\.weight$", "_embeddings", name)
    name = re.sub(r"\.(dense|query|key|value)\.weight$", r".\1.kernel", name)
    return re.sub(r"layer\.(\d+)", r"layer_\1", name).replace(".", "/")


def google_arrays(model: Any) -> dict[str, NDArray[np.float32]]:
    """Weights of `transformers` as Google's code keeps them: kernels are [input, output]."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(("position_ids", "decoder.weight", "decoder.bias")):
            continue
        array = tensor.numpy()
        google = google_name(name)
        arrays[google] = np.ascontiguousarray(array.T) if google.endswith("kernel") else array
    return arrays


def write_google(
    folder: Path,
    model: Any,
    vocabulary: list[str] = VOCABULARY,
    arrays: Mapping[str, NDArray[Any]] | None = None,
) -> Path:
    """Write the layout of Google's release, with what its training leaves in a checkpoint."""
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    fields = (
        "attention_probs_dropout_prob hidden_dropout_prob hidden_size initializer_range "
        "intermediate_size max_position_embeddings num_attention_heads num_hidden_layers "
        "type_vocab_size vocab_size"
    )
    written = {field: getattr(config, field) for field in fields.split()}
    (folder / "bert_config.json").write_text(json.dumps({**written, "hidden_act": "gelu"}))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    arrays = google_arrays(model) if arrays is None else arrays
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in arrays.items():
            tf.compat.v1.get_variable(name, initializer=tf.constant(array))
            tf.compat.v1.get_variable(f"{name}/adam_m", initializer=tf.zeros(array.shape))
        tf.compat.v1.train.get_or_create_global_step()
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        saver.save(session, str(folder / "bert_model.ckpt"), write_meta_graph=False)
    (folder / "checkpoint").unlink(missing_ok=True)
    return folder
