"""Distributions over the latents, with their divergences in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


class LatentDistribution(Protocol):
    """What the laws of z share, whose dimensions are independent.

    Attributes:
        noise_shape: Of the standard normal numbers that one sample is made of, without the batch: `(D,)` or `(D, 2)`.
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

    @property
    def variance(self) -> Tensor:
        """Of the whole law, tails included, `(B, D)`: w^2 (1/3 + e (1 + 2 e + 2 e^2)) / (1 + e) with the edge e."""
        edge = self.edge
        return self.half_width**2 * (1 / 3 + edge * (1 + 2 * edge + 2 * edge**2)) / (1 + edge)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """`(D,)`."""
        return self.mean.shape[1:]

    def mode(self) -> Tensor:
        """The mean, `(B, D)`: the middle of all that is equally probable."""
        return self.mean

    def codes(self) -> Tensor:
        """The mean, `(B, D)`."""
        return self.mean

    def detach(self) -> SoftUniform:
        """The same law, through which no gradient flows."""
        return replace(self, mean=self.mean.detach(), logvar=self.logvar.detach())

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

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other) of each dimension in nats, `(B, D)`."""
        # beyond an edge, which z is with probability edge / (1 + edge), distance / (edge w) is exponential with mean 1
        entropy = self._log_mass() + self.edge / (1.0 + self.edge)
        square = self.variance + (self.mean - other.mean) ** 2
        cross_entropy = 0.5 * (math.log(2 * math.pi) + other.logvar + square * torch.exp(-other.logvar))
        return cross_entropy - entropy

    def _log_mass(self) -> Tensor:
        return torch.log(2.0 * self.half_width * (1.0 + self.edge))


@dataclass(frozen=True)
class SoftReciprocal:
    r"""The law of z given a variance that `data.auxiliary.UniformPosterior` drew for it, its edges softened; of independent dimensions.

    Where z is uniform on [-sqrt(3), sqrt(3)] and sigma is uniform on [max(sigma_min, |z| / sqrt(3)), 1] (Eq. 7), z given sigma is in
    [-w, w], w = sqrt(3) sigma, and not uniform there:

    .. math:: p(z | \sigma) \propto \frac{1}{\sqrt{3} - \max(\sqrt{3} \sigma_\min, |z|)},

    so that sqrt(3) - |z| has the reciprocal law beyond sqrt(3) sigma_min. A sigma says that |z| is at most w, and probably near it. As in
    `SoftUniform` the density falls as exp(-distance / (edge w)) outside [-w, w]; within, sqrt(3) (1 + edge) takes the place of sqrt(3) in
    the denominator, which keeps it finite. As `edge` goes to 0 it becomes the exact law.

    Args:
        logvar: `(B, D)`, natural logarithm of sigma^2, which is at most 1: units are those of a factor's own deviation.
        min_std: sigma_min, in (0, 1).
        edge: See above, above 0.
    """

    logvar: Tensor
    min_std: float = math.sqrt(0.12)
    edge: float = 0.1

    @property
    def half_width(self) -> Tensor:
        """w, `(B, D)`."""
        return math.sqrt(3) * torch.exp(0.5 * self.logvar)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """`(D,)`."""
        return self.logvar.shape[1:]

    def mode(self) -> Tensor:
        """0, `(B, D)`: the middle between the two edges, which are equally probable."""
        return torch.zeros_like(self.logvar)

    def codes(self) -> Tensor:
        """0, `(B, D)`."""
        return self.mode()

    def detach(self) -> SoftReciprocal:
        """The same law, through which no gradient flows."""
        return replace(self, logvar=self.logvar.detach())

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised samples `(B, D)`, by the inverse distribution function at the probability of standard normal numbers `(B, D)`."""
        upper = 2.0 * torch.special.ndtr(-noise.abs())
        return noise.sign() * self._distance(upper)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of each dimension of z `(B, D)`, `(B, D)`."""
        return self._log_density(z) - self._log_mass()

    def cross_entropy(self, other: DiagonalGaussian) -> Tensor:
        """E[-log p(z)] of each dimension for z drawn from a Gaussian `other`, in nats, `(B, D)`.

        The tails in closed form, what is between the edges by Gauss-Hermite quadrature.
        """
        width = self.half_width
        outside = _expected_excess(other.mean - width, other.std) + _expected_excess(
            -other.mean - width, other.std
        )
        return self._log_mass() - self._expected_inside(other) + outside / (self.edge * width)

    def cross_entropy_of_distance(self, other: DiagonalGaussian) -> Tensor:
        """E[-log p(|z|)] of each dimension for a distance |z| drawn from a Gaussian `other`, in nats, `(B, D)`.

        Below 0, where no distance is, the density falls as it does beyond w.
        """
        width = self.half_width
        flat, pole, *masses = self._parts()
        tail = self.edge * width
        outside = _expected_excess(other.mean - width, other.std) + _expected_excess(-other.mean, other.std)
        mass = sum(masses, tail / (pole - flat))
        return torch.log(mass) - self._expected_inside(other, one_sided=True) + outside / tail

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other) of each dimension in nats, `(B, D)`, by the midpoint rule over this law's own quantiles."""
        upper = (
            torch.arange(_NUM_QUANTILES, dtype=self.logvar.dtype, device=self.logvar.device) + 0.5
        ) / _NUM_QUANTILES
        wide = replace(self, logvar=self.logvar[..., None])
        distance = wide._distance(upper)
        entropy = self._log_mass() - wide._log_density(distance).mean(dim=-1)
        square = (distance**2).mean(dim=-1) + other.mean**2
        return 0.5 * (math.log(2 * math.pi) + other.logvar + square * torch.exp(-other.logvar)) - entropy

    def _parts(self) -> tuple[Tensor, float, Tensor, Tensor, Tensor]:
        """Of the half with z > 0: where its flat part ends, the pole of the density, and the masses of flat part, rise and tail."""
        pole = math.sqrt(3) * (1.0 + self.edge)
        width = self.half_width
        flat = width.clamp_max(math.sqrt(3) * self.min_std)
        rise = torch.log((pole - flat) / (pole - width))
        return flat, pole, flat / (pole - flat), rise, self.edge * width / (pole - width)

    def _log_mass(self) -> Tensor:
        _, _, *masses = self._parts()
        return torch.log(2.0 * sum(masses, torch.zeros_like(self.logvar)))

    def _log_inside(self, z: Tensor) -> Tensor:
        """Log density without tails, but for the constant `_log_mass`; beyond an edge it stays as it is there."""
        flat, pole, *_ = self._parts()
        return -torch.log(pole - torch.minimum(torch.maximum(z.abs(), flat), self.half_width))

    def _expected_inside(self, other: DiagonalGaussian, one_sided: bool = False) -> Tensor:
        """The mean of `_log_inside` for a Gaussian z, `(B, D)`; with `one_sided` it stays below 0 as it is at 0."""
        nodes, weights = _gauss_hermite(other.mean)
        z = other.mean[..., None] + other.std[..., None] * nodes
        of_each = replace(self, logvar=self.logvar[..., None])._log_inside(
            z.clamp_min(0.0) if one_sided else z
        )
        return (of_each * weights).sum(dim=-1)

    def _log_density(self, z: Tensor) -> Tensor:
        """But for the constant `_log_mass`."""
        width = self.half_width
        return self._log_inside(z) - (z.abs() - width).clamp_min(0.0) / (self.edge * width)

    def _distance(self, upper: Tensor) -> Tensor:
        """|z| that is exceeded with the probability `upper`."""
        flat, pole, in_flat, in_rise, in_tail = self._parts()
        width = self.half_width
        above = upper * (in_flat + in_rise + in_tail)
        # each branch is kept within its own part, so that no gradient of the others is infinite
        tail = width - self.edge * width * torch.log(torch.minimum(above, in_tail) / in_tail)
        rise = pole - (pole - width) * torch.exp((above - in_tail).clamp_min(0.0).minimum(in_rise))
        middle = (in_flat + in_rise + in_tail - above) * (pole - flat)
        return torch.where(above <= in_tail, tail, torch.where(above <= in_tail + in_rise, rise, middle))


