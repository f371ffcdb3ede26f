from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from idiff_hf.metrics.factor_vae import factor_vae, factor_vae_from_representation, factor_vae_values
from idiff_hf.metrics.inputs import MetricInputs, check_codes_and_factors

FOLDER = Path(__file__).parents[1] / "reference" / "metrics"
REFERENCE = json.loads((FOLDER / "reference.json").read_text())
GRID_CASES = [case for case, content in REFERENCE["cases"].items() if content["full_grid"]]


def grid(*sizes: int) -> np.ndarray:
    """All combinations of classes, in an order that is not the grid's."""
    factors = np.indices(sizes).reshape(len(sizes), -1).T
    return np.random.default_rng(0).permutation(factors)


def values_of(case: str) -> dict[str, object]:
    with np.load(FOLDER / f"{case}.npz") as arrays:
        return factor_vae_values(MetricInputs(*check_codes_and_factors(arrays["codes"], arrays["factors"])))


def test_one_latent_for_each_factor_is_1_whatever_order_sign_scale_and_shift() -> None:
    factors = grid(5, 4, 3)
    result = factor_vae(factors[:, [2, 0, 1]] * [-1.0, 3.0, 10.0] + [0.0, 7.0, -2.0], factors)
    assert result.score == result.train_score == 1
    assert result.votes.argmax(axis=1).tolist() == [2, 0, 1]
    assert result.votes.sum() == 10_000
    assert (np.sort(result.votes, axis=1)[:, :-1] == 0).all()


def test_a_distortion_and_a_second_latent_of_a_factor_cost_nothing() -> None:
    factors = grid(5, 4, 3)
    assert factor_vae(np.column_stack([np.exp(factors), factors[:, 0]]), factors).score == 1


def test_a_factor_that_no_latent_follows_is_lost() -> None:
    factors = grid(5, 5, 5)
    result = factor_vae(factors[:, :2], factors)
    # Its votes fall on the latents of the other two.
    assert result.score == pytest.approx(2 / 3, abs=0.02)
    assert result.votes[:, 2] == pytest.approx(10_000 / 6, rel=0.1)


def test_a_single_latent_gets_every_vote() -> None:
    factors = grid(6, 6, 6, 6)
    assert factor_vae(factors[:, :1], factors).score == pytest.approx(1 / 4, abs=0.02)


def test_two_factors_rotated_by_45_degrees_are_told_by_chance() -> None:
    factors = grid(8, 8)
    codes = factors @ np.array([[1, 1], [1, -1]])
    assert factor_vae(codes, factors).score == pytest.approx(1 / 2, abs=0.03)


def test_a_latent_of_noise_costs_nothing() -> None:
    factors = grid(5, 4, 3)
    noise = np.random.default_rng(1).normal(size=(60, 2))
    assert factor_vae(np.column_stack([factors, noise]), factors).score == 1


@pytest.mark.parametrize("threshold", [0.0, 0.05])
@pytest.mark.parametrize("constant", [0.0, 0.3, 1e8])
def test_a_constant_latent_gets_no_votes(
    constant: float, threshold: float, recwarn: pytest.WarningsRecorder
) -> None:
    factors = grid(5, 4, 3)
    codes = np.column_stack([np.full(60, constant), factors])
    result = factor_vae(codes, factors, prune_threshold=threshold)
    assert result.active.tolist() == [False, True, True, True]
    assert result.score == 1 and result.votes[0].sum() == 0
    assert not recwarn.list


def test_constant_latents_alone_are_0() -> None:
    factors = grid(5, 4)
    result = factor_vae(np.full((20, 3), 0.3), factors)
    assert result.score == result.train_score == 0
    assert not result.active.any() and result.votes.shape == (3, 2) and not result.votes.any()


def test_the_threshold_is_an_absolute_standard_deviation_with_the_border_inside() -> None:
    factors = grid(2, 2)
    codes = np.column_stack([factors[:, 0] * 0.125, factors[:, 1] * 8.0])
    deviation = float(codes[:, 0].std(ddof=1))
    assert factor_vae(codes, factors, prune_threshold=deviation, num_train=100).active.all()
    just_above = np.nextafter(deviation, 1)
    assert factor_vae(codes, factors, prune_threshold=just_above).active.tolist() == [False, True]
    assert factor_vae(codes * 0.001, factors).score == 0
    assert factor_vae(codes * 0.001, factors, prune_threshold=0).score == 1


