"""Images a second from each source, side by side on one thread: `python tests/benchmarks/bench_sources.py`.

Random batches of 64 images of 3D Shapes at 64x64, as uint8 tensors `(64, 3, 64, 64)`. All but the renderer read the same 10,000 images,
which are written first, to a temporary folder; they fit in memory, so that what is measured is decoding and copying, not the disk.
"""

from __future__ import annotations

import io
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from idiff_hf.data.cache import ArrayImages, cached_images
from idiff_hf.data.shapes3d import Shapes3D
from tests.benchmarks.bench_shapes3d import processor

IMAGES, BATCH, ROUNDS, SECONDS = 10_000, 64, 3, 1.0
Read = Callable[[Tensor], Tensor]


def cache(folder: Path, pixels: np.ndarray) -> Read:
    """The image cache, as datasets from files and from the Hub use it."""
    images = cached_images(
        folder, "bench", {}, pixels.shape, lambda out, advance: out.__setitem__(slice(None), pixels)
    )
    return ArrayImages(images, "cpu")


def hdf5(folder: Path, pixels: np.ndarray, sort: bool, **storage: object) -> Read:
    """h5py with the file open: one image at a time, or a batch by its sorted row numbers."""
    path = folder / f"{len(list(folder.iterdir()))}.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=pixels, **storage)
    images = h5py.File(path, "r")["images"]

    def read(rows: Tensor) -> Tensor:
        if sort:
            unique, inverse = np.unique(rows.numpy(), return_inverse=True)
            batch = images[unique][inverse]
        else:
            batch = np.stack([images[row] for row in rows.tolist()])
        return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()

    return read


def parquet(folder: Path, pixels: np.ndarray) -> Read:
    """Hugging Face `datasets`, PNG in parquet, decoded by Pillow."""
    from datasets import Dataset, Features, Image, disable_progress_bars, load_dataset
    from PIL import Image as Pillow

    def png(image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Pillow.fromarray(image).save(buffer, "png")
        return buffer.getvalue()

    disable_progress_bars()
    column = [{"bytes": png(image), "path": None} for image in pixels]
    path = str(folder / "bench.parquet")
    Dataset.from_dict({"image": column}, features=Features({"image": Image()})).to_parquet(path)
    data = load_dataset("parquet", data_files=path, split="train", cache_dir=str(folder / "arrow"))

    def read(rows: Tensor) -> Tensor:
        batch = np.stack([np.asarray(image) for image in data[rows.tolist()]["image"]])
        return torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()

    return read


def sources(folder: Path) -> Iterator[tuple[str, int, Read, Callable[[Tensor], Tensor]]]:
    """Name, number of rows, how to read a batch, and the row of the renderer that a row is."""
    shapes = Shapes3D(64)
    chosen = torch.randperm(len(shapes), generator=torch.Generator().manual_seed(0))[:IMAGES]
    pixels = torch.cat([shapes.images(rows) for rows in chosen.split(1000)]).permute(0, 2, 3, 1).numpy()
    image, gzip = (1, 64, 64, 3), "gzip"
    yield "rendered", len(shapes), shapes.images, lambda rows: rows
    packed = {"chunks": image, "compression": gzip}
    for name, read in (
        ("image cache, memory-mapped", cache(folder / "cache", pixels)),
        ("HDF5, a chunk an image, one by one", hdf5(folder, pixels, False, chunks=image)),
        ("HDF5, a chunk an image, sorted batch", hdf5(folder, pixels, True, chunks=image)),
        ("HDF5, the same with gzip, one by one", hdf5(folder, pixels, False, **packed)),
        ("HDF5, the same with gzip, sorted batch", hdf5(folder, pixels, True, **packed)),
        (
            "HDF5, chunks by h5py, gzip, one by one",
            hdf5(folder, pixels, False, chunks=True, compression=gzip),
        ),
        ("parquet of PNG, datasets", parquet(folder, pixels)),
    ):
        yield name, IMAGES, read, lambda rows: chosen[rows]


def images_per_second(read: Read, total: int) -> float:
    """Rate over random batches."""
    batches = torch.randint(total, (256, BATCH), generator=torch.Generator().manual_seed(1))
    read(batches[0])
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        read(batches[count // BATCH % len(batches)])
        count += BATCH
    return count / (time.perf_counter() - start)


def main() -> None:
    """Check that all sources give the renderer's images, then print a table."""
    torch.set_num_threads(1)
    print(
        f"{processor()}, {platform.platform()}, torch {torch.__version__}, h5py {h5py.__version__}, 1 thread"
    )
    shapes, check = Shapes3D(64), torch.tensor([5, 3, 9_999, 3])
    with tempfile.TemporaryDirectory() as folder:
        readers = {}
        for name, total, read, row_of in sources(Path(folder)):
            assert torch.equal(read(check), shapes.images(row_of(check))), name
            readers[name] = read, total
        # In turns, so that what else the machine does meets all of them.
        rounds = [[images_per_second(*reader) for reader in readers.values()] for _ in range(ROUNDS)]
    rates = dict(zip(readers, np.median(rounds, axis=0), strict=True))
    print(f"{'source':<42}{'images/s':>10}{'x rendered':>12}")
    for name, rate in rates.items():
        print(f"{name:<42}{rate:>10,.0f}{rate / rates['rendered']:>12.2g}")


if __name__ == "__main__":
    main()
