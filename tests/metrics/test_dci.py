from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config

from idiff_hf.metrics import (
    DCIResult,
    completeness_from_importance,
    dci,
    disentanglement_from_importance,
    evaluate,
)
from idiff_hf.metrics.dci import REGRESSORS
from idiff_hf.metrics.inputs import Regressor


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Codes and factors of 60 rows: three noisy mixtures of two factors."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 2, size=(60, 2))
    return factors @ rng.normal(size=(2, 3)) + 0.5 * rng.normal(size=(60, 3)), factors


def test_one_latent_for_each_factor_is_1() -> None:
    importance = np.eye(4)[[2, 0, 3, 1]]
    assert disentanglement_from_importance(importance) == 1
    assert completeness_from_importance(importance) == 1


def test_importance_spread_evenly_is_0() -> None:
    importance = np.full((5, 3), 0.2)
    assert disentanglement_from_importance(importance) == pytest.approx(0, abs=1e-12)
    assert completeness_from_importance(importance) == pytest.approx(0, abs=1e-12)


def test_a_factor_coded_by_two_latents_is_disentangled_but_not_complete() -> None:
    importance = np.array([[0.5, 0, 0], [0.5, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert disentanglement_from_importance(importance) == 1
    expected = (2 + 1 - np.log(2) / np.log(4)) / 3
    assert completeness_from_importance(importance) == pytest.approx(expected, abs=1e-12)


def test_a_latent_that_codes_two_factors_is_complete_but_not_disentangled() -> None:
    importance = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert completeness_from_importance(importance) == 1
    expected = 2 / 3 * (1 - np.log(2) / np.log(3)) + 1 / 3
    assert disentanglement_from_importance(importance) == pytest.approx(expected, abs=1e-12)


def test_a_latent_of_no_importance_weighs_nothing_in_disentanglement() -> None:
    importance = np.array([[0.7, 0.2], [0.3, 0.8]])
    with_dead = np.vstack([importance, np.zeros((2, 2))])
    assert disentanglement_from_importance(with_dead) == pytest.approx(
        disentanglement_from_importance(importance)
    )


def test_no_importance_at_all_is_0_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert disentanglement_from_importance(np.zeros((3, 2))) == 0
    assert completeness_from_importance(np.zeros((3, 2))) == 0
    assert not recwarn.list


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_latents=st.integers(2, 6), num_factors=st.integers(2, 6))
def test_aggregation_is_blind_to_order_and_scale_and_the_two_are_transposes(
    seed: int, num_latents: int, num_factors: int
) -> None:
    rng = np.random.default_rng(seed)
    importance = rng.exponential(size=(num_latents, num_factors)) * rng.integers(
        0, 2, (num_latents, num_factors)
    )
    moved = 7 * importance[rng.permutation(num_latents)][:, rng.permutation(num_factors)]
    for score in (disentanglement_from_importance, completeness_from_importance):
        assert score(moved) == pytest.approx(score(importance), abs=1e-12)
        assert 0 <= score(importance) <= 1 + 1e-12
    assert completeness_from_importance(importance.T) == disentanglement_from_importance(importance)


@pytest.mark.parametrize("score", [disentanglement_from_importance, completeness_from_importance])
@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (
            np.ones(3),
            r"^importance must have shape \(n_latents, n_factors\) with 2 or more .*, got shape \(3,\)$",
        ),
        (np.ones((3, 1)), r"with 2 or more of each for DCI to be defined, got shape \(3, 1\)$"),
        (
            np.array([[1, -0.5], [0, 1]]),
            r"^importance must be finite and non-negative, got values from -0\.5 to 1\.0$",
        ),
        (
            np.array([[1, np.nan], [0, 1]]),
            r"^importance must be finite and non-negative, got values from nan to nan$",
        ),
    ],
)
def test_matrices_without_a_score_are_refused(score: object, importance: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(importance)  # type: ignore[operator]


def test_a_perfect_code_with_a_dead_latent(rows: tuple[np.ndarray, np.ndarray]) -> None:
    _, factors = rows
    result = dci(np.column_stack([np.full(60, 0.3), -factors]), factors)
    assert result.disentanglement == pytest.approx(1, abs=1e-9)
    assert result.completeness == pytest.approx(1, abs=1e-9)
    assert result.informativeness_train == result.informativeness_test == 1
    np.testing.assert_allclose(result.importance, [[0, 0], [1, 0], [0, 1]], atol=1e-9)


def test_dead_latents_alone_tell_nothing(rows: tuple[np.ndarray, np.ndarray]) -> None:
    _, factors = rows
    result = dci(np.zeros((60, 2)), factors)
    assert result.disentanglement == result.completeness == 0
    assert (result.importance == 0).all()
    most_frequent = [np.bincount(column[:40]).max() / 40 for column in factors.T]
    assert result.informativeness_train == pytest.approx(np.mean(most_frequent))


def test_the_scores_are_those_of_the_importance(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    result = dci(codes, factors)
    assert result.disentanglement == disentanglement_from_importance(result.importance)
    assert result.completeness == completeness_from_importance(result.importance)
    assert 0 < result.disentanglement < 1
    assert (result.importance >= 0).all()
    np.testing.assert_allclose(result.importance.sum(axis=0), 1, atol=1e-9)
    assert result.informativeness_test < result.informativeness_train


def assert_same_bits(one: DCIResult, other: DCIResult) -> None:
    np.testing.assert_array_equal(one.importance, other.importance)
    for score in ("disentanglement", "completeness", "informativeness_train", "informativeness_test"):
        assert getattr(one, score) == getattr(other, score)


@pytest.mark.parametrize("regressor", REGRESSORS)
def test_workers_in_threads_give_the_same_bits(
    regressor: Regressor, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    alone = dci(*rows, seed=3, regressor=regressor)
    for n_jobs in (2, 3):
        with parallel_config("threading"):
            assert_same_bits(dci(*rows, seed=3, n_jobs=n_jobs, regressor=regressor), alone)


@pytest.mark.slow
@pytest.mark.parametrize("regressor", REGRESSORS)
@pytest.mark.parametrize("n_jobs", [2, 3, -1])
def test_workers_in_processes_give_the_same_bits(
    n_jobs: int, regressor: Regressor, rows: tuple[np.ndarray, np.ndarray]
) -> None:
    alone = dci(*rows, seed=3, regressor=regressor)
    assert_same_bits(dci(*rows, seed=3, n_jobs=n_jobs, regressor=regressor), alone)


@pytest.mark.parametrize("progress", [True, False])
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_where_it_is_asked_for(
    progress: bool, terminal: bool, rows: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    shown.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", shown)
    evaluate(*rows, metrics=["dci"], dci_regressor="presorted_boosting", progress=progress)
    assert ("DCI" in shown.getvalue() and "2/2" in shown.getvalue()) == (progress and terminal)
    assert bool(shown.getvalue()) == (progress and terminal)


def test_the_presorted_regressor_is_near_the_reference_and_draws_no_random_number(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    reference, presorted = dci(*rows), dci(*rows, regressor="presorted_boosting")
    assert np.abs(presorted.importance - reference.importance).max() < 0.05
    assert presorted.informativeness_train == reference.informativeness_train
    assert_same_bits(dci(*rows, seed=9, regressor="presorted_boosting"), presorted)


def test_another_regressor_is_refused(rows: tuple[np.ndarray, np.ndarray]) -> None:
    message = r"^regressor must be among gradient_boosting, presorted_boosting, got 'lasso'$"
    with pytest.raises(ValueError, match=message):
        dci(*rows, regressor="lasso")  # type: ignore[arg-type]


def test_the_order_of_factors_does_not_matter(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    np.testing.assert_array_equal(
        dci(codes, factors[:, ::-1]).importance, dci(codes, factors).importance[:, ::-1]
    )


def test_a_seed_leaves_numpy_s_global_state_alone(rows: tuple[np.ndarray, np.ndarray]) -> None:
    before = np.random.get_state()[1].copy()
    dci(*rows, seed=1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_two_thirds_rounded_up_are_fitted_on(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = (array[:50] for array in rows)
    importance = dci(codes, factors).importance
    np.testing.assert_array_equal(dci(codes, factors, num_train=34).importance, importance)
    assert (dci(codes, factors, num_train=33).importance != importance).any()


def test_labels_in_the_test_rows_do_not_reach_the_fit(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    spoiled = factors.copy()
    spoiled[40:] = 1 - spoiled[40:]
    clean, result = dci(codes, factors), dci(codes, spoiled)
    np.testing.assert_array_equal(result.importance, clean.importance)
    assert result.informativeness_train == clean.informativeness_train
    assert result.informativeness_test < clean.informativeness_test


@pytest.mark.parametrize("num_train", [0, 60, -1])
def test_a_split_without_test_rows_is_refused(num_train: int, rows: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(
        ValueError, match=rf"^num_train must leave rows to test on, in \[1, 59\] here, got {num_train}$"
    ):
        dci(*rows, num_train=num_train)


def test_rows_sorted_by_class_are_refused() -> None:
    factors = np.column_stack([np.arange(12) % 2, np.arange(12) // 9])
    message = (
        r"^factors column 1 has a single class in the first 8 rows, .*: shuffle the rows or raise num_train$"
    )
    with pytest.raises(ValueError, match=message):
        dci(factors, factors)


def test_a_single_latent_or_factor_is_refused(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    message = r"^DCI needs 2 or more latents and factors, got {} latents and {} factors: leave dci out$"
    with pytest.raises(ValueError, match=message.format(1, 2)):
        dci(codes[:, :1], factors)
    with pytest.raises(ValueError, match=message.format(3, 1)):
        dci(codes, factors[:, :1])
