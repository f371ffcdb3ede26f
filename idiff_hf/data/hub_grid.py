"""3D Shapes and dSprites from the Hugging Face Hub or parquet files, in the rows of the grid of their factors.

Such sets are shuffled (those that TensorFlow Datasets made are), so rows are found by their labels and never by their order. Labels are
columns of class numbers, `label_FACTOR`, or of values, `value_FACTOR`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .cache import cached_images
from .dsprites import DSprites
from .factors import FactorSpace
from .files import FILES, FileDataset, check_divides, even_values, shrink
from .pictures import Color, decode_all, to_picture
from .shapes3d import Shapes3D
from .tables import Table, open_table


@dataclass(frozen=True)
class HubGrid:
    """What a set holds of every combination of its factors.

    Attributes:
        space: Names and sizes of the factors.
        values: For each factor what `value_FACTOR` may be: the values of its labels, ascending.
        image_size: Height and width in pixels.
        channels: 1 or 3.
        binary: Pixels are black or not: all above 0 become 255.
        aliases: What the columns call a factor, where it is not its name.
    """

    space: FactorSpace
    values: tuple[tuple[float, ...], ...]
    image_size: int
    channels: int
    binary: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)


GRIDS = {
    "shapes3d": HubGrid(
        Shapes3D.factor_space,
        values=FILES["shapes3d"].values,
        image_size=64,
        channels=3,
    ),
    "dsprites": HubGrid(
        DSprites.factor_space,
        values=(
            even_values(1, 3, 3),
            even_values(0.5, 1, 6),
            even_values(0, 2 * math.pi, 40),
            *[even_values(0, 1, 32)] * 2,
        ),
        image_size=64,
        channels=1,
        binary=True,
        aliases={"posX": "x_position", "posY": "y_position"},
    ),
}
"""Sets by `data.name`; `eurecom-ds/shapes3d` and `eurecom-ds/dsprites` are of this form."""


class HubGridDataset(FileDataset):
    """Images of a Hub set, by the numbers of their combinations of factors."""

    source = "hub"  # type: ignore[assignment]


def open_hub_grid(
    name: str,
    path: str,
    split: str,
    image_column: str,
    image_size: int,
    cache_dir: Path | None,
    device: torch.device | str = "cpu",
) -> HubGridDataset:
    """The dataset of a Hub set or of parquet files with its columns, by way of the image cache.

    Args:
        name: A key of `GRIDS`.
        path: See `open_table`.
        split: See `open_table`.
        image_column: See `open_table`.
        image_size: Height and width in pixels, a divisor of the set's. Pixels are averaged over squares, halves rounded up.
        cache_dir: See `cached_images`.
        device: Where images are put.

    Returns:
        Rows, factors and labels as in the rendered dataset of that name.

    Raises:
        ValueError: One line: another image size, a table or picture that cannot be read, a factor without a column, a label or value out of
            place, or a combination of factors that is not there exactly once.
    """
    return read_hub_grid(
        name, GRIDS[name], open_table(path, split, image_column), image_size, cache_dir, device
    )


def read_hub_grid(
    name: str,
    grid: HubGrid,
    table: Table,
    image_size: int,
    cache_dir: Path | None,
    device: torch.device | str = "cpu",
) -> HubGridDataset:
    """As `open_hub_grid`, for any grid and table."""
    check_divides(image_size, grid.image_size, name)
    rows = _grid_rows(grid, table)
    color: Color = "rgb" if grid.channels == 3 else "grey"

    def picture(row: int) -> np.ndarray:
        image = to_picture(table.image(row), grid.image_size, color, False, table.where(row))
        if grid.binary:
            image = (image > 0) * np.uint8(255)
        return shrink(image[None], grid.image_size // image_size)[0]

    images = cached_images(
        cache_dir,
        name,
        {"source": "hub", "grid": name, **table.fingerprint},
        (len(grid.space), image_size, image_size, grid.channels),
        lambda out, advance: decode_all(picture, out, advance, rows),
    )
    return HubGridDataset(name, grid.space, images, device)


def _grid_rows(grid: HubGrid, table: Table) -> np.ndarray:
    """For each row of a table its row in the grid, `(N,)`, a permutation."""
    space = grid.space
    labels = [_labels(grid, table, k) for k in range(len(space.names))]
    rows = np.ravel_multi_index(tuple(labels), space.sizes)
    counts = np.bincount(rows, minlength=len(space))
    if (counts != 1).any():
        wrong = int((counts != 1).argmax())
        combination = zip(space.names, np.unravel_index(wrong, space.sizes), strict=True)
        named = ", ".join(f"{name}={label}" for name, label in combination)
        there = np.flatnonzero(rows == wrong)
        found = f"in rows {there[0]} and {there[1]}" if len(there) else "in no row"
        raise ValueError(
            f"{table.path} has {len(table):,} rows for the {len(space):,} combinations of factors, each of which must be there once; "
            f"{named} is {found}"
        )
    return rows


def _labels(grid: HubGrid, table: Table, factor: int) -> np.ndarray:
    """Labels `(N,)` int64 of a factor, by whichever of its columns there is."""
    name, values = grid.space.names[factor], np.array(grid.values[factor])
    column_names = dict.fromkeys((grid.aliases.get(name, name), name))
    for kind in ("label", "value"):
        for column_name in column_names:
            column = f"{kind}_{column_name}"
            if column in table.column_names:
                known = np.arange(len(values)) if kind == "label" else values
                return _nearest(table, column, known)
    wanted = " or ".join(f"{kind}_{column}" for kind in ("label", "value") for column in column_names)
    raise ValueError(
        f"{table.path} has no column {wanted} of the factor {name!r}; there are: {', '.join(table.column_names)}"
    )


def _nearest(table: Table, column: str, known: np.ndarray) -> np.ndarray:
    """Which of the known values `(n,)`, ascending, each value of a column is, `(N,)` int64."""
    found = table.column(column)
    if found.dtype == object:
        raise ValueError(f"column {column!r} of {table.path} holds {found[0]!r} in row 0; give numbers")
    # Nearest, as stored values carry rounding errors; but not just anything.
    labels = np.searchsorted((known[1:] + known[:-1]) / 2, found)
    strange = ~(np.abs(known[labels] - found) <= 0.01 * (known[1] - known[0]))
    if strange.any():
        row = int(strange.argmax())
        shown = ", ".join(f"{value:g}" for value in known)
        raise ValueError(f"{table.where(row)}: {column} is {found[row]:g}; it must be one of {shown}")
    return labels
