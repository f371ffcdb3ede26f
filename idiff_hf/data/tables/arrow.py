"""Tables in parquet files or on the Hugging Face Hub, read by the `datasets` library."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .base import Table, reason, texts

_BATCH_ROWS = 1000


def open_dataset(path: str, image_column: str, split: str, builder: str, **options: Any) -> Table:
    """A split of what the builder `builder` of `datasets` reads by `options`; raises ValueError, in one line, where it cannot."""
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
            f"{path}, split {split!r}, cannot be read: {reason(error.__cause__ or error)}"
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
            return texts(None if n is None else classes[n] for n in values.to_pylist())
        if (
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or (pa.types.is_boolean(kind) and missing)
        ):
            return texts(None if value is None else str(value) for value in values.to_pylist())
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
