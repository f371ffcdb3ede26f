from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from idiff_hf.metrics.logistic import fit_logistic


def rows(num_classes: int, num_features: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features of 400 rows and overlapping classes, the first as frequent as all others together."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, 400) * rng.integers(0, 2, 400)
    features = labels[:, None] * rng.normal(size=num_features) + num_classes * rng.normal(
        size=(400, num_features)
    )
    return (features - features.mean(axis=0)) / features.std(axis=0), labels


def odds(model: LogisticRegression, features: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict_proba(features))


@pytest.mark.parametrize("balanced", [False, True])
def test_one_binary_feature_gives_the_frequencies_of_its_two_halves(balanced: bool) -> None:
    # Of 40 rows at -1 classes have 10, 10, 20, and of 40 at 1 they have 20, 10, 10: a saturated model.
    features = np.repeat([-1.0, 1.0], 40)[:, None]
    labels = np.repeat([0, 1, 2, 0, 1, 2], [10, 10, 20, 20, 10, 10])
    counts = np.array([[10, 10, 20], [20, 10, 10]]) / (np.array([30, 20, 30]) if balanced else 1)
    expected = counts / counts.sum(axis=1, keepdims=True)
    model = fit_logistic(features, labels, penalised=False, balanced=balanced)
    assert model.solver == "newton-cholesky"
    np.testing.assert_allclose(odds(model, np.array([[-1.0], [1.0]])), expected, atol=1e-4)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("penalised", [True, False])
@pytest.mark.parametrize("balanced", [True, False])
def test_it_is_nearer_to_the_optimum_than_the_default_solver(
    num_classes: int, penalised: bool, balanced: bool
) -> None:
    features, labels = rows(num_classes)
    model = fit_logistic(features, labels, penalised=penalised, balanced=balanced)
    assert model.solver == "newton-cholesky"
    settings = {"C": 1.0 if penalised else np.inf, "class_weight": "balanced" if balanced else None}
    optimum = odds(LogisticRegression(tol=1e-10, max_iter=10_000, **settings).fit(features, labels), features)
    default = odds(LogisticRegression(**settings).fit(features, labels), features)
    off = np.abs(odds(model, features) - optimum).max()
    assert off < 1e-3
    assert off < np.abs(default - optimum).max()


@pytest.mark.parametrize(("num_classes", "num_features"), [(20, 4), (3, 170)])
def test_many_classes_or_features_are_fitted_by_the_default_solver(
    num_classes: int, num_features: int
) -> None:
    features, labels = rows(num_classes, num_features)
    expected = odds(LogisticRegression().fit(features, labels), features)
    np.testing.assert_array_equal(odds(fit_logistic(features, labels), features), expected)


@pytest.mark.parametrize("scale", [1.0, 1e-8])
def test_features_that_depend_on_each_other_have_no_hessian_and_are_fitted_by_the_default_solver(
    scale: float,
) -> None:
    features, labels = rows(3)
    twice = np.column_stack([features, features[:, 0]]) * [1, 1, 1, scale]
    expected = odds(LogisticRegression(C=np.inf, class_weight="balanced").fit(twice, labels), twice)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fit_logistic(twice, labels, penalised=False, balanced=True)
    np.testing.assert_array_equal(odds(model, twice), expected)


def test_classes_told_without_noise_by_rows_of_one_value_are_all_found() -> None:
    labels = np.arange(60) % 3
    features = np.column_stack([labels - 1.0, np.zeros(60)]) * np.sqrt(1.5)
    for penalised in (True, False):
        found = odds(fit_logistic(features, labels, penalised=penalised), features)
        assert (found.argmax(axis=1) == labels).all()
        assert np.isfinite(found).all()
