from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import InputError
from configs.schema import Divergence
from pretrain.engine.divergence import Diverged, Watch, divergence_file
from pretrain.engine.engine import Engine, assign_weights
from pretrain.engine.runs import Batch, Run, Seeds, run_seeds
from pretrain.engine.saved_arrays import Arrays, write_arrays
from tests.pretrain.conftest import Training

STEPS = 60


class Curves:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.values: list[tuple[str, int, float]] = []

    def add_scalar(self, tag: str, data: float, step: int) -> None:
        self.values.append((tag, step, data))

    def close(self) -> None:
        pass


def run_named(folder: Path, name: str = "base/p1", **changed: Any) -> Run:
    options = {"seeds": run_seeds("pretrain", name), "learning_rate": 0.003, **changed}
    return Run(name, folder / name.replace("/", "-"), **options)


def train(
    training: Training, runs: list[Run], engine: Engine | None = None, **changed: Any
) -> dict[str, Arrays]:
    """Weights of each run after its last step, by name."""
    kept: dict[str, Arrays] = {}
    options: dict[str, Any] = {
        "total_steps": STEPS,
        "checkpoint_every": 10,
        "keep": {STEPS: lambda run, weights: kept.__setitem__(run.name, weights)},
        **changed,
    }
    (engine or training.engine).train(runs, options.pop("batch", training.batches), **options)
    return kept


def checkpoints(run: Run) -> list[int]:
    return sorted(
        int(path.stem.removeprefix("checkpoint-")) for path in run.folder.glob("*.safetensors")
    )


