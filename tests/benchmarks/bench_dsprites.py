"""Speed of the procedural dSprites images on one thread: `python tests/benchmarks/bench_dsprites.py`."""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench_shapes3d import processor

from idiff_hf.data.dsprites import ColorDSprites, DSprites, HueDSprites, NoisyDSprites

SECONDS = 2.0


def images_per_second(sprites: DSprites, batch: int) -> float:
    """Rate over random batches and nuisances that are drawn beforehand, so that every geometry is met."""
    source = torch.Generator().manual_seed(0)
    rows = torch.randint(len(sprites), (32, batch), generator=source)
    batches = [sprites.factors(row) for row in rows]
    shape = sprites.nuisance_shape
    nuisance = None if shape is None else torch.rand((batch, *shape), generator=source)
    for factors in batches[:2]:
        sprites.render(factors, nuisance)
    drawn, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        sprites.render(batches[drawn // batch % len(batches)], nuisance)
        drawn += batch
    return drawn / (time.perf_counter() - start)


def main() -> None:
    """Print the seconds that the tables take, and images a second at two sizes and batch sizes."""
    torch.set_num_threads(1)
    print(f"{processor()}, {platform.platform()}, torch {torch.__version__}, 1 thread")
    for kind in (DSprites, ColorDSprites, NoisyDSprites, HueDSprites):
        for image_size in (32, 64):
            start = time.perf_counter()
            sprites = kind(image_size)
            built = time.perf_counter() - start
            print(f"{kind.__name__} {image_size}x{image_size}: tables {built:.2f} s", end="")
            for batch in (64, 1024):
                print(f", batch {batch}: {images_per_second(sprites, batch):,.0f} images/s", end="")
            print()


if __name__ == "__main__":
    main()
