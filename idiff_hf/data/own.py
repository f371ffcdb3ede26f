"""A user's own pictures, with whatever is known of them: factors for metrics, columns or bounds for u, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import DataConfig
from .auxiliary import Observed
from .bound_columns import BoundColumns, bound_column_names
from .cache import ArrayImages, cached_images
from .column_values import RowError
from .dataset import ImageDataset
from .factors import label_to_z
from .observed_columns import ObservedColumns
from .pictures import decode_all, to_picture
from .tables import Table, open_table


@dataclass(frozen=True)
class Factor:
    """A column taken as a factor: integers, texts and booleans are classes, other numbers a continuous range.

    Attributes:
        name: The column.
        values: `(N,)`, int64 labels, or float32 where the factor is continuous.
        classes: Names of the labels in their order, None where the factor is continuous: integers by size, texts by the alphabet or as
            the table itself orders them.
        low: Least value, of a continuous factor.
        high: Greatest value.
    """

    name: str
    values: np.ndarray
    classes: tuple[str, ...] | None
    low: float = 0.0
    high: float = 0.0

    @property
    def size(self) -> int | None:
        """Number of classes, None where the factor is continuous."""
        return None if self.classes is None else len(self.classes)


class OwnDataset(ImageDataset):
    """Pictures decoded once into the cache, and what is known of their rows.

    Attributes:
        factor_sizes: For each factor the number of its classes, None where it is continuous.
        factor_classes: For each factor the names of its classes, None where it is continuous.
        observed: u beside each row, on the CPU; None where no column was named for it.
    """

    source = "own"

    def __init__(
        self,
        images: np.ndarray,
        factors: Sequence[Factor],
        observed: Observed | None,
        device: torch.device | str,
    ) -> None:
        """Keep what `open_own` found.

        Args:
            images: `(N, H, W, C)` uint8.
            factors: K of them, which may be 0.
            observed: u, or None.
            device: Where images are wanted.
        """
        self._images = ArrayImages(images, device)
        self._num_rows, self.image_size, _, self.channels = images.shape
        self.device = torch.device(device)
        self._known = tuple(factors)
        self.factor_names = tuple(factor.name for factor in factors)
        self.factor_sizes = tuple(factor.size for factor in factors)
        self.factor_classes = tuple(factor.classes for factor in factors)
        dtype = torch.float32 if None in self.factor_sizes else torch.int64
        columns = [torch.from_numpy(factor.values).to(dtype) for factor in factors]
        self._factors = torch.stack(columns, dim=1) if columns else torch.empty(len(images), 0, dtype=dtype)
        self.observed = observed

    def __len__(self) -> int:
        """Number of rows."""
        return self._num_rows

    def images(self, rows: Tensor, nuisance: Tensor | None = None) -> Tensor:
        """`(B, C, H, W)` uint8 on `device`; there is no nuisance."""
        return self._images(rows)

    def factors(self, rows: Tensor) -> Tensor:
        """`(B, K)` int64 labels, or float32 where any factor is continuous, on the device of `rows`."""
        return self._factors[rows.cpu()].to(rows.device)

    def z(self, factors: Tensor, mode: str, jitter: Tensor | None = None) -> Tensor:
        """Values in [-0.5, 0.5]: labels as `label_to_z` says, a continuous factor linearly from its range, without jitter.

        Args:
            factors: `(B, K)` as `factors` gives them.
            mode: See `label_to_z`.
            jitter: `(B, K)` in [0, 1) or None.

        Returns:
            `(B, K)` float32.

        Raises:
            ValueError: Labels or values out of range, or as in `label_to_z`.
        """
        sizes = [size for size in self.factor_sizes if size is not None]
        if sizes and len(sizes) == len(self.factor_sizes):
            return label_to_z(factors, sizes, mode, jitter)
        z = torch.empty_like(factors, dtype=torch.float32)
        discrete = [k for k, size in enumerate(self.factor_sizes) if size is not None]
        if discrete:
            part = None if jitter is None else jitter[:, discrete]
            z[:, discrete] = label_to_z(factors[:, discrete].long(), sizes, mode, part)
        for k, factor in enumerate(self._known):
            if factor.classes is None:
                values = factors[:, k]
                outside = ~((values >= factor.low) & (values <= factor.high))
                if outside.any():
                    row = int(outside.nonzero()[0])
                    raise ValueError(
                        f"factor {factor.name!r} is {float(values[row]):g} in row {row}; "
                        f"it goes from {factor.low:g} to {factor.high:g}"
                    )
                z[:, k] = (values - factor.low) / (factor.high - factor.low) - 0.5
        return z


def open_own(config: DataConfig, device: torch.device | str = "cpu") -> OwnDataset:
    """Open a user's own pictures; see `open_table` for what they may be.

    Columns are read and checked first; then each picture is decoded once, at the size it is trained at, into the image cache.

    Statistics of u are those of all rows, held-out ones included: which rows are held out is decided later, by `train.seed`, and u is
    what the model is told, never a target that evaluation measures.

    Args:
        config: With `name="own"`: `path`, `split`, `image_column`, `image_size`, `color`, `resize`, `factor_columns`, `cache_dir`, and
            one of `aux_columns` and `bound_columns`, or neither.
        device: Where images are wanted.

    Returns:
        The dataset; without `factor_columns` its factors are `(B, 0)`.

    Raises:
        ValueError: Whatever is wrong with the table, a column, or a picture, which the message names.
    """
    assert config.path is not None
    table = open_table(config.path, config.split, config.image_column)
    if len(table) < 2:
        raise ValueError(f"{config.path} has one row; give at least two, one to train on and one to hold out")
    names = config.factor_columns
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"data.factor_columns names {twice!r} more than once; leave one")
    factors = [read_factor(table, name) for name in names]
    observed = _observed(table, config)

    def picture(row: int) -> np.ndarray:
        return to_picture(table.image(row), config.image_size, config.color, config.resize, table.where(row))

    name = Path(config.path).name if Path(config.path).expanduser().exists() else config.path
    images = cached_images(
        None if config.cache_dir is None else Path(config.cache_dir),
        f"own-{name}",
        {**table.fingerprint, "color": config.color, "resize": config.resize},
        (len(table), config.image_size, config.image_size, 3 if config.color == "rgb" else 1),
        lambda out, advance: decode_all(picture, out, advance),
    )
    return OwnDataset(images, factors, observed, device)


def _observed(table: Table, config: DataConfig) -> Observed | None:
    names = config.aux_columns or bound_column_names(config.bound_columns)
    if not names:
        return None
    columns = {name: table.column(name) for name in names}
    try:
        if config.aux_columns:
            values = ObservedColumns.fit(columns, config.categorical_columns)
            return Observed(torch.from_numpy(values.transform(columns)), "observed", (), values.to_dict())
        bounds = BoundColumns.fit(config.bound_columns, columns)
        u = torch.from_numpy(bounds.transform(columns))
        return Observed(u, "mean_variance", bounds.names, bounds.to_dict())
    except RowError as error:
        raise ValueError(f"{table.where(error.row)}: {error.problem}: {error.advice}") from None


def read_factor(table: Table, name: str) -> Factor:
    """A column of a table as a factor.

    Raises:
        ValueError: No such column, a missing or infinite value, or one value in every row.
    """
    values = table.column(name)
    missing = np.array([value is None or value != value for value in values])
    if values.dtype.kind == "f":
        missing |= np.isinf(values)
    if missing.any():
        row = int(np.argmax(missing))
        raise ValueError(
            f"{table.where(row)}: factor {name!r} is {values[row]}; give every row a finite value, "
            "or leave the column out of data.factor_columns"
        )
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
        low, high = float(values.min()), float(values.max())
        factor = Factor(name, values, None, low, high)
        constant = low == high
    else:
        there = set(values.tolist())
        present = (
            sorted(there) if (order := table.classes(name)) is None else [c for c in order if c in there]
        )
        label = {value: k for k, value in enumerate(present)}
        labels = np.array([label[value] for value in values.tolist()], dtype=np.int64)
        factor = Factor(name, labels, tuple(str(value) for value in present))
        constant = len(present) == 1
    if constant:
        raise ValueError(
            f"factor {name!r} of {table.path} is {values[0]} in every row; leave it out of data.factor_columns"
        )
    return factor
