from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from idiff_hf.metrics import unsupervised_scores
from idiff_hf.metrics.inputs import MetricInputs, Undefined, check_codes_and_factors
from idiff_hf.metrics.unsupervised import unsupervised_values

SIGNS = np.indices((2, 2)).reshape(2, -1).T * 2.0 - 1.0


def correlated(correlation: float) -> np.ndarray:
    """Two latents of variance 1 (with n in the denominator) and this correlation, exactly."""
    mixed = correlation * SIGNS[:, 0] + math.sqrt(1 - correlation**2) * SIGNS[:, 1]
    return np.column_stack([SIGNS[:, 0], mixed])


def test_independent_latents_are_0() -> None:
    grid = np.indices((5, 4, 3)).reshape(3, -1).T
    result = unsupervised_scores(grid)
    assert result.total_correlation == pytest.approx(0, abs=1e-12)
    assert result.wasserstein_correlation == pytest.approx(0, abs=1e-12)
    assert result.wasserstein_correlation_norm == pytest.approx(0, abs=1e-12)
    assert result.mutual_information == 0


@pytest.mark.parametrize("correlation", [0.1, -0.6, 0.99])
def test_two_correlated_latents_as_on_paper(correlation: float) -> None:
    result = unsupervised_scores(correlated(correlation))
    assert result.total_correlation == pytest.approx(-0.5 * math.log(1 - correlation**2), abs=1e-12)
    # Covariance of eigenvalues 1 + r and 1 - r, against the identity; n - 1 = 3 in its denominator.
    distance = 4 - 2 * (math.sqrt(1 + correlation) + math.sqrt(1 - correlation))
    assert result.wasserstein_correlation == pytest.approx(distance * 4 / 3, abs=1e-12)
    assert result.wasserstein_correlation_norm == pytest.approx(distance / 2, abs=1e-12)


def test_mutual_information_is_the_mean_over_pairs() -> None:
    grid = np.indices((4, 4)).reshape(2, -1).T
    assert unsupervised_scores(grid[:, [0, 0]]).mutual_information == pytest.approx(math.log(4))
    assert unsupervised_scores(grid[:, [0, 0, 1]]).mutual_information == pytest.approx(math.log(4) / 3)


def test_the_wasserstein_distance_is_that_of_the_matrix_root() -> None:
    codes = np.random.default_rng(0).normal(size=(50, 4)) @ np.random.default_rng(1).normal(size=(4, 4))
    covariance = np.cov(codes, rowvar=False)
    diagonal = np.diag(np.diag(covariance))
    expected = 2 * np.trace(covariance) - 2 * np.trace(sqrtm(covariance @ diagonal).real)
    assert unsupervised_scores(codes).wasserstein_correlation == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("weights", [[[1.0, 0.3], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
def test_a_latent_that_others_determine_is_infinite_and_undefined_in_an_evaluation(
    weights: list[list[float]],
) -> None:
    codes = np.random.default_rng(0).normal(size=(40, 2))
    codes = np.column_stack([codes, codes @ np.array(weights)[:, 1] + 3])
    assert unsupervised_scores(codes).total_correlation == math.inf
    factors = (np.arange(40) % 2)[:, None]
    values = unsupervised_values(MetricInputs(*check_codes_and_factors(codes, factors)))
    for key in ("gaussian_total_correlation", "gaussian_total_correlation_active_dims"):
        assert isinstance(values[key], Undefined)
        assert values[key].reason.startswith("the Gaussian total correlation is infinite")


def test_as_many_latents_as_rows_are_infinite() -> None:
    assert unsupervised_scores(np.random.default_rng(0).normal(size=(5, 5))).total_correlation == math.inf


def test_constant_latents_are_independent_of_all(recwarn: pytest.WarningsRecorder) -> None:
    with_constant = unsupervised_scores(np.column_stack([np.full(4, 0.3), correlated(0.6)]))
    without = unsupervised_scores(correlated(0.6))
    assert with_constant.total_correlation == without.total_correlation
    assert with_constant.wasserstein_correlation == without.wasserstein_correlation
    assert with_constant.mutual_information == pytest.approx(without.mutual_information / 3)
    nothing = unsupervised_scores(np.full((4, 2), 0.3))
    assert nothing.total_correlation == nothing.wasserstein_correlation == nothing.mutual_information == 0
    assert nothing.wasserstein_correlation_norm == 0
    assert not recwarn.list


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-120, 120))
def test_ranges_and_scale(seed: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(25, 3)) @ rng.normal(size=(3, 3))
    result, scaled = unsupervised_scores(codes), unsupervised_scores(codes * 10.0**exponent)
    assert result.total_correlation >= 0
    assert 0 <= result.wasserstein_correlation_norm <= 2
    assert scaled.total_correlation == pytest.approx(result.total_correlation, rel=1e-6)
    assert scaled.wasserstein_correlation_norm == pytest.approx(result.wasserstein_correlation_norm, abs=1e-9)
    expected = result.wasserstein_correlation * 100.0**exponent
    assert scaled.wasserstein_correlation == pytest.approx(expected, rel=1e-6)


def test_what_leaves_it_undefined_is_refused() -> None:
    message = r"^the unsupervised scores compare 2 latents or more, got 1: leave unsupervised out$"
    with pytest.raises(ValueError, match=message):
        unsupervised_scores(SIGNS[:, :1])
    with pytest.raises(ValueError, match=r"^codes must have at least 2 rows, got 1: pass more samples$"):
        unsupervised_scores(SIGNS[:1])
    with pytest.raises(ValueError, match=r"^codes must be finite, got 1 NaN"):
        unsupervised_scores(np.array([[1.0, np.nan], [0.0, 1.0]]))
