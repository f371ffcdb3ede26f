"""Original files, small ones that these tests write: every image in the row of its factors, however the file has them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from idiff_hf.data.dsprites import DSprites
from idiff_hf.data.factors import FactorSpace
from idiff_hf.data.files import (
    CARS3D_SPACE,
    FILES,
    MPI3D_SPACE,
    FileDataset,
    FileLayout,
    open_file,
    read_grid_file,
)
from idiff_hf.data.shapes3d import Shapes3D
from tests.faults.figures import Figure

SPACE = FactorSpace(("hue", "size", "angle"), (2, 3, 4))
LAYOUT = FileLayout(
    "toy",
    SPACE,
    (8, 8, 3),
    labels={"hdf5": "labels", "npz": "labels"},
    values=((0.0, 0.5), (0.75, 1.0, 1.25), (-30.0, -10.0, 10.0, 30.0)),
)
ROWS = torch.arange(len(SPACE))
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
LABELS = np.stack([np.array(v)[SPACE.factors(ROWS)[:, k]] for k, v in enumerate(LAYOUT.values)], axis=1)


def write(path: Path, storage: dict[str, Any] | None = None, **arrays: np.ndarray) -> Path:
    """An npz or HDF5 file, by the suffix; `__` in a name is a group. `storage` is how HDF5 stores images; with any an npz is compressed."""
    if path.suffix == ".npz":
        (np.savez_compressed if storage else np.savez)(path, **arrays)  # type: ignore[arg-type]
        return path
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(
                name.replace("__", "/"), data=array, **(storage or {} if name.startswith("im") else {})
            )
    return path


def read(path: Path, layout: FileLayout = LAYOUT, image_size: int = 8) -> FileDataset:
    """By way of a cache beside the file."""
    return read_grid_file(path, layout, image_size, path.parent / "cache", "cpu")


def chw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        ("toy.npz", None),
        ("toy.npz", {"compressed": True}),
        ("toy.h5", None),
        ("toy.h5", {"chunks": (1, 8, 8, 3), "compression": "gzip", "shuffle": True, "fletcher32": True}),
        ("toy.hdf5", {"chunks": (10, 4, 4, 1), "compression": "lzf"}),
        ("named_as_nothing.bin", {"chunks": (24, 2, 4, 3), "maxshape": (None, 8, 8, 3)}),
    ],
)
def test_images_are_those_of_the_file_however_it_stores_them(
    tmp_path: Path, name: str, storage: dict[str, Any] | None
) -> None:
    dataset = read(write(tmp_path / name, storage, images=PIXELS, labels=LABELS))
    assert (len(dataset), dataset.channels, dataset.image_size, dataset.source) == (24, 3, 8, "file")
    assert dataset.factor_names == SPACE.names
    images = dataset.images(ROWS)
    assert images.dtype == torch.uint8
    assert torch.equal(images, chw(PIXELS))
    assert torch.equal(dataset.render(SPACE.factors(ROWS)), images)
    some = torch.tensor([23, 0, 5, 5])
    assert torch.equal(dataset.images(some), chw(PIXELS)[some])


@pytest.mark.parametrize("name", ["toy.npz", "toy.h5"])
def test_labels_decide_the_row_and_not_the_order_in_the_file(tmp_path: Path, name: str) -> None:
    order = np.random.default_rng(1).permutation(24)
    dataset = read(write(tmp_path / name, images=PIXELS[order], labels=LABELS[order]))
    assert torch.equal(dataset.images(ROWS), chw(PIXELS))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_labels_with_rounding_errors_are_the_nearest_values(tmp_path: Path, dtype: type) -> None:
    layout = replace(LAYOUT, values=((0.1, 0.3), (0.1, 0.2, 0.30000000000000004), LAYOUT.values[2]))
    labels = np.stack(
        [np.array(v)[SPACE.factors(ROWS)[:, k]] for k, v in enumerate(layout.values)], axis=1
    ).astype(dtype)
    assert float(labels[23, 1]) != layout.values[1][2]
    assert torch.equal(
        read(write(tmp_path / "toy.h5", images=PIXELS, labels=labels), layout).images(ROWS), chw(PIXELS)
    )


@pytest.mark.parametrize(("value", "shown"), [(1.1, "1.1"), (float("nan"), "nan"), (1e300, "1e.300")])
def test_a_label_that_is_no_value_is_refused(tmp_path: Path, value: float, shown: str) -> None:
    labels = LABELS.copy()
    labels[17, 1] = value
    path = write(tmp_path / "toy.h5", images=PIXELS, labels=labels)
    with pytest.raises(
        ValueError, match=rf"toy\.h5: size is {shown} in row 17, expected one of 0\.75, 1, 1\.25$"
    ):
        read(path)


@pytest.mark.faults
def test_every_combination_must_be_there_once(tmp_path: Path, figure: Figure) -> None:
    # Row 6 = (0, 1, 2) is written as row 20 = (1, 2, 0): the first is missing and the second is there twice.
    labels = LABELS.copy()
    labels[6] = LABELS[20]
    path = write(tmp_path / "toy.npz", images=PIXELS, labels=labels)
    with pytest.raises(
        ValueError, match=r"labels hue 0, size 1, angle 2 occurs 0 times, expected every comb.* once$"
    ):
        read(path)
    labels = LABELS.copy()
    labels[20] = LABELS[6]
    path = write(tmp_path / "toy.npz", images=PIXELS, labels=labels)
    with pytest.raises(
        ValueError, match=r"labels hue 0, size 1, angle 2 occurs 2 times, expected every comb.* once$"
    ):
        read(path)
    figure("F18", "refused in one line")


def test_without_labels_images_are_in_the_order_of_the_rows(tmp_path: Path) -> None:
    layout = replace(LAYOUT, labels={}, values=())
    for name in ("toy.npz", "toy.h5"):
        assert torch.equal(read(write(tmp_path / name, images=PIXELS), layout).images(ROWS), chw(PIXELS))


def test_one_axis_a_factor_as_disentanglement_lib_keeps_them(tmp_path: Path) -> None:
    path = write(
        tmp_path / "toy.npz", images=PIXELS.reshape(2, 3, 4, 8, 8, 3), labels=LABELS.reshape(2, 3, 4, 3)
    )
    assert torch.equal(read(path).images(ROWS), chw(PIXELS))


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_dsprites_pixels_colour_column_and_the_pickle_beside_them(tmp_path: Path) -> None:
    space = FactorSpace(("shape", "posX"), (3, 4))
    layout = replace(FILES["dsprites"], space=space, values=((0.0,), (0.0, 1.0, 2.0), (0.0, 1.0, 2.0, 3.0)))
    layout = replace(layout, image_shape=(8, 8, 1), md5=())
    bits = np.random.default_rng(2).integers(0, 2, (12, 8, 8), dtype=np.uint8)
    classes = np.concatenate([np.zeros((12, 1), np.int64), space.factors(torch.arange(12)).numpy()], axis=1)
    canary = tmp_path / "canary"
    metadata = np.array(Bomb(canary), dtype=object)
    npz = write(tmp_path / "dsprites.npz", metadata=metadata, imgs=bits, latents_classes=classes)
    hdf5 = write(tmp_path / "dsprites.hdf5", imgs=bits, latents__classes=classes)
    for dataset in (read(npz, layout), read(hdf5, layout)):
        assert dataset.channels == 1
        assert torch.equal(dataset.images(torch.arange(12)), torch.from_numpy(bits * np.uint8(255))[:, None])
    assert not canary.exists()
    pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.exists()

    path = write(tmp_path / "grey.npz", imgs=bits * np.uint8(7), latents_classes=classes)
    with pytest.raises(ValueError, match=r"grey\.npz: 'imgs' has a pixel of 7, expected 0 and 1$"):
        read(path, layout)


def numbered(count: int) -> np.ndarray:
    """Images `(count, 2, 2, 3)` of which the first three bytes are the number of the image."""
    images = np.zeros((count, 2, 2, 3), dtype=np.uint8)
    images[:, 0, 0] = np.arange(count)[:, None] >> np.array([16, 8, 0]) & 255
    return images


def numbers(dataset: FileDataset, rows: torch.Tensor) -> torch.Tensor:
    """The numbers that were written by `numbered`."""
    return (dataset.images(rows)[:, :, 0, 0].long() * torch.tensor([65536, 256, 1])).sum(dim=1)


def test_the_whole_grid_of_shapes3d_with_its_labels(tmp_path: Path) -> None:
    values = [np.arange(10) / 10] * 3 + [np.linspace(0.75, 1.25, 8), np.arange(4.0), np.linspace(-30, 30, 15)]
    labels = np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, 6)
    order = np.random.default_rng(3).permutation(480_000)
    path = write(tmp_path / "3dshapes.h5", images=numbered(480_000)[order], labels=labels[order])
    dataset = read(path, replace(FILES["shapes3d"], image_shape=(2, 2, 3)), 2)
    assert (dataset.factor_names, dataset.factor_space) == (
        Shapes3D.factor_space.names,
        Shapes3D.factor_space,
    )
    rows = torch.randint(480_000, (5000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(numbers(dataset, rows), rows)
    # Worked by hand: 1*48000 + 2*4800 + 3*480 + 4*60 + 2*15 + 7.
    assert numbers(dataset, dataset.factor_space.index(torch.tensor([[1, 2, 3, 4, 2, 7]]))).item() == 59317


def test_the_whole_grid_of_dsprites_with_its_classes(tmp_path: Path) -> None:
    classes = np.stack(np.unravel_index(np.arange(737_280), (1, 3, 6, 40, 32, 32)), axis=1)
    bits = (np.arange(737_280)[:, None] >> np.arange(25) & 1).astype(np.uint8).reshape(-1, 5, 5)
    order = np.random.default_rng(4).permutation(737_280)
    path = write(tmp_path / "dsprites.npz", imgs=bits[order], latents_classes=classes[order])
    dataset = read(path, replace(FILES["dsprites"], image_shape=(5, 5, 1)), 5)
    assert dataset.factor_space == DSprites.factor_space
    rows = torch.randint(737_280, (5000,), generator=torch.Generator().manual_seed(0))
    seen = (dataset.images(rows).flatten(1) // 255).long() @ (2 ** torch.arange(25))
    assert torch.equal(seen, rows)
    # Worked by hand: shape 2*245760 + scale 5*40960 + orientation 1*1024 + posX 3*32 + posY 4.
    assert dataset.factor_space.index(torch.tensor([[2, 5, 1, 3, 4]])).item() == 697_444


def test_the_whole_grid_of_mpi3d_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mpi3d_real.npz", images=numbered(1_036_800))
    dataset = read(path, replace(FILES["mpi3d_real"], image_shape=(2, 2, 3)), 2)
    assert dataset.factor_space == MPI3D_SPACE
    rows = torch.randint(1_036_800, (5000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(numbers(dataset, rows), rows)


@pytest.mark.parametrize("inside", [".", "cars", "data/cars"])
def test_cars3d_from_the_folder_of_its_archive(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / "archive" / inside
    folder.mkdir(parents=True)
    space = FactorSpace(CARS3D_SPACE.names, (4, 24, 5))
    layout = replace(FILES["cars3d"], space=space, image_shape=(6, 6, 3))
    rng = np.random.default_rng(5)
    cars = rng.integers(
        0, 256, (5, 6, 6, 3, 24, 4), dtype=np.uint8
    )  # height, width, channel, azimuth, elevation
    for car in rng.permutation(5):
        mask = np.zeros((6, 6, 24, 4))
        savemat(
            folder / f"car_{car:03}_mesh.mat", {"im": cars[car], "mask": mask}, do_compression=bool(car % 2)
        )
    (folder / "list.txt").write_text("car_000_mesh\n")
    dataset = read(tmp_path / "archive", layout, 6)
    for elevation, azimuth, car in ((0, 0, 0), (3, 23, 4), (2, 7, 1)):
        row = (elevation * 24 + azimuth) * 5 + car
        expected = torch.from_numpy(cars[car, :, :, :, azimuth, elevation]).permute(2, 0, 1)
        assert torch.equal(dataset.images(torch.tensor([row]))[0], expected)

    path = write(tmp_path / "cars3d.npz", images=cars.transpose(5, 4, 0, 1, 2, 3).reshape(-1, 6, 6, 3))
    assert torch.equal(read(path, layout, 6).images(torch.arange(480)), dataset.images(torch.arange(480)))


def test_published_sizes_of_the_grids() -> None:
    sizes = {name: len(layout.space) for name, layout in FILES.items()}
    mpi3d = dict.fromkeys(("mpi3d_toy", "mpi3d_realistic", "mpi3d_real"), 1_036_800)
    assert sizes == {"shapes3d": 480_000, "dsprites": 737_280, "cars3d": 17_568, **mpi3d}


def test_smaller_images_are_averages_of_squares(tmp_path: Path) -> None:
    # Sums over the squares of one channel: 1 of 4, 2 of 4 (a half, upwards), 1020 of 4, 1018 of 4 (a half, upwards).
    pixels = np.zeros_like(PIXELS)
    pixels[5, 0, 0, 0] = 1
    pixels[5, 0:2, 2, 0] = 1
    pixels[5, 0:2, 4:6, 0] = 255
    pixels[5, 0:2, 6:8, 0] = ((255, 255), (255, 253))
    dataset = read(write(tmp_path / "toy.h5", images=pixels, labels=LABELS), image_size=4)
    assert dataset.image_size == 4
    assert dataset.images(torch.tensor([5]))[0, 0, 0].tolist() == [0, 1, 255, 255]

    path = write(tmp_path / "random.h5", images=PIXELS, labels=LABELS)
    for size in (4, 2, 1):
        exact = PIXELS.reshape(24, size, 8 // size, size, 8 // size, 3).mean(axis=(2, 4), dtype=np.float64)
        expected = np.floor(exact + 0.5).astype(np.uint8)
        assert torch.equal(read(path, image_size=size).images(ROWS), chw(expected))


@pytest.mark.parametrize("image_size", [16, 5, 0, -8])
def test_sizes_that_cannot_be_had(tmp_path: Path, image_size: int) -> None:
    message = rf"^data\.image_size is {image_size} and the images of toy have 8x8 pixels: give 8 or a divisor of it$"
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "toy.h5", image_size=image_size)


def test_the_file_is_read_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "toy.h5", images=PIXELS, labels=LABELS)
    read(path)
    before, content = path.stat(), path.read_bytes()
    # Same size and time, and nothing of it left: what is served now comes from the cache.
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert torch.equal(read(path).images(ROWS), chw(PIXELS))

    write(path, images=255 - PIXELS, labels=LABELS)
    assert torch.equal(read(path).images(ROWS), chw(255 - PIXELS))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_link_to_the_file_will_do(tmp_path: Path) -> None:
    (tmp_path / "link.h5").symlink_to(write(tmp_path / "toy.h5", images=PIXELS, labels=LABELS))
    assert torch.equal(read(tmp_path / "link.h5").images(ROWS), chw(PIXELS))


def test_the_hash_is_recorded_and_another_than_the_published_one_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "toy.h5", images=PIXELS, labels=LABELS)
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    with caplog.at_level(logging.WARNING):
        read(path, replace(LAYOUT, md5=("0" * 32, digest)))
        assert not caplog.messages
        read(path, replace(LAYOUT, name="other", md5=("0" * 32,)))
    expected = f"{path} has md5 {digest}, not that of a published file of other ({'0' * 32}): its images may be others"
    assert caplog.messages == [expected]
    manifests = [json.loads(file.read_bytes()) for file in tmp_path.rglob("MANIFEST.json")]
    assert [manifest["metadata"]["source"] for manifest in manifests] == [{"md5": digest}] * 2


def test_bad_rows_and_factors_are_refused(tmp_path: Path) -> None:
    dataset = read(write(tmp_path / "toy.h5", images=PIXELS, labels=LABELS))
    for row in (-1, 24):
        with pytest.raises(ValueError, match=rf"'row number' is {row} in row 0; labels must be in 0\.\.23"):
            dataset.images(torch.tensor([row]))
    with pytest.raises(ValueError, match="factor 'angle' is 4"):
        dataset.render(torch.tensor([[0, 0, 4]]))


def test_the_header_of_the_real_file_is_accepted(tmp_path: Path) -> None:
    """Shape, dtype and chunks of `3dshapes.h5`, none of them written: that is all that is wrong with it."""
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        chunks = (15000, 4, 4, 1)
        file.create_dataset("images", (480_000, 64, 64, 3), np.uint8, chunks=chunks, compression="gzip")
        file.create_dataset("labels", (480_000, 6), np.float64)
    with pytest.raises(ValueError, match=r"'images' is incomplete, 0 of 24,576 chunks were written$"):
        open_file("shapes3d", tmp_path / "3dshapes.h5", 64, tmp_path / "cache", "cpu")


def test_mpi3d_of_complex_objects_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "real3d_complicated_shapes_ordered.npz", images=np.zeros((460_800, 1), np.uint8))
    with pytest.raises(
        ValueError, match=r"has shape \(460800, 1\), expected .*460,800 images, is another dataset"
    ):
        open_file("mpi3d_real", path, 64, tmp_path / "cache", "cpu")


@pytest.mark.slow
def test_a_file_as_large_as_the_real_one(tmp_path: Path) -> None:
    """All 480,000 images of 3D Shapes at 64x64 in compressed chunks, row 1 of each chunk of ten white, read at 16x16."""
    import zlib

    block = np.zeros((10, 64, 64, 3), dtype=np.uint8)
    block[1] = 255
    packed = zlib.compress(block.tobytes())
    values = [np.arange(10) / 10] * 3 + [np.linspace(0.75, 1.25, 8), np.arange(4.0), np.linspace(-30, 30, 15)]
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        images = file.create_dataset(
            "images", (480_000, 64, 64, 3), np.uint8, chunks=block.shape, compression="gzip"
        )
        for start in range(0, 480_000, 10):
            images.id.write_direct_chunk((start, 0, 0, 0), packed)
        labels = np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, 6)
        file.create_dataset("labels", data=labels)
    dataset = open_file("shapes3d", tmp_path / "3dshapes.h5", 16, tmp_path / "cache", "cpu")
    rows = torch.randint(480_000, (2000,), generator=torch.Generator().manual_seed(0))
    expected = torch.where(rows % 10 == 1, 255, 0).to(torch.uint8)
    assert torch.equal(dataset.images(rows), expected[:, None, None, None].expand(-1, 3, 16, 16))
