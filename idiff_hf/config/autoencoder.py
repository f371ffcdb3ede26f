"""Latent diffusion: the autoencoder in whose latents the U-Net may run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .checks import positive, require


@dataclass(frozen=True)
class AutoencoderConfig:
    """A small autoencoder of images, trained first and then frozen (latent diffusion, arXiv:2112.10752).

    The U-Net sees its latents, divided by their standard deviation over training images, in place of pixels. It is trained by the squared
    error and what its type adds, in the steps of `optim_autoencoder`. The iVAE goes on encoding the images themselves.

    Args:
        type: `none` is diffusion on pixels (the paper). `kl` is diffusers' `AutoencoderKL`, with Gaussian latents slightly pulled to
            N(0, I); `vq` its `VQModel`, whose decoder sees the nearest vector of a codebook.
        block_out_channels: Channels of each resolution, multiples of `norm_num_groups`. Each after the first halves height and width.
        latent_channels: Channels of the latents.
        layers_per_block: Residual blocks at each resolution.
        norm_num_groups: Groups of its GroupNorm.
        kl: With `kl`: weight of KL(q || N(0, I)), a sum over the latents of an image in nats, beside the squared error, a mean over pixels.
        num_codes: With `vq`: vectors in the codebook.
    """

    type: Literal["none", "kl", "vq"] = "none"
    block_out_channels: tuple[int, ...] = (32, 64)
    latent_channels: int = 4
    layers_per_block: int = 1
    norm_num_groups: int = 8
    kl: float = 1e-6
    num_codes: int = 512

    def __post_init__(self) -> None:
        readers = {
            "autoencoder.type=kl or vq": (
                self.type != "none",
                ("block_out_channels", "latent_channels", "layers_per_block", "norm_num_groups"),
            ),
            "autoencoder.type=kl": (self.type == "kl", ("kl",)),
            "autoencoder.type=vq": (self.type == "vq", ("num_codes",)),
        }
        for who, (is_read, names) in readers.items():
            unread = [name for name in names if getattr(self, name) != getattr(AutoencoderConfig, name)]
            require(
                is_read or not unread,
                f"autoencoder.{', autoencoder.'.join(unread)} needs {who}, got autoencoder.type={self.type}",
            )
        names = ("latent_channels", "layers_per_block", "norm_num_groups")
        positive(**{f"autoencoder.{name}": getattr(self, name) for name in names})
        require(
            len(self.block_out_channels) >= 1
            and all(c > 0 and c % self.norm_num_groups == 0 for c in self.block_out_channels),
            f"autoencoder.block_out_channels must be one or more multiples of autoencoder.norm_num_groups={self.norm_num_groups}, "
            f"got {self.block_out_channels}",
        )
        require(self.kl >= 0, f"autoencoder.kl must be 0 or more, got {self.kl}")
        require(self.num_codes >= 2, f"autoencoder.num_codes must be 2 or more, got {self.num_codes}")

    @property
    def downsampling(self) -> int:
        """Pixels along each side of a latent; 1 without an autoencoder."""
        return 1 if self.type == "none" else 2 ** (len(self.block_out_channels) - 1)
