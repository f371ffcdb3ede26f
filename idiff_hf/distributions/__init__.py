"""Distributions over the latents, with their divergences, most of them in closed form."""

from __future__ import annotations

from typing import Any, Protocol, Self

from torch import Tensor

from .categorical import OneHotCategorical
from .gaussian import DiagonalGaussian
from .reciprocal import SoftReciprocal
from .uniform import SoftUniform

__all__ = [
    "DiagonalGaussian",
    "LatentDistribution",
    "OneHotCategorical",
    "PosteriorDistribution",
    "SoftReciprocal",
    "SoftUniform",
]


class LatentDistribution(Protocol):
    """What the laws of z share, whose dimensions are independent.

    Attributes:
        noise_shape: Of the standard normal numbers that one sample is made of, without the batch: `(D,)`.
    """

    @property
    def noise_shape(self) -> tuple[int, ...]: ...

    def mode(self) -> Tensor:
        """z at its most probable, in the shape of a sample."""
        ...

    def codes(self) -> Tensor:
        """One number for each dimension, `(B, D)`, which is what metrics see."""
        ...

    def sample(self, noise: Tensor) -> Tensor:
        """z by means of standard normal numbers `(B, *noise_shape)`."""
        ...

    def kl(self, other: Any) -> Tensor:
        """KL(self || other) of each dimension in nats, `(B, D)`, for a law that it has a closed form with."""
        ...

    def detach(self) -> Self:
        """The same law, through which no gradient flows."""
        ...


class PosteriorDistribution(LatentDistribution, Protocol):
    """What the laws share that q(z|x) can be."""

    def entropy(self) -> Tensor:
        """Of each dimension in nats, `(B, D)`; of a density it may be negative."""
        ...
