"""What every metric takes: checked codes and factors, and the quantities that several metrics share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .discretize import DEFAULT_NUM_BINS, factor_labels
from .mutual_information import MutualInformation, mutual_information_from_labels

Regressor = Literal["gradient_boosting", "presorted_boosting"]


@dataclass(frozen=True)
class Undefined:
    """Stands in an evaluation for a value that the data leave undefined.

    Attributes:
        reason: Why, in one line.
    """

    reason: str


def real_array(values: Any, name: str) -> npt.NDArray[np.generic]:
    """`values` as an array of real numbers.

    Args:
        values: An array, a tensor on the CPU that needs no gradient, nested lists.
        name: What the message calls them.

    Raises:
        ValueError: One line that says why they are none.
    """
    if np.ma.is_masked(values):
        raise ValueError(f"{name} must hold no masked values: fill them, or drop their rows")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name} must be an array of numbers, in rows of one length; a tensor as tensor.detach().float().cpu().numpy() ({reason})"
        ) from None
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must hold real numbers, got dtype {array.dtype}: convert to integers or floats first"
        )
    return array


def _as_table(values: npt.ArrayLike, name: str, columns: str) -> npt.NDArray[np.generic]:
    """`values` as a finite, numeric, 2-D array, or one line that says why it is none."""
    table = real_array(values, name)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(
            f"{name} must be 2-D of shape (n_samples, {columns}), a column or more, got shape {table.shape}"
        )
    finite = np.isfinite(table)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"{name} must be finite, got {np.count_nonzero(~finite)} NaN or infinite values, the first "
            f"({table[row, column]}) at row {row}, column {column}: drop these rows or mend the encoder"
        )
    return table


def check_codes(codes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Codes as float64, once they are known to be usable.

    Args:
        codes: Latent codes, shape (n_samples, n_latents), any real dtype.

    Returns:
        Codes in float64.

    Raises:
        ValueError: If codes are not 2-D, numeric and finite, or if there are fewer than two rows.

    Examples:
        >>> check_codes([[5, 2], [3, 4]]).dtype.name
        'float64'
    """
    table = _as_table(codes, "codes", "n_latents")
    if len(table) < 2:
        raise ValueError(f"codes must have at least 2 rows, got {len(table)}: pass more samples")
    return table.astype(np.float64)


def check_codes_and_factors(
    codes: npt.ArrayLike, factors: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.generic]]:
    """Codes as float64 and factors in their own dtype, once both are known to be usable.

    Args:
        codes: Latent codes, shape (n_samples, n_latents), any real dtype.
        factors: Ground-truth factors, shape (n_samples, n_factors), integer labels or floating values.

    Returns:
        Codes (float64) and factors (dtype kept, because it tells labels from continuous values).

    Raises:
        ValueError: If an array is not 2-D, numeric and finite, if the row counts differ or are below 2, or if
            a factor is constant (its entropy is 0, and every metric would divide by it).

    Examples:
        >>> codes, factors = check_codes_and_factors([[5, 2], [3, 4]], [[0, 1], [1, 0]])
        >>> codes.dtype.name, factors.dtype.kind
        ('float64', 'i')
    """
    code_table = _as_table(codes, "codes", "n_latents")
    factor_table = _as_table(factors, "factors", "n_factors")
    (code_rows, code_columns), (factor_rows, factor_columns) = code_table.shape, factor_table.shape
    if code_rows != factor_rows:
        advice = "pass one row a sample in both, in the same order"
        if code_columns == factor_columns and code_columns > max(code_rows, factor_rows):
            advice = "they look transposed, pass codes.T and factors.T"
        elif code_columns == factor_rows:
            advice = "codes look transposed, pass codes.T"
        elif code_rows == factor_columns:
            advice = "factors look transposed, pass factors.T"
        raise ValueError(
            f"codes and factors must have the same number of rows, got shapes {code_table.shape} and "
            f"{factor_table.shape}: {advice}"
        )
    if code_rows < 2:
        raise ValueError(f"codes and factors must have at least 2 rows, got {code_rows}: pass more samples")
    constant = np.flatnonzero((factor_table == factor_table[0]).all(axis=0))
    if constant.size:
        column = constant[0]
        raise ValueError(
            f"factors column {column} is constant ({factor_table[0, column]} in all {factor_rows} rows), so "
            "its entropy is 0 and no metric is defined on it: drop the column"
        )
    return code_table.astype(np.float64), factor_table


