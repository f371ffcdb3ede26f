"""What a table of pictures offers, wherever it is read from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


class Table:
    """Rows of one picture and a value of each column. Only what is asked for is read.

    Attributes:
        path: As the user gave it, for messages.
        column_names: All columns, that of the pictures first.
        fingerprint: Plain JSON values that identify the pictures and their order: of files the folder too, for equal sizes and times do
            not make equal files, where sizes are fixed and an archive sets the times.
    """

    def __init__(self, path: str, column_names: Sequence[str], fingerprint: Mapping[str, Any]) -> None:
        self.path = path
        self.column_names = tuple(column_names)
        self.fingerprint = dict(fingerprint)

    def __len__(self) -> int:
        """Number of rows."""
        raise NotImplementedError

    def image(self, row: int) -> Any:
        """The picture of a row as `to_picture` takes it: a path, bytes, or an array."""
        raise NotImplementedError

    def where(self, row: int) -> str:
        """What a message calls a row."""
        return f"{self.path}, row {row}"

    def column(self, name: str) -> np.ndarray:
        """The values of a column.

        Returns:
            `(N,)`: int64, float64 (NaN where there is no value), bool, or object holding str (None where there is no value).

        Raises:
            ValueError: No such column, or one that holds neither numbers nor texts.
        """
        if name not in self.column_names[1:]:
            there = ", ".join(self.column_names[1:]) or "none"
            raise ValueError(f"{self.path} has no column {name!r} beside its pictures; there are: {there}")
        return self._column(name)

    def classes(self, name: str) -> tuple[str, ...] | None:
        """Names of the classes of a column in their order, where the table itself says so."""
        return None

    def _column(self, name: str) -> np.ndarray:
        raise NotImplementedError


def texts(values: Iterable[str | None]) -> np.ndarray:
    """A column of texts, None where there is none."""
    return np.array(list(values), dtype=object)


def reason(error: BaseException) -> str:
    """What a library says of a fault, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
