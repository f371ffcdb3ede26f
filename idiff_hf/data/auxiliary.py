"""Values z of the factors, and the auxiliary variable u that is weak knowledge of them (Section 2.4).

Everything here is a pure function: randomness comes in as uniform numbers that the caller drew. z lies in
[-0.5, 0.5]. u is standardised so that a factor uniform on [-0.5, 0.5] has unit variance: means are multiplied
by sqrt(12), variances by 12.

A variable drawn given z has the members of `Auxiliary`; add it to `AUXILIARY` at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from .factors import check_uniform

Moments = Literal["mean_variance", "variance", "none", "observed"]


class Auxiliary(Protocol):
    """What the variables that are drawn given z share.

    Attributes:
        num_factors: K.
        size: A, width of u.
        moments: how a known prior reads u: `"mean_variance"`, K standardised means then K standardised
            variances; `"variance"`, K standardised variances, the means being 0; `"none"`, u says nothing;
            `"observed"`, u is what it is and states no moments.
        draws: shape of the uniform numbers that one row of u is made of.
    """

    num_factors: int
    size: int
    moments: Moments
    draws: tuple[int, ...]

    def sample(self, z: Tensor, uniform: Tensor) -> Tensor:
        """Draw u given z `(B, K)` by means of uniform numbers `(B, *draws)` in [0, 1); returns `(B, A)`."""
        ...


class UniformPosterior:
    """The paper's u (Section 2.4, Eq. 7): variances of centred uniform laws that may have given z.

    p(sigma^2 | z) is proportional to 1/sigma on [max(eps, z^2/3), 1/12] (Appendix A.1 has z^2 where Section
    2.4 prints z^3), so sigma itself is uniform on [sqrt(max(eps, z^2/3)), sqrt(1/12)]. u = 12 sigma^2.

    The paper draws z first and u from this posterior, which supposes a uniform prior of sigma^2; with z
    uniform, z given u is then not uniform. As the mean is always 0, u tells nothing of the sign of z.
    """

    moments: Moments = "variance"

    def __init__(self, num_factors: int, eps: float = 0.01, num_bins: int = 0) -> None:
        """Set up the posterior.

        Args:
            num_factors: K.
            eps: least variance, in (0, 1/12].
            num_bins: 0 draws from the exact law. n > 0 is the paper's approximation (there n = 100): the
                support of each z is cut into n equal bins of sigma^2, bin i has a probability proportional to
                the density at its centre, and sigma^2 is the centre of the bin drawn. The paper leaves the
                grid open; this one follows the support, so that every draw agrees with z.

        Raises:
            ValueError: eps or num_bins out of range.
        """
        if not 0 < eps <= 1 / 12:
            raise ValueError(f"eps is {eps}; give a variance in (0, 1/12]")
        if num_bins < 0:
            raise ValueError(f"num_bins is {num_bins}; give a number of bins, or 0 for the exact law")
        self.num_factors = num_factors
        self.size = num_factors
        self.draws: tuple[int, ...] = (num_factors,)
        self.eps = eps
        self.num_bins = num_bins

    def sample(self, z: Tensor, uniform: Tensor) -> Tensor:
        """Draw 12 sigma^2 given z.

        Args:
            z: factor values `(B, K)` in [-0.5, 0.5].
            uniform: numbers `(B, K)` in [0, 1).

        Returns:
            `(B, K)` in [12 eps, 1].

        Raises:
            ValueError: wrong shape.
        """
        check_uniform(z, uniform, self.num_factors, self.draws)
        low = (4 * z * z).clamp(12 * self.eps, 1)  # of 12 sigma^2, whose upper end is 1
        if self.num_bins == 0:
            return (low.sqrt() + uniform * (1 - low.sqrt())) ** 2
        centre = (torch.arange(self.num_bins, dtype=z.dtype, device=z.device) + 0.5) / self.num_bins
        grid = low[..., None] + centre * (1 - low[..., None])
        cumulative = grid.rsqrt().cumsum(dim=-1)
        drawn = torch.searchsorted(cumulative, uniform[..., None] * cumulative[..., -1:], right=True)
        return grid.gather(-1, drawn.clamp_max(self.num_bins - 1)).squeeze(-1)


class Interval:
    """Random cuts of [-0.5, 0.5], and mean and variance of the piece that holds z.

    For z uniform on [-0.5, 0.5], z given u is exactly uniform on that piece. Both moments vary, so u informs
    the sign of z as well; with one cut it tells half a nat a factor. u = (sqrt(12) mean, 12 variance = length^2).
    """

    moments: Moments = "mean_variance"

    def __init__(self, num_factors: int, num_cuts: int = 1) -> None:
        """Set up the cuts.

        Args:
            num_factors: K.
            num_cuts: cuts of each factor's range, at least 1; m of them leave an interval of mean length
                2 / (m + 2) around z.

        Raises:
            ValueError: fewer than one cut.
        """
        if num_cuts < 1:
            raise ValueError(f"num_cuts is {num_cuts}; give at least 1, or use NoAuxiliary")
        self.num_factors = num_factors
        self.size = 2 * num_factors
        self.draws: tuple[int, ...] = (num_factors,) if num_cuts == 1 else (num_factors, num_cuts)

    def sample(self, z: Tensor, uniform: Tensor) -> Tensor:
        """Draw the moments of the interval that holds z.

        Args:
            z: factor values `(B, K)` in [-0.5, 0.5].
            uniform: numbers `(B, K)`, or with several cuts `(B, K, num_cuts)`, in [0, 1); the cuts are at
                `uniform - 0.5`.

        Returns:
            `(B, 2K)`: K standardised means in (-sqrt(3), sqrt(3)), then K standardised variances in (0, 1].

        Raises:
            ValueError: wrong shape.
        """
        check_uniform(z, uniform, self.num_factors, self.draws)
        cuts = uniform.reshape(*z.shape, -1)
        # A cut exactly at z gives the right side: uniform never reaches 1, so that side always has a length.
        left = z[..., None] + 0.5 >= cuts
        low = torch.where(left, cuts, 0.0).amax(dim=-1)
        high = torch.where(left, 1.0, cuts).amin(dim=-1)
        return torch.cat([math.sqrt(12) * (low - (1 - high)) / 2, (high - low) ** 2], dim=1)


class ExactFactors:
    """The factors themselves, with variance 0: what a supervised probe is trained on (`factors`).

    u = (sqrt(12) z, 0). A known prior of this u, whose deviation has a floor, makes KL(q(z|x) || p(z|u)) a regression of z on the factors.
    """

    moments: Moments = "mean_variance"

    def __init__(self, num_factors: int) -> None:
        self.num_factors = num_factors
        self.size = 2 * num_factors
        self.draws: tuple[int, ...] = (num_factors,)

    def sample(self, z: Tensor, uniform: Tensor) -> Tensor:
        """Return the factors and zeros.

        Args:
            z: factor values `(B, K)` in [-0.5, 0.5].
            uniform: numbers `(B, K)`, unused.

        Returns:
            `(B, 2K)`: K standardised means in [-sqrt(3), sqrt(3)], then K zeros.

        Raises:
            ValueError: wrong shape.
        """
        check_uniform(z, uniform, self.num_factors, self.draws)
        return torch.cat([math.sqrt(12) * z, torch.zeros_like(z)], dim=1)


class NoAuxiliary:
    """No knowledge of the factors: u has width 0, as for the VAE baseline."""

    moments: Moments = "none"

    def __init__(self, num_factors: int) -> None:
        self.num_factors = num_factors
        self.size = 0
        self.draws: tuple[int, ...] = (num_factors,)

    def sample(self, z: Tensor, uniform: Tensor) -> Tensor:
        """Return u of width 0.

        Args:
            z: factor values `(B, K)`.
            uniform: numbers `(B, K)`, unused.

        Returns:
            `(B, 0)`.

        Raises:
            ValueError: wrong shape.
        """
        check_uniform(z, uniform, self.num_factors, self.draws)
        return z.new_zeros(len(z), 0)


class NormalFirst:
    """The paper's first stage, kept for Table 5 (`normal`): u is drawn first, then z ~ N(mean, variance).

    The variance is uniform on [eps, 1/12]; the mean is 0, or with `modulate_mean` uniform on [-0.5, 0.5] (the
    paper leaves its law open). z is clipped to [-0.5, 0.5], which piles up what lies outside on both ends, and
    then quantised to the nearest label: middle labels come far too often, where the dataset's are uniform.
    """

    def __init__(self, num_factors: int, eps: float = 0.01, modulate_mean: bool = False) -> None:
        """Set up the law of u.

        Args:
            num_factors: K.
            eps: least variance, in (0, 1/12].
            modulate_mean: draw the mean too, and state it in u.

        Raises:
            ValueError: eps out of range.
        """
        if not 0 < eps <= 1 / 12:
            raise ValueError(f"eps is {eps}; give a variance in (0, 1/12]")
        self.num_factors = num_factors
        self.eps = eps
        self.moments: Moments = "mean_variance" if modulate_mean else "variance"
        self.size = (2 if modulate_mean else 1) * num_factors
        self.draws = (self.size,)

    def sample_first(self, uniform: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Draw u, and z given u.

        Args:
            uniform: numbers `(B, A)` in [0, 1).
            normal: standard normal numbers `(B, K)`.

        Returns:
            u `(B, A)`, standardised means (with `modulate_mean`) then variances, and z `(B, K)` in [-0.5, 0.5].

        Raises:
            ValueError: wrong shape.
        """
        check_uniform(normal, uniform, self.num_factors, self.draws)
        variance = self.eps + (1 / 12 - self.eps) * uniform[:, -self.num_factors :]
        if self.moments == "variance":
            z = variance.sqrt() * normal
            return 12 * variance, z.clamp(-0.5, 0.5)
        mean = uniform[:, : self.num_factors] - 0.5
        z = mean + variance.sqrt() * normal
        return torch.cat([math.sqrt(12) * mean, 12 * variance], dim=1), z.clamp(-0.5, 0.5)


class Observed:
    """u that was seen beside the images, a row of it for each row of the dataset.

    Attributes:
        values: `(N, A)` float32.
        moments: `"observed"` for columns as they are, `"mean_variance"` for bounds.
        names: names of the K factors that the moments are of; empty for `"observed"`.
        statistics: JSON by which the columns of other images become u in the same way; stored with the model.
        num_factors: K.
        size: A.
    """

    def __init__(
        self, values: Tensor, moments: Moments, names: tuple[str, ...], statistics: dict[str, Any]
    ) -> None:
        self.values = values
        self.moments = moments
        self.names = names
        self.statistics = statistics
        self.num_factors = len(names)
        self.size = values.shape[1]


AUXILIARY: dict[str, Callable[..., Auxiliary]] = {
    "interval": Interval,
    "uniform_posterior": UniformPosterior,
    "factors": ExactFactors,
    "none": NoAuxiliary,
}
