"""Datasets from the original files of 3D Shapes, dSprites, MPI3D and Cars3D, in the rows of the grid of their factors."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cache import ArrayImages, cached_images
from .dataset import GridDataset, Source
from .dsprites import DSprites
from .factors import FactorSpace, check_labels
from .safe_files import UnreadableFileError, Wanted, load_mat, one_line_errors, open_arrays
from .shapes3d import Shapes3D

logger = logging.getLogger(__name__)

_CACHE_VERSION = 1  # of what is made of a file: another one makes it anew

MPI3D_SPACE = FactorSpace(
    names=(
        "object_color",
        "object_shape",
        "object_size",
        "camera_height",
        "background_color",
        "horizontal_axis",
        "vertical_axis",
    ),
    sizes=(6, 6, 2, 3, 3, 40, 40),
)
CARS3D_SPACE = FactorSpace(names=("elevation", "azimuth", "object_type"), sizes=(4, 24, 183))


@dataclass(frozen=True)
class FileLayout:
    """How the original file of a dataset is laid out.

    Attributes:
        name: Of the dataset.
        space: Its factors; the file has every combination of them once.
        image_shape: `(H, W, C)` with H = W. A file may leave out C where it is 1.
        images: Key of the images, uint8.
        labels: Key of the labels by the kind of file, `hdf5` or `npz`. They decide which row an image is. Empty: the file has none, its
            images are in the order of the rows.
        values: What the labels are: the values of each column, ascending, that of label 0 first. A column with a single value is not a
            factor.
        binary: Pixels are 0 and 1, which become 0 and 255.
        meshes: The images may be a folder of MATLAB files, one for each label of the last factor, in the order of their names; their
            key is `im`, `(H, W, C, *sizes of the other factors, the last one first)`.
        md5: Of published files.
        note: Added to the message about an array of another shape.
    """

    name: str
    space: FactorSpace
    image_shape: tuple[int, int, int]
    images: str = "images"
    labels: Mapping[str, str] = field(default_factory=dict)
    values: tuple[tuple[float, ...], ...] = ()
    binary: bool = False
    meshes: bool = False
    md5: tuple[str, ...] = ()
    note: str = ""


def even_values(low: float, high: float, count: int) -> tuple[float, ...]:
    """Values of a factor, equally far apart, both ends included."""
    return tuple(np.linspace(low, high, count).tolist())


def _mpi3d(name: str, md5: str) -> FileLayout:
    note = "; MPI3D of complex objects, 460,800 images, is another dataset, which is not read"
    return FileLayout(name, MPI3D_SPACE, (64, 64, 3), md5=(md5,), note=note)


FILES = {
    layout.name: layout
    for layout in (
        FileLayout(
            "shapes3d",
            Shapes3D.factor_space,
            (64, 64, 3),
            labels={"hdf5": "labels", "npz": "labels"},
            values=(
                *[even_values(0.0, 0.9, 10)] * 3,
                even_values(0.75, 1.25, 8),
                even_values(0, 3, 4),
                even_values(-30, 30, 15),
            ),
            md5=("099a2078d58cec4daad0702c55d06868",),
        ),
        FileLayout(
            "dsprites",
            DSprites.factor_space,
            (64, 64, 1),
            images="imgs",
            labels={"hdf5": "latents/classes", "npz": "latents_classes"},
            # The first column is the colour, always white.
            values=((0.0,), *(even_values(0, size - 1, size) for size in DSprites.factor_space.sizes)),
            binary=True,
            md5=("b331c4447a651c44bf5e8ae09022e230",),
        ),
        _mpi3d("mpi3d_toy", "55889cb7c7dfc655d6e0277beee88868"),
        _mpi3d("mpi3d_realistic", "59a6225b88b635365f70c91b3e52f70f"),
        _mpi3d("mpi3d_real", "0f33f609918fb5c97996692f91129802"),
        FileLayout(
            "cars3d",
            CARS3D_SPACE,
            (128, 128, 3),
            meshes=True,
            md5=("dc03319a0b9118fbe0e23d13220a745b",),
        ),
    )
}
"""Layouts by `data.name`. 3D Shapes: Burgess & Kim 2018; dSprites: Matthey et al. 2017, as npz or HDF5; MPI3D: Gondal et al. 2019; Cars3D:
Reed et al. 2015, the folder `data/cars` of its archive, or an npz of `(17568, 128, 128, 3)`. The hashes are those that disent pins."""


def check_divides(image_size: int, height: int, name: str) -> None:
    """Refuse an image size to which images of `height` pixels cannot be averaged down.

    Raises:
        ValueError: It is no divisor of `height`.
    """
    if not 0 < image_size <= height or height % image_size:
        raise ValueError(
            f"data.image_size is {image_size} and the images of {name} have {height}x{height} pixels: "
            f"give {height} or a divisor of it"
        )


class FileDataset(GridDataset):
    """Images of an original file, whatever the order in which it has them.

    Attributes:
        name: Of the dataset.
        factor_space: Names and sizes of the factors.
        image_size: Height and width in pixels.
        channels: 1 or 3.
        device: Where images are put.
    """

    source: Source = "file"

    def __init__(
        self, name: str, factor_space: FactorSpace, images: np.ndarray, device: torch.device | str
    ) -> None:
        """Serves images that are there already.

        Args:
            name: Of the dataset.
            factor_space: N combinations.
            images: `(N, H, H, C)` uint8, row numbers those of `factor_space`.
            device: Where images are put.
        """
        self.name = name
        self.factor_space = factor_space
        self.image_size, self.channels = images.shape[2:]
        self.device = torch.device(device)
        self._images = ArrayImages(images, self.device)

    def render(self, factors: Tensor, nuisance: Tensor | None = None) -> Tensor:
        """The images of these factors.

        Args:
            factors: Integer labels `(B, K)`.
            nuisance: None; there is none.

        Returns:
            `(B, C, image_size, image_size)` uint8 in 0..255, on the dataset's device.

        Raises:
            ValueError: Wrong dtype, shape or range of the labels.
        """
        return self._images(self.factor_space.index(factors))

    def images(self, rows: Tensor, nuisance: Tensor | None = None) -> Tensor:
        """As `render`, for row numbers `(B,)`."""
        check_labels(rows[..., None], ("row number",), (len(self),))
        return self._images(rows)


def open_file(
    name: str, path: Path, image_size: int, cache_dir: Path | None, device: torch.device | str
) -> FileDataset:
    """The dataset of an original file, by way of the image cache.

    The file is read once, in blocks, and again when its size or time of change is another. Nothing in it is executed, and it can refer to
    no other file. A hash that differs from the published one is logged.

    Args:
        name: A key of `FILES`.
        path: The file; for `cars3d` also the folder of its MATLAB files or one that holds it.
        image_size: Height and width in pixels, a divisor of the file's. Pixels are averaged over squares, halves rounded up.
        cache_dir: See `cached_images`.
        device: Where images are put.

    Returns:
        Rows, factors and labels as in the rendered dataset of that name.

    Raises:
        ValueError: One line: another image size, a file that is not the dataset's or that is damaged, a combination of factors that is not
            there exactly once, or a cache that cannot be written.
    """
    return read_grid_file(path, FILES[name], image_size, cache_dir, device)


def read_grid_file(
    path: Path, layout: FileLayout, image_size: int, cache_dir: Path | None, device: torch.device | str
) -> FileDataset:
    """As `open_file`, for any layout."""
    height, _, channels = layout.image_shape
    check_divides(image_size, height, layout.name)
    path = path.expanduser()
    if not path.exists():
        raise UnreadableFileError(path, "there is no such file")
    source = _MeshFolder(path, layout) if layout.meshes and path.is_dir() else _ArrayFile(path, layout)
    with one_line_errors(path):
        files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in source.files()]
    fingerprint = {"source": "file", "version": _CACHE_VERSION, "layout": layout.name, "files": files}

    def fill(out: np.ndarray, advance: Callable[[int], None]) -> Mapping[str, Any]:
        facts = source.facts()
        for rows, block in source.blocks():
            out[rows] = shrink(block, height // image_size)
            advance(len(block))
        return facts

    shape = (len(layout.space), image_size, image_size, channels)
    images = cached_images(cache_dir, layout.name, fingerprint, shape, fill, source.check)
    return FileDataset(layout.name, layout.space, images, device)


class _ArrayFile:
    """An HDF5 or npz file."""

    def __init__(self, path: Path, layout: FileLayout) -> None:
        self._path, self._layout = path, layout
        count, (height, width, channels) = len(layout.space), layout.image_shape
        self._shapes: list[tuple[int, ...]] = [(count, height, width, channels)]
        if channels == 1:
            self._shapes.append((count, height, width))

    def files(self) -> list[Path]:
        return [self._path]

    def facts(self) -> dict[str, str]:
        """The hash of the file, compared with the published ones."""
        if not self._layout.md5:
            return {}
        with one_line_errors(self._path), self._path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if digest not in self._layout.md5:
            logger.warning(
                "%s has md5 %s, not that of a published file of %s (%s): its images may be others",
                *(self._path, digest, self._layout.name, ", ".join(self._layout.md5)),
            )
        return {"md5": digest}

    def _wanted(self, kind: str) -> Wanted:
        shapes = self._shapes
        if kind == "npz":
            # disentanglement_lib keeps 3D Shapes with one axis a factor.
            shapes = [*shapes, (*self._layout.space.sizes, *self._layout.image_shape)]
        return Wanted(self._layout.images, tuple(shapes), pixels=True, note=self._layout.note)

    def check(self) -> None:
        """Headers of the images, and all of the labels, which give the rows."""
        layout, count = self._layout, len(self._layout.space)
        with open_arrays(self._path) as arrays:
            arrays.array(self._wanted(arrays.kind))
            if not layout.labels:
                self._rows = np.arange(count)
                return
            columns = len(layout.values)
            shapes = ((count, columns), (*layout.space.sizes, columns))
            key = layout.labels[arrays.kind]
            blocks = arrays.array(Wanted(key, shapes[: 2 if arrays.kind == "npz" else 1], pixels=False))
            self._rows = _rows(self._path, np.concatenate(list(blocks())), layout)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row numbers `(n,)` and images `(n, H, W, C)`."""
        start = 0
        with open_arrays(self._path) as arrays:
            for block in arrays.array(self._wanted(arrays.kind))():
                if self._layout.binary:
                    if block.max() > 1:
                        raise UnreadableFileError(
                            self._path,
                            f"{self._layout.images!r} has a pixel of {block.max()}, expected 0 and 1",
                        )
                    block = block * np.uint8(255)
                yield self._rows[start : start + len(block)], block
                start += len(block)


