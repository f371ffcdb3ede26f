"""Distributions over the latents, with their divergences in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DiagonalGaussian:
    """A Gaussian with independent dimensions.

    Args:
        mean: `(B, D)`.
        logvar: `(B, D)`, natural logarithm of the variance.
    """

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """`(B, D)`."""
        return torch.exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        """The mean, `(B, D)`, as `AutoencoderKL`'s distribution names it."""
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """The reparameterised sample `mean + std * noise`, `(B, D)`, for given standard normal numbers `(B, D)`."""
        return self.mean + self.std * noise

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other) of each dimension in nats, `(B, D)`; sum over the last axis for Eq. 2."""
        difference = self.logvar - other.logvar
        return 0.5 * (
            torch.expm1(difference) - difference + (self.mean - other.mean) ** 2 * torch.exp(-other.logvar)
        )
