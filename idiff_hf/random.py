"""Keyed randomness: every draw is a function of (seed, purpose, step) and of a block of the global batch.

The global batch of a step is cut into blocks of `BLOCK_SIZE` rows. A process draws only the blocks of its own rows, from a generator
keyed by the block's place in the global batch, so that another number of processes, or a resumed run, draws the same numbers and no
generator state has to be saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .config import BLOCK_SIZE


def key(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed for `torch.Generator`, a hash of its arguments.

    PyTorch's CPU generator (Mersenne twister) folds a seed to 32 bits, so two of n keys meet there with probability about n^2 / 2^33.

    Args:
        seed: The run's seed.
        purpose: What is drawn, such as `"noise"`.
        *counters: Step, block and the like.
    """
    text = "/".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded by `key`."""
    return torch.Generator(device).manual_seed(key(seed, purpose, *counters))


@dataclass(frozen=True)
class BatchRandom:
    """The draws for rows [first_row, first_row + num_rows) of the global batch of one optimiser step.

    Args:
        seed: The run's seed.
        step: The optimiser step.
        first_row: First row of the global batch, a multiple of `BLOCK_SIZE`.
        num_rows: Number of rows, a multiple of `BLOCK_SIZE`.
        device: Where the numbers are drawn.
    """

    seed: int
    step: int
    first_row: int
    num_rows: int
    device: torch.device

    def _draw(
        self, function: Callable[..., torch.Tensor], purpose: str, shape: Sequence[int]
    ) -> torch.Tensor:
        first, last = self.first_row // BLOCK_SIZE, (self.first_row + self.num_rows) // BLOCK_SIZE
        blocks = []
        for block in range(first, last):
            source = generator(self.seed, purpose, self.step, block, device=self.device)
            blocks.append(function(BLOCK_SIZE, *shape, generator=source, device=self.device))
        return torch.cat(blocks)

    def normal(self, purpose: str, shape: Sequence[int]) -> torch.Tensor:
        """Standard normal numbers, `(num_rows, *shape)`."""
        return self._draw(torch.randn, purpose, shape)

    def uniform(self, purpose: str, shape: Sequence[int]) -> torch.Tensor:
        """Uniform numbers in [0, 1), `(num_rows, *shape)`."""
        return self._draw(torch.rand, purpose, shape)
