"""Imports run one way: between the stages, and between the subpackages of each."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STAGES = ("configs", "pretrain", "finetune", "predict", "analysis")

LAYERS = {
    "pretrain": ("engine", "text", "batches", "bert", "jobs"),
    "predict": ("tensor", "release"),
    "analysis": ("statistics", "bootstrap", "predictions", "tables", "figures", "report"),
}
"""Subpackages, each of which imports only from those before it; a stage's own modules from all."""


def imported_modules(file: Path) -> set[str]:
    """Modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def files_of(stage: str) -> list[Path]:
    return sorted((ROOT / stage).rglob("*.py"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_only_from_the_stages_before_it(stage: str) -> None:
    later = {*STAGES[STAGES.index(stage) + 1 :], "scripts", "tests"}
    for file in files_of(stage):
        for module in imported_modules(file):
            assert module.partition(".")[0] not in later, f"{file}: {module}"


@pytest.mark.parametrize("stage", LAYERS)
def test_every_subpackage_has_its_layer(stage: str) -> None:
    packages = {file.parent.name for file in (ROOT / stage).glob("*/__init__.py")}
    assert packages == set(LAYERS[stage])


@pytest.mark.parametrize("stage", LAYERS)
def test_a_subpackage_imports_only_from_those_before_it(stage: str) -> None:
    layers = LAYERS[stage]
    for file in files_of(stage):
        place = file.relative_to(ROOT / stage).parts[0]
        if place not in layers:
            continue
        below = layers[: layers.index(place) + 1]
        for module in imported_modules(file):
            parts = module.split(".")
            if parts[0] == stage and len(parts) > 1:
                assert parts[1] in below, f"{file}: {module}"
