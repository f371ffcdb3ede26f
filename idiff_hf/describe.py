"""What a dataset is, in words and numbers, and how fast it gives images."""

from __future__ import annotations

import time
from typing import Any

import torch

from .data import GridDataset, ImageDataset
from .random import generator

_BATCH = 64
_SECONDS = 1.0


def describe_dataset(dataset: ImageDataset) -> dict[str, Any]:
    """Rows, images, factors with their sizes, and images/s of random batches of 64, as JSON values.

    The speed is measured for about a second, after a warm-up, on this machine and with PyTorch's present number of threads.
    """
    return {
        "source": dataset.source,
        "num_images": len(dataset),
        "image_shape": [dataset.channels, dataset.image_size, dataset.image_size],
        "factors": dict(zip(dataset.factor_names, dataset.factor_sizes, strict=True)),
        "complete_grid": isinstance(dataset, GridDataset),
        "images_per_second": round(_images_per_second(dataset)),
        "num_threads": torch.get_num_threads(),
    }


def _images_per_second(dataset: ImageDataset) -> float:
    source = generator(0, "describe")
    batches = torch.randint(len(dataset), (64, _BATCH), generator=source)
    dataset.images(batches[0])
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < _SECONDS:
        dataset.images(batches[count % len(batches)])
        count += 1
    return count * _BATCH / (time.perf_counter() - started)


def describe_text(description: dict[str, Any]) -> str:
    """The same for a person to read."""
    channels, height, width = description["image_shape"]
    lines = [
        f"{description['num_images']:,} images, {channels} x {height} x {width}, {description['source']}",
        "factors: " + ("every combination once" if description["complete_grid"] else "by row"),
    ]
    if not description["factors"]:
        lines[1] = "factors: none known"
    for name, size in description["factors"].items():
        lines.append(f"  {name:<20} {'continuous' if size is None else f'{size} values'}")
    threads = description["num_threads"]
    lines.append(
        f"{description['images_per_second']:,} images/s in random batches of {_BATCH}, {threads} thread{'s' if threads > 1 else ''}"
    )
    return "\n".join(lines)
