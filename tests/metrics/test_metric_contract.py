"""What every metric of an evaluation owes: declared keys, values without NaN, and the invariances it promises.

A new metric joins by its entry in `METRICS`; nothing here names one, but for how often the slow ones are tried.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import pkgutil
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import idiff_hf.metrics
from idiff_hf.metrics import INVARIANCES, METRICS, MetricInputs, check_codes_and_factors, evaluate
from idiff_hf.metrics.evaluation import Invariance
from idiff_hf.metrics.inputs import Undefined

# Seconds an evaluation, where the others take milliseconds.
SLOW = {"dci", "factor_vae", "beta_vae"}
# A promise that holds, holds also in its weaker forms.
WEAKER: dict[Invariance, set[Invariance]] = {
    "monotone": {"shift", "scale", "common_scale"},
    "scale": {"common_scale"},
}

Rows = tuple[np.ndarray, np.ndarray]


def draw_rows(seed: int) -> Rows:
    """A full grid of three factors in random order, and four latents, mixtures of the factors with noise.

    In every other draw the last one is all but dead.
    """
    rng = np.random.default_rng(seed)
    factors = rng.permutation(np.indices((3, 4, 5)).reshape(3, -1).T)
    mixing = rng.normal(size=(3, 4)) * rng.choice([0.2, 1.0], size=(3, 4))
    last_scale = 0.01 if seed % 2 else 1.0
    return (factors @ mixing + 0.3 * rng.normal(size=(60, 4))) * [1, 1, 1, last_scale], factors


def change(rows: Rows, what: Invariance, seed: int) -> Rows:
    """The rows after what the invariance speaks of."""
    codes, factors = rows
    rng = np.random.default_rng([seed, 1])
    num_latents, num_factors = codes.shape[1], factors.shape[1]
    if what == "permutation":
        return codes[:, np.roll(np.arange(num_latents), rng.integers(1, num_latents))], factors
    if what == "sign":
        signs = rng.choice([-1.0, 1.0], size=num_latents)
        signs[rng.integers(num_latents)] = -1.0
        return codes * signs, factors
    if what == "shift":
        return codes + rng.normal(size=num_latents), factors
    if what == "common_scale":
        return codes * rng.choice([0.01, 5.0]), factors
    if what == "scale":
        return codes * np.roll([0.02, 0.5, 2.0, 10.0], rng.integers(4)), factors
    if what == "monotone":
        return np.sinh(codes) * rng.uniform(0.5, 2.0, size=num_latents), factors
    if what == "constant_latent":
        return np.insert(codes, rng.integers(num_latents + 1), 0.3, axis=1), factors
    if what == "factor_order":
        return codes, factors[:, np.roll(np.arange(num_factors), rng.integers(1, num_factors))]
    assert what == "class_names"
    names = np.stack([rng.permutation(30)[:5] for _ in range(num_factors)])
    return codes, names[np.arange(num_factors), factors]


def values_of(name: str, rows: Rows) -> dict[str, Any]:
    return evaluate(*rows, metrics=[name]).values


def apart(one: object, other: object) -> float:
    """Largest difference; infinite between shapes, or where only one is defined."""
    if one is None or other is None:
        return 0.0 if one is other else math.inf
    one_array, other_array = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    if one_array.shape != other_array.shape:
        return math.inf
    return float(np.abs(one_array - other_array).max())


def is_metric(module: ModuleType) -> bool:
    """Whether a function of its own takes codes and factors as given by a user, or returns values of a metric."""
    functions = [
        function
        for _, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not function.__name__.startswith("_")
    ]
    return any(
        function.__name__.endswith("_values")
        or (
            list(inspect.signature(function).parameters)[:2] == ["codes", "factors"]
            and "check" not in function.__name__
        )
        for function in functions
    )


def test_a_metric_that_is_not_in_the_table_fails() -> None:
    modules = [
        importlib.import_module(f"idiff_hf.metrics.{module.name}")
        for module in pkgutil.iter_modules(idiff_hf.metrics.__path__)
    ]
    found = {module.__name__.rpartition(".")[2]: module for module in modules if is_metric(module)}
    assert set(found) == set(METRICS), (
        "every metric declares what it promises, in an entry of metrics.METRICS"
    )
    for name, module in found.items():
        assert METRICS[name].values is getattr(module, f"{name}_values")


@pytest.mark.parametrize("name", METRICS)
def test_the_keys_produced_are_those_declared_and_no_other_metric_s(name: str) -> None:
    spec = METRICS[name]
    assert set(spec.values(MetricInputs(*check_codes_and_factors(*draw_rows(0))))) == set(spec.keys)
    assert not set(spec.keys) & {key for other in METRICS if other != name for key in METRICS[other].keys}


@pytest.mark.parametrize("name", METRICS)
def test_promises_are_words_that_exist_and_imply_their_weaker_forms(name: str) -> None:
    for key, promises in METRICS[name].keys.items():
        assert promises <= INVARIANCES, key
        for stronger, weaker in WEAKER.items():
            assert stronger not in promises or weaker <= promises, key
    assert set().union(*METRICS[name].keys.values()), f"{name} promises nothing"


@pytest.mark.parametrize("name", METRICS)
def test_the_public_function_and_its_result_are_documented(name: str) -> None:
    function = getattr(idiff_hf.metrics, {"unsupervised": "unsupervised_scores"}.get(name, name))
    documentation = inspect.getdoc(function)
    for section in ("Args:", "Returns:", "Raises:", "Examples:"):
        assert section in documentation, section
    result = inspect.get_annotations(function)["return"]
    assert "Attributes:" in inspect.getdoc(getattr(idiff_hf.metrics, result))


@pytest.mark.parametrize("name", METRICS)
def test_promises_hold(name: str) -> None:
    spec = METRICS[name]
    promised = {what for promises in spec.keys.values() for what in promises}

    @settings(max_examples=1 if name in SLOW else 6, deadline=None, derandomize=name in SLOW)
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed: int) -> None:
        rows = draw_rows(seed)
        before = values_of(name, rows)
        for what in sorted(promised):
            after = values_of(name, change(rows, what, seed))
            for key, promises in spec.keys.items():
                if what in promises:
                    assert apart(before[key], after[key]) <= spec.tolerance, (key, what)

    check()


@pytest.mark.parametrize("name", [name for name in METRICS if name not in SLOW])
def test_what_is_not_promised_does_not_hold(name: str) -> None:
    """Otherwise the table says too little: somewhere in thirty draws the value moves."""
    spec = METRICS[name]
    for what in sorted(INVARIANCES):
        silent = {key for key, promises in spec.keys.items() if what not in promises}
        for seed in range(30):
            if not silent:
                break
            rows = draw_rows(seed)
            before, after = values_of(name, rows), values_of(name, change(rows, what, seed))
            silent = {key for key in silent if apart(before[key], after[key]) <= spec.tolerance}
        assert not silent, f"{what} leaves {silent} as they are: promise it, or draw rows that tell"


def draw_degenerate_rows(seed: int, num_samples: int, num_latents: int, num_factors: int, kind: str) -> Rows:
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 4, size=(num_samples, num_factors))
    factors[:2] = [[0], [1]]
    codes = rng.normal(size=(num_samples, num_latents)) * 10.0 ** rng.integers(-9, 9, size=num_latents)
    if kind == "constant":
        codes[:] = 0.3
    elif kind == "dead":
        codes[:, rng.integers(num_latents)] = 0.3
    elif kind == "duplicated":
        codes[:] = codes[:, [0]]
    elif kind == "labels":
        codes = factors[:, rng.integers(num_factors, size=num_latents)].astype(float)
    elif kind == "continuous":
        return codes, factors + rng.normal(size=factors.shape)
    return codes, factors


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.filterwarnings("ignore:The number of unique classes")
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_samples=st.sampled_from([2, 3, 5, 12, 40]),
    num_latents=st.integers(1, 5),
    num_factors=st.integers(1, 4),
    kind=st.sampled_from(["noise", "constant", "dead", "duplicated", "labels", "continuous"]),
)
def test_degenerate_data_give_numbers_or_a_reason_and_never_nan(
    seed: int, num_samples: int, num_latents: int, num_factors: int, kind: str
) -> None:
    rows = draw_degenerate_rows(seed, num_samples, num_latents, num_factors, kind)
    result = evaluate(*rows, metrics=[name for name in METRICS if name != "dci"])
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    assert {key for key, value in result.values.items() if value is None} == set(result.undefined)
    for reason in result.undefined.values():
        assert reason and "\n" not in reason


@pytest.mark.parametrize("name", METRICS)
def test_an_undefined_value_is_none_with_its_reason(name: str) -> None:
    spec = METRICS[name]
    result = evaluate([[0.5], [0.5]], [[0], [1]], metrics=[name])
    assert list(result.values) == list(spec.keys)
    for key, reason in result.undefined.items():
        assert result.values[key] is None
        assert not isinstance(reason, Undefined)
