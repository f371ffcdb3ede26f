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

    A variance tells no side, and a q(z|x) that is unsure of it can do no better than a mean of 0, whatever |z|. So there is the `half` of
    the law too, which is that of |z|: z is 0 or more, with a tail below 0 as there is one beyond w.

    Args:
        logvar: `(B, D)`, natural logarithm of sigma^2, which is at most 1: units are those of a factor's own deviation.
        half: The law of |z| in place of that of z.
        min_std: sigma_min, in (0, 1).
        edge: See above, above 0.
    """

    logvar: Tensor
    half: bool = False
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
        """0, the middle between two edges that are equally probable, or of a half its edge w; `(B, D)`."""
        return self.half_width if self.half else torch.zeros_like(self.logvar)

    def codes(self) -> Tensor:
        """The mode, `(B, D)`."""
        return self.mode()

    def detach(self) -> SoftReciprocal:
        """The same law, through which no gradient flows."""
        return replace(self, logvar=self.logvar.detach())

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised samples `(B, D)`, by the inverse distribution function at the probability of standard normal numbers `(B, D)`."""
        if self.half:
            return self._quantile(torch.special.ndtr(noise), torch.special.ndtr(-noise))
        upper = 2.0 * torch.special.ndtr(-noise.abs())
        return noise.sign() * self._quantile(1.0 - upper, upper)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of each dimension of z `(B, D)`, `(B, D)`."""
        return self._log_density(z) - self._log_mass()

    def cross_entropy(self, other: DiagonalGaussian) -> Tensor:
        """E[-log p(z)] of each dimension for z drawn from a Gaussian `other`, in nats, `(B, D)`.

        The tails in closed form, what is between the edges by Gauss-Hermite quadrature.
        """
        width = self.half_width
        low = 0.0 if self.half else -width
        outside = expected_excess(other.mean - width, other.std) + expected_excess(
            low - other.mean, other.std
        )
        nodes, weights = _gauss_hermite(other.mean)
        z = other.mean[..., None] + other.std[..., None] * nodes
        inside = (self._for_many()._log_inside(z) * weights).sum(dim=-1)
        return self._log_mass() - inside + outside / (self.edge * width)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other) of each dimension in nats, `(B, D)`, by the midpoint rule over this law's own quantiles."""
        upper = (
            torch.arange(_NUM_QUANTILES, dtype=self.logvar.dtype, device=self.logvar.device) + 0.5
        ) / _NUM_QUANTILES
        wide = self._for_many()
        z = wide._quantile(1.0 - upper, upper)
        entropy = self._log_mass() - wide._log_density(z).mean(dim=-1)
        # without the half, z stands for -z too
        from_mean = z - other.mean[..., None] if self.half else z
        square = (from_mean**2).mean(dim=-1) + (0.0 if self.half else other.mean**2)
        return 0.5 * (math.log(2 * math.pi) + other.logvar + square * torch.exp(-other.logvar)) - entropy

    def _for_many(self) -> SoftReciprocal:
        """The same law for values with one more, last axis."""
        return replace(self, logvar=self.logvar[..., None])

    def _parts(self) -> tuple[Tensor, float, Tensor, Tensor, Tensor, Tensor]:
        """Where the flat part ends, the pole of the density, and the masses of the tail below 0, flat part, rise and tail beyond w."""
        pole = math.sqrt(3) * (1.0 + self.edge)
        width = self.half_width
        flat = width.clamp_max(math.sqrt(3) * self.min_std)
        tail = self.edge * width
        below = tail / (pole - flat) if self.half else torch.zeros_like(tail)
        rise = torch.log((pole - flat) / (pole - width))
        return flat, pole, below, flat / (pole - flat), rise, tail / (pole - width)

    def _log_mass(self) -> Tensor:
        _, _, *masses = self._parts()
        return torch.log((1.0 if self.half else 2.0) * sum(masses, torch.zeros_like(self.logvar)))

    def _distance(self, z: Tensor) -> Tensor:
        """What the density between the edges is a function of."""
        return z if self.half else z.abs()

    def _log_inside(self, z: Tensor) -> Tensor:
        """Log density without tails, but for the constant `_log_mass`; beyond an edge it stays as it is there."""
        flat, pole, *_ = self._parts()
        return -torch.log(pole - torch.minimum(torch.maximum(self._distance(z), flat), self.half_width))

    def _log_density(self, z: Tensor) -> Tensor:
        """But for the constant `_log_mass`."""
        width, distance = self.half_width, self._distance(z)
        outside = (distance - width).clamp_min(0.0) + (-distance).clamp_min(0.0)
        return self._log_inside(z) - outside / (self.edge * width)

    def _quantile(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The |z|, or z of a half, below which the law has the mass `lower`, and above which `upper`, which is 1 - `lower`."""
        flat, pole, below, in_flat, in_rise, in_tail = self._parts()
        width = self.half_width
        tail = self.edge * width
        mass = below + in_flat + in_rise + in_tail
        above = upper * mass
        # each branch is kept within its own part, so that no gradient of the others is infinite
        beyond = width - tail * torch.log(torch.minimum(above, in_tail) / in_tail)
        rise = pole - (pole - width) * torch.exp((above - in_tail).clamp_min(0.0).minimum(in_rise))
        middle = (in_flat + in_rise + in_tail - above) * (pole - flat)
        z = torch.where(above <= in_tail, beyond, torch.where(above <= in_tail + in_rise, rise, middle))
        if not self.half:
            return z
        return torch.where(
            lower * mass < below, tail * torch.log(torch.minimum(lower * mass, below) / below), z
        )


def _gauss_hermite(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights, by which a sum is the mean of a function of a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NUM_NODES)
    return torch.from_numpy(nodes).to(like), torch.from_numpy(weights / weights.sum()).to(like)
