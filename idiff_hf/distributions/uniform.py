"""A uniform law with soft edges: of p(z|u) where u states an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .gaussian import DiagonalGaussian
from .moments import MeanAndVariance


@dataclass(frozen=True)
class SoftUniform(MeanAndVariance):
    """A uniform law with independent dimensions, whose edges are softened by exponential tails.

    With w = sqrt(3) std the density is constant on [mean - w, mean + w] and falls as exp(-distance / (edge w)) outside, so that it is
    positive everywhere and its divergence from a Gaussian has a closed form. As `edge` goes to 0 it becomes the uniform law.

    Args:
        mean: `(B, D)`.
        logvar: `(B, D)`, natural logarithm of the variance of the uniform law between the edges; the tails add to it.
        edge: Length of a tail over the half-width w, above 0.
    """

    edge: float = 0.1

    @property
    def half_width(self) -> Tensor:
        """w, `(B, D)`."""
        return math.sqrt(3) * self.std

    @property
    def variance(self) -> Tensor:
        """Of the whole law, tails included, `(B, D)`: w^2 (1/3 + e (1 + 2 e + 2 e^2)) / (1 + e) with the edge e."""
        edge = self.edge
        return self.half_width**2 * (1 / 3 + edge * (1 + 2 * edge + 2 * edge**2)) / (1 + edge)

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
        outside = expected_excess(centre - 1.0, scale) + expected_excess(-centre - 1.0, scale)
        return outside / self.edge + self._log_mass()

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other) of each dimension in nats, `(B, D)`."""
        # beyond an edge, which z is with probability edge / (1 + edge), distance / (edge w) is exponential with mean 1
        entropy = self._log_mass() + self.edge / (1.0 + self.edge)
        square = self.variance + (self.mean - other.mean) ** 2
        cross_entropy = 0.5 * (math.log(2 * math.pi) + other.logvar + square * torch.exp(-other.logvar))
        return cross_entropy - entropy

    def _log_mass(self) -> Tensor:
        return torch.log(2.0 * self.half_width * (1.0 + self.edge))


def expected_excess(mean: Tensor, std: Tensor) -> Tensor:
    """E[max(x, 0)] for a Gaussian x."""
    ratio = mean / std
    density = torch.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
    return std * density + mean * torch.special.ndtr(ratio)
