"""Hub sets of 3D Shapes and dSprites: small shuffled parquet files with their columns, against the renderers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from idiff_hf.data.dsprites import DSprites
from idiff_hf.data.factors import FactorSpace
from idiff_hf.data.hub_grid import GRIDS, HubGrid, HubGridDataset, open_hub_grid, read_hub_grid
from idiff_hf.data.shapes3d import Shapes3D
from idiff_hf.data.tables import open_table

# The columns of the sets, in their order.
SHAPES3D_FACTORS = ("floor_hue", "object_hue", "orientation", "scale", "shape", "wall_hue")
DSPRITES_FACTORS = ("orientation", "scale", "shape", "x_position", "y_position")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))


def small(name: str, sizes: tuple[int, ...]) -> HubGrid:
    """The first few values of each factor of a grid."""
    grid = GRIDS[name]
    values = tuple(known[:size] for known, size in zip(grid.values, sizes, strict=True))
    return replace(grid, space=FactorSpace(grid.space.names, sizes), values=values)


SHAPES3D = small("shapes3d", (2, 2, 2, 2, 4, 2))
DSPRITES = small("dsprites", (3, 2, 4, 2, 3))


def encoded(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@cache
def images(name: str) -> np.ndarray:
    """All images of a small grid in its order, `(N, H, W[, 3])` uint8."""
    space, renderer = (
        (SHAPES3D.space, Shapes3D(supersample=1)) if name == "shapes3d" else (DSPRITES.space, DSprites())
    )
    rendered = renderer.render(space.factors(torch.arange(len(space)))).permute(0, 2, 3, 1).numpy()
    return rendered if name == "shapes3d" else rendered[..., 0]


def write(name: str, file: Path, pixels: np.ndarray, drop: tuple[str, ...] = (), order: Any = None) -> None:
    """A small grid as a parquet file of the columns that the Hub set has, its rows shuffled."""
    grid = SHAPES3D if name == "shapes3d" else DSPRITES
    space = grid.space
    if order is None:
        order = np.random.Generator(np.random.Philox(3)).permutation(len(space))
    labels = space.factors(torch.from_numpy(np.asarray(order))).numpy()
    columns: dict[str, Any] = {"image": [{"bytes": encoded(pixels[row]), "path": None} for row in order]}
    features: dict[str, Any] = {"image": datasets.Image()}
    names = SHAPES3D_FACTORS if name == "shapes3d" else DSPRITES_FACTORS
    for column in names:
        k = space.names.index({"x_position": "posX", "y_position": "posY"}.get(column, column))
        columns[f"label_{column}"] = labels[:, k].tolist()
        features[f"label_{column}"] = datasets.ClassLabel(names=[str(n) for n in range(space.sizes[k])])
    for column in names:
        k = space.names.index({"x_position": "posX", "y_position": "posY"}.get(column, column))
        columns[f"value_{column}"] = [grid.values[k][label] for label in labels[:, k]]
        features[f"value_{column}"] = datasets.Value("float32")
    kept = {column for column in columns if not column.startswith(drop)} if drop else set(columns)
    datasets.Dataset.from_dict(
        {column: columns[column] for column in columns if column in kept},
        features=datasets.Features({column: features[column] for column in features if column in kept}),
    ).to_parquet(str(file))


def read(name: str, file: Path, image_size: int = 64) -> HubGridDataset:
    grid = SHAPES3D if name == "shapes3d" else DSPRITES
    return read_hub_grid(
        name, grid, open_table(str(file), "train", "image"), image_size, file.parent / "cache"
    )


@pytest.mark.parametrize("drop", [(), ("value_",), ("label_",), ("label_scale", "value_shape")])
@pytest.mark.parametrize("name", ["shapes3d", "dsprites"])
def test_rows_are_found_by_their_labels(tmp_path: Path, name: str, drop: tuple[str, ...]) -> None:
    pixels = images(name)
    write(name, tmp_path / "a.parquet", pixels, drop)
    dataset = read(name, tmp_path / "a.parquet")
    grid = SHAPES3D if name == "shapes3d" else DSPRITES
    assert (dataset.source, dataset.factor_names, len(dataset)) == ("hub", grid.space.names, len(grid.space))
    assert (dataset.channels, dataset.image_size) == (grid.channels, 64)
    rows = torch.arange(len(dataset))
    expected = torch.from_numpy(pixels).reshape(len(dataset), 64, 64, -1).permute(0, 3, 1, 2)
    assert torch.equal(dataset.images(rows), expected)
    assert torch.equal(dataset.render(dataset.factors(rows)), expected)


@pytest.mark.parametrize("form", ["0/1", "mode 1", "rgb"])
def test_sprites_are_black_and_white_in_every_form(tmp_path: Path, form: str) -> None:
    pixels = images("dsprites")
    forms = {"0/1": pixels // 255, "mode 1": pixels > 0, "rgb": np.repeat(pixels[..., None], 3, axis=3)}
    write("dsprites", tmp_path / "a.parquet", forms[form])
    dataset = read("dsprites", tmp_path / "a.parquet")
    assert torch.equal(dataset.images(torch.arange(len(dataset)))[:, 0], torch.from_numpy(pixels))


def test_smaller_images_are_averages(tmp_path: Path) -> None:
    pixels = images("shapes3d")
    write("shapes3d", tmp_path / "a.parquet", pixels)
    dataset = read("shapes3d", tmp_path / "a.parquet", image_size=32)
    mean = pixels.reshape(-1, 32, 2, 32, 2, 3).mean(axis=(2, 4))
    expected = torch.from_numpy(np.floor(mean + 0.5).astype(np.uint8)).permute(0, 3, 1, 2)
    assert torch.equal(dataset.images(torch.arange(len(dataset))), expected)


def test_values_of_the_sets() -> None:
    for grid in GRIDS.values():
        assert tuple(map(len, grid.values)) == grid.space.sizes
    hue, _, _, scale, shape, angle = GRIDS["shapes3d"].values
    assert hue[3] == pytest.approx(0.3) and scale[1] == pytest.approx(0.8214, abs=1e-4)
    assert shape == (0, 1, 2, 3) and (angle[0], angle[7], angle[14]) == (-30, 0, 30)
    shape, scale, angle, x, y = GRIDS["dsprites"].values
    assert shape == (1, 2, 3) and scale[1] == pytest.approx(0.6)
    assert angle[39] == pytest.approx(2 * np.pi) and x == y and (x[0], x[31]) == (0, 1)


# Faults


def test_a_factor_without_a_column(tmp_path: Path) -> None:
    write("dsprites", tmp_path / "a.parquet", images("dsprites"), ("label_x", "value_x"))
    message = (
        "has no column label_x_position or label_posX or value_x_position or value_posX of the factor 'posX'; "
        "there are: image, label_orientation, "
    )
    with pytest.raises(ValueError, match=message):
        read("dsprites", tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (
            np.append(np.arange(144), 25),
            r"145 rows for the 144 combinations .* must be there once; "
            r"shape=0, scale=1, orientation=0, posX=0, posY=1 is in rows 25 and 144",
        ),
        (np.delete(np.arange(144), 25), "143 rows for the 144 .*orientation=0, posX=0, posY=1 is in no row"),
        (np.where(np.arange(144) == 25, 0, np.arange(144)), "posX=0, posY=0 is in rows 0 and 25"),
        (np.where(np.arange(144) == 25, 26, np.arange(144)), "posX=0, posY=1 is in no row"),
    ],
)
def test_every_combination_once(tmp_path: Path, order: np.ndarray, message: str) -> None:
    write("dsprites", tmp_path / "a.parquet", images("dsprites"), order=order)
    with pytest.raises(ValueError, match=message):
        read("dsprites", tmp_path / "a.parquet")


@pytest.mark.parametrize("drop", ["label_", "value_"])
def test_labels_and_values_outside_the_grid(tmp_path: Path, drop: str) -> None:
    write("shapes3d", tmp_path / "a.parquet", images("shapes3d"), (drop,), np.arange(len(SHAPES3D.space)))
    grid = small("shapes3d", (2, 2, 2, 2, 3, 2))
    # orientation is the last factor, of two values: shape 3 comes first in row 6.
    with pytest.raises(
        ValueError, match=r"a\.parquet, row 6: (label|value)_shape is 3; it must be one of 0, 1, 2$"
    ):
        read_hub_grid(
            "shapes3d", grid, open_table(str(tmp_path / "a.parquet"), "train", "image"), 64, tmp_path
        )


def test_a_column_of_texts(tmp_path: Path) -> None:
    columns = {"image": [encoded(np.zeros((64, 64, 3), np.uint8))], "label_floor_hue": ["red"]}
    datasets.Dataset.from_dict(columns).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(
        ValueError, match=r"column 'label_floor_hue' of .* holds 'red' in row 0; give numbers"
    ):
        read("shapes3d", tmp_path / "a.parquet")


def test_a_picture_that_is_none_names_its_row_and_leaves_nothing(tmp_path: Path) -> None:
    pixels = images("dsprites")
    write("dsprites", tmp_path / "a.parquet", pixels)
    table = open_table(str(tmp_path / "a.parquet"), "train", "image")
    cut = [table.image(row)[: 40 if row == 3 else None] for row in range(len(table))]
    columns = {name: table.column(name) for name in table.column_names[1:]}
    datasets.Dataset.from_dict({"image": cut, **columns}).to_parquet(str(tmp_path / "b.parquet"))
    with pytest.raises(ValueError, match=r"b\.parquet, row 3: cannot be decoded as PNG"):
        read("dsprites", tmp_path / "b.parquet")
    assert not list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.parametrize("image_size", [48, 128])
def test_other_image_sizes(tmp_path: Path, image_size: int) -> None:
    write("dsprites", tmp_path / "a.parquet", images("dsprites"))
    with pytest.raises(
        ValueError, match=f"image_size is {image_size} and the images of dsprites have 64x64 pixels"
    ):
        read("dsprites", tmp_path / "a.parquet", image_size)


def test_too_few_rows_of_the_real_set(tmp_path: Path) -> None:
    write("shapes3d", tmp_path / "a.parquet", images("shapes3d"))
    with pytest.raises(ValueError, match="has 128 rows for the 480,000 combinations of factors"):
        open_hub_grid("shapes3d", str(tmp_path / "a.parquet"), "train", "image", 64, tmp_path, "cpu")
