from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingClassifier

from idiff_hf.metrics.boosting import fit_boosting


def noisy_rows(num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes and labels of 150 rows: four latents, the first two of which tell about the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, size=150)
    return np.column_stack([labels, -labels, labels, labels]) * [1, 0.5, 0, 0] + rng.normal(
        size=(150, 4)
    ), labels


@pytest.mark.parametrize("num_classes", [2, 4])
def test_it_is_scikit_learn_s_classifier_up_to_ties(num_classes: int) -> None:
    codes, labels = noisy_rows(num_classes)
    fit = fit_boosting(codes, labels, 100)
    references = [
        GradientBoostingClassifier(random_state=seed).fit(codes[:100], labels[:100]) for seed in range(2)
    ]
    importances = np.stack([reference.feature_importances_ for reference in references])
    # Which latent wins among equally good splits is drawn there; this is as far as seeds are apart.
    assert np.abs(fit.importance - importances.mean(axis=0)).max() < 0.02
    agreement = np.mean([(fit.predictions == reference.predict(codes)).mean() for reference in references])
    assert agreement > 0.95


def test_without_ties_it_is_scikit_learn_s_classifier() -> None:
    # One latent leaves no choice between latents, and 400 rows of two classes are split far from single rows.
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, size=400)
    codes = (labels + rng.integers(-3, 4, size=400))[:, None].astype(float)
    reference = GradientBoostingClassifier(random_state=0).fit(codes[:300], labels[:300])
    fit = fit_boosting(codes, labels, 300)
    np.testing.assert_array_equal(fit.predictions, reference.predict(codes))
    assert fit.importance.tolist() == [1.0]


def test_equal_latents_share_their_importance() -> None:
    codes, labels = noisy_rows(2)
    np.testing.assert_allclose(fit_boosting(codes[:, [0, 0]], labels, 100).importance, 0.5, atol=1e-12)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_strictly_increasing_maps_change_no_importance(seed: int) -> None:
    codes, labels = noisy_rows(2, seed)
    moved = np.sinh(codes) * [0.1, 3.0, 1.0, 1e6]
    before, after = fit_boosting(codes, labels, 100), fit_boosting(moved, labels, 100)
    np.testing.assert_array_equal(after.importance, before.importance)
    np.testing.assert_array_equal(after.predictions[:100], before.predictions[:100])


def test_rows_in_another_order_change_nothing() -> None:
    codes, labels = noisy_rows(2)
    order = np.concatenate([np.random.default_rng(0).permutation(100), np.arange(100, 150)])
    before, after = fit_boosting(codes, labels, 100), fit_boosting(codes[order], labels[order], 100)
    np.testing.assert_allclose(after.importance, before.importance, atol=1e-6)
    assert (after.predictions == before.predictions[order]).mean() > 0.98


def test_codes_that_cannot_be_split_give_the_most_frequent_class(recwarn: pytest.WarningsRecorder) -> None:
    labels = np.array([0, 1, 1, 2, 1, 0, 1])
    fit = fit_boosting(np.full((7, 2), 0.3), labels, 5)
    assert fit.importance.tolist() == [0, 0]
    assert fit.predictions.tolist() == [1] * 7
    assert not recwarn.list


def test_a_class_absent_from_the_rows_fitted_on_is_never_predicted() -> None:
    codes, labels = noisy_rows(3)
    labels[:100][labels[:100] == 1] = 2
    assert set(fit_boosting(codes, labels, 100).predictions.tolist()) <= {0, 2}


def test_neighbouring_floats_are_told_apart() -> None:
    low, high = 1.0, np.nextafter(1.0, 2.0)
    codes = np.tile([[low, 0.0], [high, 0.0]], (6, 1))
    labels = np.tile([0, 1], 6)
    assert fit_boosting(codes, labels, 8).predictions.tolist() == labels.tolist()


def test_more_rows_than_the_sums_have_room_for_are_refused() -> None:
    rows = 2**22 + 2
    codes = np.broadcast_to(np.zeros((1, 1)), (rows, 1))
    with pytest.raises(ValueError, match=r"^boosting has room for 4194304 train rows, got 4194305"):
        fit_boosting(codes, np.broadcast_to(np.zeros(1, dtype=np.intp), (rows,)), rows - 1)
