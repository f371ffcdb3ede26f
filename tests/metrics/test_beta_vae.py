from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from idiff_hf.metrics.beta_vae import beta_vae, beta_vae_from_representation, beta_vae_values
from idiff_hf.metrics.inputs import MetricInputs, check_codes_and_factors

FOLDER = Path(__file__).parents[1] / "reference" / "metrics"
REFERENCE = json.loads((FOLDER / "reference.json").read_text())
GRID_CASES = [case for case, content in REFERENCE["cases"].items() if content["full_grid"]]


def grid(*sizes: int) -> np.ndarray:
    """All combinations of classes, in an order that is not the grid's."""
    factors = np.indices(sizes).reshape(len(sizes), -1).T
    return np.random.default_rng(0).permutation(factors)


def test_one_latent_for_each_factor_is_1_whatever_order_sign_and_shift() -> None:
    factors = grid(5, 4, 3)
    result = beta_vae(factors[:, [2, 0, 1]] * [-1.0, 1.0, 2.0] + [0.0, 7.0, -2.0], factors)
    assert result.score == result.train_score == 1


def test_a_factor_that_no_latent_follows_is_told_by_all_latents_varying() -> None:
    factors = grid(5, 5, 5)
    assert beta_vae(factors[:, :2], factors).score == 1


def test_two_factors_that_no_latent_follows_cannot_be_told_apart() -> None:
    factors = grid(5, 5, 5, 5)
    assert beta_vae(factors[:, :2], factors).score == pytest.approx(3 / 4, abs=0.02)


@pytest.mark.parametrize("constant", [0.0, 0.3])
def test_constant_latents_are_chance(constant: float, recwarn: pytest.WarningsRecorder) -> None:
    factors = grid(5, 4, 3, 2)
    assert beta_vae(np.full((120, 3), constant), factors).score == pytest.approx(1 / 4, abs=0.02)
    assert not recwarn.list


def test_two_factors_rotated_by_45_degrees_are_told_by_chance() -> None:
    factors = grid(8, 8)
    codes = factors @ np.array([[1, 1], [1, -1]])
    assert beta_vae(codes, factors).score == pytest.approx(1 / 2, abs=0.03)


def test_a_seed_gives_the_same_score_and_leaves_numpy_s_global_state_alone() -> None:
    factors = grid(6, 6)
    codes = factors @ np.array([[1.0, 1.0], [1.0, -1.0]])
    before = np.random.get_state()[1].copy()
    one, same, other = (beta_vae(codes, factors, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert one == same
    assert (one.score, one.train_score) != (other.score, other.train_score)


def test_a_representation_is_asked_for_pairs_that_agree_in_one_factor() -> None:
    asked = []

    def representation(classes: np.ndarray) -> np.ndarray:
        asked.append(classes)
        return classes.astype(np.float32)

    result = beta_vae_from_representation(representation, [9, 8, 7], batch_size=32, num_train=64, num_eval=20)
    assert result.score == 1
    assert [len(classes) for classes in asked] == [64 * 32, 64 * 32, 20 * 32, 20 * 32]
    agrees = (asked[0] == asked[1]).reshape(64, 32, 3)
    assert (agrees.all(axis=1).sum(axis=1) == 1).all()
    shared = agrees.all(axis=1).argmax(axis=1)
    assert (np.bincount(shared, minlength=3) > 10).all()
    # Pairs share the class, not the batch: it is not the same for all of them.
    first = asked[0].reshape(64, 32, 3)
    assert (np.ptp(first, axis=1) > 0).all()


def test_a_representation_agrees_with_its_grid() -> None:
    factors = grid(6, 5)
    mixing = np.array([[1.0, 1.0], [0.99, -1.0]])
    result = beta_vae_from_representation(lambda classes: classes @ mixing, [6, 5])
    assert result == beta_vae(factors @ mixing, factors)
    assert 0.5 < result.score < 1


@pytest.mark.parametrize("case", GRID_CASES)
def test_scores_are_those_of_the_field_s_own_code(case: str) -> None:
    with np.load(FOLDER / f"{case}.npz") as arrays:
        inputs = MetricInputs(*check_codes_and_factors(arrays["codes"], arrays["factors"]))
    expected = REFERENCE["cases"][case]["values"]["beta_vae"]
    values = beta_vae_values(inputs)
    assert values == {
        "beta_vae": pytest.approx(expected, abs=REFERENCE["suggested_abs_tolerance"]["beta_vae"])
    }


def test_rows_that_are_no_grid_are_refused() -> None:
    factors = grid(5, 4)[:-1]
    with pytest.raises(ValueError, match=r"^this score needs a code for each of the 20 combinations [^\n]*$"):
        beta_vae(factors, factors)


def test_settings_and_representations_without_a_score_are_refused() -> None:
    factors = grid(3, 2)
    with pytest.raises(ValueError, match=r"^batch_size must be at least 2"):
        beta_vae(factors, factors, batch_size=0)
    with pytest.raises(ValueError, match=r"^num_train and num_eval must be at least 1, got 5 and 0$"):
        beta_vae(factors, factors, num_train=5, num_eval=0)
    with pytest.raises(ValueError, match=r"^num_train must be larger"):
        beta_vae(factors, factors, num_train=1)
    with pytest.raises(ValueError, match=r"^factor_sizes must"):
        beta_vae_from_representation(lambda classes: classes, [3])
    with pytest.raises(ValueError, match=r"^representation must return finite codes"):
        beta_vae_from_representation(lambda classes: np.full(classes.shape, np.nan), [3, 2])
