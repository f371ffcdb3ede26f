"""Pictures with columns beside them, wherever a user has them: a folder, arrays, parquet files or the Hugging Face Hub.

Parquet and the Hub are read by the `datasets` library. Folders are read here: its `imagefolder` takes a word such as `test` in the name of
a picture for a split and leaves that picture out, and it passes over rows and pictures that have no partner.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
IMAGES = "images.npy"
METADATA = "metadata.csv"
_BATCH_ROWS = 1000
SPLITS = frozenset(("train", "training", "validation", "valid", "val", "dev", "test", "testing"))


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


def open_table(path: str, split: str, image_column: str) -> Table:
    """Open what a path or a Hub id stands for; something on the disk comes before a Hub id of the same text.

    - A folder of pictures, at any depth. Columns are those of its `metadata.csv`, whose `file_name` is relative to the folder; without that
      file, pictures that all lie in subfolders have the column `label`, the name of the first one.
    - A folder of `.npy` files: `images.npy` `(N, H, W[, C])` and for each column `NAME.npy` `(N,)`; or else one file a picture, as above.
    - A folder of `.parquet` files laid out as on the Hub, or one such file, which is then the split.
    - A Hub id `user/name`. Code that comes with a set is never run.

    Args:
        path: Of these.
        split: Which split of a Hub set or a folder of parquet files.
        image_column: Its column of pictures: files in bytes, or uint8 arrays. In the other folders it is `image`.

    Returns:
        The table, with at least one row.

    Raises:
        ValueError: There is nothing of these, no such split or image column, no row, or files and rows that do not match.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        table = _open_folder(path, place, split, image_column)
    elif place.is_file():
        if place.suffix != ".parquet":
            raise ValueError(
                f"{path} is a file; give a folder, a .parquet file or a Hub id such as user/name"
            )
        table = _open_dataset(
            path,
            image_column,
            split,
            "parquet",
            data_files={split.partition("[")[0]: glob.escape(str(place))},
        )
    elif re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        try:
            table = _open_dataset(path, image_column, split, path)
        except ValueError as error:
            raise ValueError(f"{error} (taken for a Hub id, for {Path.cwd()} has no folder {path})") from None
    else:
        raise ValueError(f"{path} is not there, and no Hub id such as user/name; set data.path to either")
    if not len(table):
        raise ValueError(f"{path} has no rows")
    return table


# Folders


def _open_folder(path: str, folder: Path, split: str, image_column: str) -> Table:
    names = sorted(
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, files in os.walk(folder)
        for name in files
    )
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    pictures = [name for name in names if Path(name).suffix.lower() in PICTURE_SUFFIXES]
    arrays = [name for name in names if name.endswith(".npy")]
    parquet = [name for name in names if name.endswith(".parquet")]
    kinds = [kind for kind in (pictures, arrays, parquet) if kind]
    if not kinds:
        raise ValueError(f"{path} holds no pictures ({', '.join(PICTURE_SUFFIXES)}), .npy or .parquet files")
    if len(kinds) > 1:
        raise ValueError(
            f"{path} holds {kinds[0][0]} as well as {kinds[1][0]}; give a folder of one kind of file"
        )
    if parquet:
        return _open_dataset(path, image_column, split, "parquet", data_dir=glob.escape(str(folder)))
    if image_column != "image":
        raise ValueError(
            f"data.image_column is {image_column!r}; in a folder of pictures or .npy files it is 'image'"
        )
    if IMAGES in arrays:
        return _ArrayTable(path, folder, [name for name in arrays if name != IMAGES])
    return _FileTable(path, folder, kinds[0])


class _FileTable(Table):
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
            self._columns["label"] = _texts(labels)
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


class _ArrayTable(Table):
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
        raise ValueError(f"{where} is no .npy file of an array: {_reason(error)}") from None


