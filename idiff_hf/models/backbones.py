"""Image encoders and their mirrored decoders (Section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def _norm(norm: str, channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(8, channels)] if norm == "group" else []


def cnn(
    in_channels: int, image_size: int, channels: Sequence[int], hidden_dim: int, latent_dim: int, norm: str
) -> tuple[nn.Module, nn.Module]:
    """The paper's baseline: four convolutions (4x4, stride 2) and two linear layers with ReLU, mirrored in the decoder.

    Args:
        in_channels: C of the images.
        image_size: H = W, a multiple of 16.
        channels: Output channels of the four convolutions.
        hidden_dim: Width between the two linear layers.
        latent_dim: D.
        norm: `group` for GroupNorm after each convolution, `none` for none.

    Returns:
        The encoder `(B, C, H, W) -> (B, 2 D)` (mean and logvar) and the decoder `(B, D) -> (B, C, H, W)`.
    """
    side = image_size // 16
    widths = [in_channels, *channels]
    encoder: list[nn.Module] = []
    for before, after in pairwise(widths):
        encoder += [nn.Conv2d(before, after, 4, stride=2, padding=1), *_norm(norm, after), nn.ReLU()]
    flat = widths[-1] * side * side
    encoder += [nn.Flatten(), nn.Linear(flat, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 2 * latent_dim)]

    decoder: list[nn.Module] = [
        nn.Linear(latent_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, flat),
        nn.ReLU(),
    ]
    decoder += [nn.Unflatten(1, (widths[-1], side, side))]
    for before, after in pairwise(reversed(widths[1:])):
        decoder += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1), *_norm(norm, after), nn.ReLU()]
    decoder += [nn.ConvTranspose2d(widths[1], in_channels, 4, stride=2, padding=1)]
    return nn.Sequential(*encoder), nn.Sequential(*decoder)


BACKBONES = {"cnn": cnn}
