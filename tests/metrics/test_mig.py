from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiff_hf.metrics import evaluate_codes, mig, modularity

FACTORS = np.indices((5, 4, 3)).reshape(3, -1).T


def test_a_perfect_code_has_gap_1_whatever_order_sign_and_scale() -> None:
    codes = FACTORS[:, [2, 0, 1]] * np.array([-3.0, 0.01, 7.0]) + 5.0
    result = mig(codes, FACTORS)
    assert result.mean == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(result.per_factor, 1, atol=1e-12)


def test_constant_latents_do_not_count() -> None:
    codes = np.column_stack([np.full(60, 0.3), FACTORS, np.zeros(60)])
    assert mig(codes, FACTORS).mean == pytest.approx(1, abs=1e-12)


def test_a_factor_coded_twice_has_gap_0() -> None:
    codes = np.column_stack([FACTORS, -FACTORS[:, 0]])
    result = mig(codes, FACTORS)
    np.testing.assert_allclose(result.per_factor, [0, 1, 1], atol=1e-12)
    assert result.mean == pytest.approx(2 / 3, abs=1e-12)


def test_all_factors_coded_twice_is_0() -> None:
    assert mig(np.column_stack([FACTORS, FACTORS]), FACTORS).mean == 0


def test_codes_independent_of_the_factors_are_0() -> None:
    factors = np.indices((3, 3, 4, 4)).reshape(4, -1).T
    assert mig(factors[:, 2:], factors[:, :2]).mean == 0


def test_classes_merged_in_pairs_lose_ln_2() -> None:
    factor = np.arange(10)
    codes = np.column_stack([factor // 2, np.zeros(10)])
    assert mig(codes, factor[:, None]).mean == pytest.approx(1 - np.log(2) / np.log(10), abs=1e-12)


def test_a_factor_split_over_two_latents_is_the_difference() -> None:
    factor = np.arange(10)
    codes = np.column_stack([factor % 2, factor // 2])
    assert mig(codes, factor[:, None]).mean == pytest.approx((np.log(5) - np.log(2)) / np.log(10), abs=1e-12)


def test_more_classes_than_bins_cap_a_perfect_code() -> None:
    # 32 even levels in 20 bins: 12 bins hold two levels, so three quarters of the rows lose one bit of five.
    factor = np.arange(32)
    codes = np.column_stack([factor, np.zeros(32)])
    assert mig(codes, factor[:, None]).mean == pytest.approx(1 - 0.75 / 5, abs=1e-12)
    assert mig(codes, factor[:, None], num_bins=32).mean == pytest.approx(1, abs=1e-12)


def test_number_of_bins() -> None:
    factor = np.arange(8)
    codes = np.column_stack([factor, np.zeros(8)])
    assert mig(codes, factor[:, None], num_bins=2).mean == pytest.approx(1 / 3, abs=1e-12)


def test_a_continuous_factor_is_cut_like_a_code() -> None:
    rng = np.random.default_rng(0)
    factor = rng.uniform(-0.5, 0.5, size=(200, 1))
    codes = np.column_stack([3 * factor, np.zeros(200)])
    assert mig(codes, factor).mean == pytest.approx(1, abs=1e-12)


def test_the_parts_are_in_nats_with_latents_in_rows() -> None:
    codes = np.column_stack([FACTORS[:, [1, 0, 2]], np.zeros(60)])
    result = mig(codes, FACTORS)
    assert result.mi_matrix.shape == (4, 3)
    expected = np.zeros((4, 3))
    expected[1, 0], expected[0, 1], expected[2, 2] = np.log([5, 4, 3])
    np.testing.assert_allclose(result.mi_matrix, expected, atol=1e-12)
    np.testing.assert_allclose(result.factor_entropy, np.log([5, 4, 3]), rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_and_sign_of_latents_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 4, size=(50, 2))
    factors[:2] = [[0, 0], [3, 3]]
    codes = factors @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(50, 4))
    before = mig(codes, factors)
    after = mig((codes * rng.choice([-2.0, 2.0], size=4))[:, rng.permutation(4)], factors)
    np.testing.assert_allclose(after.per_factor, before.per_factor, atol=1e-12)
    assert 0 <= before.mean <= 1


def test_a_single_latent_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^MIG is the gap between the two most informative latents, got 1: leave mig out$"
    ):
        mig(FACTORS[:, :1], FACTORS)


def test_a_single_bin_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^num_bins must be at least 2, got 1: "):
        mig(FACTORS, FACTORS, num_bins=1)


def test_floating_factors_are_cut_alike_however_many_bins_codes_have() -> None:
    rng = np.random.default_rng(0)
    factors = rng.uniform(size=(300, 3))
    codes = factors + 0.1 * rng.normal(size=factors.shape)
    for bins in (20, 50):
        values = evaluate_codes(codes, factors, metrics=["mig", "modularity"], num_bins=bins)
        assert mig(codes, factors, num_bins=bins).mean == values["mig"]
        assert modularity(codes, factors, num_bins=bins).mean == values["modularity"]


def test_one_latent_has_information_and_no_gap() -> None:
    factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    values = evaluate_codes(factors[:, :1], factors, metrics=["mig"])
    assert values["mig"] is None and values["mig_per_factor"] is None
    np.testing.assert_allclose(values["mi_matrix"], [[np.log(2), 0.0]], atol=1e-12)
    np.testing.assert_allclose(values["factor_entropy"], [np.log(2)] * 2)