def same(one: Arrays, other: Arrays) -> bool:
    assert set(one) == set(other)
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.fixture(scope="module")
def uninterrupted(training: Training, tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    folder = tmp_path_factory.mktemp("uninterrupted")
    weights = train(training, [run_named(folder)], checkpoint_every=1000)["base/p1"]
    assert training.experiment.recipe.dropout > 0
    return weights


class Killed(Exception):
    """The process ended here."""


def test_resumed_equals_never_interrupted_bit_for_bit(
    training: Training, uninterrupted: Arrays, tmp_path: Path
) -> None:
    run = run_named(tmp_path)
    done: list[int] = []

    def killed_at(limit: int) -> Any:
        def progress(_: Run, steps: int, values: dict[str, float]) -> None:
            done.append(steps)
            if sum(done) >= limit:
                raise Killed

        return progress

    for limit, newest in ((5, 10), (30, 30), (30, 30), (50, 50)):
        done.clear()
        with pytest.raises(Killed):
            train(training, [run], on_progress=killed_at(limit))
        assert checkpoints(run) == [step for step in (newest - 10, newest) if step]
    done.clear()
    # Another engine, as in another process.
    resumed = train(
        training, [run], training.new_engine(), on_progress=lambda _, n, values: done.append(n)
    )
    assert done == [50, 10]
    assert same(resumed["base/p1"], uninterrupted)
    assert list(run.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("damaged", "begins"), [([30], 20), ([20], 30), ([20, 30], 0)], ids=["newest", "older", "both"]
)
@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_from_a_damaged_checkpoint_it_goes_back_to_the_one_before(
    training: Training,
    uninterrupted: Arrays,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damaged: list[int],
    begins: int,
    how: str,
) -> None:
    run = run_named(tmp_path)
    done: list[int] = []

    def progress(_: Run, steps: int, values: dict[str, float]) -> None:
        done.append(steps)
        if sum(done) == 35:
            raise Killed

    training.engine.steps_per_call, before = 5, training.engine.steps_per_call
    try:
        with pytest.raises(Killed):
            train(training, [run], on_progress=progress)
    finally:
        training.engine.steps_per_call = before
    assert checkpoints(run) == [20, 30]
    for step in damaged:
        path = run.folder / f"checkpoint-{step}.safetensors"
        content = bytearray(path.read_bytes())
        if how == "truncated":
            del content[len(content) // 2 :]
        else:
            content[-100] ^= 1
        path.write_bytes(content)

    done.clear()
    weights = train(training, [run], on_progress=lambda _, n, values: done.append(n))
    assert same(weights["base/p1"], uninterrupted)
    assert done[0] == (begins or 10) and sum(done) == STEPS
    lines = [record.getMessage() for record in caplog.records]
    instead = f"continues from step {begins}" if begins else "starts again"
    # Of an older one nobody asks while the newer one is whole.
    named = sorted(damaged, reverse=True) if 30 in damaged else []
    assert len(lines) == len(named)
    for line, step in zip(lines, named, strict=True):
        assert line.startswith(f"{run.folder / f'checkpoint-{step}.safetensors'}: ")
        assert instead in line
    assert list(run.folder.iterdir()) == []


def test_encoders_are_kept_on_the_way_though_the_run_was_killed(
    training: Training, uninterrupted: Arrays, tmp_path: Path
) -> None:
    kept: dict[int, Arrays] = {}

    def keep_at(*steps: int) -> dict[int, Any]:
        return {step: lambda _, weights, step=step: kept.update({step: weights}) for step in steps}

    def progress(_: Run, steps: int, values: dict[str, float]) -> None:
        if len(kept) == 1:
            raise Killed

    train(training, [run_named(tmp_path / "never")], keep=keep_at(15, 35, STEPS))
    never = dict(kept)
    kept.clear()
    with pytest.raises(Killed):
        train(
            training,
            [run_named(tmp_path)],
            keep=keep_at(15, 35, STEPS),
            on_progress=progress,
        )
    train(training, [run_named(tmp_path)], keep=keep_at(15, 35, STEPS))
    assert sorted(never) == sorted(kept) == [15, 35, STEPS]
    assert all(same(kept[step], never[step]) for step in never)
    assert same(kept[STEPS], uninterrupted)
    assert not same(kept[15], kept[35])


def test_how_many_steps_a_call_takes_does_not_matter(
    training: Training, uninterrupted: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps in (1, 7):
        monkeypatch.setattr(training.engine, "steps_per_call", steps)
        weights = train(training, [run_named(tmp_path / str(steps))])["base/p1"]
        assert same(weights, uninterrupted)


def test_runs_in_a_list_equal_each_alone(
    training: Training, uninterrupted: Arrays, tmp_path: Path
) -> None:
    def runs(folder: Path) -> list[Run]:
        return [
            run_named(folder, "base/p2", learning_rate=0.001),
            run_named(folder),
            run_named(folder, "base/p3"),
        ]

    together = train(training, runs(tmp_path / "together"))
    assert same(together["base/p1"], uninterrupted)
    for run in runs(tmp_path / "alone"):
        assert same(train(training, [run])[run.name], together[run.name])
    assert not same(together["base/p2"], together["base/p3"])


@pytest.mark.parametrize("part", ["init", "order", "dropout"])
def test_each_seed_matters(
    training: Training, uninterrupted: Arrays, tmp_path: Path, part: str
) -> None:
    seeds = run_seeds("pretrain", "base/p1")
    changed = Seeds(**{**vars(seeds), part: getattr(seeds, part) + 1})
    weights = train(training, [run_named(tmp_path, seeds=changed)])["base/p1"]
    kernel = "transformer_layer_0/feedforward_output_dense/kernel"
    assert (weights[kernel] != uninterrupted[kernel]).mean() > 0.9


def test_seeds_of_runs_share_nothing() -> None:
    seeds = [
        seed
        for stage in ("pretrain", "finetune")
        for name in ("mini/p1", "mini/p2", "base/p1")
        for seed in vars(run_seeds(stage, name)).values()
    ]
    assert len(set(seeds)) == len(seeds) == 18


def test_weights_that_a_run_starts_from(training: Training, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = training.engine.model
    given = {
        variable.path: rng.normal(size=variable.shape).astype(np.float32)
        for variable in model.trainable_variables[:6]
    }
    kept: dict[str, Arrays] = {}
    # With a learning rate of almost nothing, a run ends where it started.
    run = run_named(tmp_path, start={**given, "of/another/model": np.ones(3)}, learning_rate=1e-30)
    keep = {1: lambda run, weights: kept.__setitem__(run.name, weights)}
    train(training, [run], total_steps=1, keep=keep)
    plain = run_named(tmp_path / "plain", learning_rate=1e-30)
    started = kept.pop(run.name)
    train(training, [plain], total_steps=1, keep=keep)
    for name, value in started.items():
        expected = given.get(name, kept[plain.name][name])
        assert (value == expected).all()


def test_the_state_is_everything_that_changes(training: Training) -> None:
    engine = training.engine
    variables = [
        *engine.model.trainable_variables,
        *engine.model.non_trainable_variables,
        *(one for one in engine.optimizer.variables if one is not engine.optimizer.peak),
    ]
    assert len(engine.state()) == len(variables)
    # Dropout of embeddings, attention and both outputs of the layer.
    assert sum(name.startswith("dropout/") for name in engine.state()) >= 3


def test_a_repeated_batch_is_learned_by_heart(training: Training, tmp_path: Path) -> None:
    means: list[dict[str, float]] = []
    batch = training.batches(run_named(tmp_path), 0)
    train(
        training,
        [run_named(tmp_path, learning_rate=0.02)],
        batch=lambda run, step: batch,
        on_progress=lambda run, steps, values: means.append(values),
    )
    assert means[-1]["loss"] < 0.5 * means[0]["loss"]
    assert means[-1]["masked_accuracy"] > means[0]["masked_accuracy"]


def test_loss_curves_have_every_call_once_though_a_run_was_killed(
    training: Training, tmp_path: Path
) -> None:
    curves = Curves()
    run = run_named(tmp_path)
    calls = 0

    def progress(_: Run, steps: int, values: dict[str, float]) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Killed

    options: dict[str, Any] = {"recorder": lambda run: curves, "checkpoint_every": 20}
    training.engine.steps_per_call, before = 5, training.engine.steps_per_call
    try:
        with pytest.raises(Killed):
            train(training, [run], on_progress=progress, **options)
        train(training, [run], **options)
    finally:
        training.engine.steps_per_call = before
    steps = [step for tag, step, _ in curves.values if tag == "loss"]
    assert steps == list(range(5, STEPS + 1, 5))
    assert {tag for tag, _, _ in curves.values} == {
        "loss",
        "masked_loss",
        "masked_accuracy",
        "next_loss",
        "next_accuracy",
    }


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_last_good_checkpoint(
    training: Training, uninterrupted: Arrays, tmp_path: Path
) -> None:
    run = run_named(tmp_path)

    def broken(one: Run, step: int) -> Batch:
        batch = dict(training.batches(one, step))
        if step >= 33:
            batch["mask_weights"] = np.full_like(batch["mask_weights"], np.nan)
        return batch

    curves = Curves()
    with pytest.raises(Diverged) as caught:
        train(training, [run], batch=broken, recorder=lambda run: curves)
    assert (caught.value.run, caught.value.step) == ("base/p1", 34)
    assert str(caught.value) == "base/p1: the loss is nan at step 34"
    assert json.loads(divergence_file(run.folder).read_text()) == {
        "run": "base/p1",
        "step": 34,
        "loss": "nan",
        "reason": "the loss is nan",
        "learning_rate": 0.003,
    }
    # The loss curve goes on to where it broke.
    assert np.isnan(dict((tag, value) for tag, _, value in curves.values)["loss"])
    assert checkpoints(run)[-1] == 30
    # With what broke it mended, the run goes on from there as if nothing had been.
    assert same(train(training, [run])["base/p1"], uninterrupted)


def test_a_checkpoint_is_not_replaced_while_the_loss_is_above_the_limit(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_named(tmp_path)
    take, taken = training.engine.steps, 0

    def high_from_18(batches: Batch) -> dict[str, np.ndarray]:
        nonlocal taken
        values = take(batches)
        at = np.arange(taken, taken + len(values["loss"]))
        taken += len(at)
        return {**values, "loss": values["loss"] + np.where(at >= 18, 100, 0)}

    monkeypatch.setattr(training.engine, "steps", high_from_18)
    monkeypatch.setattr(training.engine, "watch", Watch(50.0, 25))
    with pytest.raises(Diverged, match=r"^base/p1: the loss, .*, has been above 50 for 25 steps"):
        train(training, [run])
    assert checkpoints(run) == [10]


def test_when_a_loss_counts_as_diverging() -> None:
    watch = Watch.beyond_guessing(Divergence(factor=2.0, steps=4), 1.5)
    assert watch.limit == 3.0

    def above(losses: list[float], before: int = 0) -> int:
        return watch.check_losses("run", 10, np.array(losses, np.float32), before)

    assert above([3.5, 4.0, 9.0]) == 3
    assert above([3.5, 4.0, 2.9, 9.0]) == 1
    # A run that only guesses is not given up, however long.
    assert above([1.5] * 100) == 0
    for losses, before, step in (([3.1] * 4, 0, 14), ([3.1, 3.1], 2, 12), ([1.0, np.inf], 0, 12)):
        with pytest.raises(Diverged) as caught:
            above(losses, before)
        assert caught.value.step == step
    with pytest.raises(Diverged, match="kernel is not finite"):
        watch.check_weights(
            "run",
            10,
            np.ones(2, np.float32),
            {"bias": np.ones(2), "kernel": np.array([[0.0, np.inf]])},
        )


def test_a_checkpoint_of_another_architecture_is_refused(
    training: Training, tmp_path: Path
) -> None:
    run = run_named(tmp_path)
    path = run.folder / "checkpoint-10.safetensors"
    write_arrays(path, {"next_sentence/kernel": np.zeros((3, 2), np.float32)})
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"base-p1: its checkpoint lacks "):
        train(training, [run])
    assert path.read_bytes() == before


def test_weights_of_another_architecture_are_refused(training: Training) -> None:
    weights = training.engine.weights()
    assign_weights(training.engine.model, {**weights, "more": np.zeros(1)}, "file")
    with pytest.raises(InputError, match=r"^file: next_sentence/bias should have .* nothing"):
        assign_weights(
            training.engine.model,
            {name: value for name, value in weights.items() if name != "next_sentence/bias"},
            "file",
        )
    with pytest.raises(InputError, match=r"^file: next_sentence/bias .* shape \(3,\)"):
        assign_weights(
            training.engine.model, {**weights, "next_sentence/bias": np.zeros(3)}, "file"
        )


def test_a_batch_is_a_function_of_run_and_step(training: Training, tmp_path: Path) -> None:
    def equal(one: Batch, other: Batch) -> bool:
        return all((one[name] == other[name]).all() for name in one)

    run, other = run_named(tmp_path), run_named(tmp_path, "base/p2")
    batch = training.batches(run, 31)
    training.batches(run, 2)
    assert equal(training.batches(run, 31), batch)
    assert not equal(training.batches(run, 32), batch)
    assert not equal(training.batches(other, 31), batch)
    settings = training.experiment.recipe
    rows, positions = settings.batch_size, settings.sequence_length
    assert batch["token_ids"].shape == (rows, positions)
    assert batch["mask_ids"].shape == (rows, settings.max_masked)
    assert (batch["padding_mask"] == (batch["token_ids"] != 0)).all()
