"""Import of checkpoints that others pretrained.

Google's layout is a folder with `bert_config.json`, `vocab.txt` and a TensorFlow-1 checkpoint
(`bert_model.ckpt.index` and so on). Hugging Face's is a folder with `config.json`, `vocab.txt`
or `tokenizer.json`, and `model.safetensors` or `pytorch_model.bin`. No code in them is run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import InputError
from configs.reading import read_json_object
from configs.schema import Checkpoints, Size
from pretrain.bert.names import (
    BERT_CONSTANTS,
    Weight,
    encoder_weights,
    masked_token_weights,
    next_sentence_weights,
    shape_fields,
)
from pretrain.engine.saved_arrays import Arrays
from pretrain.text.wordpiece import check_vocabulary, read_vocabulary

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SMALL = ["config.json", "bert_config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json"]
_SAFE = ["model.safetensors", "*.ckpt*.index", "*.ckpt*.data-*"]
_PICKLE = "pytorch_model.bin"
_AGAIN = "get the checkpoint again"


@dataclass(frozen=True)
class Imported:
    """One checkpoint.

    Attributes
    ----------
    weights : dict of str to float32 array
        As pretraining saves them: encoder, pooler, and the heads that the checkpoint has.
    vocabulary : list of str
        Entries by id.
    source : dict
        Its origin: `checkpoint`, the hub's commit `revision`, the name of the file of its
        `weights` and that file's `sha256`.
    """

    weights: Arrays
    vocabulary: list[str]
    source: dict[str, str | None]


@dataclass(frozen=True)
class _Stored:
    """Weights on disk under the names of their layout."""

    file: Path
    google: bool
    names: Collection[str]
    read: Callable[[str], NDArray[Any]]


def read_checkpoint(checkpoint: str, size: Size, settings: Checkpoints) -> Imported:
    """Read a checkpoint of one size.

    Parameters
    ----------
    checkpoint : str
        A folder, or the name of a model on the Hugging Face hub.
    size : Size
        The architecture that it must have.
    settings : Checkpoints
        Its positions, case and activation, which it must have too.

    Returns
    -------
    Imported

    Raises
    ------
    InputError
        If it cannot be found or downloaded, is damaged, is not BERT, is of another architecture,
        differs from `settings`, or lacks its pooler.
    """
    folder, revision = find_checkpoint(checkpoint, settings.revision)
    stored = _open(folder)
    vocabulary = _vocabulary(folder)
    _check_config(folder, size, settings, len(vocabulary), google=stored.google)
    _check_case(folder, vocabulary, lowercase=settings.lowercase)
    encoder = encoder_weights(size, vocabulary=len(vocabulary), positions=settings.sequence_length)
    weights = {weight.path: _array(stored, weight) for weight in encoder}
    for head in (
        masked_token_weights(size, vocabulary=len(vocabulary)),
        next_sentence_weights(size),
    ):
        if any(weight.name(google=stored.google) in stored.names for weight in head):
            weights |= {weight.path: _array(stored, weight) for weight in head}
    _check_tied(stored, weights["token_embedding/embeddings"])
    with stored.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source = {
        "checkpoint": checkpoint,
        "revision": revision,
        "weights": stored.file.name,
        "sha256": digest,
    }
    return Imported(weights, vocabulary, source)


def find_checkpoint(checkpoint: str, revision: str | None) -> tuple[Path, str | None]:
    """Find a checkpoint's folder: a local one, or the download in the cache of the hub's client.

    Returns
    -------
    (Path, str or None)
        The folder, and the hub's commit if it is from the hub.

    Raises
    ------
    InputError
        If there is no such folder, and the hub cannot provide it.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        if revision is not None:
            raise InputError(
                f"pretraining.revision: {checkpoint} is a folder here, and has no revisions; "
                "remove it"
            )
        return folder, None
    if not _HUB_NAME.fullmatch(checkpoint):
        raise InputError(
            f"{checkpoint}: is neither a folder nor the name of a model on the Hugging Face hub; "
            "give one of them"
        )
    from huggingface_hub import snapshot_download

    try:
        fetched = Path(
            snapshot_download(checkpoint, revision=revision, allow_patterns=[*_SMALL, *_SAFE])
        )
        # Only if there is no other file: the hub often has the same weights in several files.
        if _weights_file(fetched) is None:
            snapshot_download(checkpoint, revision=revision, allow_patterns=[_PICKLE])
    except InputError:
        raise
    except Exception as error:
        # The hub's client raises its own errors and those of the libraries under it.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise InputError(
            f"{checkpoint}: is not a folder, and cannot be downloaded from the Hugging Face hub "
            f"({type(error).__name__}: {reason}); check the name and the network, or download "
            "it and give the folder"
        ) from error
    return fetched, fetched.name


