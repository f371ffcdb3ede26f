"""How z enters the U-Net."""

from __future__ import annotations

import torch
from diffusers import (
    ModelMixin,  # noqa: F401  diffusers looks the base class up in this module when it loads
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn
from torch.nn import functional

from .strict import StrictModelMixin

NULL_CONDITIONS = ("zeros", "learned")


class Conditioning(StrictModelMixin, ConfigMixin):
    """What the classes below share: the condition of z, the null condition, and a stock U-Net's prediction given either.

    Attributes:
        null_embedding: The learned null condition, None where it is zeros.
        null_shape: Of the condition of one sample.
        code_dim: Width of z; None where it takes none.
    """

    null_embedding: nn.Parameter | None
    null_shape: tuple[int, ...]
    code_dim: int | None = None

    def _set_null(self, null_condition: str, *shape: int) -> None:
        if null_condition not in NULL_CONDITIONS:
            raise ValueError(
                f"null_condition must be one of {', '.join(NULL_CONDITIONS)}, got {null_condition!r}"
            )
        learned = null_condition == "learned"
        self.null_shape = shape
        self.null_embedding = nn.Parameter(0.02 * torch.randn(shape)) if learned else None

    def _zeros(self, batch_size: int) -> Tensor:
        reference = next(self.parameters())
        return reference.new_zeros(batch_size, *self.null_shape)

    def embed(self, z: Tensor) -> Tensor:
        """The condition of z `(B, code_dim)`."""
        raise NotImplementedError

    def null(self, batch_size: int) -> Tensor:
        """The null condition for so many samples."""
        if self.null_embedding is None:
            return self._zeros(batch_size)
        return self.null_embedding.expand(batch_size, *self.null_shape)

    def forward(self, z: Tensor, dropped: Tensor | None = None) -> Tensor:
        """The condition of z `(B, code_dim)`, and the null condition where `dropped`, booleans `(B,)`, says so."""
        condition = self.embed(z.to(self.dtype))
        if dropped is None:
            return condition
        return self.null(len(z)).where(dropped.view(-1, *[1] * (condition.ndim - 1)), condition)

    def predict(self, unet: nn.Module, sample: Tensor, timestep: Tensor, condition: Tensor | None) -> Tensor:
        """The prediction of `unet` for `sample` at `timestep` under `condition`, None where there is none to give."""
        return unet(sample, timestep, class_labels=condition).sample


class _Projection(Conditioning):
    """A condition that is linear in z, without a bias, so that z = 0 is exactly "no condition" (Section 2.5)."""

    def _project(self, latent_dim: int, width: int, null_condition: str) -> None:
        self.projection = nn.Linear(latent_dim, width, bias=False)
        self.code_dim = latent_dim
        self._set_null(null_condition, width)

    def embed(self, z: Tensor) -> Tensor:
        """A projection of z, `(B, width)`: the U-Net's `class_labels`, or what they are made of."""
        return self.projection(z)


class AdditiveConditioning(_Projection):
    """The paper's condition: a projection of z without a bias is added to the time embedding (`class_embed_type="identity"`).

    Args:
        latent_dim: Width of z.
        embedding_dim: Width of the U-Net's time embedding, 4 times its first `block_out_channels`.
        patch_size: Pixel-unshuffle factor p in front of the U-Net; 1 is none.
        null_condition: `zeros`, or `learned`.

    Raises:
        ValueError: One line for an unknown `null_condition`.
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 10,
        embedding_dim: int = 256,
        patch_size: int = 1,
        null_condition: str = "zeros",
    ) -> None:
        super().__init__()
        self._project(latent_dim, embedding_dim, null_condition)


class ScaleShiftConditioning(_Projection):
    """z scales and shifts the time embedding, e(t) (1 + a(z)) + b(z), with bias-free a and b (FiLM, arXiv:1709.07871).

    Arguments and errors as of `AdditiveConditioning`; z = 0 is exactly "no condition" here too.
    """

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 10,
        embedding_dim: int = 256,
        patch_size: int = 1,
        null_condition: str = "zeros",
    ) -> None:
        super().__init__()
        self._project(latent_dim, 2 * embedding_dim, null_condition)

    def predict(
        self, unet: UNet2DModel, sample: Tensor, timestep: Tensor, condition: Tensor | None
    ) -> Tensor:
        """The U-Net adds its `class_labels` to e(t): these are a(z) e(t) + b(z)."""
        assert condition is not None
        scale, shift = condition.chunk(2, dim=1)
        embedding = unet.time_embedding(unet.time_proj(timestep).to(scale.dtype))
        return unet(sample, timestep, class_labels=scale * embedding + shift).sample


class TokenConditioning(Conditioning):
    """Each latent becomes a token of its own, to which the U-Net's blocks attend (after EncDiff, arXiv:2402.09712).

    A latent passes through its own small MLP, so that its token is a function of this latent alone. The MLPs have biases, by which the
    tokens of different latents are told apart: unlike with the other conditionings, the tokens of z = 0 are not the null condition. With
    `zeros` the attention adds its output bias and nothing else, so that the U-Net is an unconditional one here too.

    Args:
        num_tokens: D, the number of latents.
        numbers_per_token: Numbers of a latent: 1, or the classes of a categorical one.
        token_dim: Width of a token, the U-Net's `cross_attention_dim`.
        hidden_dim: Width of the MLP's hidden layer.
        patch_size: Pixel-unshuffle factor p in front of the U-Net; 1 is none.
        null_condition: `zeros`, all tokens 0, or `learned`, tokens of their own.

    Raises:
        ValueError: One line for an unknown `null_condition`.
    """

    @register_to_config
    def __init__(
        self,
        num_tokens: int = 10,
        numbers_per_token: int = 1,
        token_dim: int = 16,
        hidden_dim: int = 64,
        patch_size: int = 1,
        null_condition: str = "zeros",
    ) -> None:
        super().__init__()
        # a convolution over one place, in groups: the MLPs of all latents in one call
        self.mlp = nn.Sequential(
            nn.Conv1d(num_tokens * numbers_per_token, num_tokens * hidden_dim, 1, groups=num_tokens),
            nn.SiLU(),
            nn.Conv1d(num_tokens * hidden_dim, num_tokens * token_dim, 1, groups=num_tokens),
        )
        self.code_dim = num_tokens * numbers_per_token
        self._set_null(null_condition, num_tokens, token_dim)

    def embed(self, z: Tensor) -> Tensor:
        """`encoder_hidden_states` for a `UNet2DConditionModel`, `(B, num_tokens, token_dim)`."""
        return self.mlp(z.unsqueeze(-1)).view(len(z), *self.null_shape)

    def predict(
        self, unet: UNet2DConditionModel, sample: Tensor, timestep: Tensor, condition: Tensor | None
    ) -> Tensor:
        """The U-Net's blocks attend to the tokens."""
        return unet(sample, timestep, encoder_hidden_states=condition).sample


class NoConditioning(Conditioning):
    """No latents: an unconditional U-Net, as diffusers' own example trains it.

    Args:
        patch_size: Pixel-unshuffle factor p in front of the U-Net; 1 is none.
    """

    @register_to_config
    def __init__(self, patch_size: int = 1) -> None:
        super().__init__()
        # diffusers writes and reads a file of tensors, and knows device and dtype by one
        self.register_buffer("nothing", torch.zeros(0))

    def predict(
        self, unet: UNet2DModel, sample: Tensor, timestep: Tensor, condition: Tensor | None
    ) -> Tensor:
        """The prediction of an unconditional U-Net."""
        return unet(sample, timestep).sample


CONDITIONINGS: dict[str, type[Conditioning]] = {
    cls.__name__: cls
    for cls in (AdditiveConditioning, ScaleShiftConditioning, TokenConditioning, NoConditioning)
}
"""The classes by the names that a saved pipeline gives them."""


def denoise(
    unet: nn.Module, conditioning: Conditioning, sample: Tensor, timestep: Tensor, condition: Tensor | None
) -> Tensor:
    """The U-Net's prediction for x_t, on pixels whatever the patch size.

    Args:
        unet: Stock U-Net with `C * patch_size**2` channels.
        conditioning: What the condition is from; its config holds the patch size.
        sample: x_t, `(B, C, H, W)`.
        timestep: `num_train_timesteps * t - 1`, float, `(B,)`.
        condition: From the conditioning; None for `NoConditioning`.

    Returns:
        `(B, C, H, W)`.
    """
    patch_size = int(conditioning.config["patch_size"])
    inside = functional.pixel_unshuffle(sample, patch_size) if patch_size > 1 else sample
    outside = conditioning.predict(unet, inside, timestep, condition)
    return functional.pixel_shuffle(outside, patch_size) if patch_size > 1 else outside
