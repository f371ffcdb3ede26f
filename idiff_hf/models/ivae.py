"""The identifiable VAE (Section 2.1): q(z|x), p(x|z) and the prior p(z|u)."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import ModelMixin  # noqa: F401  diffusers looks the base class up in this module when it loads
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor

from ..distributions import DiagonalGaussian
from .backbones import BACKBONES
from .prior import AUX_MOMENTS, PRIOR_TYPES, PriorEncoder
from .strict import StrictModelMixin


@dataclass
class LatentOutput(BaseOutput):
    """A distribution over z, `latent_dist`, with mean and logvar `(B, D)`."""

    latent_dist: DiagonalGaussian


@dataclass
class DecoderOutput(BaseOutput):
    """Images, `sample`, `(B, C, H, W)`, about [-1, 1]."""

    sample: Tensor


class IVAEModel(StrictModelMixin, ConfigMixin):
    """An identifiable VAE, shaped like diffusers' `AutoencoderKL`.

    Args:
        image_size: H = W in pixels, a multiple of 16 for `cnn`.
        in_channels: C.
        backbone: A key of `BACKBONES`.
        channels: Channels of the backbone's convolutions.
        hidden_dim: Width of its linear layers.
        norm: `group` or `none`.
        latent_dim: D.
        num_factors: K, the factors that u speaks of; at most D.
        prior_type: `standard`, `learned`, `known` or `released`, see `PriorEncoder`.
        aux_moments: How u states moments, see `PriorEncoder`.
        prior_hidden_dim: Width of the prior's MLP.
        factor_names: Names of the factors, for tables and figures.

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
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {backbone!r}")
        if prior_type not in PRIOR_TYPES:
            raise ValueError(f"prior_type must be one of {', '.join(PRIOR_TYPES)}, got {prior_type!r}")
        if norm not in ("group", "none"):
            raise ValueError(f"norm must be group or none, got {norm!r}")
        if aux_moments not in AUX_MOMENTS:
            raise ValueError(f"aux_moments must be one of {', '.join(AUX_MOMENTS)}, got {aux_moments!r}")
        if num_factors > latent_dim:
            raise ValueError(f"latent_dim={latent_dim} must be at least num_factors={num_factors}")
        if image_size % 16:
            raise ValueError(f"image_size must be a multiple of 16 for backbone 'cnn', got {image_size}")
        self.encoder, self.decoder = BACKBONES[backbone](
            in_channels, image_size, channels, hidden_dim, latent_dim, norm
        )
        self.prior_encoder = PriorEncoder(prior_type, latent_dim, num_factors, aux_moments, prior_hidden_dim)  # type: ignore[arg-type]

    def encode(self, x: Tensor) -> LatentOutput:
        """q(z|x) for images `(B, C, H, W)` in [-1, 1]. The encoder sees x only: at test time there is no u."""
        mean, logvar = self.encoder(x).float().chunk(2, dim=1)
        return LatentOutput(latent_dist=DiagonalGaussian(mean, logvar.clamp(-10.0, 10.0)))

    def decode(self, z: Tensor) -> DecoderOutput:
        """The decoder's images `(B, C, H, W)` for z `(B, D)`."""
        return DecoderOutput(sample=self.decoder(z.to(self.dtype)))

    def prior(self, aux: Tensor, released: bool = True) -> LatentOutput:
        """p(z|u) for u `(B, A)`; `released` says whether the MLP of a `released` prior takes part.

        Raises:
            ValueError: If u has another width than the model was built for.
        """
        if aux.ndim != 2 or aux.shape[1] != self.prior_encoder.aux_dim:
            raise ValueError(f"aux must be (B, {self.prior_encoder.aux_dim}), got {tuple(aux.shape)}")
        return LatentOutput(latent_dist=self.prior_encoder(aux, released))

    def forward(self, x: Tensor, noise: Tensor) -> DecoderOutput:
        """Encode, sample with the given standard normal numbers `(B, D)`, decode."""
        return self.decode(self.encode(x).latent_dist.sample(noise))
