"""The tasks of `configs/pocket.yaml`."""

from __future__ import annotations

import numpy as np
import pytest

from configs.loading import load_experiment
from finetune.tasks import TaskData, load_task
from finetune.training import total_steps
from predict.tensor.correctness import correctness
from tests.experiments import REPOSITORY

POCKET = load_experiment(REPOSITORY / "configs" / "pocket.yaml")
LABELS = {task.name: task.labels for task in POCKET.tasks}


@pytest.fixture(scope="module")
def data() -> dict[str, TaskData]:
    return {task.name: load_task(task, POCKET.world) for task in POCKET.tasks}


def test_hans_has_two_classes_for_a_model_of_three(data: dict[str, TaskData]) -> None:
    evaluation = data["inference"].evaluation
    gold = evaluation.loc[evaluation["split"] == "hans", "label"].to_numpy(object)
    assert set(gold) == {"entailment", "non-entailment"}
    # Who follows the heuristics is right half of the time; who never says entailment, too.
    for label in LABELS["inference"]:
        said = np.tile(np.array(LABELS["inference"]) == label, (len(gold), 1)).astype(np.float32)
        assert correctness(said, gold, LABELS["inference"]).mean() == pytest.approx(0.5, abs=0.05)
    assert set(data["inference"].train["label"]) == set(LABELS["inference"])


def test_the_habitat_task_is_mixed_without_its_duplicates(data: dict[str, TaskData]) -> None:
    habitat = data["habitat"]
    assert habitat.train["text_a"].is_unique
    assert habitat.evaluation["guid"].tolist() == habitat.train["guid"].tolist()
    assert set(habitat.evaluation["split"]) == {"train", "dev"}
    assert habitat.removed is not None
    removed, instances = habitat.removed[["removed", "instances"]].sum()
    assert 0 < removed < 0.5 * instances
    assert removed + len(habitat.evaluation) == instances
    assert habitat.removed["removed"].min() > 0
    shares = habitat.evaluation.groupby("split")["wrong_label"].agg(
        lambda one: (one == "yes").mean()
    )
    assert shares.between(0.01, 0.08).all()


def test_all_folds_take_the_same_steps(data: dict[str, TaskData]) -> None:
    # So that one graph does for all of them: another number of steps is another schedule.
    habitat, search = data["habitat"], POCKET.finetuning.search
    assert search is not None
    sizes = [int((habitat.fold_of_train != fold).sum()) for fold in range(habitat.folds)]
    for batch_size in search.batch_sizes:
        steps = {total_steps(n, batch_size, POCKET.finetuning.epochs) for n in sizes}
        assert len(steps) == 1
