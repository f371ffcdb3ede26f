"""What every dataset is to the rest of the package: images by row number, and what is known of each row."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .auxiliary import Observed
from .factors import FactorSpace, label_to_z, split_rows

Source = Literal["rendered", "file", "hub", "own"]


class ImageDataset:
    """Rows of images `(C, H, W)`; a vector of n numbers is an image of one pixel and n channels.

    Attributes:
        channels: C.
        image_size: H = W in pixels.
        device: Where `images` puts its result.
        source: Where the images come from, for the card.
        factor_names: The K factors whose values are known of every row; empty where none is.
        factor_sizes: Number of values of each, None where it is continuous.
        nuisance_shape: Shape, for one image, of the uniform numbers that its nuisance (a random colour, say) is made of; None where
            there is no nuisance.
        observed: u that was seen beside the images; None where u is drawn, or there is none.
    """

    channels: int
    image_size: int
    device: torch.device
    source: Source = "rendered"
    factor_names: tuple[str, ...] = ()
    factor_sizes: tuple[int | None, ...] = ()
    nuisance_shape: tuple[int, ...] | None = None
    observed: Observed | None = None

    def __len__(self) -> int:
        """Number of rows."""
        raise NotImplementedError

    def images(self, rows: Tensor, nuisance: Tensor | None = None) -> Tensor:
        """Images of row numbers.

        Args:
            rows: `(B,)` int64.
            nuisance: Uniform numbers in [0, 1), `(B, *nuisance_shape)`; None draws those that belong to each row for good.

        Returns:
            `(B, C, H, W)` on `device`: uint8 for images, float32 for vectors.
        """
        raise NotImplementedError

    def factors(self, rows: Tensor) -> Tensor:
        """What is known of the factors of row numbers `(B,)`: `(B, K)`, int64 labels, or floats where a factor is continuous."""
        raise NotImplementedError

    def z(self, factors: Tensor, mode: str, jitter: Tensor | None = None) -> Tensor:
        """Factors `(B, K)` as values in [-0.5, 0.5], `(B, K)` float32; see `label_to_z`."""
        raise NotImplementedError

    def split(self, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
        """Row numbers for training and held-out ones, see `split_rows`."""
        return split_rows(len(self), held_out, seed)


class FactorDataset(ImageDataset):
    """Images that can be had for any values of the factors."""

    def render(self, factors: Tensor, nuisance: Tensor | None = None) -> Tensor:
        """Images for factors `(B, K)`, otherwise as `images`."""
        raise NotImplementedError

    def nearest(self, z: Tensor) -> Tensor:
        """The factors `(B, K)` whose values are nearest to z `(B, K)` in [-0.5, 0.5], the label k of n being at k / (n - 1) - 0.5."""
        raise NotImplementedError

    def images(self, rows: Tensor, nuisance: Tensor | None = None) -> Tensor:
        """As in `ImageDataset`."""
        return self.render(self.factors(rows), nuisance)


class GridDataset(FactorDataset):
    """Every combination of discrete factors exactly once: a row number is the number of its combination.

    Attributes:
        factor_space: Names and sizes of the factors.
    """

    factor_space: FactorSpace

    @property
    def factor_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The factors of the grid."""
        return self.factor_space.names

    @property
    def factor_sizes(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """Their numbers of values."""
        return self.factor_space.sizes

    def __len__(self) -> int:
        """Number of combinations."""
        return len(self.factor_space)

    def factors(self, rows: Tensor) -> Tensor:
        """Labels `(B, K)` int64 of row numbers `(B,)`."""
        return self.factor_space.factors(rows)

    def z(self, factors: Tensor, mode: str, jitter: Tensor | None = None) -> Tensor:
        """Values in [-0.5, 0.5], see `label_to_z`."""
        return label_to_z(factors, self.factor_space.sizes, mode, jitter)

    def nearest(self, z: Tensor) -> Tensor:
        """Labels `(B, K)` int64."""
        last = torch.tensor(self.factor_space.sizes, device=z.device) - 1
        return ((z + 0.5) * last).round().long().clamp(min=torch.zeros_like(last), max=last)


def row_uniform(rows: Tensor, shape: tuple[int, ...], purpose: str) -> Tensor:
    """Uniform numbers in [0, 1) that belong to row numbers for good: the same whatever rows stand beside them.

    Args:
        rows: `(B,)` int64.
        shape: Of the numbers of one row.
        purpose: What they are for, by its first 8 letters; another purpose gives independent numbers.

    Returns:
        `(B, *shape)` float32 on the CPU.
    """
    words = int.from_bytes(purpose.encode()[:8].ljust(8), "big")
    count = int(np.prod(shape))
    drawn = np.empty((len(rows), count), dtype=np.float32)
    for i, row in enumerate(rows.tolist()):
        raw = np.random.Philox(key=np.array([row, words], dtype=np.uint64)).random_raw(count)
        drawn[i] = (raw >> np.uint64(40)) * np.float32(2.0**-24)
    return torch.from_numpy(drawn).reshape(len(rows), *shape)
