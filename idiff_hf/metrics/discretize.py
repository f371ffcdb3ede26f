"""From continuous columns to class indices, for the metrics that count."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import numpy.typing as npt

# What disentanglement_lib's study uses, and with it every published MIG.
DEFAULT_NUM_BINS = 20


def check_num_bins(num_bins: int) -> None:
    """Refuse, in a line that names `num_bins`, what is no number of bins: ValueError."""
    if not isinstance(num_bins, Integral):
        raise ValueError(f"num_bins must be a whole number, got {num_bins!r}")
    if num_bins < 2:
        raise ValueError(f"num_bins must be at least 2, got {num_bins}: one bin tells nothing about a value")


def equal_width_bins(
    values: npt.NDArray[np.float64], num_bins: int = DEFAULT_NUM_BINS
) -> npt.NDArray[np.intp]:
    """Index of the equal-width bin, between a column's minimum and maximum, that each value falls in.

    Bins are closed on the left; the maximum belongs to the last one. A constant column is one bin. The index
    is unchanged when a column is shifted or scaled by a positive number, up to rounding of values that lie on
    an edge.

    Args:
        values: Finite columns, shape (n_samples, n_columns).
        num_bins: Number of bins, at least 2.

    Returns:
        Bin indices in [0, num_bins - 1], shape (n_samples, n_columns).

    Raises:
        ValueError: If `num_bins` is no whole number of 2 or more.

    Examples:
        >>> import numpy as np
        >>> equal_width_bins(np.array([[0.0], [0.4], [0.5], [1.0]]), num_bins=2).ravel().tolist()
        [0, 0, 1, 1]
    """
    check_num_bins(num_bins)
    bins = np.empty(values.shape, dtype=np.intp)
    for column in range(values.shape[1]):
        lowest, highest = values[:, column].min(), values[:, column].max()
        # These edges, to the last bit, are np.histogram's, so that a value lying on one falls where the
        # field's code puts it. np.histogram itself refuses a column whose range is a few units in the last
        # place.
        left_edges = np.linspace(lowest, highest, num_bins + 1)[:-1]
        bins[:, column] = np.searchsorted(left_edges, values[:, column], side="right") - 1
    return bins


def factor_labels(factors: npt.NDArray[np.generic]) -> npt.NDArray[np.intp]:
    """Class index of every factor value: integers are classes, floating values are cut into 20 equal-width bins.

    Args:
        factors: Shape (n_samples, n_factors). An integer or boolean dtype holds class labels of any value; a
            floating dtype holds continuous values, even if they happen to be whole numbers.

    Returns:
        Labels counted from 0 without gaps within each column, shape (n_samples, n_factors).

    Examples:
        >>> import numpy as np
        >>> factor_labels(np.array([[7], [3], [7]])).ravel().tolist()
        [1, 0, 1]
    """
    if factors.dtype.kind == "f":
        factors = equal_width_bins(factors.astype(np.float64))
    columns = [np.unique(factors[:, column], return_inverse=True)[1] for column in range(factors.shape[1])]
    return np.stack(columns, axis=1)
