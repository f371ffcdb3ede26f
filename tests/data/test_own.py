"""A user's own pictures: factors, u, images, and every fault as one line; and the example set of digits."""

from __future__ import annotations

import csv
import json
import math
import os
import runpy
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from idiff_hf.config import DataConfig
from idiff_hf.data.batches import TrainingBatches
from idiff_hf.data.bound_columns import BoundColumns
from idiff_hf.data.observed_columns import ObservedColumns
from idiff_hf.data.own import open_own
from idiff_hf.random import BatchRandom
from tests.faults.figures import Figure

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = DataConfig(name="own", path=str(EXAMPLES / "digits"), image_size=32, color="grey")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))


def pixels(count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=1)).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def write(home: Path, images: np.ndarray, **columns: list[Any]) -> DataConfig:
    """A folder of pictures and its configuration."""
    home.mkdir(exist_ok=True)
    for k, image in enumerate(images):
        Image.fromarray(image).save(home / f"{k:03}.png")
    with (home / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file_name", *columns))
        for k in range(len(images)):
            table.writerow((f"{k:03}.png", *(values[k] for values in columns.values())))
    return DataConfig(name="own", path=str(home), image_size=16, cache_dir=str(home.parent / "cache"))


ROWS = torch.arange(4)
COLUMNS: dict[str, list[Any]] = {
    "size": ["m", "l", "s", "m"],
    "count": [10, 7, 7, 30],
    "flag": [True, False, False, True],
    "angle": [-1.0, 0.5, 3.0, 0.0],
    "lower": [0.0, "", 1.0, 2.0],
    "upper": [1.0, "", 4.0, 3.0],
    "bin": [0, 1, "", 3],
    "same": [1, 1, 1, 1],
    "gap": ["a", "", "b", "a"],
    "far": [0.0, "inf", 1.0, 2.0],
}


# What is known of a row


def test_images_alone(tmp_path: Path) -> None:
    images = pixels(4)
    dataset = open_own(write(tmp_path / "set", images))
    assert (len(dataset), dataset.channels, dataset.image_size, dataset.source) == (4, 3, 16, "own")
    assert (dataset.factor_names, dataset.factor_sizes, dataset.factor_classes) == ((), (), ())
    assert dataset.observed is None
    chosen = torch.tensor([2, 0, 2])
    assert torch.equal(dataset.images(chosen), torch.from_numpy(images[[2, 0, 2]]).permute(0, 3, 1, 2))
    assert dataset.factors(chosen).shape == dataset.z(dataset.factors(chosen), "endpoints").shape == (3, 0)
    train, held_out = dataset.split(0.25, 0)
    assert sorted([*train.tolist(), *held_out.tolist()]) == [0, 1, 2, 3] and len(held_out) == 1


def test_discrete_factors(tmp_path: Path) -> None:
    config = replace(write(tmp_path / "set", pixels(4), **COLUMNS), factor_columns=("size", "count", "flag"))
    dataset = open_own(config)
    assert dataset.factor_names == ("size", "count", "flag")
    assert dataset.factor_sizes == (3, 3, 2)
    assert dataset.factor_classes == (("l", "m", "s"), ("7", "10", "30"), ("False", "True"))
    factors = dataset.factors(ROWS)
    assert factors.dtype == torch.int64
    assert factors.tolist() == [[1, 1, 1], [0, 0, 0], [2, 0, 0], [1, 2, 1]]
    assert dataset.z(factors, "endpoints").tolist() == [
        [0, 0, 0.5],
        [-0.5] * 3,
        [0.5, -0.5, -0.5],
        [0, 0.5, 0.5],
    ]
    assert dataset.z(factors, "centers").tolist()[1] == pytest.approx([-1 / 3, -1 / 3, -0.25])
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2"):
        dataset.z(torch.tensor([[3, 0, 0]]), "endpoints")


def test_continuous_factors_beside_discrete_ones(tmp_path: Path) -> None:
    config = replace(write(tmp_path / "set", pixels(4), **COLUMNS), factor_columns=("angle", "size"))
    dataset = open_own(config)
    assert dataset.factor_sizes == (None, 3) and dataset.factor_classes == (None, ("l", "m", "s"))
    factors = dataset.factors(ROWS)
    assert factors.dtype == torch.float32
    assert factors.tolist() == [[-1.0, 1], [0.5, 0], [3.0, 2], [0.0, 1]]
    assert dataset.z(factors, "endpoints").tolist() == [[-0.5, 0], [-0.125, -0.5], [0.5, 0.5], [-0.25, 0]]
    z = dataset.z(factors, "centers", torch.full((4, 2), 0.75))
    assert z[:, 0].tolist() == [-0.5, -0.125, 0.5, -0.25]
    assert z[:, 1].tolist() == pytest.approx([1.75 / 3 - 0.5, 0.75 / 3 - 0.5, 2.75 / 3 - 0.5, 1.75 / 3 - 0.5])
    for value in (3.5, math.nan):
        with pytest.raises(ValueError, match=f"factor 'angle' is {value} in row 0; it goes from -1 to 3"):
            dataset.z(torch.tensor([[value, 0]]), "endpoints")


def test_continuous_factors_alone(tmp_path: Path) -> None:
    config = replace(write(tmp_path / "set", pixels(4), **COLUMNS), factor_columns=("angle",))
    dataset = open_own(config)
    assert dataset.z(dataset.factors(ROWS), "centers", torch.rand(4, 1)).flatten().tolist() == [
        -0.5,
        -0.125,
        0.5,
        -0.25,
    ]


def test_classes_keep_the_order_that_a_table_states(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": png(k), "path": None} for k in range(3)], "size": [2, 0, 2]}
    features = {"image": datasets.Image(), "size": datasets.ClassLabel(names=["small", "medium", "large"])}
    file = str(tmp_path / "a.parquet")
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(file)
    config = DataConfig(name="own", path=file, image_size=16, color="grey", cache_dir=str(tmp_path))
    dataset = open_own(replace(config, factor_columns=("size",)))
    assert dataset.factor_classes == (("small", "large"),)
    assert dataset.factors(torch.arange(3)).flatten().tolist() == [1, 0, 1]
    assert dataset.images(torch.arange(3)).flatten(1)[:, 0].tolist() == [0, 1, 2]


def test_u_from_columns(tmp_path: Path) -> None:
    config = replace(write(tmp_path / "set", pixels(4), **COLUMNS), aux_columns=("count", "size"))
    observed = open_own(config).observed
    assert observed is not None
    assert (observed.moments, observed.num_factors, observed.size) == ("observed", 0, 4)
    # mean 13.5, variance (3.5^2 + 6.5^2 + 6.5^2 + 16.5^2) / 4
    sd = math.sqrt(92.25)
    assert observed.values[:, 0].tolist() == pytest.approx([-3.5 / sd, -6.5 / sd, -6.5 / sd, 16.5 / sd])
    assert observed.values[:, 1:].tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]
    columns = {
        name: np.array(COLUMNS[name], dtype=dtype) for name, dtype in (("count", int), ("size", object))
    }
    again = ObservedColumns.from_dict(json.loads(json.dumps(observed.statistics))).transform(columns)
    assert torch.equal(torch.from_numpy(again), observed.values)


def test_u_from_bounds(tmp_path: Path) -> None:
    config = replace(write(tmp_path / "set", pixels(4), **COLUMNS), bound_columns=("lower:upper", "bin"))
    observed = open_own(config).observed
    assert observed is not None
    assert (observed.moments, observed.num_factors, observed.size) == ("mean_variance", 2, 4)
    assert observed.names[1] == "bin"
    # lower:upper is [0, 1], all, [1, 4] and [2, 3] of 0..4; bin is 0, 1, any and 3 of four
    middle = [[-0.375, -0.375], [0, -0.125], [0.125, 0], [0.125, 0.375]]
    length = [[0.25, 0.25], [1, 0.25], [0.75, 1], [0.25, 0.25]]
    expected = np.concatenate([math.sqrt(12) * np.array(middle), np.square(length)], axis=1)
    assert observed.values.numpy() == pytest.approx(expected, abs=1e-6)
    assert BoundColumns.from_dict(observed.statistics).names == observed.names


def test_batches_carry_the_u_of_their_rows(tmp_path: Path) -> None:
    config = replace(
        write(tmp_path / "set", pixels(4), **COLUMNS), aux_columns=("count",), factor_columns=("size",)
    )
    dataset = open_own(config)
    assert dataset.observed is not None
    batches = TrainingBatches(dataset, dataset.observed, ROWS, 0, "endpoints", False)
    random = BatchRandom(0, 3, 0, 16, torch.device("cpu"))
    rows, batch = batches.rows_at(48, 16), batches(16, random)
    assert torch.equal(batch.aux, dataset.observed.values[rows])
    assert torch.equal(batch.factors, dataset.factors(rows))
    assert torch.equal(((batch.image + 1) * 127.5).round().to(torch.uint8), dataset.images(rows))


# Images


def png(shade: int) -> bytes:
    file = BytesIO()
    Image.new("L", (16, 16), shade).save(file, "PNG")
    return file.getvalue()


def test_sizes_and_colours(tmp_path: Path) -> None:
    images = [
        np.full((40, 24, 3), 50, np.uint8),
        np.full((20, 20), 200, np.uint8),
        np.full((8, 9, 4), 90, np.uint8),
    ]
    config = write(tmp_path / "set", images)  # type: ignore[arg-type]
    for color, channels in (("grey", 1), ("rgb", 3)):
        dataset = open_own(replace(config, resize=True, color=color))
        batch = dataset.images(torch.arange(3))
        assert batch.shape == (3, channels, 16, 16)
        # A third of the ink of the last one shows, on white.
        alpha = 90 / 255
        assert batch[:, :, 8, 8].tolist() == [
            [50] * channels,
            [200] * channels,
            [round(90 * alpha + 255 * (1 - alpha))] * channels,
        ]


def test_pictures_are_decoded_once(tmp_path: Path) -> None:
    images = pixels(4)
    config = write(tmp_path / "set", images)
    open_own(config)
    stat = (tmp_path / "set" / "002.png").stat()
    (tmp_path / "set" / "002.png").write_bytes(b"x" * stat.st_size)
    os.utime(tmp_path / "set" / "002.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert torch.equal(open_own(config).images(ROWS), torch.from_numpy(images).permute(0, 3, 1, 2))
    # The cache is of one size and colour, and of files that have not changed.
    with pytest.raises(ValueError, match=r"set/002\.png: cannot be decoded"):
        open_own(replace(config, color="grey"))
    os.utime(tmp_path / "set" / "002.png")
    with pytest.raises(ValueError, match=r"set/002\.png: cannot be decoded"):
        open_own(config)


# Faults


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"factor_columns": ("digit",)},
            "set has no column 'digit' beside its pictures; there are: size, count, ",
        ),
        (
            {"aux_columns": ("digit",)},
            "set has no column 'digit' beside its pictures; there are: size, count, ",
        ),
        (
            {"bound_columns": ("lower:digit",)},
            "set has no column 'digit' beside its pictures; there are: size, ",
        ),
        (
            {"factor_columns": ("gap",)},
            r"set/001\.png: factor 'gap' is None; give every row a finite value, or leave",
        ),
        (
            {"factor_columns": ("lower",)},
            r"set/001\.png: factor 'lower' is nan; give every row a finite value",
        ),
        ({"factor_columns": ("far",)}, r"set/001\.png: factor 'far' is inf; give every row a finite value"),
        (
            {"factor_columns": ("same",)},
            "factor 'same' of .*set is 1 in every row; leave it out of data.factor_col",
        ),
        ({"factor_columns": ("size", "size")}, "data.factor_columns names 'size' more than once"),
        ({"aux_columns": ("gap",)}, r"set/001\.png: column 'gap' is NaN or empty"),
        ({"aux_columns": ("lower",)}, r"set/001\.png: column 'lower' is NaN or empty"),
        (
            {"bound_columns": ("upper:lower",)},
            r"set/000\.png: column 'upper' is 1, above 'lower', which is 0",
        ),
    ],
)
def test_bad_columns(tmp_path: Path, columns: dict[str, tuple[str, ...]], message: str) -> None:
    config = replace(write(tmp_path / "set", pixels(4), **COLUMNS), **columns)
    with pytest.raises(ValueError, match=message) as caught:
        open_own(config)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.faults
