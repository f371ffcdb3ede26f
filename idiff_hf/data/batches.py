"""Training batches as a pure function of the step: images, factors and the auxiliary variable u."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..random import BatchRandom, generator
from .auxiliary import label_to_z


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one process.

    Args:
        image: x_0, `(B, C, H, W)` in [-1, 1].
        factors: Labels, `(B, K)`.
        aux: u, `(B, A)`.
    """

    image: Tensor
    factors: Tensor
    aux: Tensor


def to_float(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


class TrainingBatches:
    """Walks the training combinations in a fresh, keyed order each epoch, without a loader whose state would have to be saved.

    Args:
        dataset: Renders factors; has `factor_space` and `render`.
        auxiliary: u given z, from `idiff_hf.data.auxiliary`.
        rows: Row numbers of the training combinations, `(N,)`.
        seed: Of the order.
        mode: How labels become z, see `label_to_z`.
        jitter: Shift z inside its bin.
    """

    def __init__(
        self, dataset: Any, auxiliary: Any, rows: Tensor, seed: int, mode: Any, jitter: bool
    ) -> None:
        self.dataset = dataset
        self.auxiliary = auxiliary
        self.rows = rows
        self.seed = seed
        self.mode = mode
        self.jitter = jitter
        # two epochs meet in one batch at most
        self._order = lru_cache(maxsize=2)(self._shuffled_rows)

    def _shuffled_rows(self, epoch: int) -> Tensor:
        return self.rows[torch.randperm(len(self.rows), generator=generator(self.seed, "order", epoch))]

    def rows_at(self, first: int, count: int) -> Tensor:
        """Row numbers of samples `first` to `first + count` since the start of training, `(count,)`."""
        positions = range(first, first + count)
        size = len(self.rows)
        parts = []
        for epoch in range(positions[0] // size, positions[-1] // size + 1):
            low, high = max(first, epoch * size), min(first + count, (epoch + 1) * size)
            parts.append(self._order(epoch)[low - epoch * size : high - epoch * size])
        return torch.cat(parts)

    def __call__(self, global_batch_size: int, random: BatchRandom) -> Batch:
        """The rows that `random` stands for of its step's global batch."""
        first = random.step * global_batch_size + random.first_row
        factors = self.dataset.factor_space.factors(self.rows_at(first, random.num_rows)).to(random.device)
        num_factors = factors.shape[1]
        jitter = random.uniform("jitter", (num_factors,)) if self.jitter else None
        z = label_to_z(factors, self.dataset.factor_space.sizes, self.mode, jitter)
        aux = self.auxiliary.sample(z, random.uniform("aux", (num_factors,)))
        return Batch(to_float(self.dataset.render(factors)), factors, aux)
