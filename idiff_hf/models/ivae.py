"""The identifiable VAE (Section 2.1): q(z|x), p(x|z) and the prior p(z|u)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from diffusers import ModelMixin  # noqa: F401  diffusers looks the base class up in this module when it loads
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor

from ..distributions import DiagonalGaussian, OneHotCategorical, SoftReciprocal, SoftUniform
from .backbones import BACKBONES
from .prior import PriorEncoder
from .strict import StrictModelMixin

LATENT_TYPES = ("gaussian", "categorical")


@dataclass
class LatentOutput(BaseOutput):
    """A distribution over z, `latent_dist`, with mean and logvar `(B, D)` or logits `(B, D, C)`: q(z|x)."""

    latent_dist: DiagonalGaussian | OneHotCategorical


@dataclass
class PriorOutput(BaseOutput):
    """A distribution over z, `latent_dist`, with mean and logvar `(B, D)` or logits `(B, D, C)`: p(z|u)."""

    latent_dist: DiagonalGaussian | SoftUniform | SoftReciprocal | OneHotCategorical


@dataclass
class DecoderOutput(BaseOutput):
    """Images, `sample`, `(B, C, H, W)`, about [-1, 1]."""

    sample: Tensor


class IVAEModel(StrictModelMixin, ConfigMixin):
    """An identifiable VAE, shaped like diffusers' `AutoencoderKL`.

    Args:
        image_size: H = W in pixels, a multiple of 16 for `cnn` and of 32 for a ResNet; 1 for vectors.
        in_channels: C.
        backbone: A key of `BACKBONES`.
        channels: With `cnn`: channels of its convolutions.
        hidden_dim: With `cnn` and `mlp`: width of the hidden linear layers.
        norm: What follows a convolution: `group`, `batch`, or with `cnn` `none`.
        latent_dim: D.
        num_factors: K, the factors that u speaks of, 0 where it is observed and speaks of none; at most D.
        prior_type: `standard`, `learned`, `known`, `released` or `per_dimension`, see `PriorEncoder`.
        aux_moments: How u states moments, see `PriorEncoder`.
        prior_hidden_dim: Width of the prior's MLP.
        prior_family: `gaussian`, `uniform`, `reciprocal` or `half_reciprocal`, see `PriorEncoder`.
        aux_dim: A, only with `aux_moments="observed"`.
        factor_names: Names of the factors, for tables and figures.
        aux_columns: What turns observed columns into u (JSON values). Only kept, so that new rows can be read as those of the training.
        latent_type: Of q(z|x): `gaussian`, or `categorical`, each latent a one-hot vector of `num_categories` (Section 2.6).
        num_categories: With categorical latents: C, at least 2.
        uniform_mix: With categorical latents: share of the uniform law in the probabilities of q(z|x) and p(z|u), in [0, 1).
        logvar_bounds: Not of categorical latents: least and greatest log-variance of q(z|x) and of a p(z|u) that learns.
        prior_mean: `auto`, `zero` or `learned`, see `PriorEncoder`.

    Raises:
        ValueError: One line for an unknown name or inconsistent sizes.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 64,
        in_channels: int = 3,
        backbone: str = "cnn",
        channels: tuple[int, ...] = (32, 32, 64, 64),
        hidden_dim: int = 256,
        norm: str = "group",
        latent_dim: int = 10,
        num_factors: int = 6,
        prior_type: str = "learned",
        aux_moments: str = "mean_variance",
        prior_hidden_dim: int = 128,
        factor_names: tuple[str, ...] = (),
        prior_family: str = "gaussian",
        aux_dim: int | None = None,
        aux_columns: dict[str, Any] | list[Any] | None = None,
        latent_type: str = "gaussian",
        num_categories: int = 10,
        uniform_mix: float = 0.01,
        logvar_bounds: tuple[float, float] = (-10.0, 10.0),
        prior_mean: str = "auto",
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
        if num_factors > latent_dim:
            raise ValueError(f"latent_dim={latent_dim} must be at least num_factors={num_factors}")
        if latent_type not in LATENT_TYPES:
            raise ValueError(f"latent_type must be one of {', '.join(LATENT_TYPES)}, got {latent_type!r}")
        if num_categories < 2:
            raise ValueError(f"num_categories must be at least 2, got {num_categories}")
        if not 0.0 <= uniform_mix < 1.0:
            raise ValueError(f"uniform_mix must lie in [0, 1), got {uniform_mix}")
        if len(logvar_bounds) != 2 or logvar_bounds[0] >= logvar_bounds[1]:
            raise ValueError(f"logvar_bounds must be a lower and a higher number, got {tuple(logvar_bounds)}")
        build = BACKBONES[backbone]
        encoder_dim = latent_dim * (num_categories if latent_type == "categorical" else 2)
        given = {**self.config, "encoder_dim": encoder_dim, "code_dim": self.code_dim}
        self.encoder, self.decoder = build(
            **{name: given[name] for name in inspect.signature(build).parameters}
        )
        self.prior_encoder = PriorEncoder(
            prior_type,
            latent_dim,
            num_factors,
            aux_moments,
            prior_hidden_dim,
            family=prior_family,
            aux_dim=aux_dim,
            latent_type=latent_type,
            num_categories=num_categories,
            uniform_mix=uniform_mix,
            logvar_bounds=logvar_bounds,
            prior_mean=prior_mean,
        )

    @property
    def code_dim(self) -> int:
        """Width of z: D, or D * C where it is categorical."""
        if self.config.latent_type == "categorical":
            return self.config.latent_dim * self.config.num_categories
        return self.config.latent_dim

    def encode(self, x: Tensor) -> LatentOutput:
        """q(z|x) for images `(B, C, H, W)` in [-1, 1]. The encoder sees x only: at test time there is no u."""
        outputs = self.encoder(x).float()
        if self.config.latent_type == "categorical":
            logits = outputs.unflatten(1, (self.config.latent_dim, self.config.num_categories))
            return LatentOutput(latent_dist=OneHotCategorical(logits, self.config.uniform_mix))
        mean, logvar = outputs.chunk(2, dim=1)
        return LatentOutput(latent_dist=DiagonalGaussian(mean, logvar.clamp(*self.config.logvar_bounds)))

    def decode(self, z: Tensor) -> DecoderOutput:
        """The decoder's images `(B, C, H, W)` for z `(B, code_dim)`."""
        return DecoderOutput(sample=self.decoder(z.to(self.dtype)))

    def prior(self, aux: Tensor, released: bool = True) -> PriorOutput:
        """p(z|u) for u `(B, A)`; `released` says whether a `released` prior is.

        Raises:
            ValueError: If u has another width than the model was built for.
        """
        if aux.ndim != 2 or aux.shape[1] != self.prior_encoder.aux_dim:
            raise ValueError(f"aux must be (B, {self.prior_encoder.aux_dim}), got {tuple(aux.shape)}")
        return PriorOutput(latent_dist=self.prior_encoder(aux, released))

    def forward(self, x: Tensor, noise: Tensor) -> DecoderOutput:
        """Encode, sample with the given standard normal numbers `(B, *noise_shape)`, decode."""
        return self.decode(self.encode(x).latent_dist.sample(noise))
