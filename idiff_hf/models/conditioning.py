"""How z enters the U-Net."""

from __future__ import annotations

from diffusers import (
    ModelMixin,  # noqa: F401  diffusers looks the base class up in this module when it loads
    UNet2DModel,
)
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn
from torch.nn import functional

from .strict import StrictModelMixin


class AdditiveConditioning(StrictModelMixin, ConfigMixin):
    """The paper's condition: a projection of z is added to the time embedding.

    The projection has no bias, so that z = 0 is exactly "no condition" (Section 2.5).

    Args:
        latent_dim: D.
        embedding_dim: Width of the U-Net's time embedding, 4 times its first `block_out_channels`.
        patch_size: Pixel-unshuffle factor p in front of the U-Net; 1 is none.
    """

    @register_to_config
    def __init__(self, latent_dim: int = 10, embedding_dim: int = 256, patch_size: int = 1) -> None:
        super().__init__()
        self.projection = nn.Linear(latent_dim, embedding_dim, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """`class_labels` for `UNet2DModel(class_embed_type="identity")`, `(B, embedding_dim)`, for z `(B, D)`."""
        return self.projection(z.to(self.dtype))


def denoise(
    unet: UNet2DModel, sample: Tensor, timestep: Tensor, embedding: Tensor, patch_size: int
) -> Tensor:
    """The U-Net's prediction for x_t, on pixels whatever the patch size.

    Args:
        unet: Stock U-Net with `class_embed_type="identity"` and `C * patch_size**2` channels.
        sample: x_t, `(B, C, H, W)`.
        timestep: `num_train_timesteps * t - 1`, float, `(B,)`.
        embedding: From the conditioning, `(B, E)`.
        patch_size: p.

    Returns:
        `(B, C, H, W)`.
    """
    inside = functional.pixel_unshuffle(sample, patch_size) if patch_size > 1 else sample
    outside = unet(inside, timestep, class_labels=embedding).sample
    return functional.pixel_shuffle(outside, patch_size) if patch_size > 1 else outside
