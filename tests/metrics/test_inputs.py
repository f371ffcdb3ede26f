from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from idiff_hf.metrics import (
    check_codes_and_factors,
    dci,
    evaluate_codes,
    explicitness,
    infomec,
    irs,
    mcc,
    mig,
    modularity,
    rows_to_train_on,
    sap,
)
from idiff_hf.metrics.inputs import MetricInputs, varying_columns

CODES = np.arange(12.0).reshape(6, 2)
FACTORS = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1]])
QUICK = (mig, modularity, mcc, sap, irs, explicitness)


def refusal(codes: object, factors: object) -> str:
    with pytest.raises(ValueError) as error:
        check_codes_and_factors(codes, factors)  # type: ignore[arg-type]
    message = str(error.value)
    assert "\n" not in message
    return message


def test_codes_become_float64_and_factors_keep_their_dtype() -> None:
    codes, factors = check_codes_and_factors(CODES.astype(np.float16), FACTORS.astype(np.uint8))
    assert codes.dtype == np.float64
    assert factors.dtype == np.uint8
    np.testing.assert_array_equal(codes, CODES)
    np.testing.assert_array_equal(factors, FACTORS)


def test_nested_lists_are_taken() -> None:
    codes, factors = check_codes_and_factors(CODES.tolist(), FACTORS.tolist())
    np.testing.assert_array_equal(codes, CODES)
    np.testing.assert_array_equal(factors, FACTORS)


def test_arrays_that_are_not_2d_are_refused() -> None:
    message = refusal(CODES[:, 0], FACTORS)
    assert message == "codes must be 2-D of shape (n_samples, n_latents), a column or more, got shape (6,)"
    assert "factors must be 2-D of shape (n_samples, n_factors)" in refusal(CODES, FACTORS[:, 0])
    assert "got shape (6, 0)" in refusal(CODES[:, :0], FACTORS)


def test_text_and_complex_numbers_are_refused() -> None:
    message = refusal(CODES, [["square"]] * 6)
    assert message == "factors must hold real numbers, got dtype <U6: convert to integers or floats first"
    assert "codes must hold real numbers, got dtype complex128" in refusal(CODES * 1j, FACTORS)


def test_values_that_are_not_finite_are_refused_with_the_place() -> None:
    codes = CODES.copy()
    codes[4, 1] = np.nan
    codes[5, 0] = np.inf
    message = refusal(codes, FACTORS)
    assert message.startswith(
        "codes must be finite, got 2 NaN or infinite values, the first (nan) at row 4, column 1:"
    )
    factors = FACTORS.astype(float)
    factors[2, 2] = -np.inf
    assert (
        "factors must be finite, got 1 NaN or infinite values, the first (-inf) at row 2, column 2"
        in refusal(CODES, factors)
    )


def test_row_counts_that_differ_are_refused() -> None:
    message = refusal(CODES[:5], FACTORS)
    assert message == (
        "codes and factors must have the same number of rows, got shapes (5, 2) and (6, 3): "
        "pass one row a sample in both, in the same order"
    )


def test_fewer_rows_of_as_many_columns_are_not_taken_for_transposed() -> None:
    assert refusal(FACTORS[:4], FACTORS).endswith("pass one row a sample in both, in the same order")


@pytest.mark.parametrize(
    ("codes", "factors", "advice"),
    [
        (CODES.T, FACTORS, "codes look transposed, pass codes.T"),
        (CODES, FACTORS.T, "factors look transposed, pass factors.T"),
        (CODES.T, FACTORS.T, "they look transposed, pass codes.T and factors.T"),
    ],
)
def test_transposed_arrays_are_refused_with_the_remedy(
    codes: np.ndarray, factors: np.ndarray, advice: str
) -> None:
    assert refusal(codes, factors).endswith(f"got shapes {codes.shape} and {factors.shape}: {advice}")


def test_a_single_row_is_refused() -> None:
    message = refusal(CODES[:1], FACTORS[:1])
    assert message == "codes and factors must have at least 2 rows, got 1: pass more samples"


@pytest.mark.parametrize("metric", [*QUICK, dci, evaluate_codes])
@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_every_metric_names_a_constant_factor(metric: object, dtype: type) -> None:
    factors = FACTORS.astype(dtype)
    factors[:, 1] = 7
    with pytest.raises(
        ValueError, match=r"^factors column 1 is constant \(7(\.0)? in all 6 rows\), .*drop the column$"
    ):
        metric(CODES, factors)  # type: ignore[operator]


@pytest.mark.parametrize("metric", [*QUICK, dci, evaluate_codes])
def test_every_metric_checks_its_arrays(metric: object) -> None:
    with pytest.raises(ValueError, match="same number of rows"):
        metric(CODES[:5], FACTORS)  # type: ignore[operator]


@pytest.mark.parametrize("metric", [*QUICK, evaluate_codes])
def test_no_metric_changes_its_arguments(metric: object) -> None:
    codes, factors = CODES.copy(), FACTORS.copy()
    metric(codes, factors)  # type: ignore[operator]
    np.testing.assert_array_equal(codes, CODES)
    np.testing.assert_array_equal(factors, FACTORS)


def test_two_thirds_of_the_rows_are_fitted_on_unless_said() -> None:
    codes, factors = check_codes_and_factors(CODES, FACTORS)
    assert MetricInputs(codes, factors).num_train_rows == rows_to_train_on(6, None) == 4
    assert MetricInputs(codes, factors, num_train=5).num_train_rows == 5
    assert rows_to_train_on(2, None) == 1
    with pytest.raises(ValueError, match=r"^num_train must leave rows to test on, in \[1, 1\] here, got 2$"):
        rows_to_train_on(2, 2)
    with pytest.raises(ValueError, match=r"^num_train must be a whole number, got 1\.0$"):
        rows_to_train_on(3, 1.0)  # type: ignore[arg-type]


def test_what_is_no_array_of_numbers_is_refused_by_name() -> None:
    needs_gradient = torch.tensor(CODES, requires_grad=True)
    as_numpy = r"a tensor as tensor\.detach\(\)\.float\(\)\.cpu\(\)\.numpy\(\)"
    for codes in (needs_gradient, torch.tensor(CODES).bfloat16(), [[1, 2], [3]]):
        assert re.match(
            rf"codes must be an array of numbers, in rows of one length; {as_numpy} \(",
            refusal(codes, FACTORS),
        )
    masked = np.ma.masked_greater(CODES, 5.0)
    assert refusal(masked, FACTORS) == "codes must hold no masked values: fill them, or drop their rows"
    assert check_codes_and_factors(np.ma.masked_greater(CODES, 50.0), FACTORS)[0].tolist() == CODES.tolist()


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_a_seed_that_no_generator_takes_is_refused_and_not_called_undefined(seed: int) -> None:
    for metric in (dci, infomec, evaluate_codes):
        with pytest.raises(
            ValueError, match=rf"^seed must be a whole number from 0 to 4294967295, got {seed}$"
        ):
            metric(CODES, FACTORS, seed=seed)  # type: ignore[operator]


def test_what_metrics_share_is_computed_once() -> None:
    inputs = MetricInputs(*check_codes_and_factors(CODES, FACTORS))
    assert inputs.mutual_information is inputs.mutual_information
    assert inputs.train_mutual_information is inputs.train_mutual_information
    assert inputs.labels is inputs.labels


def test_a_constant_whose_variance_rounds_above_0_is_constant() -> None:
    table = np.column_stack([np.full(7, 0.1), np.arange(7.0)])
    assert table[:, 0].var() > 0
    assert varying_columns(table).tolist() == [False, True]
