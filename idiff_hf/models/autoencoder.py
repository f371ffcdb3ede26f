"""Images to the latents of a stock autoencoder and back, for latent diffusion."""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

Autoencoder: TypeAlias = AutoencoderKL | VQModel


def encode_latents(vae: Autoencoder, images: Tensor) -> Tensor:
    """Latents without noise: the mean of `AutoencoderKL`, of `VQModel` what is not quantised yet.

    Both are continuous, as diffusion wants them; `VQModel` quantises what it decodes.

    Args:
        vae: The autoencoder.
        images: `(B, C, H, W)` in [-1, 1].

    Returns:
        `(B, latent_channels, H / f, W / f)` float32, not multiplied by the scaling factor.
    """
    encoded = vae.encode(images.to(vae.dtype))
    latents: Tensor = encoded.latents if isinstance(vae, VQModel) else encoded.latent_dist.mode()
    return latents.float()


def decode_latents(vae: Autoencoder, latents: Tensor) -> Tensor:
    """Images `(B, C, H, W)` float32, in [-1, 1] up to the decoder's error, of latents as `encode_latents` gives them."""
    images: Tensor = vae.decode(latents.to(vae.dtype)).sample
    return images.float()


@torch.no_grad()
def autoencode(vae: Autoencoder, images: Tensor, batch_size: int = 64) -> Tensor:
    """Images `(B, C, H, W)` in [-1, 1] through the autoencoder alone: what diffusion in its latents can reach at best."""
    parts = [
        decode_latents(vae, encode_latents(vae, part)).clamp(-1.0, 1.0) for part in images.split(batch_size)
    ]
    return torch.cat(parts)
