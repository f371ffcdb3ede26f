from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import idiff_hf.metrics

MODULES = ["idiff_hf.metrics"] + [
    f"idiff_hf.metrics.{module.name}" for module in pkgutil.iter_modules(idiff_hf.metrics.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize(
    "name",
    [name for name in idiff_hf.metrics.__all__ if inspect.isfunction(getattr(idiff_hf.metrics, name))],
)
def test_every_public_metric_has_an_example(name: str) -> None:
    assert ">>> " in inspect.getdoc(getattr(idiff_hf.metrics, name))
