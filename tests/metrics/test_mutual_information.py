from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from idiff_hf.metrics.discretize import equal_width_bins
from idiff_hf.metrics.mutual_information import mutual_information_from_labels


def full_grid(*sizes: int) -> np.ndarray:
    """Every combination of classes once: the factors are independent, exactly."""
    return np.indices(sizes).reshape(len(sizes), -1).T


def test_a_copy_of_a_factor_tells_its_entropy_and_nothing_of_the_others() -> None:
    labels = full_grid(5, 4, 3)
    information = mutual_information_from_labels(labels.astype(float), labels)
    np.testing.assert_allclose(np.diag(information.matrix), np.log([5, 4, 3]), rtol=1e-14)
    np.testing.assert_allclose(information.factor_entropy, np.log([5, 4, 3]), rtol=1e-14)
    assert (information.matrix[~np.eye(3, dtype=bool)] == 0).all()


def test_a_merged_code_tells_what_is_left() -> None:
    labels = np.arange(12)[:, None]
    information = mutual_information_from_labels((labels // 3).astype(float), labels)
    np.testing.assert_allclose(information.matrix, [[np.log(4)]], rtol=1e-14)


def test_unequal_frequencies() -> None:
    labels = np.array([[0], [0], [0], [1]])
    information = mutual_information_from_labels(labels.astype(float), labels)
    expected = np.log(4) - 0.75 * np.log(3)
    np.testing.assert_allclose(information.matrix, [[expected]], rtol=1e-14)
    np.testing.assert_allclose(information.factor_entropy, [expected], rtol=1e-14)


def test_constant_codes_tell_nothing_and_are_not_active() -> None:
    labels = full_grid(3, 3)
    codes = np.column_stack([np.full(9, 0.3), labels[:, 0], np.zeros(9)])
    information = mutual_information_from_labels(codes, labels)
    assert information.active.tolist() == [False, True, False]
    assert (information.matrix[[0, 2]] == 0).all()


def test_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.integers(0, size, 500) for size in (2, 7, 40)])
    codes = np.column_stack([labels + rng.normal(size=labels.shape), rng.normal(size=500)])
    information = mutual_information_from_labels(codes, labels)
    bins = equal_width_bins(codes)
    expected = [[mutual_info_score(code, factor) for factor in labels.T] for code in bins.T]
    np.testing.assert_allclose(information.matrix, expected, atol=1e-13)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_levels=st.integers(2, 20), num_classes=st.integers(2, 6))
def test_renaming_levels_and_classes_and_moving_columns_changes_nothing(
    seed: int, num_levels: int, num_classes: int
) -> None:
    rng = np.random.default_rng(seed)
    # Up to 20 evenly spaced levels, of which the lowest and the highest occur: each has a bin of its own, so
    # that sign flips and monotone maps are renamings of bins.
    levels = rng.integers(0, num_levels, size=(40, 3))
    levels[0], levels[1] = 0, num_levels - 1
    labels = rng.integers(0, num_classes, size=(40, 2))
    labels[0], labels[1] = 0, num_classes - 1
    before = mutual_information_from_labels(levels.astype(float), labels)

    renamed_levels = 2.0 * rng.permutation(num_levels)[levels] - 3.0
    columns, factors = rng.permutation(3), rng.permutation(2)
    after = mutual_information_from_labels(
        renamed_levels[:, columns], rng.permutation(num_classes)[labels][:, factors]
    )
    np.testing.assert_allclose(after.matrix, before.matrix[np.ix_(columns, factors)], atol=1e-13)
    np.testing.assert_allclose(after.factor_entropy, before.factor_entropy[factors], atol=1e-13)
    assert (before.matrix >= 0).all()
    assert (before.matrix <= before.factor_entropy + 1e-12).all()
