"""Distributions over the latents, with their divergences in closed form."""

from __future__ import annotations

import math
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

    def kl(self, other: DiagonalGaussian | SoftUniform) -> Tensor:
        """KL(self || other) of each dimension in nats, `(B, D)`; sum over the last axis for Eq. 2."""
        if isinstance(other, SoftUniform):
            entropy = 0.5 * (math.log(2 * math.pi) + 1.0 + self.logvar)
            return other.cross_entropy(self) - entropy
        difference = self.logvar - other.logvar
        return 0.5 * (
            torch.expm1(difference) - difference + (self.mean - other.mean) ** 2 * torch.exp(-other.logvar)
        )


@dataclass(frozen=True)
class SoftUniform:
    """A uniform law with independent dimensions, whose edges are softened by exponential tails.

    With w = sqrt(3) std the density is constant on [mean - w, mean + w] and falls as exp(-distance / (edge w)) outside, so that it is
    positive everywhere and its divergence from a Gaussian has a closed form. As `edge` goes to 0 it becomes the uniform law.

    Args:
        mean: `(B, D)`.
        logvar: `(B, D)`, natural logarithm of the variance of the uniform law between the edges; the tails add to it.
        edge: Length of a tail over the half-width w, above 0.
    """

    mean: Tensor
    logvar: Tensor
    edge: float = 0.1

    @property
    def std(self) -> Tensor:
        """Of the uniform law between the edges, `(B, D)`."""
        return torch.exp(0.5 * self.logvar)

    @property
    def half_width(self) -> Tensor:
        """w, `(B, D)`."""
        return math.sqrt(3) * self.std

    def mode(self) -> Tensor:
        """The mean, `(B, D)`."""
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised samples `(B, D)`, by the inverse distribution function at the probability of standard normal numbers `(B, D)`."""
        # of each half of the law, the share 1 / (1 + edge) lies between the edges; the upper tail of |noise| keeps its precision
        upper = 2.0 * torch.special.ndtr(-noise.abs()) * (1.0 + self.edge)
        distance = torch.where(
            upper >= self.edge, 1.0 + self.edge - upper, 1.0 - self.edge * torch.log(upper / self.edge)
        )
        return self.mean + noise.sign() * distance * self.half_width

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of each dimension of z `(B, D)`, `(B, D)`."""
        outside = ((z - self.mean).abs() / self.half_width - 1.0).clamp_min(0.0)
        return -outside / self.edge - self._log_mass()

    def cross_entropy(self, other: DiagonalGaussian) -> Tensor:
        """E[-log p(z)] of each dimension for z drawn from a Gaussian `other`, in nats, `(B, D)`."""
        scale = other.std / self.half_width
        centre = (other.mean - self.mean) / self.half_width
        outside = _expected_excess(centre - 1.0, scale) + _expected_excess(-centre - 1.0, scale)
        return outside / self.edge + self._log_mass()

    def _log_mass(self) -> Tensor:
        return torch.log(2.0 * self.half_width * (1.0 + self.edge))


def _expected_excess(mean: Tensor, std: Tensor) -> Tensor:
    """E[max(x, 0)] for a Gaussian x."""
    ratio = mean / std
    density = torch.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
    return std * density + mean * torch.special.ndtr(ratio)
