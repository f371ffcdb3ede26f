"""Values z of the factors, and the auxiliary variable u that is weak knowledge of them (Section 2.4).

Everything here is a pure function: randomness comes in as uniform numbers that the caller drew. z lies in
[-0.5, 0.5]. u is standardised so that a factor uniform on [-0.5, 0.5] has unit variance: means are multiplied
by sqrt(12), variances by 12.

A class of auxiliary variable has the members of `Auxiliary`; add it to `AUXILIARY` at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from .factors import check_labels

Moments = Literal["mean_variance", "variance", "none"]


def label_to_z(factors: Tensor, sizes: Sequence[int], mode: str, jitter: Tensor | None = None) -> Tensor:
    """Values of factors on a line, from their labels.

    Args:
        factors: integer labels `(B, K)`, `0 <= factors[:, k] < sizes[k]`.
        sizes: K numbers of values.
        mode: `"endpoints"`, label k of n has z = k/(n-1) - 0.5 (the extreme labels lie on the ends of
            [-0.5, 0.5], where `UniformPosterior` has a single value of u, which gives them away);
            `"centers"`, z = (k+0.5)/n - 0.5.
        jitter: uniform numbers `(B, K)` in [0, 1), only with `"centers"`: z = (k+jitter)/n - 0.5, which is
            exactly uniform on [-0.5, 0.5] when the labels are uniform.

    Returns:
        `(B, K)` float32 in [-0.5, 0.5].

    Raises:
        ValueError: unknown mode, jitter with `"endpoints"`, a size below 2 with `"endpoints"`, or bad labels.
    """
    check_labels(factors, [str(k) for k in range(len(sizes))], sizes)
    count = torch.tensor(sizes, dtype=torch.float32, device=factors.device)
    if mode == "endpoints":
        if jitter is not None:
            raise ValueError("jitter was given with mode 'endpoints'; use mode 'centers' or leave jitter out")
        if min(sizes) < 2:
            raise ValueError(f"sizes are {tuple(sizes)}; mode 'endpoints' needs at least two values a factor")
        return factors / (count - 1) - 0.5
    if mode == "centers":
        if jitter is None:
            return (factors + 0.5) / count - 0.5
        _check_uniform(factors, jitter, len(sizes))
        return (factors + jitter) / count - 0.5
    raise ValueError(f"mode is {mode!r}; give 'endpoints' or 'centers'")


def _check_uniform(z: Tensor, uniform: Tensor, num_factors: int) -> None:
    if z.ndim != 2 or z.shape[1] != num_factors or uniform.shape != z.shape:
        raise ValueError(
            f"values have shape {tuple(z.shape)} and uniform numbers {tuple(uniform.shape)}; "
            f"both must be (B, {num_factors})"
        )


class Auxiliary(Protocol):
    """What the classes below share.

    Attributes:
        num_factors: K.
        size: A, width of u.
        moments: how a known prior reads u: `"mean_variance"`, K standardised means then K standardised
            variances; `"variance"`, K standardised variances, the means being 0; `"none"`, u says nothing.
    """

    num_factors: int
    size: int
    moments: Moments

    def sample(self, z: Tensor, uniform: Tensor) -> Tensor:
        """Draw u given z `(B, K)` by means of uniform numbers `(B, K)` in [0, 1); returns `(B, A)`."""
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
        _check_uniform(z, uniform, self.num_factors)
        low = (4 * z * z).clamp(12 * self.eps, 1)  # of 12 sigma^2, whose upper end is 1
        if self.num_bins == 0:
            return (low.sqrt() + uniform * (1 - low.sqrt())) ** 2
        centre = (torch.arange(self.num_bins, dtype=z.dtype, device=z.device) + 0.5) / self.num_bins
        grid = low[..., None] + centre * (1 - low[..., None])
        cumulative = grid.rsqrt().cumsum(dim=-1)
        drawn = torch.searchsorted(cumulative, uniform[..., None] * cumulative[..., -1:], right=True)
        return grid.gather(-1, drawn.clamp_max(self.num_bins - 1)).squeeze(-1)


class Interval:
    """A random cut of [-0.5, 0.5], and mean and variance of the side that holds z.

    For z uniform on [-0.5, 0.5], z given u is exactly uniform on that side. Both moments vary, so u informs
    the sign of z as well, with half a nat a factor. u = (sqrt(12) mean, 12 variance = length^2).
    """

    moments: Moments = "mean_variance"

    def __init__(self, num_factors: int) -> None:
        self.num_factors = num_factors
        self.size = 2 * num_factors

    def sample(self, z: Tensor, uniform: Tensor) -> Tensor:
        """Draw the moments of the interval that holds z.

        Args:
            z: factor values `(B, K)` in [-0.5, 0.5].
            uniform: numbers `(B, K)` in [0, 1); the cut is at `uniform - 0.5`.

        Returns:
            `(B, 2K)`: K standardised means in (-sqrt(3), sqrt(3)), then K standardised variances in (0, 1].

        Raises:
            ValueError: wrong shape.
        """
        _check_uniform(z, uniform, self.num_factors)
        # A cut exactly at z gives the right side: uniform never reaches 1, so that side always has a length.
        right = z + 0.5 >= uniform
        middle = torch.where(right, uniform, uniform - 1) / 2
        length = torch.where(right, 1 - uniform, uniform)
        return torch.cat([math.sqrt(12) * middle, length**2], dim=1)


class NoAuxiliary:
    """No knowledge of the factors: u has width 0, as for the VAE baseline."""

    moments: Moments = "none"

    def __init__(self, num_factors: int) -> None:
        self.num_factors = num_factors
        self.size = 0

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
        _check_uniform(z, uniform, self.num_factors)
        return z.new_zeros(len(z), 0)


AUXILIARY: dict[str, Callable[..., Auxiliary]] = {
    "interval": Interval,
    "uniform_posterior": UniformPosterior,
    "none": NoAuxiliary,
}
