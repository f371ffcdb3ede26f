"""Training batches as a pure function of the step: images, factors and the auxiliary variable u."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..random import BatchRandom, generator
from .auxiliary import Auxiliary, NormalFirst, Observed
from .dataset import FactorDataset, GridDataset, ImageDataset


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one process.

    Args:
        image: x_0, `(B, C, H, W)`: images in [-1, 1], or vectors as they are.
        factors: What is known of the factors, `(B, K)`; K may be 0.
        aux: u, `(B, A)`.
    """

    image: Tensor
    factors: Tensor
    aux: Tensor


def to_float(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]; vectors, which are floats already, as they are."""
    return images if images.is_floating_point() else images.float().div_(127.5).sub_(1.0)


class TrainingBatches:
    """Walks the training rows in a fresh, keyed order each epoch, without a loader whose state would have to be saved.

    Args:
        dataset: The images.
        auxiliary: u given z, u observed beside each row, or u that comes first (`NormalFirst`), which draws the factors itself from
            the dataset's combinations among `rows`.
        rows: Training row numbers, `(N,)`.
        seed: Of the order.
        mode: How labels become z, see `label_to_z`.
        jitter: Shift z inside its bin.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        auxiliary: Auxiliary | Observed | NormalFirst,
        rows: Tensor,
        seed: int,
        mode: str,
        jitter: bool,
    ) -> None:
        self.dataset = dataset
        self.auxiliary = auxiliary
        self.rows = rows
        self.seed = seed
        self.mode = mode
        self.jitter = jitter
        # two epochs meet in one batch at most
        self._order = lru_cache(maxsize=2)(self._shuffled_rows)
        if isinstance(auxiliary, NormalFirst) and isinstance(dataset, GridDataset):
            self._is_training_row = torch.zeros(len(dataset), dtype=torch.bool)
            self._is_training_row[rows] = True

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
        shape = self.dataset.nuisance_shape
        nuisance = None if shape is None else random.uniform("nuisance", shape)
        if isinstance(self.auxiliary, NormalFirst):
            assert isinstance(self.dataset, FactorDataset)
            aux, factors = self._aux_first(self.auxiliary, self.dataset, random)
            return Batch(to_float(self.dataset.render(factors, nuisance)), factors, aux)
        rows = self.rows_at(random.step * global_batch_size + random.first_row, random.num_rows)
        factors = self.dataset.factors(rows).to(random.device)
        if isinstance(self.auxiliary, Observed):
            aux = self.auxiliary.values[rows].to(random.device)
        else:
            jitter = random.uniform("jitter", factors.shape[1:]) if self.jitter else None
            z = self.dataset.z(factors, self.mode, jitter)
            aux = self.auxiliary.sample(z, random.uniform("aux", self.auxiliary.draws))
        return Batch(to_float(self.dataset.images(rows, nuisance)), factors, aux)

    def _aux_first(
        self, auxiliary: NormalFirst, dataset: FactorDataset, random: BatchRandom
    ) -> tuple[Tensor, Tensor]:
        """u and then factors; those that fall on a held-out combination are drawn anew, u with them."""
        aux, z = self._draw_first(auxiliary, random, "")
        factors, attempt = dataset.nearest(z), 0
        while isinstance(dataset, GridDataset):
            held_out = ~self._is_training_row.to(z.device)[dataset.factor_space.index(factors)]
            if not held_out.any():
                break
            attempt += 1
            again, z = self._draw_first(auxiliary, random, f"/{attempt}")
            aux = torch.where(held_out[:, None], again, aux)
            factors = torch.where(held_out[:, None], dataset.nearest(z), factors)
        return aux, factors

    @staticmethod
    def _draw_first(auxiliary: NormalFirst, random: BatchRandom, attempt: str) -> tuple[Tensor, Tensor]:
        uniform = random.uniform(f"aux{attempt}", auxiliary.draws)
        return auxiliary.sample_first(uniform, random.normal(f"factors{attempt}", (auxiliary.num_factors,)))
