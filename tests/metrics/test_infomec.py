from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma
from sklearn.feature_selection import _mutual_info, mutual_info_classif
from sklearn.neighbors import NearestNeighbors

from idiff_hf.metrics import evaluate
from idiff_hf.metrics.infomec import (
    infoc_from_nmi,
    infom_from_nmi,
    infomec,
    infomec_values,
    nearest_neighbor_information,
)
from idiff_hf.metrics.inputs import MetricInputs, check_codes_and_factors

FOLDER = Path(__file__).parents[1] / "reference" / "metrics"
REFERENCE = json.loads((FOLDER / "reference.json").read_text())
CASES = REFERENCE["cases"]


def values_of(case: str) -> dict[str, Any]:
    with np.load(FOLDER / f"{case}.npz") as arrays:
        return infomec_values(MetricInputs(*check_codes_and_factors(arrays["codes"], arrays["factors"])))


def by_definition(code: np.ndarray, labels: np.ndarray, num_neighbors: int) -> float:
    """Ross's estimate, one row at a time."""
    rows = [row for row in range(len(code)) if (labels == labels[row]).sum() > 1]
    terms = []
    for row in rows:
        same_class = [other for other in rows if labels[other] == labels[row] and other != row]
        k = min(num_neighbors, len(same_class))
        distance = np.sort(np.abs(code[same_class] - code[row]))[k - 1]
        nearer = sum(abs(code[other] - code[row]) < distance for other in rows)
        terms.append(digamma(len(rows)) + digamma(k) - digamma(len(same_class) + 1) - digamma(nearer))
    return max(0.0, float(np.mean(terms)))


def test_one_latent_for_each_factor_is_1() -> None:
    matrix = np.eye(4)[[2, 0, 3, 1]] * [[0.2], [1.0], [0.7], [1.1]]
    assert infom_from_nmi(matrix) == infoc_from_nmi(matrix) == 1


def test_information_spread_evenly_is_0() -> None:
    matrix = np.full((5, 3), 0.2)
    assert infom_from_nmi(matrix) == pytest.approx(0, abs=1e-12)
    assert infoc_from_nmi(matrix) == pytest.approx(0, abs=1e-12)


def test_a_latent_that_tells_about_two_factors_is_not_modular() -> None:
    matrix = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.9]])
    assert infom_from_nmi(matrix) == pytest.approx((3 / 4 - 1 / 3) / (2 / 3), abs=1e-12)
    assert infoc_from_nmi(matrix) == 1


def test_a_factor_that_two_latents_tell_about_is_not_compact() -> None:
    matrix = np.array([[0.6, 0.0], [0.3, 0.0], [0.0, 0.9]])
    assert infom_from_nmi(matrix) == 1
    assert infoc_from_nmi(matrix) == pytest.approx((5 / 6 - 1 / 3) / (2 / 3), abs=1e-12)


def test_a_latent_or_factor_without_information_counts_as_even_shares(
    recwarn: pytest.WarningsRecorder,
) -> None:
    matrix = np.array([[0.8, 0.0], [0.0, 0.0]])
    assert infom_from_nmi(matrix) == infoc_from_nmi(matrix) == pytest.approx(0.5, abs=1e-12)
    assert infom_from_nmi(np.zeros((3, 2))) == infoc_from_nmi(np.zeros((3, 2))) == 0
    assert not recwarn.list


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_latents=st.integers(2, 6), num_factors=st.integers(2, 6))
def test_aggregation_is_blind_to_order_and_scale_and_the_two_are_transposes(
    seed: int, num_latents: int, num_factors: int
) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.exponential(size=(num_latents, num_factors)) * rng.integers(0, 2, (num_latents, num_factors))
    moved = 7 * matrix[rng.permutation(num_latents)][:, rng.permutation(num_factors)]
    for score in (infom_from_nmi, infoc_from_nmi):
        assert score(moved) == pytest.approx(score(matrix), abs=1e-12)
        assert 0 <= score(matrix) <= 1 + 1e-12
    assert infoc_from_nmi(matrix.T) == infom_from_nmi(matrix)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones(3), r"^nmi_matrix must have shape \(n_latents, n_factors\), got shape \(3,\)$"),
        (-np.eye(2), r"^nmi_matrix must be finite and non-negative, got values from -1\.0 to -?0\.0$"),
        (np.eye(2) / np.float64("nan"), r"^nmi_matrix must be finite .* from nan to nan$"),
    ],
)
def test_matrices_without_a_score_are_refused(matrix: np.ndarray, message: str) -> None:
    for score in (infom_from_nmi, infoc_from_nmi):
        with pytest.raises(ValueError, match=message):
            score(matrix)


