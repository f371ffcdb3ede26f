"""The conditional prior p(z|u) (Section 2.1)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ..distributions import DiagonalGaussian

PRIOR_TYPES = ("standard", "learned", "known", "released")
AUX_MOMENTS = ("mean_variance", "variance", "none")
MIN_STD = 0.02 * math.sqrt(12)
"""Least deviation of a known prior, in units of a factor's own deviation: an interval can be arbitrarily short."""


class PriorEncoder(nn.Module):
    """p(z|u) as a diagonal Gaussian.

    The first `num_factors` dimensions belong to the factors; a known prior leaves the rest at N(0, 1).

    Args:
        prior_type: `standard` is N(0, I) whatever u; `learned` (the paper) is an MLP of u; `known` has the mean and variance that u
            states; `released` adds an MLP, whose last layer starts at zero, to these moments once it is released.
        latent_dim: D.
        num_factors: K, at most D.
        aux_moments: How u states the moments: `mean_variance` (B, 2 K), `variance` (B, K) with mean 0, `none` (B, 0).
        hidden_dim: Width of the MLP's two hidden layers.
    """

    def __init__(
        self,
        prior_type: str,
        latent_dim: int,
        num_factors: int,
        aux_moments: Literal["mean_variance", "variance", "none"],
        hidden_dim: int,
    ) -> None:
        super().__init__()
        self.prior_type = prior_type
        self.latent_dim = latent_dim
        self.num_factors = num_factors
        self.aux_moments = aux_moments
        self.aux_dim = {"mean_variance": 2 * num_factors, "variance": num_factors, "none": 0}[aux_moments]
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

    def forward(self, aux: Tensor, released: bool = True) -> DiagonalGaussian:
        """p(z|u).

        Args:
            aux: u, `(B, A)`, standardised as `idiff_hf.data.auxiliary` gives it.
            released: With `prior_type="released"`: whether the MLP takes part.
        """
        if self.prior_type == "standard":
            zeros = aux.new_zeros(aux.shape[0], self.latent_dim)
            return DiagonalGaussian(zeros, zeros)
        if self.prior_type == "learned":
            assert self.mlp is not None
            mean, logvar = self.mlp(aux).chunk(2, dim=1)
            if self.aux_moments == "variance":
                # u says nothing of the sign, so the mean stays 0, as in the iVAE paper (arXiv 1907.04809)
                mean = torch.zeros_like(mean)
            return DiagonalGaussian(mean, logvar.clamp(-10.0, 10.0))
        mean, logvar = self._known_moments(aux)
        if self.mlp is not None and released:
            mean_shift, logvar_shift = self.mlp(aux).chunk(2, dim=1)
            mean, logvar = mean + mean_shift, (logvar + logvar_shift).clamp(-10.0, 10.0)
        return DiagonalGaussian(mean, logvar)
