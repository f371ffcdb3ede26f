"""The conditional prior p(z|u) (Section 2.1)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import RECIPROCAL
from ..distributions import DiagonalGaussian, OneHotCategorical, SoftReciprocal, SoftUniform

PRIOR_TYPES = ("standard", "learned", "known", "released", "per_dimension")
PRIOR_FAMILIES = ("gaussian", "uniform", "reciprocal", "half_reciprocal")
PRIOR_MEANS = ("auto", "zero", "learned")
AUX_MOMENTS = ("mean_variance", "variance", "none", "observed")
MIN_STD = 0.02 * math.sqrt(12)
"""Least deviation of a known prior, in units of a factor's own deviation: an interval can be arbitrarily short."""


class PerDimensionLinear(nn.Module):
    """Linear layers side by side, one for each dimension, `(K, B, before) -> (K, B, after)`, drawn at first as `nn.Linear` draws its own.

    A product of batches of matrices: grouped convolutions, which do the same, were ten times slower on a CPU.

    Args:
        num: K.
        before: Inputs of each.
        after: Outputs of each.
    """

    def __init__(self, num: int, before: int, after: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(before)
        self.weight = nn.Parameter(torch.empty(num, before, after).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num, 1, after).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class PriorEncoder(nn.Module):
    """p(z|u), a law with independent dimensions.

    The first `num_factors` dimensions belong to the factors; a prior that is known or learned per dimension leaves the rest standard.

    Args:
        prior_type: `standard` has mean 0 and variance 1, or equal probabilities, whatever u; `learned` (the paper) is an MLP of u;
            `per_dimension` an MLP for each factor, which sees what u says of this factor alone; `known` has the mean and variance that u
            states; `released` too, and once it is released an MLP is added to these moments, whose last layer starts at zero, or of
            `half_reciprocal` the law is whole.
        latent_dim: D.
        num_factors: K, at most D.
        aux_moments: How u states the moments: `mean_variance` (B, 2 K), `variance` (B, K) with mean 0, `none` (B, 0), `observed`
            (B, `aux_dim`), which states none.
        hidden_dim: Width of the two hidden layers of an MLP.
        family: With Gaussian latents: `gaussian`; `uniform` with soft edges, the law that the moments of an interval stand for;
            `reciprocal`, that of z given the variance which the paper's u drew for it (`SoftReciprocal`), above 1 it counts as 1; or
            `half_reciprocal`, that of |z|, so that latents are distances of factors from the middles of their ranges.
        aux_dim: A, only with `aux_moments="observed"`.
        latent_type: `gaussian`, or `categorical`, whose prior is a `OneHotCategorical` by logits from the MLP (Section 2.6).
        num_categories: C of categorical latents.
        uniform_mix: Share of the uniform law in the categorical probabilities.
        logvar_bounds: Least and greatest log-variance of a prior that learns.
        prior_mean: Of Gaussian latents and a prior that is `learned` or `per_dimension`: `learned`, `zero`, or `auto`, which is zero where
            u states variances alone: they say nothing of the sign, as in the iVAE paper (arXiv 1907.04809).

    Raises:
        ValueError: One line for an unknown name, an `aux_dim` too many or too few, or a prior that this u or these latents can't have.
    """

    def __init__(
        self,
        prior_type: str,
        latent_dim: int,
        num_factors: int,
        aux_moments: str,
        hidden_dim: int,
        *,
        family: str = "gaussian",
        aux_dim: int | None = None,
        latent_type: str = "gaussian",
        num_categories: int = 10,
        uniform_mix: float = 0.01,
        logvar_bounds: tuple[float, float] = (-10.0, 10.0),
        prior_mean: str = "auto",
    ) -> None:
        super().__init__()
        _check(prior_type, latent_dim, num_factors, aux_moments, family, aux_dim, latent_type, prior_mean)
        categorical = latent_type == "categorical"
        self.prior_type = prior_type
        self.latent_dim = latent_dim
        self.num_factors = num_factors
        self.aux_moments = aux_moments
        self.family = family
        self.categorical = categorical
        self.uniform_mix = uniform_mix
        self.logvar_bounds = tuple(logvar_bounds)
        self.zero_mean = prior_mean == "zero" or (prior_mean == "auto" and aux_moments == "variance")
        self.num_outputs = num_categories if categorical else 2
        stated = {"mean_variance": 2 * num_factors, "variance": num_factors, "none": 0}
        self.aux_dim = stated[aux_moments] if aux_dim is None else aux_dim
        self.mlp: nn.Sequential | None = None
        if prior_type == "per_dimension":
            sizes = (self.aux_dim // num_factors, hidden_dim, hidden_dim, self.num_outputs)
            layers = [PerDimensionLinear(num_factors, *pair) for pair in pairwise(sizes)]
            self.mlp = nn.Sequential(layers[0], nn.LeakyReLU(), layers[1], nn.LeakyReLU(), layers[2])
        elif prior_type == "learned" or (prior_type == "released" and family not in RECIPROCAL):
            last = nn.Linear(hidden_dim, self.num_outputs * latent_dim)
            if prior_type == "released":
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
            self.mlp = nn.Sequential(
                nn.Linear(self.aux_dim, hidden_dim),
                nn.LeakyReLU(),
                nn.Linear(hidden_dim, hidden_dim),
                nn.LeakyReLU(),
                last,
            )

    def _outputs(self, aux: Tensor) -> Tensor:
        """The MLP's, `(B, N, 2)` mean and log-variance or `(B, N, C)` logits of the D or K dimensions that it speaks of."""
        assert self.mlp is not None
        if self.prior_type == "per_dimension":
            of_each = aux.unflatten(1, (-1, self.num_factors)).permute(2, 0, 1)
            return self.mlp(of_each).float().transpose(0, 1)
        outputs = self.mlp(aux).float()
        if self.categorical:
            return outputs.unflatten(1, (self.latent_dim, self.num_outputs))
        return outputs.unflatten(1, (self.num_outputs, self.latent_dim)).transpose(1, 2)

    def _logits(self, aux: Tensor) -> Tensor:
        if self.prior_type == "standard":
            return aux.new_zeros(aux.shape[0], self.latent_dim, self.num_outputs)
        outputs = self._outputs(aux)
        return functional.pad(outputs, (0, 0, 0, self.latent_dim - outputs.shape[1]))

    def _known_moments(self, aux: Tensor) -> tuple[Tensor, Tensor]:
        mean = aux.new_zeros(aux.shape[0], self.latent_dim)
        logvar = torch.zeros_like(mean)
        variance = aux[:, -self.num_factors :]
        logvar[:, : self.num_factors] = torch.log(variance.clamp_min(MIN_STD**2))
        if self.aux_moments == "mean_variance":
            mean[:, : self.num_factors] = aux[:, : self.num_factors]
        return mean, logvar

    def _moments(self, aux: Tensor, released: bool) -> tuple[Tensor, Tensor]:
        if self.prior_type == "standard":
            zeros = aux.new_zeros(aux.shape[0], self.latent_dim)
            return zeros, zeros
        if self.prior_type in ("learned", "per_dimension"):
            mean, logvar = self._outputs(aux).unbind(-1)
            if self.zero_mean:
                mean = torch.zeros_like(mean)
            spare = (0, self.latent_dim - mean.shape[1])
            return functional.pad(mean, spare), functional.pad(logvar.clamp(*self.logvar_bounds), spare)
        mean, logvar = self._known_moments(aux)
        if self.mlp is not None and released:
            mean_shift, logvar_shift = self._outputs(aux).unbind(-1)
            mean, logvar = mean + mean_shift, (logvar + logvar_shift).clamp(*self.logvar_bounds)
        return mean, logvar

    def forward(
        self, aux: Tensor, released: bool = True
    ) -> DiagonalGaussian | SoftUniform | SoftReciprocal | OneHotCategorical:
        """p(z|u).

        Args:
            aux: u, `(B, A)`, standardised as `idiff_hf.data.auxiliary` gives it.
            released: With `prior_type="released"`: whether it is.
        """
        if self.categorical:
            return OneHotCategorical(self._logits(aux), self.uniform_mix)
        mean, logvar = self._moments(aux, released)
        if self.family in RECIPROCAL:
            half = self.family == "half_reciprocal" and not (self.prior_type == "released" and released)
            # u states no variance above that of the whole range; a caller's own could, and then there is no such law
            return SoftReciprocal(logvar.clamp_max(0.0), half)
        return SoftUniform(mean, logvar) if self.family == "uniform" else DiagonalGaussian(mean, logvar)


def _check(
    prior_type: str,
    latent_dim: int,
    num_factors: int,
    aux_moments: str,
    family: str,
    aux_dim: int | None,
    latent_type: str,
    prior_mean: str,
) -> None:
    """Refuse what `PriorEncoder` says it refuses."""
    names = (
        ("prior_type", prior_type, PRIOR_TYPES),
        ("prior_family", family, PRIOR_FAMILIES),
        ("prior_mean", prior_mean, PRIOR_MEANS),
        ("aux_moments", aux_moments, AUX_MOMENTS),
    )
    for what, given, allowed in names:
        if given not in allowed:
            raise ValueError(f"{what} must be one of {', '.join(allowed)}, got {given!r}")
    if (aux_dim is not None) != (aux_moments == "observed"):
        raise ValueError(
            f"aux_dim goes with aux_moments='observed' alone, got {aux_dim} with {aux_moments!r}"
        )
    if prior_type in ("known", "released", "per_dimension") and aux_moments in ("none", "observed"):
        raise ValueError(
            f"prior_type={prior_type!r} needs a u that states moments, got aux_moments={aux_moments!r}"
        )
    categorical = latent_type == "categorical"
    if categorical and prior_type in ("known", "released"):
        raise ValueError(
            f"prior_type={prior_type!r} has moments, which latent_type='categorical' has not: "
            "use standard, learned or per_dimension"
        )
    if categorical and family != "gaussian":
        raise ValueError(f"prior_family={family!r} needs latent_type='gaussian', got 'categorical'")
    types = RECIPROCAL.get(family)
    if types is not None and (
        prior_type not in types or aux_moments != "variance" or latent_dim > num_factors
    ):
        raise ValueError(
            f"prior_family={family!r} needs prior_type={' or '.join(map(repr, types))}, aux_moments='variance' and "
            f"as many latents as factors, got {prior_type!r}, {aux_moments!r} and {latent_dim} latents for {num_factors} factors"
        )
    if prior_mean != "auto" and (categorical or prior_type not in ("learned", "per_dimension")):
        raise ValueError(
            f"prior_mean={prior_mean!r} needs latent_type='gaussian' and prior_type='learned' or 'per_dimension', "
            f"got {latent_type!r} and {prior_type!r}"
        )
