"""The paper's baseline: a shallow convolutional encoder and its mirrored decoder (Section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from .norm import check_norm, norm_layers

_GROUPS = 8


def cnn(
    *,
    in_channels: int,
    image_size: int,
    encoder_dim: int,
    code_dim: int,
    channels: Sequence[int],
    hidden_dim: int,
    norm: str,
) -> tuple[nn.Module, nn.Module]:
    """Four convolutions (4x4, stride 2) and two linear layers with ReLU, mirrored in the decoder.

    Args:
        in_channels: C of the images.
        image_size: H = W, a multiple of 16.
        encoder_dim: Width of the encoder's output.
        code_dim: Width of the decoder's input.
        channels: Output channels of the four convolutions.
        hidden_dim: Width between the two linear layers.
        norm: What follows each convolution but the last of the decoder: `group`, `batch` over the batch of all processes, or `none`.

    Returns:
        The encoder `(B, C, H, W) -> (B, encoder_dim)` and the decoder `(B, code_dim) -> (B, C, H, W)`.

    Raises:
        ValueError: One line for another size or norm.
    """
    check_norm(norm, ("group", "batch", "none"))
    if image_size % 16:
        raise ValueError(f"image_size must be a multiple of 16 for backbone 'cnn', got {image_size}")
    side = image_size // 16
    widths = [in_channels, *channels]
    encoder: list[nn.Module] = []
    for before, after in pairwise(widths):
        convolution = nn.Conv2d(before, after, 4, stride=2, padding=1)
        encoder += [convolution, *norm_layers(norm, after, _GROUPS), nn.ReLU()]
    flat = widths[-1] * side * side
    encoder += [nn.Flatten(), nn.Linear(flat, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, encoder_dim)]

    decoder: list[nn.Module] = [
        nn.Linear(code_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, flat),
        nn.ReLU(),
    ]
    decoder += [nn.Unflatten(1, (widths[-1], side, side))]
    for before, after in pairwise(reversed(widths[1:])):
        transposed = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)
        decoder += [transposed, *norm_layers(norm, after, _GROUPS), nn.ReLU()]
    decoder += [nn.ConvTranspose2d(widths[1], in_channels, 4, stride=2, padding=1)]
    return nn.Sequential(*encoder), nn.Sequential(*decoder)
