"""Where everything of an experiment lies."""

from __future__ import annotations

from pathlib import Path


def search_table(output: Path, task: str) -> Path:
    """Where the search's table of a task is kept."""
    return output / "finetune" / task / "search.csv"


def classifier_folder(
    output: Path, task: str, size: str, pretrain_seed: int, finetune_seed: int, fold: int
) -> Path:
    """Folder of one finetuning run."""
    return output / "finetune" / task / size / f"p{pretrain_seed}f{finetune_seed}" / f"fold{fold}"


def classifier_file(folder: Path, epoch: float) -> Path:
    """Weights of a classifier after so many epochs."""
    return folder / f"epoch-{epoch:.4f}.safetensors"


def prepared_folder(output: Path, task: str) -> Path:
    """Where a task's tokenized instances are kept."""
    return output / "tasks" / task


def prepared_instances(output: Path, task: str) -> Path:
    """Where the instances that a task predicts are; written last, so that it is then prepared."""
    return prepared_folder(output, task) / "evaluation.parquet"


def store_path(output: Path, task: str) -> Path:
    """Place of the prediction tensor of a task."""
    return output / "predictions" / f"{task}.zarr"


def run_folder(output: Path, size: str, pretrain_seed: int) -> Path:
    """Folder of one pretraining run."""
    return output / "pretrain" / size / f"p{pretrain_seed}"


def encoder_file(output: Path, size: str, pretrain_seed: int, step: int | None = None) -> Path:
    """Weights of one encoder with its pretraining heads, pretrained or after so many steps."""
    name = "encoder" if step is None else f"encoder-step{step}"
    return run_folder(output, size, pretrain_seed) / f"{name}.safetensors"


def vocabulary_file(output: Path) -> Path:
    """Place of the experiment's `vocab.txt`."""
    return output / "vocab.txt"
