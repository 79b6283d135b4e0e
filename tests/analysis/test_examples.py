"""Every public function of the statistics and the bootstrap has an example, and examples run."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module
from inspect import isfunction, unwrap
from types import ModuleType

import pytest

import analysis.bootstrap
import analysis.statistics

MODULES = tuple(
    module.name
    for package in (analysis.statistics, analysis.bootstrap)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)


def examples_of(module: ModuleType) -> list[doctest.DocTest]:
    """List the docstrings of a module that have examples."""
    return [test for test in doctest.DocTestFinder().find(module, module.__name__) if test.examples]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", MODULES)
def test_examples_give_the_results_that_they_show(name: str) -> None:
    report: list[str] = []
    runner = doctest.DocTestRunner()
    for test in examples_of(import_module(name)):
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_function_has_an_example(name: str) -> None:
    module = import_module(name)
    public = {
        f"{name}.{function}"
        for function, value in vars(module).items()
        if not function.startswith("_")
        and isfunction(unwrap(value) if callable(value) else value)
        and value.__module__ == name
    }
    assert public <= {test.name for test in examples_of(module)}
