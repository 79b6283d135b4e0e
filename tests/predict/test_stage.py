"""The prediction stage, on an experiment that went through all stages."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from configs.errors import InputError
from configs.schema import Experiment
from predict.stage import predict_experiment
from tests.experiments import files_of, small_experiment, work_here


@pytest.fixture(scope="module")
def tensor(finished: Path) -> xr.Dataset:
    return xr.open_zarr(finished / "out" / "predictions" / "inference.zarr").load()


def test_rows_sum_to_one(tensor: xr.Dataset) -> None:
    probability = tensor["probability"].values
    assert probability.dtype == np.float32
    np.testing.assert_allclose(probability.sum(axis=-1, dtype=float), 1, atol=1e-6)
    assert (probability > 0).all()


def test_correct_and_ensembles_follow_from_the_probabilities(tensor: xr.Dataset) -> None:
    labels, gold = tensor["label"].values, tensor["gold"].values
    probability = tensor["probability"].values.astype(float)
    predicted = labels[probability.argmax(axis=-1)]
    assert (tensor["correct"].values == (predicted == gold[:, None, None, None])).all()
    together = labels[probability[..., -1, :].mean(axis=3).argmax(axis=-1)]
    assert (tensor["ensemble_correct"].values == (together == gold[:, None])).all()


@pytest.fixture
def experiment(finished: Path, tmp_path: Path) -> Experiment:
    """Return the same experiment, finetuned but not predicted."""
    skipped = shutil.ignore_patterns("predictions", "pretrain", "corpus", "events.out*")
    shutil.copytree(finished / "out", tmp_path / "out", ignore=skipped)
    return small_experiment(tmp_path / "out")


def chunks(store: Path) -> dict[str, bytes]:
    return {name: content for name, content in files_of(store).items() if "c/" in name}


def test_what_is_not_finetuned_yet_is_predicted_later_to_the_same_bytes(
    finished: Path, experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    output = experiment.output
    absent = output / "finetune" / "inference" / "base" / "p2f1" / "fold0"
    late = absent / "epoch-4.0000.safetensors"
    content = late.read_bytes()
    late.unlink()
    store = output / "predictions" / "inference.zarr"
    with work_here(), caplog.at_level(logging.INFO):
        predict_experiment(experiment, 1)
        assert "1 classifiers are not finetuned yet (inference/base/p2f1, epoch 4 first)" in (
            caplog.text
        )
        done = xr.open_zarr(store)["finished"].load()
        assert done.values.sum() == 15
        assert not done.sel(size="base", pretrain_seed=2, finetune_seed=1, epoch=4)

        late.write_bytes(content[:100])
        with pytest.raises(InputError, match=r"epoch-4\.0000\.safetensors: cannot be read as"):
            predict_experiment(experiment, 1)
        late.write_bytes(content)
        predict_experiment(experiment, 1)
    assert "predicting: 1 runs to do, 15 done before" in caplog.text
    assert chunks(store) == chunks(finished / "out" / "predictions" / "inference.zarr")


def test_without_classifiers_the_stage_says_what_to_run(tmp_path: Path) -> None:
    experiment = small_experiment(tmp_path / "out")
    with pytest.raises(InputError, match=r"inference is not finetuned; run python -m finetune$"):
        predict_experiment(experiment, 1)