@pytest.mark.parametrize(
    ("score", "shape"),
    [(infom_from_nmi, (3, 1)), (infom_from_nmi, (0, 3)), (infoc_from_nmi, (1, 3)), (infoc_from_nmi, (2, 0))],
)
def test_a_matrix_with_nothing_to_compare_is_refused(
    score: Callable[[np.ndarray], float], shape: tuple[int, int]
) -> None:
    message = (
        rf"^Info[MC] compares .*, got {shape[0]} active latents and {shape[1]} factors: leave infomec out$"
    )
    with pytest.raises(ValueError, match=message):
        score(np.ones(shape))


def test_classes_far_apart_give_all_their_entropy() -> None:
    labels = np.arange(400) % 4
    code = 100 * labels + np.random.default_rng(0).uniform(size=400)
    # Every neighbour is of the same class, and the digammas of k and of m cancel.
    expected = digamma(400) - digamma(100)
    assert nearest_neighbor_information(code, labels) == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(np.log(4), abs=0.005)


def test_an_independent_code_tells_next_to_nothing() -> None:
    rng = np.random.default_rng(0)
    assert nearest_neighbor_information(rng.normal(size=4000), rng.integers(0, 4, 4000)) < 0.02


def test_overlapping_classes_give_the_information_known_on_paper() -> None:
    # Uniform on [0, 1] against uniform on [0, 2]: the mean of ln(density in the class / density), by parts of
    # [0, 2].
    rng = np.random.default_rng(0)
    labels = np.arange(20_000) % 2
    code = rng.uniform(size=20_000) * np.where(labels == 0, 1.0, 2.0)
    below, above = (1.0 + 0.5) / 2, 0.5 / 2
    expected = np.log(1.0 / below) / 2 + np.log(0.5 / below) / 4 + np.log(0.5 / above) / 4
    assert nearest_neighbor_information(code, labels) == pytest.approx(expected, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_samples=st.integers(3, 60),
    num_classes=st.integers(1, 8),
    num_neighbors=st.integers(1, 12),
    resolution=st.sampled_from([1e-16, 1e-10, 0.1]),
)
def test_information_follows_its_definition_row_by_row(
    seed: int, num_samples: int, num_classes: int, num_neighbors: int, resolution: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, num_classes, num_samples - 2), [0, 0])
    # Rounded to whole multiples of 1 with a fine noise, so that neighbours lie on the ends of intervals.
    code = rng.integers(0, 3, num_samples) + resolution * rng.permutation(num_samples) * 7.0
    if len(np.unique(code)) < num_samples:
        code = code + np.arange(num_samples) * 1e-12
    code = code[np.unique(code, return_index=True)[1]]
    labels = labels[-len(code) :]
    expected = by_definition(code, labels, num_neighbors)
    assert nearest_neighbor_information(code, labels, num_neighbors) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_information_is_that_of_scikit_learn(noise: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 500)
    code = labels + noise * rng.normal(size=500)
    code = (code - code.mean()) / code.std()
    for seed in range(3):
        expected = mutual_info_classif(
            code[:, None], labels, discrete_features=False, n_neighbors=10, random_state=seed
        )[0]
        distinct = code + 1e-10 * np.random.RandomState(seed).standard_normal(500)
        assert nearest_neighbor_information(distinct, labels) == pytest.approx(expected, abs=1e-12)


def test_equal_values_do_not_break_the_count() -> None:
    assert np.isfinite(nearest_neighbor_information(np.zeros(20), np.arange(20) % 2))


