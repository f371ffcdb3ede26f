from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idiff_hf.metrics import modularity

FACTORS = np.indices((3, 3, 3)).reshape(3, -1).T


def test_a_perfect_code_is_1() -> None:
    result = modularity(-2.0 * FACTORS[:, [1, 2, 0]], FACTORS)
    assert result.mean == result.mean_active == 1
    assert result.per_latent.tolist() == [1, 1, 1]


def test_modularity_does_not_ask_for_every_factor() -> None:
    assert modularity(FACTORS[:, [0, 0]], FACTORS).mean == 1


def test_a_latent_that_tells_two_of_three_factors_alike_is_one_half() -> None:
    joint = 3 * FACTORS[:, 0] + FACTORS[:, 1]
    result = modularity(np.column_stack([joint, FACTORS[:, 2]]), FACTORS)
    np.testing.assert_allclose(result.per_latent, [0.5, 1], atol=1e-12)
    assert result.mean == pytest.approx(0.75, abs=1e-12)


def test_a_latent_that_tells_all_factors_alike_is_0() -> None:
    factors = FACTORS[:, :2]
    joint = (3 * factors[:, 0] + factors[:, 1])[:, None]
    assert modularity(joint, factors).mean == pytest.approx(0, abs=1e-12)


def test_unequal_parts() -> None:
    factors = np.indices((4, 2)).reshape(2, -1).T
    joint = (2 * factors[:, 0] + factors[:, 1])[:, None]
    assert modularity(joint, factors).mean == pytest.approx(1 - (np.log(2) / np.log(4)) ** 2, abs=1e-12)


def test_a_dead_latent_counts_as_0_and_is_left_out_of_the_active_mean() -> None:
    result = modularity(np.column_stack([FACTORS, np.full(27, 0.3)]), FACTORS)
    assert result.mean == 0.75
    assert result.mean_active == 1
    assert result.active.tolist() == [True, True, True, False]


def test_a_latent_that_varies_but_tells_nothing_stays_active() -> None:
    factors = np.indices((3, 3, 2)).reshape(3, -1).T
    result = modularity(factors, factors[:, :2])
    assert result.per_latent.tolist() == [1, 1, 0]
    assert result.mean == result.mean_active == pytest.approx(2 / 3)


def test_all_latents_dead_is_0_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    result = modularity(np.zeros((27, 2)), FACTORS)
    assert result.mean == result.mean_active == 0
    assert not recwarn.list


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_sign_and_monotone_maps_change_nothing_where_levels_keep_their_bins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 3, size=(40, 3))
    factors[:2] = [[0, 0, 0], [2, 2, 2]]
    # Five levels; the squares of 4 to 8 are far enough apart for a bin each out of 20.
    levels = rng.integers(4, 9, size=(40, 4))
    levels[:2] = [[4] * 4, [8] * 4]
    before = modularity(levels, factors)
    order = rng.permutation(4)
    after = modularity((levels**2 * rng.choice([-1, 1], size=4))[:, order], factors)
    np.testing.assert_allclose(after.per_latent, before.per_latent[order], atol=1e-12)
    assert 0 <= before.mean <= 1


def test_a_single_factor_is_refused() -> None:
    message = (
        r"^modularity compares what a latent tells about 2 factors or more, got 1: leave modularity out$"
    )
    with pytest.raises(ValueError, match=message):
        modularity(FACTORS, FACTORS[:, :1])
