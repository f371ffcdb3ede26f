"""Values of a column that a user gave, checked: numbers or texts, one a row, and for each fault one line that names the row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from numbers import Real
from typing import Any

import numpy as np

Columns = Mapping[str, np.ndarray]


class RowError(ValueError):
    """A value of one row that u cannot be made of.

    Attributes:
        problem: What is wrong, without the row.
        row: Number of the row in the arrays given, from 0.
        advice: What to do.
    """

    def __init__(self, problem: str, row: int, advice: str) -> None:
        super().__init__(f"{problem} in row {row}: {advice}")
        self.problem = problem
        self.row = row
        self.advice = advice


def take_column(columns: Columns, name: str) -> np.ndarray:
    """The column of a name, `(N,)` with N at least 1.

    Raises:
        ValueError: No such column, no row, or a column of lists.
    """
    if name not in columns:
        raise ValueError(
            f"there is no column {name!r}: there are {list_names(tuple(columns)) or 'no columns'}"
        )
    values = np.asarray(columns[name])
    if values.ndim != 1:
        raise ValueError(
            f"column {name!r} has shape {values.shape}: give one number or text a row, split lists into columns"
        )
    if not len(values):
        raise ValueError(f"column {name!r} has no rows: give at least one")
    return values


def to_numbers(name: str, values: np.ndarray) -> np.ndarray:
    """A column of numbers as float64 `(N,)`, None as NaN.

    Raises:
        RowError: Texts, booleans or an infinite value.
    """
    if values.dtype.kind not in "iuf":
        for row, value in enumerate(values.tolist()):
            if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
                raise RowError(f"column {name!r} is {value!r}", row, "give numbers")
    numbers = values.astype(np.float64)
    if np.isinf(numbers).any():
        row = int(np.argmax(np.isinf(numbers)))
        raise RowError(f"column {name!r} is {numbers[row]}", row, "give finite numbers")
    return numbers


def is_text(name: str, values: np.ndarray) -> bool:
    """Whether a column is categorical, by its first value that is there.

    Raises:
        ValueError: Neither numbers nor texts nor booleans.
    """
    if values.dtype.kind == "O":
        return isinstance(next((v for v in values if not _missing(v)), None), str | bool | np.bool_)
    if values.dtype.kind not in "iufbU":
        raise ValueError(f"column {name!r} is {values.dtype}: give numbers, texts or booleans")
    return values.dtype.kind in "bU"


def to_texts(name: str, values: np.ndarray) -> np.ndarray:
    """A column of texts or booleans as an array of str.

    Raises:
        RowError: A value of another kind, or none.
    """
    for row, value in enumerate(values if values.dtype.kind == "O" else ()):
        if not _missing(value) and not isinstance(value, str | bool | np.bool_):
            raise RowError(f"column {name!r} mixes texts with {value!r}", row, "give one kind")
    refuse_missing(name, np.array([_missing(value) for value in values]))
    return np.array([str(value) for value in values])


def _missing(value: object) -> bool:
    """None, NaN and the empty text, which is what a table without a value has."""
    return value is None or value == "" if not isinstance(value, Real) else math.isnan(value)


def refuse_missing(name: str, missing: np.ndarray) -> None:
    """Refuse a column of which `missing` `(N,)` is true anywhere, with a `RowError`."""
    if missing.any():
        raise RowError(
            f"column {name!r} is NaN or empty",
            int(np.argmax(missing)),
            "an observed u needs every value; leave such rows out, or use aux.name=bounds with data.bound_columns, "
            "where NaN means that nothing is known",
        )


def plain(statistics: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values: lists in place of tuples, and every float as it will be read back."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(statistics)))
    return values


def list_names(names: Sequence[str]) -> str:
    """At most ten of the names, for a message."""
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