def default_num_train(num_samples: int) -> int:
    """Two thirds of the rows, rounded up, but one row at least is left to test on."""
    return min(math.ceil(2 * num_samples / 3), num_samples - 1)


def rows_to_train_on(num_samples: int, num_train: int | None) -> int:
    """Number of leading rows that predictors are fitted on, once both train and test rows are left.

    Args:
        num_samples: Number of rows.
        num_train: Number of rows to fit on; None is two thirds, rounded up.

    Returns:
        The number, in [1, num_samples - 1].

    Raises:
        ValueError: If no row is left to fit on or to test on, or `num_train` is no whole number.

    Examples:
        >>> rows_to_train_on(10, None), rows_to_train_on(10, 9)
        (7, 9)
    """
    if num_train is None:
        num_train = default_num_train(num_samples)
    if not isinstance(num_train, Integral):
        raise ValueError(f"num_train must be a whole number, got {num_train!r}")
    if not 1 <= num_train < num_samples:
        raise ValueError(
            f"num_train must leave rows to test on, in [1, {num_samples - 1}] here, got {num_train}"
        )
    return num_train


def check_seed(seed: int) -> None:
    """Refuse, in a line that names `seed`, what NumPy's and scikit-learn's generators do not take: ValueError."""
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to {2**32 - 1}, got {seed!r}")


def refuse_single_class_in_train(labels: npt.NDArray[np.intp], num_train: int, metric: str) -> None:
    """Refuse rows to fit on in which a factor has one class only.

    Args:
        labels: Class indices, shape (n_samples, n_factors).
        num_train: Number of leading rows that are fitted on.
        metric: Name of the metric, for the message.

    Raises:
        ValueError: If a factor has a single class in the first `num_train` rows.
    """
    single_class = np.flatnonzero((labels[:num_train] == labels[0]).all(axis=0))
    if single_class.size:
        raise ValueError(
            f"factors column {single_class[0]} has a single class in the first {num_train} rows, which "
            f"{metric} is fitted on: shuffle the rows or raise num_train"
        )


def varying_columns(table: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which columns are not constant, shape (n_columns,).

    By comparison, not by variance: the mean of a constant such as 0.3 is off by rounding, and its variance is
    not 0.

    Args:
        table: Finite columns, shape (n_samples, n_columns).

    Returns:
        True for a column with two different values.

    Examples:
        >>> import numpy as np
        >>> varying_columns(np.array([[0.3, 1.0], [0.3, 2.0], [0.3, 1.0]])).tolist()
        [False, True]
    """
    return np.asarray((table != table[0]).any(axis=0))


@dataclass(frozen=True)
class MetricInputs:
    """Checked codes and factors of one evaluation; what the metrics share is computed once, on first use.

    Attributes:
        codes: Latent codes, shape (n_samples, n_latents).
        factors: Ground-truth factors, shape (n_samples, n_factors).
        num_train: Number of leading rows that predictors are fitted on, or None for two thirds.
        seed: Seed of the metrics that draw random numbers.
        n_jobs: Workers for the metrics that fit predictors; None is one.
        dci_regressor: What DCI fits, see `dci`.
        num_bins: Number of equal-width bins that codes are cut into.
        progress: Whether a metric that takes minutes shows, on a terminal, how far it is.
    """

    codes: npt.NDArray[np.float64]
    factors: npt.NDArray[np.generic]
    num_train: int | None = None
    seed: int = 0
    n_jobs: int | None = None
    dci_regressor: Regressor = "gradient_boosting"
    num_bins: int = DEFAULT_NUM_BINS
    progress: bool = False

    @property
    def num_train_rows(self) -> int:
        """Number of leading rows that predictors are fitted on."""
        return default_num_train(len(self.codes)) if self.num_train is None else self.num_train

    @cached_property
    def labels(self) -> npt.NDArray[np.intp]:
        """Class labels of the factors, shape (n_samples, n_factors)."""
        return factor_labels(self.factors)

    @cached_property
    def mutual_information(self) -> MutualInformation:
        """Mutual information of every latent with every factor."""
        return mutual_information_from_labels(self.codes, self.labels, self.num_bins)

    @cached_property
    def train_mutual_information(self) -> MutualInformation:
        """The same on the rows that predictors are fitted on; codes are cut between their extremes there."""
        rows = slice(self.num_train_rows)
        return mutual_information_from_labels(self.codes[rows], self.labels[rows], self.num_bins)
