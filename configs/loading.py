"""Read an experiment from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)

from configs.errors import InputError
from configs.schema import _ORIGINS, Experiment


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which YAML's own keeps the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping; a key may still replace one that is merged in with `<<`."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value} is given twice", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


def load_experiment(path: Path | str) -> Experiment:
    """Read an experiment from a YAML file.

    Parameters
    ----------
    path : path-like
        The YAML file.

    Returns
    -------
    Experiment

    Raises
    ------
    InputError
        If the file cannot be read, is not YAML, or does not fit the schema; the message
        names the file and the field.
    """
    path = Path(path)
    data = _read_mapping(path)
    if isinstance(data.get("tasks"), str):
        data["tasks"] = _tasks_of(path, data["tasks"])
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{path}: {_first_problem(error)}") from error


def _tasks_of(path: Path, other: str) -> list[Any]:
    """Take the tasks of another experiment, named relative to the one that refers to it."""
    tasks = _read_mapping(path.parent / other).get("tasks")
    if not isinstance(tasks, list):
        raise InputError(
            f"{path}: tasks: {other} has no list of tasks; name an experiment that has one"
        )
    return tasks


def _read_mapping(path: Path) -> dict[str, Any]:
    """Read an experiment's YAML, not checked against the schema yet."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path}: cannot be read ({reason}); give an experiment file") from error
    try:
        data = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        problem = getattr(error, "problem", None) or ""
        reason = f"{problem}; keep one" if problem.endswith("given twice") else ""
        raise InputError(f"{path}{line}: {reason or 'not valid YAML; mend the file'}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: an experiment is a mapping of fields; see configs/pocket.yaml")
    return data


def _first_problem(error: ValidationError) -> str:
    """Name the field of the first problem, and count the others.

    An unknown key comes first: a misspelt field is also missing under its right name.
    """
    problems = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    problem = problems[0]
    # Pydantic puts the branch of a union after the field's name.
    field = ".".join(
        str(part)
        for before, part in zip((None, *problem["loc"]), problem["loc"], strict=False)
        if (before, part) not in {("pretraining", origin) for origin in _ORIGINS}
    )
    if problem["type"] == "extra_forbidden":
        reason = "unknown key; remove it or correct its spelling"
    else:
        reason = problem["msg"].removeprefix("Value error, ").replace("\n", " ")
    others = error.error_count() - 1
    more = f" (and {others} more)" if others else ""
    return f"{field}: {reason}{more}" if field else f"{reason}{more}"
