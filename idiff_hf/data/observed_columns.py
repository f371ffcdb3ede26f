"""The auxiliary variable u from columns whose values were observed beside the images.

Statistics (mean and standard deviation, categories) are fitted once, stored with the model as JSON, and never refitted: u means the same
in training, in evaluation and for a picture that comes years later. Row numbers in messages count from 0 within the arrays given.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .column_values import (
    Columns,
    RowError,
    is_text,
    list_names,
    plain,
    refuse_missing,
    take_column,
    to_numbers,
    to_texts,
)

MAX_CATEGORIES = 1000
"""More texts than this in one column are taken for names of rows rather than categories."""


@dataclass(frozen=True)
class NumberColumn:
    """An observed continuous column: one entry of u, `(value - mean) / sd`.

    Attributes:
        name: The column.
        mean: Of the fitted rows.
        sd: Their standard deviation (divisor N), positive.
    """

    name: str
    mean: float
    sd: float

    @property
    def size(self) -> int:
        """Entries of u: 1."""
        return 1

    def transform(self, values: np.ndarray) -> np.ndarray:
        """`(N,)` numbers to `(N, 1)` float64."""
        numbers = to_numbers(self.name, values)
        refuse_missing(self.name, np.isnan(numbers))
        return ((numbers - self.mean) / self.sd)[:, None]


@dataclass(frozen=True)
class CategoryColumn:
    """An observed categorical column: one entry of u for each category, 1 for the row's own and 0 for the others.

    Attributes:
        name: The column.
        categories: At least two, sorted as texts.
        numbers: Whether the column holds numbers that name categories.
    """

    name: str
    categories: tuple[str, ...]
    numbers: bool = False

    @property
    def size(self) -> int:
        """Entries of u: the number of categories."""
        return len(self.categories)

    def transform(self, values: np.ndarray, strict: bool) -> np.ndarray:
        """`(N,)` texts, or numbers where they name categories, to `(N, size)` float64."""
        if self.numbers:
            texts = _number_texts(self.name, values)
        elif not is_text(self.name, values):
            raise RowError(f"column {self.name!r}, fitted to texts, is {values[0]}", 0, "give texts")
        else:
            texts = to_texts(self.name, values)
        place = np.searchsorted(self.categories, texts).clip(max=self.size - 1)
        known = np.asarray(self.categories)[place] == texts
        if not known.all():
            row = int(np.argmin(known))
            problem = f"none of the fitted categories ({list_names(self.categories)})"
            if strict:
                raise RowError(
                    f"column {self.name!r} holds {str(texts[row])!r}, {problem},",
                    row,
                    "correct it, or fit on rows that hold it",
                )
            warnings.warn(
                f"column {self.name!r} holds texts that are {problem}: such rows get zeros", stacklevel=3
            )
        return (np.eye(self.size)[place]) * known[:, None]


@dataclass(frozen=True)
class ObservedColumns:
    """u from columns whose values are known of every row: numbers standardised, texts (and true or false) one-hot.

    Attributes:
        columns: What is done with each column, in the order of u.
    """

    columns: tuple[NumberColumn | CategoryColumn, ...]

    @classmethod
    def fit(cls, columns: Columns, categorical: Collection[str] = ()) -> ObservedColumns:
        """Take the statistics of the columns.

        Args:
            columns: For each column `(N,)` numbers, texts or booleans, all of one length; their order is that of u.
            categorical: The columns whose numbers are names of categories.

        Raises:
            ValueError: No column, no row, a constant column, a missing or infinite value, a column that is neither numbers nor texts, more
                than `MAX_CATEGORIES` texts.
        """
        if not columns:
            raise ValueError("no column was named for an observed u: name at least one in data.aux_columns")
        return cls(
            tuple(_fit_observed(name, values, name in categorical) for name, values in columns.items())
        )

    @property
    def size(self) -> int:
        """A, width of u."""
        return sum(column.size for column in self.columns)

    def transform(self, columns: Columns, strict: bool = True) -> np.ndarray:
        """u of rows.

        Args:
            columns: At least the columns that were fitted, `(N,)` each.
            strict: Refuse a category that was not there when u was fitted; otherwise warn and give the row zeros for that column.

        Returns:
            `(N, size)` float32.

        Raises:
            ValueError: A column or value is missing, a number is infinite, a category is unknown, or a column changed its kind.
        """
        parts = []
        for column in self.columns:
            values = take_column(columns, column.name)
            if isinstance(column, NumberColumn):
                parts.append(column.transform(values))
            else:
                parts.append(column.transform(values, strict))
        return np.concatenate(parts, axis=1).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """The statistics as plain JSON values."""
        return plain(self)

    @classmethod
    def from_dict(cls, payload: Mapping[str, Any]) -> ObservedColumns:
        """The inverse of `to_dict`, exact.

        Raises:
            ValueError: Other keys than those of `to_dict`.
        """
        try:
            return cls(
                tuple(
                    CategoryColumn(**{**column, "categories": tuple(column["categories"])})
                    if "categories" in column
                    else NumberColumn(**column)
                    for column in payload["columns"]
                )
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"these are no statistics of observed columns ({error}): {payload}") from error


def _number_texts(name: str, values: np.ndarray) -> np.ndarray:
    """Numbers that name categories as texts, the same whether a table gave integers or floats."""
    numbers = to_numbers(name, values)
    refuse_missing(name, np.isnan(numbers))
    return np.array([f"{number:.17g}" for number in numbers.tolist()])


def _fit_observed(name: str, values: np.ndarray, categorical: bool) -> NumberColumn | CategoryColumn:
    values = take_column({name: values}, name)
    texts = is_text(name, values)
    if texts or categorical:
        categories = tuple(np.unique((to_texts if texts else _number_texts)(name, values)).tolist())
        if len(categories) == 1:
            raise ValueError(
                f"column {name!r} is {categories[0]!r} in every row: it tells nothing, leave it out"
            )
        if len(categories) > MAX_CATEGORIES:
            raise ValueError(
                f"column {name!r} holds {len(categories)} different values, {categories[0]!r} among them: a categorical u takes at most "
                f"{MAX_CATEGORIES}; leave the column out or group its values"
            )
        return CategoryColumn(name, categories, numbers=not texts)
    numbers = to_numbers(name, values)
    refuse_missing(name, np.isnan(numbers))
    if numbers.min() == numbers.max():
        raise ValueError(f"column {name!r} is {numbers[0]:g} in every row: it tells nothing, leave it out")
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = float(numbers.mean()), float(numbers.std())
    if not 0 < sd < math.inf:
        raise ValueError(
            f"column {name!r} goes from {numbers.min():g} to {numbers.max():g}, too far or too near to be squared: give it in other units"
        )
    return NumberColumn(name, mean, sd)
