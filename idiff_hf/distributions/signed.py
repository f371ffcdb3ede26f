"""A distance from 0 and a sign: q(z|x) for a u that tells no side."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from .gaussian import DiagonalGaussian
from .reciprocal import SoftReciprocal


@dataclass(frozen=True)
class SignedGaussian:
    """z = s m, a Gaussian distance m from 0 and a sign s, both of them independent; independent dimensions.

    It is the q(z|x) for a u that tells how far a factor is from the middle of its range, and not on which side: the distance, which u
    teaches, has a mean of its own, where a Gaussian that is unsure of the side has a mean of 0 whatever the distance.

    Args:
        mean: Of the distance, `(B, D)`, 0 or more.
        logvar: Natural logarithm of its variance, `(B, D)`.
        logits: Of P(s = 1), `(B, D)`.
        temperature: Of the concrete law that the sign's gradient is from; 2/3 as in the experiments of arXiv:1611.00712 with two states.
    """

    mean: Tensor
    logvar: Tensor
    logits: Tensor
    temperature: float = 2 / 3

    @property
    def distance(self) -> DiagonalGaussian:
        """The law of m."""
        return DiagonalGaussian(self.mean, self.logvar)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """`(D, 2)`: for the distance and for the sign."""
        return (*self.mean.shape[1:], 2)

    def mode(self) -> Tensor:
        """The mean distance on the side that is more probable, `(B, D)`."""
        return torch.where(self.logits >= 0.0, self.mean, -self.mean)

    def codes(self) -> Tensor:
        """The mode, `(B, D)`."""
        return self.mode()

    def detach(self) -> SignedGaussian:
        """The same law, through which no gradient flows."""
        return replace(
            self, mean=self.mean.detach(), logvar=self.logvar.detach(), logits=self.logits.detach()
        )

    def sample(self, noise: Tensor) -> Tensor:
        """Samples `(B, D)` for standard normal numbers `(B, D, 2)`.

        The distance is reparameterised. The sign has the straight-through gradient of its concrete relaxation (arXiv:1611.00712), which is
        biased.
        """
        above = torch.special.log_ndtr(noise[..., 1]) - torch.special.log_ndtr(-noise[..., 1])
        drawn = self.logits + above
        relaxed = torch.tanh(0.5 * drawn / self.temperature)
        sign = torch.where(drawn >= 0.0, 1.0, -1.0) + (relaxed - relaxed.detach())
        return sign * self.distance.sample(noise[..., 0])

    def kl(self, other: SoftReciprocal) -> Tensor:
        """KL(self || other) of sign and distance together, in nats, `(B, D)`: an upper bound of that of z, their product."""
        plus, minus = functional.logsigmoid(self.logits), functional.logsigmoid(-self.logits)
        of_sign = math.log(2.0) + plus.exp() * plus + minus.exp() * minus
        entropy = 0.5 * (math.log(2 * math.pi) + 1.0 + self.logvar)
        return of_sign + other.cross_entropy_of_distance(self.distance) - entropy