def _weights_file(folder: Path) -> Path | None:
    """Find the file that holds the weights, or the index of them; safe formats first."""
    if (folder / "model.safetensors").is_file():
        return folder / "model.safetensors"
    indices = sorted(folder.glob("*.ckpt*.index"))
    if len(indices) > 1:
        raise InputError(
            f"{folder}: has {len(indices)} TensorFlow checkpoints ({indices[0].name} first); keep "
            "only one"
        )
    if indices:
        return indices[0]
    return folder / _PICKLE if (folder / _PICKLE).is_file() else None


def _open(folder: Path) -> _Stored:
    file = _weights_file(folder)
    if file is None:
        raise InputError(
            f"{folder}: has no model.safetensors, pytorch_model.bin or TensorFlow checkpoint "
            "(bert_model.ckpt.index); give the folder of a BERT checkpoint"
        )
    try:
        if file.suffix == ".index":
            return _open_google(file)
        arrays = _read_pickle(file) if file.name == _PICKLE else _read_safetensors(file)
    except InputError:
        raise
    except Exception as error:
        # For a damaged file, each of the three libraries raises errors of its own types.
        raise _damaged(file, error) from error
    arrays = {_hugging_face_name(name): array for name, array in arrays.items()}
    return _Stored(file, False, arrays.keys(), arrays.__getitem__)


def _damaged(file: Path, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [""])[0]
    return InputError(f"{file}: is damaged ({type(error).__name__}: {reason}); get it again")


def _open_google(index: Path) -> _Stored:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(index.with_suffix("")))
    return _Stored(index, True, reader.get_variable_to_shape_map().keys(), reader.get_tensor)


def _read_safetensors(file: Path) -> Arrays:
    # Registers the type bfloat16 with NumPy; installed with TensorFlow.
    import ml_dtypes  # noqa: F401
    from safetensors.numpy import load_file

    return dict(load_file(file))


def _read_pickle(file: Path) -> Arrays:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{file}: is read by PyTorch, which is not installed; install torch, or give a "
            "checkpoint with model.safetensors or in Google's layout"
        ) from error
    # `weights_only`: unpickles only tensors.
    state = torch.load(file, map_location="cpu", weights_only=True)
    return {
        name: tensor.float().numpy() for name, tensor in state.items() if tensor.is_floating_point()
    }