def _read_csv(where: str, file: Path) -> dict[str, list[str]]:
    """The columns of a CSV file with a header, as texts."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header, *rows = [row for row in csv.reader(lines) if row] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{where} cannot be read: {_reason(error)}") from None
    if len(set(header)) < len(header):
        raise ValueError(f"{where} has two columns of one name: {', '.join(header)}")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"{where} has {len(row)} fields in row {number} and {len(header)} in its header")
    return {name: [row[k] for row in rows] for k, name in enumerate(header)}


def _from_texts(values: list[str]) -> np.ndarray:
    """Integers, numbers, true and false, or texts: the first of these that every value is. Empty and nan are no value."""
    if any("_" in value for value in values):  # which Python reads as a part of a number
        return _texts(None if value.lower() in ("", "nan") else value for value in values)
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
    return _texts(None if gone else value for value, gone in zip(values, missing, strict=True))


def _texts(values: Iterable[str | None]) -> np.ndarray:
    return np.array(list(values), dtype=object)


# Parquet and the Hub


def _open_dataset(path: str, image_column: str, split: str, builder: str, **options: Any) -> Table:
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{path} needs the datasets library: pip install datasets") from None
    if builder == "parquet":
        # Otherwise it is that of the file's first group of rows, and 0, an error, where a file has no rows.
        options["batch_size"] = _BATCH_ROWS
    try:
        reader = datasets.load_dataset_builder(builder, **options)
        reader.download_and_prepare()
        dataset = reader.as_dataset(split=split)
    except Exception as error:
        # Of huggingface_hub, pyarrow, fsspec and its own; the cause says more than "an error occurred".
        raise ValueError(
            f"{path}, split {split!r}, cannot be read: {_reason(error.__cause__ or error)}"
        ) from None
    if "data_dir" in options:
        _refuse_left_out(path, reader.config.data_files)
    return _DatasetTable(path, dataset, image_column)


def _refuse_left_out(path: str, data_files: Mapping[str, Sequence[str]]) -> None:
    """Where some names say a split, such as train-00000-of-00004.parquet or train/a.parquet, `datasets` passes over all others."""
    read = {str(file) for files in data_files.values() for file in files}
    for file in sorted(Path(path).expanduser().resolve().rglob("*.parquet")):
        if str(file) not in read:
            raise ValueError(
                f"{file} belongs to no split, while other files do ({', '.join(data_files)}); rename it, or move it elsewhere"
            )


class _DatasetTable(Table):
    """A `datasets.Dataset`, whose columns are read from the Arrow file that it maps."""

    def __init__(self, path: str, dataset: Any, image_column: str) -> None:
        import datasets

        features = dataset.features
        if image_column not in features:
            raise ValueError(
                f"{path} has no column {image_column!r} of pictures (data.image_column); there are: {', '.join(features)}"
            )
        feature = features[image_column]
        binary = isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")
        struct = isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()
        self._is_file = binary or struct or isinstance(feature, datasets.Image)
        self._dtype = None if self._is_file else _array_dtype(feature)
        if not self._is_file and self._dtype is None:
            raise ValueError(
                f"column {image_column!r} of {path} is {feature}; give one of pictures: data.image_column of {', '.join(features)}"
            )
        # Only there is a path one that `datasets` itself found; in a parquet file it may name any file of this machine.
        self._follows_paths = dataset.info.builder_name == "imagefolder"
        self._dataset = dataset
        self._cells = dataset.data.column(image_column)
        self._image_column = image_column
        super().__init__(
            path,
            [image_column, *(name for name in features if name != image_column)],
            {"dataset": dataset._fingerprint, "image_column": image_column},
        )

    def __len__(self) -> int:
        return len(self._dataset)

    def image(self, row: int) -> Any:
        if not self._is_file:
            # As lists: their dtype is that of the feature.
            return np.asarray(self._dataset[row][self._image_column], dtype=self._dtype)
        cell = self._cells[row].as_py()
        if isinstance(cell, dict):
            cell = cell["path"] if cell["bytes"] is None and self._follows_paths else cell["bytes"]
        if cell is None:
            raise ValueError(f"{self.where(row)}: column {self._image_column!r} holds no encoded picture")
        return cell

    def classes(self, name: str) -> tuple[str, ...] | None:
        # Classes that are called by their numbers say nothing that the numbers do not.
        names = getattr(self._dataset.features[name], "names", None)
        return None if names is None or list(names) == [str(n) for n in range(len(names))] else tuple(names)

    def _column(self, name: str) -> np.ndarray:
        import datasets
        import pyarrow as pa
        import pyarrow.compute as pc

        values, classes = self._dataset.data.column(name), self.classes(name)
        if isinstance(self._dataset.features[name], datasets.ClassLabel):
            # -1 is what `datasets` writes where there is no class.
            values = pc.if_else(pc.less(values, 0), None, values)
        kind, missing = values.type, values.null_count > 0
        if classes is not None:
            return _texts(None if n is None else classes[n] for n in values.to_pylist())
        if (
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or (pa.types.is_boolean(kind) and missing)
        ):
            return _texts(None if value is None else str(value) for value in values.to_pylist())
        if pa.types.is_boolean(kind):
            return np.asarray(values.to_numpy())
        if pa.types.is_integer(kind) and not missing:
            return np.asarray(values.cast(pa.int64()).to_numpy())
        if any(
            test(kind)
            for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
        ):
            return np.asarray(values.cast(pa.float64(), safe=False).to_numpy())
        raise ValueError(f"column {name!r} of {self.path} holds {kind}; give numbers, texts or booleans")


def _array_dtype(feature: Any) -> str | None:
    """The dtype of the numbers in a feature of nested lists or of an array of fixed rank; None of anything else."""
    import datasets

    while isinstance(feature, datasets.List | datasets.LargeList):
        feature = feature.feature
    if isinstance(feature, datasets.Array2D | datasets.Array3D) or (
        isinstance(feature, datasets.Value) and re.fullmatch(r"u?int\d+|float\d+|bool", feature.dtype)
    ):
        return str(feature.dtype)
    return None


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
