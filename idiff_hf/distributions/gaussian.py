"""A Gaussian: of q(z|x), and of p(z|u) in the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # they know this one
    from .reciprocal import SoftReciprocal
    from .uniform import SoftUniform


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

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """`(D,)`."""
        return self.mean.shape[1:]

    def mode(self) -> Tensor:
        """The mean, `(B, D)`, as `AutoencoderKL`'s distribution names it."""
        return self.mean

    def codes(self) -> Tensor:
        """The mean, `(B, D)`."""
        return self.mean

    def detach(self) -> DiagonalGaussian:
        """The same law, through which no gradient flows."""
        return DiagonalGaussian(self.mean.detach(), self.logvar.detach())

    def sample(self, noise: Tensor) -> Tensor:
        """The reparameterised sample `mean + std * noise`, `(B, D)`, for given standard normal numbers `(B, D)`."""
        return self.mean + self.std * noise

    def kl(self, other: DiagonalGaussian | SoftUniform | SoftReciprocal) -> Tensor:
        """KL(self || other) of each dimension in nats, `(B, D)`; sum over the last axis for Eq. 2."""
        if not isinstance(other, DiagonalGaussian):
            entropy = 0.5 * (math.log(2 * math.pi) + 1.0 + self.logvar)
            return other.cross_entropy(self) - entropy
        difference = self.logvar - other.logvar
        return 0.5 * (
            torch.expm1(difference) - difference + (self.mean - other.mean) ** 2 * torch.exp(-other.logvar)
        )
