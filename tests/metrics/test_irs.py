from __future__ import annotations

import numpy as np
import pytest

from idiff_hf.metrics import irs
from idiff_hf.metrics.inputs import MetricInputs, check_codes_and_factors
from idiff_hf.metrics.irs import irs_values

SIGNS = np.indices((2, 2, 2)).reshape(3, -1).T * 2 - 1
GRID = np.indices((5, 4, 3)).reshape(3, -1).T


@pytest.mark.parametrize("quantile", [0.5, 0.99, 1.0])
def test_latents_that_are_functions_of_one_factor_each_are_1(quantile: float) -> None:
    codes = np.column_stack([np.exp(GRID[:, 1]), -(GRID[:, 0] ** 2), GRID[:, 0]])
    result = irs(codes, GRID, quantile=quantile)
    assert result.mean == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(result.per_latent, 1, atol=1e-12)


def test_a_latent_of_two_signs_keeps_what_the_larger_one_moves() -> None:
    # Held at the factor of weight 3, the latent still moves by 1 of its 4.
    codes = (3 * SIGNS[:, 0] + SIGNS[:, 1])[:, None]
    result = irs(codes, SIGNS, quantile=1.0)
    np.testing.assert_allclose(result.robustness, [[0.75, 0.25, 0]], atol=1e-12)
    assert result.mean == pytest.approx(0.75, abs=1e-12)


def test_latents_weigh_as_much_as_they_move_and_constant_ones_nothing() -> None:
    codes = np.column_stack([6.0 * SIGNS[:, 0], SIGNS[:, 1] + SIGNS[:, 2], np.full(8, 0.3)])
    result = irs(codes, SIGNS, quantile=1.0)
    np.testing.assert_allclose(result.max_deviation, [6, 2, 0], atol=1e-12)
    np.testing.assert_allclose(result.per_latent, [1, 0.5, 0], atol=1e-12)
    assert result.mean == pytest.approx((6 * 1 + 2 * 0.5) / 8, abs=1e-12)


def test_the_quantile_looks_past_an_outlier() -> None:
    factors = np.repeat([[0], [1]], 200, axis=0)
    codes = factors.astype(float)
    codes[0] = -1
    loose, strict = (irs(codes, factors, quantile=quantile).mean for quantile in (0.99, 1.0))
    assert strict < 0.7 < 0.99 < loose


def test_classes_beyond_twenty_are_merged_and_their_names_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(40), 10))
    codes = labels[:, None] + 0.0
    assert irs(codes, labels[:, None], quantile=1.0).mean == pytest.approx(1 - 0.5 / 19.5, abs=1e-12)
    few = labels[:, None] // 4
    renamed = rng.permutation(1000)[:10][few]
    assert irs(codes, renamed).mean == pytest.approx(irs(codes, few).mean, abs=1e-12)


def test_collapsed_codes_are_0_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    result = irs(np.full((8, 2), 0.3), SIGNS)
    assert result.mean == 0
    assert result.per_latent.tolist() == [0, 0]
    assert not recwarn.list


def test_values_are_those_of_the_function() -> None:
    codes = np.random.default_rng(0).normal(size=(60, 2)) + GRID[:, :2]
    values = irs_values(MetricInputs(*check_codes_and_factors(codes, GRID)))
    assert values == {"irs": irs(codes, GRID).mean, "irs_quantile_1": irs(codes, GRID, quantile=1.0).mean}


@pytest.mark.parametrize("quantile", [0.0, -1.0, 1.01, float("nan")])
def test_a_quantile_out_of_range_is_refused(quantile: float) -> None:
    with pytest.raises(ValueError, match=r"^quantile must be in \(0, 1\], got "):
        irs(GRID, GRID, quantile=quantile)
