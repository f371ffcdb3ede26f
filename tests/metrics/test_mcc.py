from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from idiff_hf.metrics import mcc

SIGNS = np.indices((2, 2, 2)).reshape(3, -1).T * 2 - 1
FACTORS = np.indices((5, 4, 3, 2, 3)).reshape(5, -1).T


@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
def test_a_perfect_code_is_1_and_the_matching_is_found(correlation: str) -> None:
    order = [3, 0, 4, 2, 1]
    codes = FACTORS[:, order] * np.array([-1.0, 2.0, -3.0, 0.1, 5.0]) + 100.0
    result = mcc(codes, FACTORS, correlation=correlation)  # type: ignore[arg-type]
    assert result.mean == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(result.per_factor, 1, atol=1e-12)
    assert [order[latent] for latent in result.assignment] == [0, 1, 2, 3, 4]
    signs = np.sign(result.correlation[result.assignment, np.arange(5)])
    assert signs.tolist() == [1, 1, 1, -1, -1]


def test_a_rotated_pair_has_cosine_of_45_degrees() -> None:
    factors = SIGNS[:, :2]
    codes = np.column_stack([factors.sum(axis=1), factors[:, 0] - factors[:, 1]])
    assert mcc(codes, factors).mean == pytest.approx(np.sqrt(0.5), abs=1e-12)


def test_the_matching_is_the_best_of_all_not_the_best_pair_first() -> None:
    first, second, other = SIGNS.T
    codes = np.column_stack([0.8 * first + 0.6 * second, 0.6 * first + 0.8 * other])
    result = mcc(codes, SIGNS[:, :2])
    assert result.assignment.tolist() == [1, 0]
    np.testing.assert_allclose(result.correlation, [[0.8, 0.6], [0.6, 0]], atol=1e-12)
    assert result.mean == pytest.approx(0.6, abs=1e-12)


def test_pearson_feels_a_distortion_and_spearman_does_not() -> None:
    codes = np.exp(2.0 * FACTORS)
    assert mcc(codes, FACTORS, correlation="spearman").mean == pytest.approx(1, abs=1e-12)
    assert mcc(codes, FACTORS).mean < 0.95


def test_factors_left_without_a_latent_count_as_0() -> None:
    result = mcc(FACTORS[:, :3], FACTORS)
    assert result.mean == pytest.approx(3 / 5, abs=1e-12)
    np.testing.assert_allclose(result.per_factor, [1, 1, 1, 0, 0], atol=1e-12)
    assert result.assignment.tolist() == [0, 1, 2, -1, -1]


def test_latents_to_spare_change_nothing() -> None:
    result = mcc(np.column_stack([FACTORS[:, 0], FACTORS]), FACTORS)
    assert result.mean == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
def test_a_constant_latent_correlates_with_nothing(
    correlation: str, recwarn: pytest.WarningsRecorder
) -> None:
    # 0.3 is not its own mean in floating point, and so has a variance that is not 0.
    codes = np.column_stack([FACTORS[:, :4], np.full(len(FACTORS), 0.3)])
    result = mcc(codes, FACTORS, correlation=correlation)  # type: ignore[arg-type]
    assert (result.correlation[4] == 0).all()
    assert result.mean == pytest.approx(4 / 5, abs=1e-12)
    assert mcc(np.zeros_like(codes), FACTORS, correlation=correlation).mean == 0  # type: ignore[arg-type]
    assert not recwarn.list


def test_very_small_codes_keep_their_correlation() -> None:
    assert mcc(FACTORS * 1e-200, FACTORS).mean == pytest.approx(1, abs=1e-12)


def test_correlations_are_those_of_scipy_with_average_ranks_for_ties() -> None:
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 4, size=(80, 3))
    codes = np.round(factors @ rng.normal(size=(3, 4)), 1)
    pearson = mcc(codes, factors).correlation
    spearman = mcc(codes, factors, correlation="spearman").correlation
    for latent, code in enumerate(codes.T):
        for factor, values in enumerate(factors.T):
            expected = scipy.stats.pearsonr(code, values).statistic
            assert pearson[latent, factor] == pytest.approx(expected, abs=1e-12)
            expected = scipy.stats.spearmanr(code, values).statistic
            assert spearman[latent, factor] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_latents=st.integers(1, 6))
def test_order_sign_scale_and_for_spearman_monotone_maps_change_nothing(seed: int, num_latents: int) -> None:
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 5, size=(30, 4))
    factors[:2] = [[0] * 4, [4] * 4]
    codes = factors @ rng.normal(size=(4, num_latents)) + rng.normal(size=(30, num_latents))
    order, factor_order = rng.permutation(num_latents), rng.permutation(4)
    scale = rng.choice([-1.0, 1.0], size=num_latents) * rng.uniform(0.1, 10, size=num_latents)
    moved = (codes * scale + rng.normal(size=num_latents))[:, order]

    before, after = mcc(codes, factors), mcc(moved, factors[:, factor_order])
    assert after.mean == pytest.approx(before.mean, abs=1e-12)
    np.testing.assert_allclose(after.per_factor, before.per_factor[factor_order], atol=1e-12)
    assert 0 <= before.mean <= 1

    before = mcc(codes, factors, correlation="spearman")
    after = mcc(np.arctan(moved) + moved**3, factors, correlation="spearman")
    assert after.mean == pytest.approx(before.mean, abs=1e-12)


def test_another_correlation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^correlation must be 'pearson' or 'spearman', got 'kendall'$"):
        mcc(FACTORS, FACTORS, correlation="kendall")  # type: ignore[arg-type]
