from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import LinearSVC

from idiff_hf.metrics import sap
from idiff_hf.metrics.inputs import MetricInputs, check_codes_and_factors
from idiff_hf.metrics.sap import sap_values

GRID = np.indices((4, 3, 2)).reshape(3, -1).T


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Codes and factors of 90 rows: three noisy mixtures of two factors."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 3, size=(90, 2))
    return factors @ rng.normal(size=(2, 3)) + 0.5 * rng.normal(size=(90, 3)), factors


def test_r2_of_a_perfect_code_is_1() -> None:
    result = sap(GRID[:, [2, 0, 1]] * [-3.0, 0.1, 5.0] + 7, GRID, form="r2")
    np.testing.assert_allclose(result.per_factor, 1, atol=1e-12)
    assert result.mean == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(result.scores, np.eye(3)[[2, 0, 1]], atol=1e-12)


def test_r2_of_a_factor_coded_twice_is_0_and_of_a_split_one_the_difference() -> None:
    signs = GRID[:, [2]] * 2 - 1
    other = np.tile([[1], [-1]], (12, 1))[np.argsort(GRID[:, 2], kind="stable").argsort()]
    codes = np.column_stack([0.8 * signs + 0.6 * other, 0.6 * signs - 0.8 * other, np.zeros(24)])
    assert sap(GRID[:, [0, 0, 1]], GRID[:, :2], form="r2").per_factor == pytest.approx([0, 1], abs=1e-12)
    assert sap(codes, GRID[:, [2]], form="r2").mean == pytest.approx(0.64 - 0.36, abs=1e-12)


def test_svc_tells_two_classes_apart_on_either_side_of_zero() -> None:
    factors = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (6, 1))
    codes = np.column_stack([10.0 * (factors[:, 0] - 0.5), np.zeros(24)])
    result = sap(codes, factors[:, :1])
    assert result.form == "svc"
    assert result.scores.tolist() == [[1.0], [0.5]]
    assert result.mean == 0.5


def test_svc_is_the_accuracy_on_the_rows_not_fitted_on(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    scores = sap(codes, factors, form="svc", num_train=50).scores
    machine = LinearSVC(C=0.01, class_weight="balanced").fit(codes[:50, 1:2], factors[:50, 0])
    assert scores[1, 0] == machine.score(codes[50:, 1:2], factors[50:, 0])
    spoiled = np.vstack([factors[:50], 5 + factors[50:]])
    assert (sap(codes, spoiled, form="svc", num_train=50).scores == 0).all()


def test_the_form_follows_the_dtype_of_the_factors(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    assert sap(codes, factors).form == "svc"
    assert sap(codes, factors.astype(float)).form == "r2"
    assert sap(codes, factors.astype(float)).mean == sap(codes, factors, form="r2").mean


@pytest.mark.parametrize("dtype", [int, float])
def test_values_are_both_forms_and_the_one_that_suits(
    dtype: type, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    codes, factors = rows[0], rows[1].astype(dtype)
    values = sap_values(MetricInputs(*check_codes_and_factors(codes, factors)))
    assert values == {
        "sap": sap(codes, factors).mean,
        "sap_discrete": sap(codes, factors, form="svc").mean,
        "sap_continuous": sap(codes, factors, form="r2").mean,
    }


@pytest.mark.parametrize("form", ["svc", "r2"])
def test_constant_codes_are_0_without_a_warning(form: str, recwarn: pytest.WarningsRecorder) -> None:
    result = sap(np.full((24, 3), 0.3), GRID, form=form)  # type: ignore[arg-type]
    assert result.mean == 0
    assert not recwarn.list


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_r2_is_blind_to_scale_and_svc_is_not_promised_to_be(seed: int) -> None:
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 4, size=(30, 2))
    factors[:2] = [[0, 0], [3, 3]]
    codes = factors @ rng.normal(size=(2, 3)) + rng.normal(size=(30, 3))
    moved = codes * rng.choice([-1e-9, 1e9], size=3)
    before, after = sap(codes, factors, form="r2"), sap(moved, factors, form="r2")
    np.testing.assert_allclose(after.scores, before.scores, atol=1e-9)
    assert 0 <= before.mean <= 1


def test_what_leaves_it_undefined_is_refused(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    message = r"^SAP is the gap between the two most predictive latents, got 1: leave sap out$"
    for form in ("svc", "r2"):
        with pytest.raises(ValueError, match=message):
            sap(codes[:, :1], factors, form=form)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^form must be 'svc' or 'r2', got 'lasso'$"):
        sap(codes, factors, form="lasso")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"^num_train must leave rows to test on, in \[1, 89\] here, got 90$"
    ):
        sap(codes, factors, num_train=90)
    in_order = np.sort(factors, axis=0)
    with pytest.raises(ValueError, match=r"^factors column 0 has a single class in the first 9 rows, .* SAP"):
        sap(codes, in_order, num_train=9)


def test_codes_that_support_vectors_never_end_on_are_refused(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    codes = np.where(codes == codes.max(), 1e200, codes)
    with pytest.raises(
        ValueError, match=r"^codes must lie within 3\.4e\+38 of 0 for SAP's support vectors, got 1\.0e\+200: "
    ):
        sap(codes, factors, form="svc")
    assert np.isfinite(sap(codes, factors, form="r2").mean)
