from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from idiff_hf.metrics import explicitness
from idiff_hf.metrics.explicitness import explicitness_values
from idiff_hf.metrics.inputs import MetricInputs, Undefined, check_codes_and_factors


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Codes and factors of 120 rows: three noisy mixtures of factors of three and two classes."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, [3, 2], size=(120, 2))
    return factors @ rng.normal(size=(2, 3)) + rng.normal(size=(120, 3)), factors


@pytest.fixture(scope="module")
def grid() -> np.ndarray:
    return np.random.default_rng(1).permutation(np.tile(np.indices((3, 4)).reshape(2, -1).T, (8, 1)))


def test_a_rotated_code_of_two_binary_factors_is_1() -> None:
    factors = np.tile(np.indices((2, 2)).reshape(2, -1).T, (9, 1))
    result = explicitness(factors @ np.array([[3.0, 4.0], [-4.0, 3.0]]), factors)
    assert result.mean == result.mean_train == 1
    assert result.per_factor.tolist() == [1, 1]


def test_constant_codes_are_chance_without_a_warning(
    grid: np.ndarray, recwarn: pytest.WarningsRecorder
) -> None:
    result = explicitness(np.full((96, 2), 0.3), grid)
    assert result.mean == result.mean_train == 0.5
    assert not recwarn.list


def test_a_constant_latent_adds_nothing(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    with_constant = explicitness(np.column_stack([np.full(120, 0.3), codes]), factors)
    np.testing.assert_allclose(with_constant.per_factor, explicitness(codes, factors).per_factor, atol=1e-9)


def test_it_is_the_macro_average_of_scikit_learn_on_standardised_codes(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    codes, factors = rows
    result = explicitness(codes, factors, num_train=70)
    standardised = (codes - codes[:70].mean(axis=0)) / codes[:70].std(axis=0)
    for factor, labels in enumerate(factors.T):
        model = LogisticRegression(tol=1e-8, max_iter=1000).fit(standardised[:70], labels[:70])
        for part, areas in ((slice(70, None), result.per_factor), (slice(70), result.per_factor_train)):
            scores = model.predict_proba(standardised[part])
            expected = roc_auc_score(np.eye(scores.shape[1])[labels[part]], scores)
            assert areas[factor] == pytest.approx(expected, abs=1e-12)
    assert result.mean == result.per_factor.mean()
    assert result.mean_train == result.per_factor_train.mean()


def test_all_rows_are_fitted_on_and_scored(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    result = explicitness(codes, factors, all_rows=True)
    doubled = explicitness(np.tile(codes, (2, 1)), np.tile(factors, (2, 1)), num_train=120)
    np.testing.assert_allclose(result.per_factor, doubled.per_factor_train, atol=1e-12)
    assert result.mean == result.mean_train


def test_two_thirds_rounded_up_are_fitted_on(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = (array[:100] for array in rows)
    assert explicitness(codes, factors).mean == explicitness(codes, factors, num_train=67).mean


def test_values_are_those_of_the_function(rows: tuple[np.ndarray, np.ndarray]) -> None:
    values = explicitness_values(MetricInputs(*check_codes_and_factors(*rows)))
    split, whole = explicitness(*rows), explicitness(*rows, all_rows=True)
    assert values == {
        "explicitness": split.mean,
        "explicitness_train": split.mean_train,
        "explicitness_all_rows": whole.mean,
        "explicitness_active_dims": split.mean,
    }


@pytest.mark.parametrize(("row", "part"), [(119, "train"), (0, "test")])
def test_a_class_absent_from_a_part_leaves_the_test_value_undefined_and_no_other(
    row: int, part: str, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    codes, factors = rows[0], rows[1].copy()
    factors[row, 0] = 7
    reason = (
        "factors column 0 has no row of class 3 (counted from 0 in order of value) among the "
        f"{part} rows, so its ROC curve is undefined: pass more samples or move num_train"
    )
    values = explicitness_values(MetricInputs(*check_codes_and_factors(codes, factors)))
    assert values["explicitness"] == values["explicitness_active_dims"] == Undefined(reason)
    assert 0.5 < values["explicitness_train"] < 1  # type: ignore[operator]
    assert 0.5 < values["explicitness_all_rows"] < 1  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"^factors column 0 has no row of class 3 "):
        explicitness(codes, factors)
    assert explicitness(codes, factors, all_rows=True).mean == values["explicitness_all_rows"]


def test_a_single_class_to_fit_on_leaves_all_rows_alone() -> None:
    factors = (np.arange(30) >= 25).astype(int)[:, None]
    values = explicitness_values(
        MetricInputs(*check_codes_and_factors(np.sin(np.arange(30.0))[:, None], factors))
    )
    assert isinstance(values["explicitness"], Undefined)
    assert isinstance(values["explicitness_train"], Undefined)
    assert isinstance(values["explicitness_all_rows"], float)


def test_settings_that_contradict_are_refused(rows: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"^num_train must be None with all_rows, got 50$"):
        explicitness(*rows, num_train=50, all_rows=True)
    with pytest.raises(
        ValueError, match=r"^num_train must leave rows to test on, in \[1, 119\] here, got 0$"
    ):
        explicitness(*rows, num_train=0)
