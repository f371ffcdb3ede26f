"""The auxiliary variable u from what is known of factors: a lower and an upper bound, a bin, or nothing.

Statistics (the range of each factor) are fitted once, stored with the model as JSON, and never refitted: u means the same in training, in
evaluation and for a picture that comes years later. Row numbers in messages count from 0 within the arrays given.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from .column_values import Columns, RowError, list_names, plain, take_column, to_numbers


@dataclass(frozen=True)
class BoundColumn:
    """What is known of one factor: an interval of its range.

    Attributes:
        name: The factor.
        lower: Column of the lower bounds; of the bins where `upper` is None.
        upper: Column of the upper bounds, None for bins.
        low: Low end of the range: the least lower bound of the fitted rows; 0 for bins.
        high: High end of the range: the greatest upper bound of the fitted rows; the number of bins for bins.
    """

    name: str
    lower: str
    upper: str | None
    low: float
    high: float

    def interval(self, columns: Columns, strict: bool) -> tuple[np.ndarray, np.ndarray]:
        """Both ends `(N,)` as fractions of the range in [0, 1], the lower one first."""
        lower, upper = _bounds(columns, self.lower, self.upper)
        # A bin b has the bounds b and b + 1: it is the lower one that people wrote.
        width = 1 if self.upper is None else 0
        lower = self._inside(self.lower, lower, self.high - width, strict)
        upper = lower + 1 if self.upper is None else self._inside(self.upper, upper, self.high, strict)
        lower, upper = np.nan_to_num(lower, nan=self.low), np.nan_to_num(upper, nan=self.high)
        return (lower - self.low) / (self.high - self.low), (upper - self.low) / (self.high - self.low)

    def _inside(self, column: str, values: np.ndarray, last: float, strict: bool) -> np.ndarray:
        """Values, once none lies outside `low` to `last`; NaN stays."""
        outside = (values < self.low) | (values > last)
        if not outside.any():
            return values
        span = f"the range {self.low:g} to {last:g} of the fitted rows"
        if strict:
            row = int(np.argmax(outside))
            raise RowError(
                f"column {column!r} is {values[row]:g}, outside {span},",
                row,
                "correct it, or fit on rows that reach it",
            )
        warnings.warn(f"column {column!r} leaves {span}: such values are moved to its end", stacklevel=4)
        return values.clip(self.low, last)


@dataclass(frozen=True)
class BoundColumns:
    """u from observed bounds of factors: mean and variance of the interval that holds each, the range being [-0.5, 0.5].

    The interval variable of `auxiliary.Interval` with bounds that people have in place of random cuts, in the same units: u is
    `sqrt(12) mean`, then `12 variance = length^2`. Nothing known is the whole range, (0, 1); a point has length 0.

    Attributes:
        factors: K factors.
    """

    factors: tuple[BoundColumn, ...]

    @classmethod
    def fit(cls, specs: Sequence[str], columns: Columns) -> BoundColumns:
        """Take the range of each factor.

        Args:
            specs: For each factor `LOWER:UPPER`, two columns of numbers, NaN where there is no such bound; or one column of an ordered
                bin 0, 1 ... n - 1, NaN where nothing is known, bin b being [b / n, (b + 1) / n] of the range.
            columns: At least the columns that are named, `(N,)` each.

        Raises:
            ValueError: No factor, two of one name, a missing column, no row, texts, an infinite value, a column of NaN only, a lower bound
                above the upper one or beyond the range, a range of no width, a bin that is negative or no integer, one bin only.
        """
        if not specs:
            raise ValueError("no factor was named for bounds: name at least one in data.bound_columns")
        factors = tuple(_fit_bounds(spec, columns) for spec in specs)
        names = [factor.name for factor in factors]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"data.bound_columns names the factor {name!r} more than once ({list_names(specs)}): leave one, or rename its columns"
                )
        bounds = cls(factors)
        # The checks of single rows are those of later rows: an upper bound alone may lie below every lower one, say.
        bounds.transform(columns)
        return bounds

    @property
    def names(self) -> tuple[str, ...]:
        """K factor names."""
        return tuple(factor.name for factor in self.factors)

    @property
    def size(self) -> int:
        """2K, width of u."""
        return 2 * len(self.factors)

    def transform(self, columns: Columns, strict: bool = True) -> np.ndarray:
        """u of rows.

        Args:
            columns: At least the columns that were fitted, `(N,)` each.
            strict: Refuse a bound outside the range that was fitted; otherwise warn and move it to the end of the range.

        Returns:
            `(N, 2K)` float32: K standardised means in [-sqrt(3), sqrt(3)], then K standardised variances in [0, 1].

        Raises:
            ValueError: A column is missing or holds texts, a bound is infinite or outside the range, a lower one is above the upper one,
                a bin is negative or no integer.
        """
        lower, upper = (
            np.stack(ends, axis=1)
            for ends in zip(*(factor.interval(columns, strict) for factor in self.factors), strict=True)
        )
        mean, length = (lower + upper) / 2 - 0.5, upper - lower
        return np.concatenate([math.sqrt(12) * mean, length**2], axis=1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """The ranges as plain JSON values."""
        return plain(self)

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> BoundColumns:
        """The inverse of `to_dict`, exact.

        Raises:
            ValueError: Other keys than those of `to_dict`.
        """
        try:
            return cls(tuple(BoundColumn(**factor) for factor in payload["factors"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"these are no statistics of bounds ({error}): {payload}") from error


def bound_column_names(specs: Sequence[str]) -> tuple[str, ...]:
    """The columns that `data.bound_columns` reads, in its order.

    Raises:
        ValueError: An entry that is neither `LOWER:UPPER` nor one column.
    """
    return tuple(name for spec in specs for name in _parse(spec) if name is not None)


def _parse(spec: str) -> tuple[str, str | None]:
    """The columns of one entry of `data.bound_columns`."""
    lower, colon, upper = spec.partition(":")
    if not lower or ":" in upper or (colon and not upper):
        raise ValueError(
            f"data.bound_columns holds {spec!r}: give LOWER:UPPER, or one column of ordered bins"
        )
    return lower, upper or None


def _factor_name(lower: str, upper: str) -> str:
    """The words that both names begin with; `LOWER:UPPER` where there is none."""
    words = (re.findall(r"[A-Z]*[^A-Z_. -]*[_. -]*", name) for name in (lower, upper))
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(*words, strict=False))
    return "".join(word for word, _ in shared).strip("_. -") or f"{lower}:{upper}"


def _bounds(columns: Columns, lower_name: str, upper_name: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds `(N,)`, NaN where there is none; of bin b they are b and b + 1."""
    lower = to_numbers(lower_name, take_column(columns, lower_name))
    if upper_name is None:
        wrong = (lower < 0) | (lower != np.floor(lower)) & ~np.isnan(lower)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise RowError(
                f"column {lower_name!r} is {lower[row]:g}",
                row,
                "give bins 0, 1, 2 ..., or LOWER:UPPER for two columns of bounds",
            )
        return lower, lower + 1
    upper = to_numbers(upper_name, take_column(columns, upper_name))
    crossed = lower > upper
    if crossed.any():
        row = int(np.argmax(crossed))
        raise RowError(
            f"column {lower_name!r} is {lower[row]:g}, above {upper_name!r}, which is {upper[row]:g},",
            row,
            "swap or correct them",
        )
    return lower, upper


def _fit_bounds(spec: str, columns: Columns) -> BoundColumn:
    lower_name, upper_name = _parse(spec)
    lower, upper = _bounds(columns, lower_name, upper_name)
    for column, values in ((lower_name, lower), (upper_name, upper)):
        if np.isnan(values).all():
            raise ValueError(
                f"column {column!r} is NaN in all {len(values)} rows: give at least one value, or leave it out"
            )
    low, high = (0.0 if upper_name is None else float(np.nanmin(lower))), float(np.nanmax(upper))
    if upper_name is None:
        if high == 1:
            raise ValueError(f"column {lower_name!r} holds no bin but 0: it tells nothing, leave it out")
        return BoundColumn(lower_name, lower_name, None, low, high)
    if not low < high or math.isinf(high - low):
        raise ValueError(
            f"columns {lower_name!r} and {upper_name!r} have a range from {low:g} to {high:g}: give bounds that span a finite width"
        )
    return BoundColumn(_factor_name(lower_name, upper_name), lower_name, upper_name, low, high)