def test_classes_of_one_row_are_left_out() -> None:
    rng = np.random.default_rng(0)
    code, labels = rng.normal(size=40), np.arange(40) % 2
    with_singletons = nearest_neighbor_information(
        np.append(code, [0.1, 0.2]), np.append(labels, [2, 3]), num_neighbors=3
    )
    assert with_singletons == nearest_neighbor_information(code, labels, num_neighbors=3)
    with pytest.raises(ValueError, match=r"^no class has two rows to compare: [^\n]*$"):
        nearest_neighbor_information(code, np.arange(40))
    with pytest.raises(ValueError, match=r"^num_neighbors must be at least 1, got 0$"):
        nearest_neighbor_information(code, labels, num_neighbors=0)


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Noisy codes of two factors, the second distorted, and a latent of noise."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 4, size=(600, 2))
    noisy = factors + rng.normal(size=(600, 2)) * 0.1
    return np.column_stack([noisy[:, 0], np.exp(noisy[:, 1]), rng.normal(size=600)]), factors


def test_a_perfect_code_with_noise_and_a_collapsed_latent(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    result = infomec(np.column_stack([codes[:, :2], codes[:, 2] * 0.01]), factors)
    assert result.active.tolist() == [True, True, False]
    assert result.infom == pytest.approx(1, abs=0.02)
    assert result.infoc == pytest.approx(1, abs=0.02)
    assert result.infoe == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(result.nmi_matrix[:2], np.eye(2), atol=0.02)


def test_a_latent_is_active_above_a_twentieth_of_the_widest_range(
    rows: tuple[np.ndarray, np.ndarray],
) -> None:
    _, factors = rows
    ramp = np.linspace(0, 1, 600)
    ramps = np.column_stack([ramp * 20, ramp * 1.01, ramp * 0.99, ramp])
    assert infomec(ramps, factors).active.tolist() == [True, True, False, False]


def test_a_rotated_code_is_explicit_but_not_modular(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    result = infomec(codes[:, [0]] * [1, 1] + factors[:, [1]] * [1, -1], factors)
    assert result.infoe > 0.95
    assert result.infom < 0.2 and result.infoc < 0.2


def test_codes_of_noise_explain_next_to_nothing(rows: tuple[np.ndarray, np.ndarray]) -> None:
    _, factors = rows
    result = infomec(np.random.default_rng(5).normal(size=(600, 3)), factors)
    assert 0 <= result.infoe < 0.03
    assert result.nmi_matrix.max() < 0.05


def test_explicitness_is_relative_to_even_odds() -> None:
    # P(y = 1) = 0.1: the balanced classifier that sees nothing gives 1/2 to both, at ln 2 = 0.69 nats, and not
    # the 0.33 nats of the frequencies.
    rng = np.random.default_rng(0)
    factors = np.stack([rng.permutation(np.arange(2000) < 200), np.arange(2000) % 2], axis=1).astype(int)
    result = infomec(rng.normal(size=(2000, 2)), factors)
    assert result.infoe == pytest.approx(0, abs=0.01)


def test_constant_codes_explain_nothing(rows: tuple[np.ndarray, np.ndarray]) -> None:
    _, factors = rows
    assert infomec_values(MetricInputs(np.full((600, 2), 0.3), factors))["infoe"] == 0.0


def test_shift_scale_and_order_of_latents_do_not_matter(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    plain, moved = infomec(codes, factors), infomec(-1e-3 * codes[:, ::-1] + 5, factors)
    np.testing.assert_allclose(moved.nmi_matrix[::-1], plain.nmi_matrix, atol=1e-6)
    for score in ("infom", "infoe", "infoc"):
        assert getattr(moved, score) == pytest.approx(getattr(plain, score), abs=1e-6)


def test_a_constant_latent_changes_nothing_else(
    rows: tuple[np.ndarray, np.ndarray], recwarn: pytest.WarningsRecorder
) -> None:
    codes, factors = rows
    plain, padded = infomec(codes, factors), infomec(np.column_stack([codes, np.full(600, 0.3)]), factors)
    assert padded.active.tolist() == [True, True, True, False]
    assert padded.infom == pytest.approx(plain.infom, abs=1e-9)
    assert padded.infoe == pytest.approx(plain.infoe, abs=1e-6)
    assert padded.infoc == pytest.approx(plain.infoc, abs=1e-9)
    assert not recwarn.list


def test_a_seed_gives_the_same_bits_and_leaves_numpy_s_global_state_alone() -> None:
    factors = np.indices((4, 5, 6)).reshape(3, -1).T
    # Classes share a value, and the noise decides which of them are neighbours.
    codes = factors // 2
    before = np.random.get_state()[1].copy()
    one, same, other = (infomec(codes, factors, seed=seed).nmi_matrix for seed in (3, 3, 4))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_arrays_without_a_score_are_refused(rows: tuple[np.ndarray, np.ndarray]) -> None:
    codes, factors = rows
    with pytest.raises(ValueError, match=r"^InfoM compares .*, got 0 active latents and 2 factors: "):
        infomec(np.zeros((600, 2)), factors)
    with pytest.raises(ValueError, match=r"^InfoC compares .*, got 1 active latents and 2 factors: "):
        infomec(codes * [1.0, 0.001, 0.001], factors)
    with pytest.raises(ValueError, match=r"^InfoM compares .*, got 3 active latents and 1 factors: "):
        infomec(codes, factors[:, :1])
    with pytest.raises(ValueError, match=r"^num_neighbors must be at least 1, got -1$"):
        infomec(codes, factors, num_neighbors=-1)
    with pytest.raises(ValueError, match=r"^no class has two rows to compare: "):
        infomec(codes, np.column_stack([factors, np.arange(600)]))


@pytest.mark.parametrize("case", CASES)
def test_aggregation_is_that_of_the_field_s_own_code(case: str) -> None:
    expected = CASES[case]["values"]
    active = np.array(expected["active_latents"])
    matrix = np.array(expected["nmi_matrix_seed0"]).T[active]
    assert infom_from_nmi(matrix) == pytest.approx(expected["infom_seed0"], abs=1e-9)
    assert infoc_from_nmi(matrix) == pytest.approx(expected["infoc_seed0"], abs=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_the_field_s_own_code(case: str) -> None:
    values, expected = values_of(case), CASES[case]["values"]
    assert set(values) == {"infom", "infoe", "infoc", "nmi_matrix", "active_latents"}
    assert values["active_latents"] == expected["active_latents"]
    for key in ("infom", "infoe", "infoc"):
        tolerance = REFERENCE["suggested_abs_tolerance"][key]
        assert values[key] == pytest.approx(expected[key], abs=tolerance), key
    # The tiny case has classes of fewer than 2k rows, for which scikit-learn loses digits; see the docstring.
    tolerance = 0.01 if case == "p09_tiny_n" else 1e-9
    np.testing.assert_allclose(
        np.transpose(values["nmi_matrix"]), expected["nmi_matrix_seed0"], rtol=0, atol=tolerance
    )
    if case != "p09_tiny_n":
        assert values["infom"] == pytest.approx(expected["infom_seed0"], abs=1e-9)
        assert values["infoc"] == pytest.approx(expected["infoc_seed0"], abs=1e-9)


def test_small_classes_differ_from_scikit_learn_by_its_lost_digits_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 5
    code = labels + rng.normal(size=60)
    code = (code - code.mean()) / code.std()
    distinct = code + 1e-10 * np.random.RandomState(0).standard_normal(60)

    def with_a_tree(**settings: Any) -> NearestNeighbors:
        return NearestNeighbors(algorithm="kd_tree", **settings)

    monkeypatch.setattr(_mutual_info, "NearestNeighbors", with_a_tree)
    expected = mutual_info_classif(
        code[:, None], labels, discrete_features=False, n_neighbors=10, random_state=0
    )[0]
    assert nearest_neighbor_information(distinct, labels) == pytest.approx(expected, abs=1e-12)


def test_one_active_latent_leaves_only_infoc_undefined() -> None:
    rng = np.random.default_rng(0)
    factors = np.indices((4, 5, 6)).reshape(3, -1).T
    codes = factors[:, :2] + 0.1 * rng.normal(size=(120, 2))
    alone = codes * [1.0, 1e-3]
    record = evaluate(alone, factors, metrics=["infomec"])
    assert record.values["active_latents"] == [True, False] and list(record.undefined) == ["infoc"]
    assert "InfoC compares what 2 active latents or more tell" in record.undefined["infoc"]
    both = evaluate(codes, factors, metrics=["infomec"]).values
    assert record.values["infoe"] == pytest.approx(both["infoe"], abs=1e-6)
    np.testing.assert_allclose(record.values["nmi_matrix"], both["nmi_matrix"], atol=1e-6)