def test_one_row(tmp_path: Path, figure: Figure) -> None:
    with pytest.raises(
        ValueError, match="set has one row; give at least two, one to train on and one to hold out"
    ):
        open_own(write(tmp_path / "set", pixels(1)))
    figure("F18", "refused in one line")


def test_mixed_sizes(tmp_path: Path) -> None:
    config = write(tmp_path / "set", pixels(4))
    Image.new("RGB", (24, 16)).save(tmp_path / "set" / "002.png")
    with pytest.raises(
        ValueError, match=r"set/002\.png: 24 x 16 pixels \(width x height\), not 16 x 16; set data\.re"
    ):
        open_own(config)
    assert len(open_own(replace(config, resize=True))) == 4


def test_a_corrupt_picture_leaves_nothing(tmp_path: Path) -> None:
    config = write(tmp_path / "set", pixels(300))
    for k in (290, 150):
        file = tmp_path / "set" / f"{k}.png"
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"set/150\.png: cannot be decoded as PNG"):
        open_own(config)
    assert not list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((4, 3, 16, 16), np.uint8),
            r"images\.npy, row 0: an array of shape \(3, 16, 16\), channels first",
        ),
        (
            np.zeros((4, 16, 16), np.float32),
            r"images\.npy, row 0: an array of float32; give uint8 in 0\.\.255",
        ),
        (np.zeros((4, 16), np.uint8), r"images\.npy has shape \(4, 16\); give \(N, H, W\) or \(N, H, W, C\)"),
    ],
)
def test_bad_arrays(tmp_path: Path, images: np.ndarray, message: str, figure: Figure) -> None:
    (tmp_path / "set").mkdir()
    np.save(tmp_path / "set" / "images.npy", images)
    config = DataConfig(
        name="own", path=str(tmp_path / "set"), image_size=16, cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(ValueError, match=message):
        open_own(config)
    figure("F18", "refused in one line")


# The example


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    """Pixels and columns from the package itself, not from the program that wrote them."""
    config = replace(DIGITS, cache_dir=str(tmp_path), factor_columns=("digit", "ink", "slant"))
    dataset, data = open_own(config), load_digits()
    rows = torch.arange(300)
    enlarged = np.kron(data.images[:300], np.ones((4, 4)))
    assert np.array_equal(dataset.images(rows)[:, 0].numpy(), np.rint(enlarged * 255 / 16))
    assert dataset.factor_sizes == (10, None, None)
    factors = dataset.factors(rows).numpy()
    assert np.array_equal(factors[:, 0], data.target[:300])
    assert factors[:, 1] == pytest.approx(data.data[:300].mean(axis=1) / 16, abs=6e-5)
    # A regression of columns on rows by another way: least squares, each pixel weighted by its ink.
    row, column = np.indices((8, 8)).reshape(2, 64)
    slopes = [np.polyfit(-row, column, 1, w=np.sqrt(ink))[0] for ink in data.data[:300]]
    assert factors[:, 2] == pytest.approx(np.degrees(np.arctan(slopes)), abs=6e-3)


def test_digits_come_out_of_their_program(tmp_path: Path) -> None:
    runpy.run_path(str(EXAMPLES / "make_digits.py"))["make"](tmp_path)
    assert (tmp_path / "metadata.csv").read_bytes() == (EXAMPLES / "digits" / "metadata.csv").read_bytes()
    names = {file.name for file in (EXAMPLES / "digits").glob("*.png")}
    assert names == {file.name for file in tmp_path.glob("*.png")} and len(names) == 300
    for name in names:
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / name)), np.asarray(Image.open(EXAMPLES / "digits" / name))
        )


def test_bounds_of_digits_hold_their_ink(tmp_path: Path) -> None:
    with (EXAMPLES / "digits" / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(
        float(row["ink_lower"] or 0) <= float(row["ink"]) <= float(row["ink_upper"] or 1) for row in rows
    )
    observed = open_own(
        replace(DIGITS, cache_dir=str(tmp_path), bound_columns=("ink_lower:ink_upper",))
    ).observed
    assert observed is not None and observed.names == ("ink",)
    # Nothing is known of every tenth one.
    assert observed.values[::10].tolist() == [[0, 1]] * 30
    assert (observed.values[1::10, 1] < 0.6).all()
