"""The law of z given the paper's u: of p(z|u) where u states a variance alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .gaussian import DiagonalGaussian
from .uniform import expected_excess

_NUM_NODES = 64
_NUM_QUANTILES = 1024


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
        outside = expected_excess(other.mean - width, other.std) + expected_excess(
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
        outside = expected_excess(other.mean - width, other.std) + expected_excess(-other.mean, other.std)
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


def _gauss_hermite(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights, by which a sum is the mean of a function of a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NUM_NODES)
    return torch.from_numpy(nodes).to(like), torch.from_numpy(weights / weights.sum()).to(like)
