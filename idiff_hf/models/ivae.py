"""The identifiable VAE (Section 2.1): q(z|x), p(x|z) and the prior p(z|u)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from diffusers import ModelMixin  # noqa: F401  diffusers looks the base class up in this module when it loads
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor

from ..distributions import DiagonalGaussian, SoftUniform
from .backbones import BACKBONES
from .prior import PriorEncoder
from .strict import StrictModelMixin


@dataclass
class LatentOutput(BaseOutput):
    """A distribution over z, `latent_dist`, with mean and logvar `(B, D)`: q(z|x)."""

    latent_dist: DiagonalGaussian


@dataclass
class PriorOutput(BaseOutput):
    """A distribution over z, `latent_dist`, with mean and logvar `(B, D)`: p(z|u)."""

    latent_dist: DiagonalGaussian | SoftUniform


@dataclass
class DecoderOutput(BaseOutput):
    """Images, `sample`, `(B, C, H, W)`, about [-1, 1]."""

    sample: Tensor


class IVAEModel(StrictModelMixin, ConfigMixin):
    """An identifiable VAE, shaped like diffusers' `AutoencoderKL`.

    Args:
        image_size: H = W in pixels, a multiple of 16 for `cnn`; 1 for vectors.
        in_channels: C.
        backbone: A key of `BACKBONES`.
        channels: With `cnn`: channels of its convolutions.
        hidden_dim: Width of the backbone's linear layers.
        norm: With `cnn`: `group` or `none`.
        latent_dim: D.
        num_factors: K, the factors that u speaks of, 0 where it is observed and speaks of none; at most D.
        prior_type: `standard`, `learned`, `known` or `released`, see `PriorEncoder`.
        aux_moments: How u states moments, see `PriorEncoder`.
        prior_hidden_dim: Width of the prior's MLP.
        prior_family: `gaussian` or `uniform`, see `PriorEncoder`.
        aux_dim: A, only with `aux_moments="observed"`.
        factor_names: Names of the factors, for tables and figures.
        aux_columns: What turns observed columns into u (JSON values). Only kept, so that new rows can be read as those of the training.

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
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
        if num_factors > latent_dim:
            raise ValueError(f"latent_dim={latent_dim} must be at least num_factors={num_factors}")
        build = BACKBONES[backbone]
        self.encoder, self.decoder = build(
            **{name: self.config[name] for name in inspect.signature(build).parameters}
        )
        self.prior_encoder = PriorEncoder(
            prior_type,
            latent_dim,
            num_factors,
            aux_moments,
            prior_hidden_dim,
            family=prior_family,
            aux_dim=aux_dim,
        )

    def encode(self, x: Tensor) -> LatentOutput:
        """q(z|x) for images `(B, C, H, W)` in [-1, 1]. The encoder sees x only: at test time there is no u."""
        mean, logvar = self.encoder(x).float().chunk(2, dim=1)
        return LatentOutput(latent_dist=DiagonalGaussian(mean, logvar.clamp(-10.0, 10.0)))

    def decode(self, z: Tensor) -> DecoderOutput:
        """The decoder's images `(B, C, H, W)` for z `(B, D)`."""
        return DecoderOutput(sample=self.decoder(z.to(self.dtype)))

    def prior(self, aux: Tensor, released: bool = True) -> PriorOutput:
        """p(z|u) for u `(B, A)`; `released` says whether the MLP of a `released` prior takes part.

        Raises:
            ValueError: If u has another width than the model was built for.
        """
        if aux.ndim != 2 or aux.shape[1] != self.prior_encoder.aux_dim:
            raise ValueError(f"aux must be (B, {self.prior_encoder.aux_dim}), got {tuple(aux.shape)}")
        return PriorOutput(latent_dist=self.prior_encoder(aux, released))

    def forward(self, x: Tensor, noise: Tensor) -> DecoderOutput:
        """Encode, sample with the given standard normal numbers `(B, D)`, decode."""
        return self.decode(self.encode(x).latent_dist.sample(noise))