@dataclass(frozen=True)
class OneHotCategorical:
    """Independent categorical variables, sampled as one-hot vectors with the straight-through gradient (Section 2.6, Listing 1).

    Args:
        logits: `(B, D, C)`: D variables of C categories each.
        uniform_mix: Share m of the uniform law in the probabilities (1 - m) softmax(logits) + m / C, in [0, 1). With m > 0 every
            category stays possible, and the KL of two laws of the same m is at most log(C / m).
    """

    logits: Tensor
    uniform_mix: float = 0.01

    @property
    def probs(self) -> Tensor:
        """`(B, D, C)`, at least m / C each."""
        share = self.uniform_mix
        return (1.0 - share) * self.logits.softmax(dim=-1) + share / self.logits.shape[-1]

    @property
    def log_probs(self) -> Tensor:
        """`(B, D, C)`, finite also where m = 0 and a probability is too small for its floating-point type."""
        share = self.uniform_mix
        uniform = self.logits.new_full((), share / self.logits.shape[-1]).log()
        return torch.logaddexp(self.logits.log_softmax(dim=-1) + math.log1p(-share), uniform)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """`(D,)`."""
        return self.logits.shape[1:-1]

    def mode(self) -> Tensor:
        """One-hot of the most probable category of each variable, `(B, D * C)`."""
        return self._one_hot(self.logits.argmax(dim=-1)).flatten(1)

    def codes(self) -> Tensor:
        """Index of the most probable category of each variable, `(B, D)` floats in [0, C - 1]; the order of categories means nothing."""
        return self.logits.argmax(dim=-1).to(self.logits.dtype)

    def sample(self, noise: Tensor) -> Tensor:
        """One-hot samples whose gradient is that of the probabilities (Listing 1).

        The estimator is exact in expectation for functions that are linear in the one-hot vector of each variable, biased for others.

        Args:
            noise: Standard normal numbers `(B, D)`, whose probabilities are inverted through the cumulative ones.

        Returns:
            `(B, D * C)`: for each variable one 1 in C entries.
        """
        probs = self.probs
        cumulative = probs.detach().cumsum(dim=-1)
        total = cumulative[..., -1:]
        # Rounding makes a far noise's probability 1, and the total not quite 1: below the total there is always a category, and the first
        # whose cumulative probability is above a number cannot have probability 0.
        below_one = 1.0 - 0.5 * torch.finfo(cumulative.dtype).eps
        drawn = torch.special.ndtr(noise.to(cumulative.dtype)).clamp_max(below_one)[..., None] * total
        sample = self._one_hot((cumulative <= drawn).sum(dim=-1))
        return (sample + (probs - probs.detach())).flatten(1)

    def kl(self, other: OneHotCategorical) -> Tensor:
        """KL(self || other) of each variable in nats, `(B, D)`; sum over the last axis for Eq. 2."""
        return (self.probs * (self.log_probs - other.log_probs)).sum(dim=-1)

    def detach(self) -> OneHotCategorical:
        """The same law, through which no gradient flows."""
        return replace(self, logits=self.logits.detach())

    def _one_hot(self, index: Tensor) -> Tensor:
        return functional.one_hot(index, self.logits.shape[-1]).to(self.logits.dtype)


_NUM_NODES = 64
_NUM_QUANTILES = 1024


def _gauss_hermite(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights, by which a sum is the mean of a function of a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NUM_NODES)
    return torch.from_numpy(nodes).to(like), torch.from_numpy(weights / weights.sum()).to(like)


def _expected_excess(mean: Tensor, std: Tensor) -> Tensor:
    """E[max(x, 0)] for a Gaussian x."""
    ratio = mean / std
    density = torch.exp(-0.5 * ratio**2) / math.sqrt(2 * math.pi)
    return std * density + mean * torch.special.ndtr(ratio)
