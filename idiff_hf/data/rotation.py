"""The paper's prototyping data (Section 3.1): a rotation of factors that are uniform and independent."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .dataset import FactorDataset


class Rotation(FactorDataset):
    """Vectors x = sqrt(12) R z with z uniform on [-0.5, 0.5]^n and a random rotation R; each z_k is a factor.

    The paper has z in [0, 1]; centred and scaled as here, every factor and every entry of x has mean 0 and variance 1. Rows are drawn
    once, so that some of them can be held out.

    Attributes:
        channels: n.
        image_size: 1.
        rotation: R, `(n, n)` float32, orthogonal with determinant 1.
    """

    image_size = 1

    def __init__(
        self, dim: int, seed: int, num_rows: int = 100_000, device: torch.device | str = "cpu"
    ) -> None:
        """Draw R and the factors of all rows.

        Args:
            dim: n, at least 2.
            seed: of R and of the rows, in `0 .. 2**64 - 1`.
            num_rows: number of rows, at least 2.
            device: where `render` puts its vectors.

        Raises:
            ValueError: a number out of range.
        """
        from scipy.stats import special_ortho_group

        if dim < 2:
            raise ValueError(f"dim is {dim}; give at least 2, a rotation needs a plane")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed}; give an integer in 0 .. 2**64 - 1")
        if num_rows < 2:
            raise ValueError(f"num_rows is {num_rows}; give at least 2 rows")
        self.channels = dim
        self.device = torch.device(device)
        self.factor_names = tuple(f"z{k}" for k in range(dim))
        self.factor_sizes = (None,) * dim
        rotation = special_ortho_group(dim, seed=np.random.Generator(_philox(seed, "rotation"))).rvs()
        self.rotation = torch.from_numpy(rotation).float().to(self.device)
        # 24 bits of raw words: the same numbers with every version of NumPy
        words = _philox(seed, "factors").random_raw(num_rows * dim) >> np.uint64(40)
        uniform = words.astype(np.float32) * np.float32(2.0**-24)
        self._factors = torch.from_numpy(uniform).reshape(num_rows, dim) - 0.5

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._factors)

    def factors(self, rows: Tensor) -> Tensor:
        """z `(B, n)` float32 in [-0.5, 0.5) of row numbers `(B,)`."""
        return self._factors[rows.cpu()]

    def z(self, factors: Tensor, mode: str, jitter: Tensor | None = None) -> Tensor:
        """The factors themselves, which are continuous: `mode` and `jitter` are for labels."""
        return factors

    def nearest(self, z: Tensor) -> Tensor:
        """z itself: every value is one of a factor."""
        return z

    def render(self, factors: Tensor, nuisance: Tensor | None = None) -> Tensor:
        """x `(B, n, 1, 1)` float32 of z `(B, n)` in [-0.5, 0.5], on the dataset's device."""
        x = math.sqrt(12) * factors.to(self.device) @ self.rotation.T
        return x[:, :, None, None]


def _philox(seed: int, purpose: str) -> np.random.Philox:
    return np.random.Philox(
        key=np.array([seed, int.from_bytes(purpose.encode()[:8], "big")], dtype=np.uint64)
    )
