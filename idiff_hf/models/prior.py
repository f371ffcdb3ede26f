"""The conditional prior p(z|u) (Section 2.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..distributions import DiagonalGaussian, SoftUniform

PRIOR_TYPES = ("standard", "learned", "known", "released")
PRIOR_FAMILIES: dict[str, type[DiagonalGaussian] | type[SoftUniform]] = {
    "gaussian": DiagonalGaussian,
    "uniform": SoftUniform,
}
AUX_MOMENTS = ("mean_variance", "variance", "none", "observed")
MIN_STD = 0.02 * math.sqrt(12)
"""Least deviation of a known prior, in units of a factor's own deviation: an interval can be arbitrarily short."""


class PriorEncoder(nn.Module):
    """p(z|u), a law with independent dimensions.

    The first `num_factors` dimensions belong to the factors; a known prior leaves the rest at mean 0 and variance 1.

    Args:
        prior_type: `standard` has mean 0 and variance 1 whatever u; `learned` (the paper) is an MLP of u; `known` has the mean and
            variance that u states; `released` adds an MLP, whose last layer starts at zero, to these moments once it is released.
        latent_dim: D.
        num_factors: K, at most D.
        aux_moments: How u states the moments: `mean_variance` (B, 2 K), `variance` (B, K) with mean 0, `none` (B, 0), `observed`
            (B, `aux_dim`), which states none.
        hidden_dim: Width of the MLP's two hidden layers.
        family: `gaussian`, or `uniform` with soft edges, the law that the moments of an interval stand for.
        aux_dim: A, only with `aux_moments="observed"`.

    Raises:
        ValueError: One line for an unknown name, an `aux_dim` too many or too few, or a known prior of a u that states no moments.
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
    ) -> None:
        super().__init__()
        names = (
            ("prior_type", prior_type, PRIOR_TYPES),
            ("prior_family", family, PRIOR_FAMILIES),
            ("aux_moments", aux_moments, AUX_MOMENTS),
        )
        for what, given, allowed in names:
            if given not in allowed:
                raise ValueError(f"{what} must be one of {', '.join(allowed)}, got {given!r}")
        if (aux_dim is not None) != (aux_moments == "observed"):
            raise ValueError(
                f"aux_dim goes with aux_moments='observed' alone, got {aux_dim} with {aux_moments!r}"
            )
        if prior_type in ("known", "released") and aux_moments in ("none", "observed"):
            raise ValueError(
                f"prior_type={prior_type!r} needs a u that states moments, got aux_moments={aux_moments!r}"
            )
        self.prior_type = prior_type
        self.latent_dim = latent_dim
        self.num_factors = num_factors
        self.aux_moments = aux_moments
        self.family = family
        stated = {"mean_variance": 2 * num_factors, "variance": num_factors, "none": 0}
        self.aux_dim = stated[aux_moments] if aux_dim is None else aux_dim
        self.mlp: nn.Sequential | None = None
        if prior_type in ("learned", "released"):
            last = nn.Linear(hidden_dim, 2 * latent_dim)
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
        if self.prior_type == "learned":
            assert self.mlp is not None
            mean, logvar = self.mlp(aux).chunk(2, dim=1)
            if self.aux_moments == "variance":
                # u says nothing of the sign, so the mean stays 0, as in the iVAE paper (arXiv 1907.04809)
                mean = torch.zeros_like(mean)
            return mean, logvar.clamp(-10.0, 10.0)
        mean, logvar = self._known_moments(aux)
        if self.mlp is not None and released:
            mean_shift, logvar_shift = self.mlp(aux).chunk(2, dim=1)
            mean, logvar = mean + mean_shift, (logvar + logvar_shift).clamp(-10.0, 10.0)
        return mean, logvar

    def forward(self, aux: Tensor, released: bool = True) -> DiagonalGaussian | SoftUniform:
        """p(z|u).

        Args:
            aux: u, `(B, A)`, standardised as `idiff_hf.data.auxiliary` gives it.
            released: With `prior_type="released"`: whether the MLP takes part.
        """
        return PRIOR_FAMILIES[self.family](*self._moments(aux, released))
