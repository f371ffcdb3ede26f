"""Images that are read as they come, for sets larger than any disk or memory.

A set is shards (parquet files, say) in a fixed order, of rows in a fixed order; rows stay encoded until someone needs their picture. A hash
of the encoded picture tells whether a row is held out, so that equal pictures fall on one side and no list of rows is needed.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import DataConfig
from ..random import key
from .auxiliary import Observed
from .bound_columns import BoundColumns, bound_column_names
from .column_values import RowError
from .observed_columns import ObservedColumns
from .pictures import to_picture
from .tables import PICTURE_SUFFIXES

_TABLE_ROWS = 256  # rows read at a time


class StreamedRow(NamedTuple):
    """A row as it was read.

    Attributes:
        image: The encoded picture.
        values: Of each column in `ImageStream.column_names`.
        where: What a message calls the row.
    """

    image: bytes
    values: tuple[Any, ...]
    where: str


class ImageStream:
    """The shards of a set of the user's own, and u for its rows.

    Statistics of u are those of the first `stat_rows` rows, held-out ones included. Later rows may go beyond them: a bound outside the
    range is moved to its end, an unknown category becomes zeros, each with a warning, so that no run stops in its third week.

    Attributes:
        config: What is read.
        seed: Of all that is random here: order and held-out rows.
        num_shards: Shards of the set.
        column_names: The columns that are read beside the pictures.
        observed: u without rows: its size, moments, names and statistics; None where the config names no columns of u.
    """

    def __init__(self, config: DataConfig, seed: int, stat_rows: int = 10_000) -> None:
        """Open the set and read its first rows.

        Args:
            config: `path`, `split`, `image_column`, `image_size`, `color`, `resize`, `held_out` and the columns. The path is a folder of
                pictures (with metadata.csv), a folder of parquet files, a parquet file or a Hub id.
            seed: `train.seed`.
            stat_rows: Rows that the statistics of u are taken of.

        Raises:
            ValueError: The path cannot be streamed, a column is missing, there is no row, or u cannot be made of the columns.
        """
        assert config.path is not None
        self.config = config
        self.seed = seed
        self._path = config.path
        self._bounds: BoundColumns | None = None
        self._values: ObservedColumns | None = None
        u_columns = config.aux_columns + bound_column_names(config.bound_columns)
        self.column_names = tuple(dict.fromkeys(config.factor_columns + u_columns))
        self._open()
        rows = islice(self.rows(range(self.num_shards)), stat_rows if u_columns else 1)
        first = [row._replace(image=b"") for row in rows]
        if not first:
            raise ValueError(f"{self._path}, split {config.split!r}, has no rows")
        self._hash_key = key(seed, "held out").to_bytes(8, "little")
        self.observed: Observed | None = None
        if u_columns:
            self.observed = self._fit(first)

    def _open(self) -> None:
        from datasets import ClassLabel, Image, Value

        stream = _load(self._path, self.config.split)
        column = self.config.image_column
        there = ", ".join(stream.features or ()) or "none that are known before reading"
        for name in (column, *self.column_names):
            if name not in (stream.features or ()):
                raise ValueError(f"{self._path} has no column {name!r}; there are: {there}")
        feature = stream.features[column]
        binary = isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")
        if not (binary or isinstance(feature, Image) or (isinstance(feature, dict) and "bytes" in feature)):
            raise ValueError(
                f"column {column!r} of {self._path} is {feature}; give one of encoded pictures: data.image_column of {there}"
            )
        # Only there does `datasets` itself put paths: those in a parquet file may lead to any file of this machine.
        self._may_follow_paths = stream.info.builder_name == "imagefolder"
        features = {name: stream.features[name] for name in self.column_names}
        self._classes = {name: tuple(f.names) for name, f in features.items() if isinstance(f, ClassLabel)}
        stream = stream.select_columns([column, *self.column_names])
        self._stream = stream.cast_column(column, Image(decode=False))
        self.num_shards: int = stream.num_shards

    def _fit(self, rows: Sequence[StreamedRow]) -> Observed:
        columns = self.columns(rows)
        try:
            if self.config.bound_columns:
                self._bounds = BoundColumns.fit(self.config.bound_columns, columns)
                none = torch.empty(0, self._bounds.size)
                return Observed(none, "mean_variance", self._bounds.names, self._bounds.to_dict())
            self._values = ObservedColumns.fit(
                {name: columns[name] for name in self.config.aux_columns}, self.config.categorical_columns
            )
            return Observed(torch.empty(0, self._values.size), "observed", (), self._values.to_dict())
        except RowError as error:
            raise ValueError(f"{rows[error.row].where}: {error.problem}: {error.advice}") from None
        except ValueError as error:
            raise ValueError(f"{self._path}, first {len(rows)} rows: {error}") from None

    def rows(self, shards: Iterable[int]) -> Iterator[StreamedRow]:
        """The rows of shards, one after another.

        Raises:
            ValueError: A file is damaged or cannot be reached, or a row has no picture.
        """
        for shard in shards:
            first = 0
            for table in self._tables(shard):
                images = table[self.config.image_column]
                columns = [self._cells(name, table[name]) for name in self.column_names]
                for i, (image, *values) in enumerate(zip(images, *columns, strict=True)):
                    where = f"{self._path}, shard {shard}, row {first + i}"
                    yield StreamedRow(self._encoded(image, where), tuple(values), where)
                first += len(images)

    def _tables(self, shard: int) -> Iterator[dict[str, list[Any]]]:
        tables = iter(self._stream.shard(self.num_shards, shard).iter(_TABLE_ROWS))
        while True:
            try:
                table = next(tables, None)
            except Exception as error:
                # Of pyarrow, fsspec, huggingface_hub and datasets, which have no common class.
                raise ValueError(f"{self._path}, shard {shard}, cannot be read: {_reason(error)}") from None
            if table is None:
                return
            yield table

    def _cells(self, name: str, cells: list[Any]) -> list[Any]:
        if name not in self._classes:
            return cells
        # -1 is what `datasets` writes where there is no class.
        cells = [None if cell is None or cell < 0 else cell for cell in cells]
        names = self.classes(name)
        return cells if names is None else [None if cell is None else names[cell] for cell in cells]

    def _encoded(self, image: dict[str, Any] | None, where: str) -> bytes:
        if image and image["bytes"] is not None:
            return bytes(image["bytes"])
        if image and image["path"] is not None and self._may_follow_paths:
            import fsspec

            try:
                with fsspec.open(image["path"], "rb") as file:
                    return bytes(file.read())
            except Exception as error:
                # As above: of whatever stands behind the protocol of the path.
                raise ValueError(f"{where}: {image['path']} cannot be read: {_reason(error)}") from None
        raise ValueError(
            f"{where}: column {self.config.image_column!r} holds no picture; keep the encoded pictures in the file, a path is not followed"
        )

    def is_held_out(self, row: StreamedRow) -> bool:
        """Whether a row is kept for evaluation: a hash of its picture, keyed by the seed, falls below `held_out`."""
        digest = hashlib.blake2b(row.image, digest_size=8, key=self._hash_key).digest()
        return int.from_bytes(digest, "little") < self.config.held_out * 2.0**64

    def held_out_rows(self, count: int) -> Iterator[StreamedRow]:
        """The first `count` held-out rows in the order of the set, fewer where there are fewer."""
        return islice(filter(self.is_held_out, self.rows(range(self.num_shards))), count)

    def picture(self, row: StreamedRow) -> np.ndarray:
        """The picture of a row, `(H, W, C)` uint8, see `to_picture`."""
        config = self.config
        return to_picture(row.image, config.image_size, config.color, config.resize, row.where)

    def aux(self, rows: Sequence[StreamedRow]) -> Tensor:
        """u of rows, `(B, A)` float32.

        Raises:
            ValueError: u cannot be made of a row: a missing value, say.
        """
        fitted = self._bounds or self._values
        if fitted is None:
            return torch.empty(len(rows), 0)
        try:
            return torch.from_numpy(fitted.transform(self.columns(rows), strict=False))
        except RowError as error:
            raise ValueError(f"{rows[error.row].where}: {error.problem}: {error.advice}") from None

    def columns(self, rows: Sequence[StreamedRow]) -> dict[str, np.ndarray]:
        """Values of the columns of rows, `(B,)` each: int64, float64, bool, or objects (None where there is no value)."""
        columns = zip(*(row.values for row in rows), strict=True)
        return {name: _as_array(cells) for name, cells in zip(self.column_names, columns, strict=True)}

    def classes(self, name: str) -> tuple[str, ...] | None:
        """Names of the classes of a column in their order, where the set says so; see `Table.classes`."""
        names = self._classes.get(name)
        return None if names is None or list(names) == [str(n) for n in range(len(names))] else names


def _load(path: str, split: str) -> Any:
    """The `datasets.IterableDataset` of a path or Hub id; code that comes with a set is never run."""
    from datasets import load_dataset

    place, options = Path(path).expanduser(), {}
    if place.is_file():
        if place.suffix != ".parquet":
            raise ValueError(
                f"{path} is a file; give a folder, a .parquet file or a Hub id such as user/name"
            )
        builder, options = (
            "parquet",
            {"data_files": {split: glob.escape(str(place))}, "batch_size": _TABLE_ROWS},
        )
    elif place.is_dir():
        kind = _kind(place)
        if kind == ".npy":
            raise ValueError(f"{path} holds .npy files, which cannot be streamed: set data.streaming=false")
        if kind is None:
            raise ValueError(
                f"{path} holds neither pictures nor .parquet files: give such a folder, or a Hub id"
            )
        folder = glob.escape(str(place.resolve()))
        if kind == ".parquet":
            builder, options = "parquet", {"data_dir": folder, "batch_size": _TABLE_ROWS}
        else:
            # By itself `datasets` would take a picture with "test" in its name for one of another split.
            builder, options = "imagefolder", {"data_files": {split: f"{folder}/**"}}
    else:
        builder = path
    try:
        return load_dataset(builder, split=split, streaming=True, **options)
    except Exception as error:
        # Of huggingface_hub, pyarrow, fsspec and datasets, which have no common class.
        raise ValueError(f"{path}, split {split!r}, cannot be streamed: {_reason(error)}") from None


def _kind(folder: Path) -> str | None:
    """What a folder is one of, by the first file that tells: `.parquet`, `.npy`, or any suffix of a picture."""
    for _, _, names in os.walk(folder):
        for suffix in (Path(name).suffix.lower() for name in names):
            if suffix in PICTURE_SUFFIXES or suffix in (".parquet", ".npy"):
                return suffix
    return None


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _as_array(cells: Sequence[Any]) -> np.ndarray:
    """Cells of one column, which Arrow has given one type, as `Table.column` states them."""
    kinds = {type(cell) for cell in cells}
    if kinds == {bool} or kinds == {int}:
        return np.array(cells)
    if kinds <= {int, float, type(None)} and kinds != {type(None)}:
        return np.array([np.nan if cell is None else cell for cell in cells], dtype=np.float64)
    return np.fromiter(cells, dtype=object, count=len(cells))