class _MeshFolder:
    """A folder of MATLAB files, one for each label of the last factor."""

    def __init__(self, path: Path, layout: FileLayout) -> None:
        self._layout = layout
        folders = (path, path / "cars", path / "data" / "cars")
        self._folder = next((folder for folder in folders if any(folder.glob("*.mat"))), path)
        *outer, self._meshes = layout.space.sizes
        self._wanted = Wanted("im", ((*layout.image_shape, *reversed(outer)),), pixels=True)

    def files(self) -> list[Path]:
        return sorted(self._folder.glob("*.mat"))

    def facts(self) -> dict[str, str]:
        return {}

    def check(self) -> None:
        if len(files := self.files()) != self._meshes:
            raise UnreadableFileError(
                self._folder, f"there are {len(files)} .mat files, {self._layout.name} has {self._meshes}"
            )

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Row numbers `(n,)` and images `(n, H, W, C)`."""
        for label, file in enumerate(self.files()):
            axes = load_mat(file, self._wanted)
            images = axes.transpose(*range(axes.ndim - 1, 2, -1), 0, 1, 2).reshape(
                -1, *self._layout.image_shape
            )
            yield np.arange(len(images)) * self._meshes + label, images


def _rows(path: Path, labels: np.ndarray, layout: FileLayout) -> np.ndarray:
    """Row numbers `(N,)` of values `(N, columns)`, each of `0 .. N - 1` exactly once."""
    space = layout.space
    names = iter(space.names)
    classes = []
    for column, values in zip(labels.T, layout.values, strict=True):
        name = next(names) if len(values) > 1 else "the constant column"
        table = np.array(values)
        # Nearest, since stored values carry rounding errors; but not just anything.
        nearest = np.searchsorted((table[1:] + table[:-1]) / 2, column)
        slack = 0.01 * (table[1] - table[0] if len(table) > 1 else 1.0)
        strange = ~(np.abs(table[nearest] - column) <= slack)
        if strange.any():
            i = int(strange.argmax())
            shown = ", ".join(f"{value:g}" for value in values)
            raise UnreadableFileError(path, f"{name} is {column[i]:g} in row {i}, expected one of {shown}")
        if len(values) > 1:
            classes.append(nearest)
    rows = np.ravel_multi_index(tuple(classes), space.sizes)
    counts = np.bincount(rows, minlength=len(space))
    if (counts != 1).any():
        row = int((counts != 1).argmax())
        combination = zip(space.names, np.unravel_index(row, space.sizes), strict=True)
        named = ", ".join(f"{name} {label}" for name, label in combination)
        raise UnreadableFileError(
            path,
            f"the combination of labels {named} occurs {counts[row]} times, expected every combination once",
        )
    return rows


def shrink(images: np.ndarray, factor: int) -> np.ndarray:
    """Averages of uint8 images `(N, H, W, C)` over squares of `factor` pixels a side (at most 16), halves rounded up."""
    if factor == 1:
        return images
    total = np.zeros(
        (len(images), images.shape[1] // factor, images.shape[2] // factor, images.shape[3]), dtype=np.uint16
    )
    for i in range(factor):
        for j in range(factor):
            total += images[:, i::factor, j::factor]
    return ((total + factor**2 // 2) // factor**2).astype(np.uint8)