def _hugging_face_name(name: str) -> str:
    """Translate names of early versions, or of encoders without heads, into current names."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return re.sub(r"^(embeddings|encoder|pooler)\.", r"bert.\1.", name)


def _array(stored: _Stored, weight: Weight) -> NDArray[np.float32]:
    """Read and check one weight."""
    name, shape = weight.name(google=stored.google), weight.stored_shape(google=stored.google)
    if name not in stored.names:
        raise InputError(
            f"{stored.file}: lacks {name}; give a checkpoint with a complete encoder and pooler"
        )
    try:
        array = stored.read(name)
    except Exception as error:
        raise _damaged(stored.file, error) from error
    if array.shape != shape:
        raise InputError(
            f"{stored.file}: {name} has shape {array.shape}, and its configuration says {shape}; "
            f"{_AGAIN}"
        )
    if not np.isfinite(array).all():
        raise InputError(f"{stored.file}: {name} is not finite; {_AGAIN}")
    return weight.from_stored(array, google=stored.google)


def _check_tied(stored: _Stored, embedding: NDArray[np.float32]) -> None:
    """Refuse a masked-token head whose output matrix is not the token embeddings."""
    tied = "cls.predictions.decoder.weight"
    if tied in stored.names and not np.array_equal(stored.read(tied), embedding):
        raise InputError(
            f"{stored.file}: {tied} differs from the token embeddings; its masked-token head is "
            "not BERT's"
        )


def _vocabulary(folder: Path) -> list[str]:
    """Read `vocab.txt`, or `tokenizer.json`, which newer `transformers` write instead."""
    if (folder / "vocab.txt").is_file():
        return read_vocabulary(folder / "vocab.txt")
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise InputError(f"{folder}: has no vocab.txt; add the checkpoint's own")
    model = read_json_object(file, _AGAIN).get("model")
    entries: Any = model.get("vocab") if isinstance(model, dict) else None
    ids: list[Any] = list(entries.values()) if isinstance(entries, dict) else [None]
    if any(type(i) is not int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise InputError(f"{file}: has no WordPiece vocabulary; add the checkpoint's vocab.txt")
    vocabulary = sorted(entries, key=lambda entry: entries[entry])
    check_vocabulary(vocabulary, file)
    return vocabulary


def _check_config(
    folder: Path, size: Size, settings: Checkpoints, vocabulary: int, *, google: bool
) -> None:
    """Refuse a checkpoint of another architecture than the experiment describes."""
    names = ("bert_config.json", "config.json")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise InputError(
            f"{folder}: has no {'bert_config.json' if google else 'config.json'}; add the "
            "checkpoint's own"
        )
    config = read_json_object(file, _AGAIN)
    origins = {
        "vocab_size": "its vocabulary has",
        "num_hidden_layers": f"layers of size {size.name!r} are",
        "hidden_size": f"hidden of size {size.name!r} is",
        "num_attention_heads": f"heads of size {size.name!r} are",
        "intermediate_size": f"intermediate of size {size.name!r} is",
        "max_position_embeddings": "pretraining.sequence_length is",
    }
    expected = shape_fields(size, vocabulary=vocabulary, positions=settings.sequence_length)
    for field, origin in origins.items():
        if config.get(field) != expected[field]:
            raise InputError(
                f"{file}: {field} is {config.get(field)}, and {origin} {expected[field]}; "
                "correct the experiment, or give another checkpoint"
            )
    # `transformers` writes the last two only if they differ from BERT's.
    constants = {**BERT_CONSTANTS, "position_embedding_type": "absolute", "is_decoder": False}
    for field, constant in constants.items():
        if config.get(field, constant) != constant:
            raise InputError(
                f"{file}: {field} is {config[field]!r}, and BERT's is {constant!r}; this encoder "
                "cannot be used here"
            )
    activation = config.get("hidden_act")
    allowed = ("gelu",) if settings.gelu == "erf" else ("gelu", "gelu_new", "gelu_pytorch_tanh")
    if activation not in allowed:
        raise InputError(
            f"{file}: hidden_act is {activation!r}, and pretraining.gelu {settings.gelu!r} allows "
            f"{' or '.join(allowed)}"
        )


def _check_case(folder: Path, vocabulary: list[str], *, lowercase: bool) -> None:
    """Refuse a checkpoint that was pretrained with the other case."""
    file = folder / "tokenizer_config.json"
    recorded = read_json_object(file, _AGAIN).get("do_lower_case") if file.is_file() else None
    if recorded is not None and recorded != lowercase:
        raise InputError(
            f"{file}: do_lower_case is {recorded}, and pretraining.lowercase {lowercase}; give the "
            f"experiment lowercase: {str(recorded).lower()}"
        )
    # Google's layout does not record it; an uncased vocabulary has no capital letters.
    capitals = (
        entry for entry in vocabulary if re.search("[A-Z]", entry) and not entry.startswith("[")
    )
    capital = next(capitals, None)
    if recorded is None and (capital is None) != lowercase:
        evidence = "no entry with a capital letter" if capital is None else f"the entry {capital!r}"
        raise InputError(
            f"{folder}: its vocabulary has {evidence}; give the experiment lowercase: "
            f"{str(capital is None).lower()}"
        )
