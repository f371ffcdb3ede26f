from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from idiff_hf.metrics.discretize import equal_width_bins, factor_labels


def test_bins_are_closed_on_the_left_and_the_maximum_is_in_the_last() -> None:
    values = np.array([[0.0], [0.24], [0.25], [0.5], [0.99], [1.0]])
    assert equal_width_bins(values, 4).ravel().tolist() == [0, 0, 1, 2, 3, 3]


def test_a_constant_column_is_one_bin_and_leaves_the_others_alone() -> None:
    values = np.array([[0.3, -1.0], [0.3, 0.0], [0.3, 1.0]])
    bins = equal_width_bins(values, 2)
    assert len(set(bins[:, 0])) == 1
    assert bins[:, 1].tolist() == [0, 1, 1]


def test_a_column_that_varies_in_the_last_bit_only_is_binned() -> None:
    values = np.array([[1.0], [np.nextafter(1.0, 2.0)]])
    low, high = equal_width_bins(values).ravel()
    assert 0 <= low < high <= 19


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(2, 60), elements=st.integers(-40, 40).map(lambda level: level * 0.05))
)
def test_bins_are_those_of_numpy_histogram_even_on_the_edges(column: np.ndarray) -> None:
    edges = np.histogram(column, 20)[1]
    bins = equal_width_bins(column[:, None])[:, 0]
    if column.min() < column.max():
        np.testing.assert_array_equal(bins, np.digitize(column, edges[:-1]) - 1)
    assert ((bins >= 0) & (bins < 20)).all()


@pytest.mark.parametrize("num_bins", [1, 0, -3])
def test_fewer_than_two_bins_are_refused(num_bins: int) -> None:
    with pytest.raises(ValueError, match=rf"^num_bins must be at least 2, got {num_bins}: [^\n]*$"):
        equal_width_bins(np.zeros((3, 1)), num_bins)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_])
def test_integers_are_classes_whatever_their_values(dtype: type) -> None:
    factors = np.array([[1, 0], [0, 0], [1, 1]], dtype=dtype)
    assert factor_labels(factors).tolist() == [[1, 0], [0, 0], [1, 1]]


def test_labels_are_counted_without_gaps() -> None:
    assert factor_labels(np.array([[100], [-7], [100], [3]])).ravel().tolist() == [2, 0, 2, 1]


def test_floating_factors_are_cut_into_bins_even_if_whole() -> None:
    whole = np.arange(40.0)[:, None]
    assert factor_labels(whole).max() == 19
    assert factor_labels(whole.astype(np.int64)).max() == 39


def test_floating_factors_with_empty_bins_are_counted_without_gaps() -> None:
    assert factor_labels(np.array([[0.0], [0.01], [1.0]])).ravel().tolist() == [0, 0, 1]


def test_a_number_of_bins_is_whole() -> None:
    with pytest.raises(ValueError, match=r"^num_bins must be a whole number, got 20\.0$"):
        equal_width_bins(np.zeros((2, 1)), 20.0)  # type: ignore[arg-type]