def test_a_seed_gives_the_same_votes_and_leaves_numpy_s_global_state_alone() -> None:
    factors = grid(6, 6)
    codes = factors @ np.array([[1.0, 0.5], [0.3, 1.0]])
    before = np.random.get_state()[1].copy()
    one, same, other = (factor_vae(codes, factors, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(one.votes, same.votes)
    assert (one.votes != other.votes).any()
    assert one.score == same.score == pytest.approx(other.score, abs=0.03)


def test_the_order_of_rows_does_not_matter() -> None:
    factors = grid(6, 6)
    codes = factors @ np.array([[1.0, 0.5], [0.3, 1.0]])
    np.testing.assert_array_equal(
        factor_vae(codes[::-1], factors[::-1]).votes, factor_vae(codes, factors).votes
    )


def test_a_representation_agrees_with_its_grid() -> None:
    factors = grid(6, 5)
    mixing = np.array([[1.0, 0.5], [0.3, 1.0]])
    asked = []

    def representation(classes: np.ndarray) -> np.ndarray:
        asked.append(classes)
        return (classes @ mixing).astype(np.float32)

    from_function = factor_vae_from_representation(representation, [6, 5])
    from_grid = factor_vae(factors @ mixing, factors)
    # The draws are the same; the variances that they are relative to are estimated.
    assert from_function.score == pytest.approx(from_grid.score, abs=0.02)
    rows = np.concatenate(asked)
    assert len(rows) == 15_000 * 64 + 10_000
    assert max(map(len, asked)) == 4096
    assert rows.min() == 0 and rows.max(axis=0).tolist() == [5, 4]


def test_a_batch_agrees_in_one_factor_and_varies_in_the_others() -> None:
    asked = []

    def representation(classes: np.ndarray) -> np.ndarray:
        asked.append(classes)
        return classes

    result = factor_vae_from_representation(
        representation, [9, 9, 9], batch_size=32, num_train=40, num_eval=9
    )
    batches = np.concatenate(asked)[: 40 * 32].reshape(40, 32, 3)
    agrees = (batches == batches[:, :1]).all(axis=1)
    assert (agrees.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(agrees.sum(axis=0), np.diag(result.votes))
    held_at = batches[:, 0][agrees]
    assert len(np.unique(held_at)) > 4


@pytest.mark.parametrize("case", GRID_CASES)
def test_scores_are_those_of_the_field_s_own_code(case: str) -> None:
    values, expected = values_of(case), REFERENCE["cases"][case]["values"]
    assert set(values) == {"factor_vae", "factor_vae_default_prune"}
    for key in values:
        if (case, key) == ("p08_dead_dim", "factor_vae_default_prune"):
            continue
        tolerance = REFERENCE["suggested_abs_tolerance"][key]
        assert values[key] == pytest.approx(expected[key], abs=tolerance), key


def test_a_constant_latent_does_not_take_all_votes_as_in_the_field_s_own_code() -> None:
    # There the constant latent's 0/0 wins every vote, and one factor in five is right.
    expected = REFERENCE["cases"]["p08_dead_dim"]["values"]["factor_vae_default_prune"]
    assert expected == pytest.approx(1 / 5, abs=0.01)
    assert values_of("p08_dead_dim")["factor_vae_default_prune"] == 1


@pytest.mark.parametrize(
    "rows", [slice(0, 59), np.r_[0:59, 58], np.r_[0:60, 0]], ids=["one missing", "one replaced", "one twice"]
)
def test_rows_that_are_no_grid_are_refused(rows: slice | np.ndarray) -> None:
    factors = grid(5, 4, 3)[rows]
    message = (
        rf"^this score needs a code for each of the 60 combinations of factor classes, one row each, got "
        rf"{len(factors)} rows that are no such grid: pass the full grid, or a representation of factors$"
    )
    with pytest.raises(ValueError, match=message):
        factor_vae(factors, factors)


def test_more_combinations_than_an_integer_holds_are_counted() -> None:
    factors = np.random.default_rng(0).integers(0, 40, size=(50, 40))
    with pytest.raises(ValueError, match=r"each of the [0-9]{50,} combinations .* got 50 rows"):
        factor_vae(factors, factors)


@pytest.mark.parametrize("sizes", [[3], [3, 1], [[2, 2]], [2.5, 3], []])
def test_factors_that_cannot_vary_are_refused(sizes: list[int]) -> None:
    with pytest.raises(
        ValueError, match=r"^factor_sizes must be the whole numbers of classes .*, got \[.*\]$"
    ):
        factor_vae_from_representation(lambda factors: factors, sizes)


def test_a_single_factor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of 2 or more factors, each 2 or more, got \[4\]$"):
        factor_vae(np.arange(4)[:, None], np.arange(4)[:, None])


@pytest.mark.parametrize(
    ("representation", "message"),
    [
        (
            lambda factors: factors[:, 0],
            r"^representation must return codes of shape \(4096, n_latents\) .*,\)$",
        ),
        (lambda factors: factors[1:], r"^representation must .* got shape \(4095, 2\)$"),
        (lambda factors: factors[:, :0], r"^representation must .* got shape \(4096, 0\)$"),
        (
            lambda factors: np.where(factors > 0, factors, np.nan),
            r"^representation must return finite codes, got [67][0-9]\.[0-9]% finite$",
        ),
    ],
)
def test_representations_that_give_no_codes_are_refused(representation: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factor_vae_from_representation(representation, [3, 4])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1}, r"^batch_size must be at least 2 for points to be compared, got 1$"),
        ({"num_train": 0}, r"^num_train and num_eval must be at least 1, got 0 and 5000$"),
        ({"num_eval": -2}, r"^num_train and num_eval must be at least 1, got 10000 and -2$"),
    ],
)
def test_settings_without_a_vote_are_refused(settings: dict[str, int], message: str) -> None:
    factors = grid(3, 2)
    with pytest.raises(ValueError, match=message):
        factor_vae(factors, factors, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        factor_vae_from_representation(lambda classes: classes, [3, 2], **settings)  # type: ignore[arg-type]
