"""Batches in parts, in lower precision, and on several devices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import InputError
from configs.schema import Experiment
from pretrain.engine.devices import PER_RUN, Devices, devices_per_run, devices_present
from pretrain.engine.engine import Engine, assign_weights
from pretrain.engine.initial_weights import initial_weights
from pretrain.engine.runs import Batch
from pretrain.training import build_pretraining_engine
from tests.experiments import environment, small_experiment
from tests.pretrain.conftest import Training
from tests.pretrain.engine.test_engine import run_named

VOCABULARY = 150
# Adam divides by the size of a gradient, and so would turn the rounding of gradients that are
# 0 in exact arithmetic, as those of key biases, into steps of full size.
NOT_AMPLIFYING = {"epsilon": 1e-3}


def engine_with(training: Training, **changed: Any) -> Engine:
    """Build an engine for the larger size without dropout, with weights that are not tiny."""
    experiment = small_experiment(
        training.experiment.output,
        pretraining={
            **training.experiment.recipe.model_dump(),
            "dropout": 0.0,
            "optimizer": NOT_AMPLIFYING,
            **changed,
        },
    )
    engine = build_pretraining_engine(experiment, experiment.sizes[1], VOCABULARY)
    shapes = {path: value.shape for path, value in engine.weights().items()}
    assign_weights(engine.model, initial_weights(shapes, 5, 0.2), "here")
    return engine


def uneven_batch(training: Training, folder: Path) -> Batch:
    """Return a batch whose parts have very different numbers of masked tokens."""
    batch = dict(training.batches(run_named(folder), 3))
    weights = batch["mask_weights"].copy()
    weights[:3] = 0
    weights[3, 1:] = 0
    batch["mask_weights"] = weights
    return batch


def gradients(engine: Engine, batch: Batch) -> tuple[dict[str, float], list[np.ndarray]]:
    import tensorflow as tf

    tensors = {name: tf.constant(value) for name, value in batch.items()}
    scalars, found, _ = engine._parts(tensors, engine.totals(tensors), [])
    return (
        {name: float(value) for name, value in scalars.items()},
        [one.numpy() for one in found],
    )


def test_accumulated_gradients_equal_those_of_the_whole_batch(
    training: Training, tmp_path: Path
) -> None:
    batch = uneven_batch(training, tmp_path)
    scalars, expected = gradients(engine_with(training), batch)
    assert max(np.abs(one).max() for one in expected) > 0.01
    for parts in (2, 4, 8):
        found_scalars, found = gradients(engine_with(training, accumulate=parts), batch)
        assert found_scalars == pytest.approx(scalars, abs=1e-5)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    # What the mean of the parts' means would give is far away.
    rows = len(batch["token_ids"]) // 2
    halves = [
        gradients(engine_with(training), {n: v[part] for n, v in batch.items()})
        for part in (slice(None, rows), slice(rows, None))
    ]
    naive = np.mean([half[0]["masked_loss"] for half in halves])
    assert abs(naive - scalars["masked_loss"]) > 0.1


def test_gradients_are_clipped_by_the_norm_of_their_sums(
    training: Training, tmp_path: Path
) -> None:
    batch = uneven_batch(training, tmp_path)
    engine = engine_with(training)
    _, found = gradients(engine, batch)
    norm = np.sqrt(sum(float((one.astype(float) ** 2).sum()) for one in found))
    assert norm > 1.5
    engine.steps({name: value[None] for name, value in batch.items()})
    state = engine.state()
    # After one step from 0, the first moment is a tenth of the clipped gradient. Segments and
    # positions are looked up many times a batch.
    for name, gradient in zip(engine.weights(), found, strict=True):
        (moment,) = (
            value
            for key, value in state.items()
            if key.startswith("optimizer/") and key.endswith(f"{name.replace('/', '_')}_m")
        )
        np.testing.assert_allclose(moment, 0.1 * gradient / norm, atol=1e-7)


def test_accumulated_steps_equal_whole_ones(training: Training, tmp_path: Path) -> None:
    made = [training.batches(run_named(tmp_path), step) for step in range(8)]
    stacked = {name: np.stack([one[name] for one in made]) for name in made[0]}
    whole, parts = engine_with(training), engine_with(training, accumulate=4)
    for engine in (whole, parts):
        engine.optimizer.peak.assign(0.02)
    expected, found = whole.steps(stacked), parts.steps(stacked)
    assert expected["loss"].std() > 0.01
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-5)
    for name, value in whole.weights().items():
        np.testing.assert_allclose(parts.weights()[name], value, atol=1e-4)


def test_dropout_of_parts_differs_and_is_drawn_from_the_seed(
    training: Training, tmp_path: Path
) -> None:
    batch = training.batches(run_named(tmp_path), 0)
    twice = {name: np.stack([np.concatenate([v[:2]] * 4)] * 2) for name, v in batch.items()}
    engine = engine_with(training, dropout=0.5, accumulate=4)
    for i, variable in enumerate(engine._dropout.values()):
        variable.assign([17 + i, 0])
    state = engine.state()
    losses = [engine.steps(twice)["loss"]]
    engine._restore(run_named(tmp_path), state)
    losses.append(engine.steps(twice)["loss"])
    assert (losses[0] == losses[1]).all()
    # The rows of every part are the same and the first step changes nothing (warm-up from 0).
    alone = engine_with(training, dropout=0.5)
    for i, variable in enumerate(alone._dropout.values()):
        variable.assign([17 + i, 0])
    assert abs(alone.steps({n: v[:1, :2] for n, v in twice.items()})["loss"] - losses[0][0]) > 1e-3
    # Four parts draw four times a step.
    assert all(np.asarray(v).tolist()[1] == 8 for v in engine._dropout.values())


def test_bfloat16_is_finite_and_close(training: Training, tmp_path: Path) -> None:
    made = [training.batches(run_named(tmp_path), step) for step in range(30)]
    stacked = {name: np.stack([one[name] for one in made]) for name in made[0]}
    full, low = engine_with(training), engine_with(training, precision="bfloat16")
    expected, found = full.steps(stacked)["loss"], low.steps(stacked)["loss"]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=0.03)
    assert (found != expected).all()
    # Weights and moments stay whole.
    assert {value.dtype for value in low.weights().values()} == {np.dtype("float32")}
    assert set(low.weights()) == set(full.weights())


def test_batches_that_cannot_be_cut_are_refused() -> None:
    recipe = small_experiment("out").model_dump()["pretraining"]
    with pytest.raises(ValueError, match="a batch_size of 8 cannot be cut into 3 equal parts"):
        small_experiment("out", pretraining={**recipe, "accumulate": 3})
    tuned = small_experiment("out").model_dump()["finetuning"]
    with pytest.raises(ValueError, match="accumulate: a batch_size of 8 cannot"):
        small_experiment("out", finetuning={**tuned, "accumulate": 16})


@pytest.mark.parametrize(
    ("devices", "per_run", "processes"),
    [
        (Devices("CPU", 2), 1, 2),
        (Devices("CPU", 2), 2, 1),
        (Devices("GPU", 8), 1, 8),
        (Devices("GPU", 8), 4, 2),
        (Devices("GPU", 8), 3, 2),
        (Devices("TPU", 8), 1, 1),
    ],
)
def test_how_many_processes_there_are(devices: Devices, per_run: int, processes: int) -> None:
    assert devices.processes(per_run) == processes


def test_more_devices_than_there_are_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^--devices-per-run: 3 is more than the 2 GPU devices"):
        Devices("GPU", 2).processes(3)
    for value in ("0", "two", "-1"):
        monkeypatch.setenv(PER_RUN, value)
        with pytest.raises(InputError, match=f"^{PER_RUN}: '{value}' is not a number of devices"):
            devices_per_run()


def test_an_accelerator_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.delenv("TPU_NAME", raising=False)
    there: dict[str, list[str]] = {"CPU": ["0"], "GPU": ["0", "1"], "TPU": ["0"] * 8}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: there.get(kind, []))
    details = {"device_name": "Fast"}
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    assert devices_present() == Devices("TPU", 8, "8 TPU")
    del there["TPU"]
    assert devices_present() == Devices("GPU", 2, "2 Fast")
    del there["GPU"]
    assert devices_present().kind == "CPU"
    monkeypatch.setenv("TPU_NAME", "a-tpu")
    assert devices_present().kind == "TPU"


def random_batches(experiment: Experiment, steps: int) -> dict[str, np.ndarray]:
    """Return batches [step, row, ...] of random tokens, unevenly masked."""
    rng = np.random.default_rng(0)
    recipe = experiment.recipe
    rows = (steps, recipe.batch_size)
    weights = (rng.random((*rows, recipe.max_masked)) < 0.7).astype(np.float32)
    weights[:, :3] = 0
    shape = (*rows, recipe.sequence_length)
    predictions = (*rows, recipe.max_masked)
    return {
        "token_ids": rng.integers(5, VOCABULARY, shape).astype(np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "padding_mask": np.ones(shape, np.int32),
        "mask_positions": rng.integers(1, recipe.sequence_length, predictions).astype(np.int32),
        "mask_ids": rng.integers(5, VOCABULARY, predictions).astype(np.int32),
        "mask_weights": weights,
        "is_random": rng.integers(2, size=rows).astype(np.int32),
        "label": rng.integers(3, size=rows).astype(np.int32),
    }


def train_on(devices: int, folder: Path) -> None:
    """Train on so many devices, and write what came of it; in a process of its own."""
    import tensorflow as tf

    from finetune.training import build_finetuning_engine
    from pretrain.engine.devices import take_devices, training_strategy
    from tests.experiments import start_training_library

    start_training_library()
    take_devices(0)
    strategy = training_strategy()
    assert (1 if strategy is None else strategy.num_replicas_in_sync) == devices
    assert strategy is None or isinstance(strategy, tf.distribute.MirroredStrategy)
    found: dict[str, Any] = {}
    for stage, accumulate, dropout in (
        ("pretrain", 1, 0.0),
        ("finetune", 2, 0.0),
        ("pretrain", 1, 0.5),
    ):
        parts: dict[str, Any] = {"accumulate": accumulate, "dropout": dropout}
        plain = small_experiment("out").model_dump()
        # Gradients are longer than this, so that they are clipped.
        parts["optimizer"] = {**NOT_AMPLIFYING, "clip_norm": 0.1}
        plain["pretraining"] |= parts
        plain["finetuning"] |= parts
        experiment = Experiment.model_validate(plain)
        batches = random_batches(experiment, 6)
        if dropout:
            # Every device has the same rows; on one device, once.
            batches = {
                name: np.concatenate([value[:, 3:5]] * devices, axis=1)
                for name, value in batches.items()
            }
        if stage == "pretrain":
            engine = build_pretraining_engine(experiment, experiment.sizes[1], VOCABULARY, strategy)
        else:
            engine = build_finetuning_engine(
                experiment, experiment.tasks[0], "base", 60, VOCABULARY, strategy
            )
        engine._begin(run_named(folder))
        engine.optimizer.peak.assign(0.02)
        values = engine.steps(batches)
        found[f"{stage} accumulate {accumulate} dropout {dropout}"] = {
            "losses": {name: value.tolist() for name, value in values.items()},
            "weights": {name: value.tolist() for name, value in engine.weights().items()},
            "seeds": [np.asarray(one).tolist() for one in engine._dropout.values()],
        }
    (folder / f"{devices}.json").write_text(json.dumps(found))


def test_four_devices_train_as_one_does(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from pathlib import Path; "
                "from tests.pretrain.engine.test_parts import train_on; "
                "train_on(int(sys.argv[1]), Path(sys.argv[2]))",
                str(devices),
                str(tmp_path),
            ],
            env={**environment(), PER_RUN: str(devices)},
        )
        for devices in (1, 4)
    ]
    assert [process.wait() for process in running] == [0, 0]
    one, four = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 4))
    assert len(one) == len(four) == 3
    for key, expected in one.items():
        found = four[key]
        # Each device draws as often as one alone does.
        assert found["seeds"] == expected["seeds"]
        for name, losses in expected["losses"].items():
            if "dropout 0.0" in key:
                np.testing.assert_allclose(found["losses"][name], losses, atol=2e-5)
            elif name == "loss":
                # With the same draws on every device they would be equal at the first step.
                assert abs(found["losses"][name][0] - losses[0]) > 1e-4
        if "dropout 0.0" in key:
            for name, weights in expected["weights"].items():
                np.testing.assert_allclose(found["weights"][name], weights, atol=1e-4)
