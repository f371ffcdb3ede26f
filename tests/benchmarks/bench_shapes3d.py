"""Speed of the procedural 3D Shapes images on one thread: `python tests/benchmarks/bench_shapes3d.py`."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from idiff_hf.data.shapes3d import Shapes3D

SECONDS = 2.0


def processor() -> str:
    """Model of the CPU, as the kernel or the platform names it, and its number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {max(len(models), 1)} cores seen"


def images_per_second(shapes: Shapes3D, batch: int) -> float:
    """Rate over random batches that are drawn beforehand, so that every geometry is met."""
    source = torch.Generator().manual_seed(0)
    rows = torch.randint(len(shapes), (32, batch), generator=source)
    batches = [shapes.factor_space.factors(row) for row in rows]
    for factors in batches[:2]:
        shapes.render(factors)
    drawn, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        shapes.render(batches[drawn // batch % len(batches)])
        drawn += batch
    return drawn / (time.perf_counter() - start)


def main() -> None:
    """Print atlas seconds and images a second at both sizes and batch sizes."""
    torch.set_num_threads(1)
    print(f"{processor()}, {platform.platform()}, torch {torch.__version__}, 1 thread")
    for image_size in (32, 64):
        start = time.perf_counter()
        shapes = Shapes3D(image_size)
        print(f"{image_size}x{image_size}: atlas {time.perf_counter() - start:.2f} s", end="")
        for batch in (64, 1024):
            print(f", batch {batch}: {images_per_second(shapes, batch):,.0f} images/s", end="")
        print()


if __name__ == "__main__":
    main()
