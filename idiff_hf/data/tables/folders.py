"""Tables in folders of pictures or of `.npy` files.

They are not read by `datasets`: its `imagefolder` takes a word such as `test` in the name of a picture for a split and leaves that picture
out, and it passes over rows and pictures that have no partner.
"""

from __future__ import annotations

import csv
import hashlib
import math
from pathlib import Path

import numpy as np

from .base import Table, reason, texts

IMAGES = "images.npy"
METADATA = "metadata.csv"
SPLITS = frozenset(("train", "training", "validation", "valid", "val", "dev", "test", "testing"))


class FileTable(Table):
    """One file a row."""

    def __init__(self, path: str, folder: Path, names: list[str]) -> None:
        self._folder = folder
        self._columns: dict[str, np.ndarray] = {}
        self._names = names
        if (folder / METADATA).is_file():
            self._names = self._read_metadata(path, names)
        elif all("/" in name for name in names):
            labels = [name.split("/")[0] for name in names]
            if SPLITS.issuperset(labels):
                raise ValueError(
                    f"{path} holds {' and '.join(sorted(set(labels)))}: set data.path to one of them"
                )
            self._columns["label"] = texts(labels)
        stats = [(folder / name).stat() for name in self._names]
        listed = "".join(
            f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
            for name, stat in zip(self._names, stats, strict=True)
        )
        digest = hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()
        super().__init__(path, ["image", *self._columns], {"folder": str(folder.resolve()), "files": digest})

    def _read_metadata(self, path: str, names: list[str]) -> list[str]:
        """Take the columns of metadata.csv, and the file of each of its rows."""
        file = f"{path}/{METADATA}"
        columns = _read_csv(file, self._folder / METADATA)
        if "file_name" not in columns:
            raise ValueError(
                f"{file} has no column 'file_name', the file of each row; there are: {', '.join(columns)}"
            )
        rows, known, seen = columns.pop("file_name"), set(names), set[str]()
        for row, name in enumerate(rows):
            if name in seen:
                raise ValueError(f"{file} names {name} in row {row} for the second time; leave one row")
            if name not in known:
                raise ValueError(
                    f"{file} names {name or 'no file'} in row {row}, which is not there; file names start from {path}"
                )
            seen.add(name)
        if left_out := next((name for name in names if name not in seen), None):
            raise ValueError(f"{file} has no row for {left_out}; add one, or move the file elsewhere")
        self._columns = {name: _from_texts(values) for name, values in columns.items()}
        return rows

    def __len__(self) -> int:
        return len(self._names)

    def image(self, row: int) -> Path | np.ndarray:
        file = self._folder / self._names[row]
        return _load_array(self.where(row), file) if file.suffix == ".npy" else file

    def where(self, row: int) -> str:
        return f"{self.path}/{self._names[row]}"

    def _column(self, name: str) -> np.ndarray:
        return self._columns[name]


class ArrayTable(Table):
    """All images in one array, each column in another one."""

    def __init__(self, path: str, folder: Path, others: list[str]) -> None:
        self._folder = folder
        self._images = _load_array(f"{path}/{IMAGES}", folder / IMAGES)
        if self._images.ndim not in (3, 4):
            raise ValueError(
                f"{path}/{IMAGES} has shape {self._images.shape}; give (N, H, W) or (N, H, W, C)"
            )
        for name in others:
            shape = _load_array(f"{path}/{name}", folder / name).shape
            if shape != (len(self._images),):
                raise ValueError(
                    f"{path}/{name} has shape {shape}; give ({len(self._images)},), one value for each of {IMAGES}"
                )
        stat = (folder / IMAGES).stat()
        columns = [name.removesuffix(".npy") for name in others]
        identity = {"folder": str(folder.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        super().__init__(path, ["image", *columns], identity)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, row: int) -> np.ndarray:
        return np.asarray(self._images[row])

    def where(self, row: int) -> str:
        return f"{self.path}/{IMAGES}, row {row}"

    def _column(self, name: str) -> np.ndarray:
        where = f"{self.path}/{name}.npy"
        values = np.asarray(_load_array(where, self._folder / f"{name}.npy"))
        if values.dtype.kind not in "iufbU":
            raise ValueError(f"{where} holds {values.dtype}; give numbers, texts (dtype U) or booleans")
        if values.dtype.kind == "u" and values.size and values.max() > np.iinfo(np.int64).max:
            raise ValueError(
                f"{where} holds {values.max()}, more than 64 bits with a sign: give texts, or smaller numbers"
            )
        kind = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_, "U": object}[values.dtype.kind]
        return values.astype(kind)


def _load_array(where: str, file: Path) -> np.ndarray:
    """An array mapped from a .npy file; nothing but numbers and texts is read, never a pickle."""
    try:
        return np.lib.format.open_memmap(file, mode="r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{where} is no .npy file of an array: {reason(error)}") from None


def _read_csv(where: str, file: Path) -> dict[str, list[str]]:
    """The columns of a CSV file with a header, as texts."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header, *rows = [row for row in csv.reader(lines) if row] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{where} cannot be read: {reason(error)}") from None
    if len(set(header)) < len(header):
        raise ValueError(f"{where} has two columns of one name: {', '.join(header)}")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"{where} has {len(row)} fields in row {number} and {len(header)} in its header")
    return {name: [row[k] for row in rows] for k, name in enumerate(header)}


def _from_texts(values: list[str]) -> np.ndarray:
    """Integers, numbers, true and false, or texts: the first of these that every value is. Empty and nan are no value."""
    if any("_" in value for value in values):  # which Python reads as a part of a number
        return texts(None if value.lower() in ("", "nan") else value for value in values)
    missing = [value.lower() in ("", "nan") for value in values]
    try:
        return np.array([int(value) for value in values], dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        return np.array([math.nan if gone else float(v) for v, gone in zip(values, missing, strict=True)])
    except ValueError:
        pass
    if all(value.lower() in ("true", "false") for value in values):
        return np.array([value.lower() == "true" for value in values])
    return texts(None if gone else value for value, gone in zip(values, missing, strict=True))
