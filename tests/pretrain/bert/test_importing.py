from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from numpy.typing import NDArray

from analysis.command import analyze
from configs.errors import InputError
from configs.paths import encoder_file, vocabulary_file
from configs.schema import Experiment, Size
from finetune.stage import finetune_experiment
from predict.stage import predict_experiment
from pretrain.bert.encoder import build_pretraining_model
from pretrain.bert.importing import read_checkpoint
from pretrain.bert.names import (
    classifier_weights,
    encoder_weights,
    masked_token_weights,
    next_sentence_weights,
)
from pretrain.engine.engine import assign_weights
from pretrain.engine.saved_arrays import read_arrays
from pretrain.stage import pretrain_experiment
from pretrain.text.wordpiece import read_vocabulary, train_vocabulary
from pretrain.text.world import corpus_rows
from tests.experiments import files_of, run_stage, small, work_here, write_config
from tests.pretrain.bert.checkpoints import (
    POSITIONS,
    SIZE,
    VOCABULARY,
    google_arrays,
    peer_model,
    settings,
    write_google,
    write_hugging_face,
)

MASKED = np.array([[1, 5], [2, 9], [0, 23], [3, 4]])


def inputs() -> dict[str, NDArray[np.int32]]:
    rng = np.random.default_rng(0)
    lengths = np.array([[24], [10], [24], [17]])
    return {
        "token_ids": rng.integers(len(VOCABULARY), size=(4, POSITIONS)).astype(np.int32),
        "segment_ids": (np.arange(POSITIONS) > lengths // 2).astype(np.int32),
        "padding_mask": (np.arange(POSITIONS) < lengths).astype(np.int32),
    }


def our_outputs(weights: dict[str, Any], gelu: Any) -> dict[str, NDArray[Any]]:
    """What this project's model says on `inputs`."""
    model = build_pretraining_model(
        SIZE, vocabulary=len(VOCABULARY), positions=POSITIONS, dropout=0.1, gelu=gelu
    )
    assign_weights(model, weights, "here")
    said = model({**inputs(), "mask_positions": MASKED}, training=False)
    last = model.get_layer(f"transformer_layer_{SIZE.layers - 1}").output
    encoder = keras.Model(
        model.input, {"sequence": last, "pooled": model.get_layer("pooled_dense").output}
    )
    said |= encoder({**inputs(), "mask_positions": MASKED}, training=False)
    return {name: np.asarray(value) for name, value in said.items()}


def peer_outputs(model: Any) -> dict[str, NDArray[Any]]:
    """What `transformers` says on `inputs`."""
    import torch

    names = {
        "token_ids": "input_ids",
        "segment_ids": "token_type_ids",
        "padding_mask": "attention_mask",
    }
    tensors = {names[name]: torch.tensor(value) for name, value in inputs().items()}
    with torch.no_grad():
        heads, encoder = model(**tensors), model.bert(**tensors)
    rows = np.arange(len(MASKED))[:, None]
    return {
        "masked_token": heads.prediction_logits.numpy()[rows, MASKED],
        "next_sentence": heads.seq_relationship_logits.numpy(),
        "sequence": encoder.last_hidden_state.numpy(),
        "pooled": encoder.pooler_output.numpy(),
    }


def test_the_table_of_names_is_that_of_the_models() -> None:
    from finetune.classifier import build_classifier

    size = Size(name="x", layers=2, hidden=12, heads=3, intermediate=20)
    encoder = encoder_weights(size, vocabulary=30, positions=9)
    heads = [*masked_token_weights(size, vocabulary=30), *next_sentence_weights(size)]
    last = classifier_weights(size, labels=4)
    for model, table in (
        (
            build_pretraining_model(size, vocabulary=30, positions=9, dropout=0.1),
            [*encoder, *heads],
        ),
        (
            build_classifier(size, vocabulary=30, positions=9, labels=4, dropout=0.1),
            [*encoder, *last],
        ),
    ):
        found = {variable.path: tuple(variable.shape) for variable in model.trainable_variables}
        assert {weight.path: weight.shape for weight in table} == found


@pytest.mark.parametrize("layout", ["hugging face", "google", "pickle"])
def test_imported_weights_say_what_the_second_implementation_says(
    tmp_path: Path, layout: str
) -> None:
    model = peer_model()
    if layout == "google":
        write_google(tmp_path, model)
    else:
        write_hugging_face(tmp_path, model)
    if layout == "pickle":
        import torch

        # As before 2020: other names of LayerNorm's weights, and a buffer.
        (tmp_path / "model.safetensors").unlink()
        state = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for name, tensor in model.state_dict().items()
        }
        state["bert.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
        torch.save(state, tmp_path / "pytorch_model.bin")
    found = read_checkpoint(str(tmp_path), SIZE, settings(tmp_path))
    assert found.vocabulary == VOCABULARY
    ours, theirs = our_outputs(found.weights, "tanh"), peer_outputs(model)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert ours[name].shape == value.shape
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    # Not a bit is lost on the way in.
    table = [
        *encoder_weights(SIZE, vocabulary=len(VOCABULARY), positions=POSITIONS),
        *masked_token_weights(SIZE, vocabulary=len(VOCABULARY)),
        *next_sentence_weights(SIZE),
    ]
    arrays = google_arrays(model)
    assert len(table) == len(found.weights) == len(arrays)
    for weight in table:
        theirs_stored = arrays[weight.google]
        if weight.google.endswith("output_weights"):
            theirs_stored = theirs_stored.T
        assert found.weights[weight.path].tobytes() == theirs_stored.tobytes()


def test_gelu_by_the_error_function_is_another_model(tmp_path: Path) -> None:
    model = peer_model(hidden_act="gelu")
    write_hugging_face(tmp_path, model)
    theirs = peer_outputs(model)
    for gelu, equal in (("erf", True), ("tanh", False)):
        found = read_checkpoint(str(tmp_path), SIZE, settings(tmp_path, gelu=gelu))
        ours = our_outputs(found.weights, gelu)
        apart = max(np.abs(ours[name] - theirs[name]).max() for name in theirs)
        assert (apart < 1e-5) == equal


def test_an_encoder_alone_is_imported_without_heads(tmp_path: Path) -> None:
    model = peer_model()
    write_hugging_face(tmp_path / "whole", model)
    write_hugging_face(tmp_path / "encoder", model.bert)
    whole, encoder = (
        read_checkpoint(str(tmp_path / name), SIZE, settings(tmp_path))
        for name in ("whole", "encoder")
    )
    heads = {name for name in whole.weights if name.startswith(("masked_token", "next_sentence"))}
    assert len(heads) == 7
    assert set(encoder.weights) == set(whole.weights) - heads
    for name, array in encoder.weights.items():
        assert (array == whole.weights[name]).all()


def test_weights_of_half_the_bits_are_imported_as_they_are(tmp_path: Path) -> None:
    import torch

    for bits in (torch.bfloat16, torch.float16):
        model = peer_model().to(bits)
        write_hugging_face(tmp_path / str(bits), model)
        found = read_checkpoint(str(tmp_path / str(bits)), SIZE, settings(tmp_path))
        kernel = model.bert.pooler.dense.weight.detach().float().numpy()
        assert found.weights["pooled_dense/kernel"].dtype == np.float32
        assert (found.weights["pooled_dense/kernel"] == kernel.T).all()


def test_the_vocabulary_may_be_in_the_tokenizer_that_transformers_writes(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    write_hugging_face(tmp_path, peer_model())
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    (tmp_path / "vocab.txt").unlink()
    tokenizer.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    assert read_checkpoint(str(tmp_path), SIZE, settings(tmp_path)).vocabulary == VOCABULARY


def set_config(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")


def truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def set_vocabulary(folder: Path, entries: list[str]) -> None:
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n")


def set_tokenizer(folder: Path, entries: Any) -> None:
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": entries}}))


def no_finite(arrays: dict[str, Any]) -> None:
    arrays["bert.pooler.dense.bias"] = np.full(16, np.nan, np.float32)


POOLER = "bert.pooler.dense.weight"
BAD = [
    (lambda f: (f / "vocab.txt").unlink(), "has no vocab.txt; add"),
    (lambda f: set_vocabulary(f, VOCABULARY[:-1]), "vocab_size is 37, and its vocabulary has 36"),
    (lambda f: set_vocabulary(f, VOCABULARY[1:]), "vocab.txt: lacks [PAD]"),
    (lambda f: (f / "config.json").unlink(), "has no config.json; add"),
    (lambda f: (f / "config.json").write_text("{"), "config.json: cannot be read (not JSON); get"),
    (lambda f: (f / "config.json").write_text("[]"), "config.json: is not a JSON object"),
    (
        lambda f: (f / "config.json").write_text("[" * 100_000),
        "config.json: cannot be read (nested",
    ),
    (lambda f: set_tokenizer(f, {"[PAD]": 0, "a": "1"}), "tokenizer.json: has no WordPiece"),
    (lambda f: set_tokenizer(f, {"[PAD]": [0]}), "tokenizer.json: has no WordPiece"),
    (lambda f: set_tokenizer(f, [1]), "tokenizer.json: has no WordPiece"),
    (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors, pytorch_model"),
    (lambda f: truncate(f / "model.safetensors"), "model.safetensors: is damaged"),
    (lambda f: set_config(f, num_hidden_layers=3), "num_hidden_layers is 3, and layers of size"),
    (lambda f: set_config(f, hidden_size=32), "hidden_size is 32, and hidden of size 'base' is 16"),
    (lambda f: set_config(f, num_attention_heads=4), "num_attention_heads is 4, and heads of size"),
    (lambda f: set_config(f, max_position_embeddings=512), "max_position_embeddings is 512, and"),
    (
        lambda f: set_config(f, model_type="roberta"),
        "model_type is 'roberta', and BERT's is 'bert'",
    ),
    (lambda f: set_config(f, type_vocab_size=1), "type_vocab_size is 1, and BERT's is 2"),
    (lambda f: set_config(f, layer_norm_eps=1e-5), "layer_norm_eps is 1e-05, and BERT's is 1e-12"),
    (lambda f: set_config(f, hidden_act="relu"), "hidden_act is 'relu', and pretraining.gelu"),
    (
        lambda f: (f / "tokenizer_config.json").write_text('{"do_lower_case": false}'),
        "do_lower_case is False, and pretraining.lowercase True; give the experiment lowercase: f",
    ),
    (lambda f: change_weights(f, lambda a: a.pop(POOLER)), f"lacks {POOLER}; give"),
    (
        lambda f: change_weights(f, lambda a: a.update({POOLER: a[POOLER][:8]})),
        f"{POOLER} has shape (8, 16), and its configuration says (16, 16)",
    ),
    (lambda f: change_weights(f, no_finite), "bert.pooler.dense.bias is not finite"),
    (
        lambda f: change_weights(
            f,
            lambda a: a.update(
                {"cls.predictions.decoder.weight": 2 * a["bert.embeddings.word_embeddings.weight"]}
            ),
        ),
        "cls.predictions.decoder.weight differs from the token embeddings",
    ),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, model = tmp_path_factory.mktemp("good"), peer_model()
    return {
        "hugging face": write_hugging_face(folder / "hugging-face", model),
        "google": write_google(folder / "google", model),
    }


def refusal(folder: Path, **changed: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_checkpoint(str(folder), SIZE, settings(folder, **changed))
    assert "\n" not in caught.value.message
    assert str(folder) in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_a_bad_folder_is_refused_in_one_line(
    tmp_path: Path, good: dict[str, Path], spoil: Callable[[Path], Any], message: str
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(good["hugging face"], folder)
    assert read_checkpoint(str(folder), SIZE, settings(folder)).vocabulary == VOCABULARY
    spoil(folder)
    assert message in refusal(folder)


def test_bad_folders_in_googles_layout_are_refused(tmp_path: Path, good: dict[str, Path]) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(good["google"], tmp_path / name))

    data = "bert_model.ckpt.data-00000-of-00001"
    assert "vocabulary has no entry with a capital" in refusal(good["google"], lowercase=False)

    cased = copy("cased")
    set_vocabulary(cased, [*VOCABULARY[:-1], "The"])
    assert "vocabulary has the entry 'The'; give the experiment lowercase: false" in refusal(cased)

    damaged = copy("damaged")
    content = bytearray((damaged / data).read_bytes())
    # In the middle of a weight, not of what the optimizer left.
    weight = google_arrays(peer_model())["bert/pooler/dense/kernel"].tobytes()
    content[content.index(weight) + len(weight) // 2] ^= 1
    (damaged / data).write_bytes(content)
    message = refusal(damaged)
    assert "bert_model.ckpt.index: is damaged" in message
    assert "Checksum does not match" in message

    cut = copy("cut")
    truncate(cut / data)
    assert "bert_model.ckpt.index: is damaged" in refusal(cut)

    without = copy("without")
    (without / data).unlink()
    assert "bert_model.ckpt.index: is damaged" in refusal(without)

    two = copy("two")
    shutil.copy(two / "bert_model.ckpt.index", two / "model.ckpt-100.index")
    assert "has 2 TensorFlow checkpoints" in refusal(two)


def test_a_pickle_that_does_more_than_hold_tensors_is_not_run(
    tmp_path: Path, good: dict[str, Path]
) -> None:
    import torch

    folder = Path(shutil.copytree(good["hugging face"], tmp_path / "checkpoint"))
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "touched",))

    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin: is damaged (UnpicklingError" in refusal(folder)
    assert not (tmp_path / "touched").exists()


def test_a_pickle_without_pytorch_is_told(
    tmp_path: Path, good: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(good["hugging face"], tmp_path / "checkpoint"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "is read by PyTorch, which is not installed" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("no/such/folder", {}, "no/such/folder: is neither a folder nor the name of a model"),
        ("nobody/no-model", {}, "nobody/no-model: is not a folder, and cannot be downloaded"),
    ],
)
def test_a_checkpoint_that_is_nowhere_is_refused(
    name: str, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_checkpoint(name, SIZE, settings(name, **changed))
    assert caught.value.message.startswith(message)
    assert "\n" not in caught.value.message


def test_a_local_folder_has_no_revision(good: dict[str, Path]) -> None:
    message = refusal(good["google"], revision="main")
    assert message.startswith("pretraining.revision: ")


def test_the_hubs_copy_is_used_from_its_cache(
    tmp_path: Path, good: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    # The layout of the hub's cache, as after a download.
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "models--someone--bert-seed_3"
    shutil.copytree(good["hugging face"], model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    found = read_checkpoint("someone/bert-seed_3", SIZE, settings("someone/bert-seed_{seed}"))
    assert found.source["revision"] == commit
    assert found.source["weights"] == "model.safetensors"


def imported_experiment(folder: Path) -> dict[str, Any]:
    """An experiment on two seeds of one size, in Google's layout and in Hugging Face's."""
    experiment = small(folder / "out")
    world = Experiment.model_validate(experiment).world
    assert world is not None
    vocabulary = train_vocabulary(
        lambda: (line for row in corpus_rows(world) for line in row["text"].split("\n")),
        size=150,
        lowercase=True,
    )
    for seed, write in ((4, write_google), (5, write_hugging_face)):
        model = peer_model(seed, vocabulary=len(vocabulary))
        write(folder / f"seed_{seed}", model, vocabulary)
    del experiment["corpus"], experiment["vocabulary"]
    experiment["sizes"] = [{"name": "base", "layers": 2, "hidden": 16, "heads": 2}]
    experiment["pretraining"] = {
        "checkpoints": {"base": str(folder / "seed_{seed}")},
        "first_seed": 4,
        "seeds": 2,
        "sequence_length": POSITIONS,
    }
    return experiment


def test_imported_encoders_go_through_all_stages(tmp_path: Path) -> None:
    experiment = imported_experiment(tmp_path)
    config = write_config(tmp_path / "imported.yaml", experiment)
    loaded = Experiment.model_validate(experiment)
    output = loaded.output
    result = run_stage("pretrain", config)
    assert result.returncode == 0, result.stderr
    assert "2 of 2 checkpoints to import" in result.stderr
    assert sorted(path.name for path in (output / "pretrain" / "base").iterdir()) == ["p4", "p5"]
    assert len(read_vocabulary(vocabulary_file(output))) <= 150
    source = json.loads((output / "pretrain" / "base" / "p4" / "source.json").read_text())
    assert source["checkpoint"] == str(tmp_path / "seed_4")
    assert source["weights"] == "bert_model.ckpt.index"

    before = files_of(output / "pretrain")
    lost = encoder_file(output, "base", 5)
    lost.unlink()
    with work_here():
        pretrain_experiment(loaded, 1)
        assert files_of(output / "pretrain") == before
        finetune_experiment(loaded, 1)
        predict_experiment(loaded, 1)
    tensor = xr.open_zarr(output / "predictions" / "inference.zarr")
    assert tensor["pretrain_seed"].values.tolist() == [4, 5]
    assert tensor["finished"].values.all()
    runs = tensor["probability"].values.transpose(0, 2, 3, 4, 1, 5).reshape(8, -1)
    assert len(np.unique(runs, axis=0)) == 8
    # Finetuning started from the imported weights: positions that no instance has only decayed.
    start = read_arrays(encoder_file(output, "base", 4))["position_embedding/embeddings"]
    folder = output / "finetune" / "inference" / "base" / "p4f1" / "fold0"
    tuned = read_arrays(folder / "epoch-4.0000.safetensors")["position_embedding/embeddings"]
    unseen = slice(loaded.finetuning.sequence_length, POSITIONS)
    np.testing.assert_allclose(tuned[unseen], start[unseen], rtol=2e-3)
    assert np.abs(tuned - start).max() > 0.01

    result2 = CliRunner().invoke(
        analyze, ["--config", str(config), "--bootstrap", "0", "--bias-replicates", "0"]
    )
    assert result2.exit_code == 0, result2.output
    assert (output / "report" / "tables" / "accuracy.csv").is_file()


def test_checkpoints_of_two_vocabularies_are_refused(tmp_path: Path) -> None:
    model = peer_model()
    write_hugging_face(tmp_path / "seed_4", model)
    write_hugging_face(tmp_path / "seed_5", model, [*VOCABULARY[:-2], *VOCABULARY[:-3:-1]])
    experiment = imported_experiment(tmp_path / "other")
    experiment["pretraining"]["checkpoints"]["base"] = str(tmp_path / "seed_{seed}")
    config = write_config(tmp_path / "imported.yaml", experiment)
    loaded = Experiment.model_validate(experiment)
    with pytest.raises(InputError, match="seed_5: its vocabulary differs from that of"):
        pretrain_experiment(loaded, 1)
    assert encoder_file(loaded.output, "base", 4).is_file()
    assert not encoder_file(loaded.output, "base", 5).is_file()
    assert config.is_file()
