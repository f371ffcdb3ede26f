"""A Gaussian: of q(z|x), and of p(z|u) in the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .moments import MeanAndVariance

if TYPE_CHECKING:  # they know this one
    from .reciprocal import SoftReciprocal
    from .uniform import SoftUniform


@dataclass(frozen=True)
class DiagonalGaussian(MeanAndVariance):
    """A Gaussian with independent dimensions."""

    def sample(self, noise: Tensor) -> Tensor:
        """The reparameterised sample `mean + std * noise`, `(B, D)`, for given standard normal numbers `(B, D)`."""
        return self.mean + self.std * noise

    def kl(self, other: DiagonalGaussian | SoftUniform | SoftReciprocal) -> Tensor:
        """KL(self || other) of each dimension in nats, `(B, D)`; sum over the last axis for Eq. 2."""
        if not isinstance(other, DiagonalGaussian):
            return other.cross_entropy(self) - self.entropy()
        difference = self.logvar - other.logvar
        return 0.5 * (
            torch.expm1(difference) - difference + (self.mean - other.mean) ** 2 * torch.exp(-other.logvar)
        )

    def entropy(self) -> Tensor:
        """Differential entropy of each dimension in nats, `(B, D)`."""
        return 0.5 * (math.log(2 * math.pi) + 1.0 + self.logvar)
