"""Encoders and their mirrored decoders (Section 2.3).

A backbone returns the encoder `(B, C, H, W) -> (B, 2 D)` (mean and logvar) and the decoder `(B, D) -> (B, C, H, W)`. Its arguments are
the entries of `IVAEModel`'s config that it needs, by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn


def _norm(norm: str, channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(8, channels)] if norm == "group" else []


def cnn(
    *, in_channels: int, image_size: int, channels: Sequence[int], hidden_dim: int, latent_dim: int, norm: str
) -> tuple[nn.Module, nn.Module]:
    """The paper's baseline: four convolutions (4x4, stride 2) and two linear layers with ReLU, mirrored in the decoder.

    Args:
        in_channels: C of the images.
        image_size: H = W, a multiple of 16.
        channels: Output channels of the four convolutions.
        hidden_dim: Width between the two linear layers.
        latent_dim: D.
        norm: `group` for GroupNorm after each convolution, `none` for none.

    Raises:
        ValueError: One line for another size or norm.
    """
    if norm not in ("group", "none"):
        raise ValueError(f"norm must be group or none, got {norm!r}")
    if image_size % 16:
        raise ValueError(f"image_size must be a multiple of 16 for backbone 'cnn', got {image_size}")
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


def mlp(
    *, in_channels: int, image_size: int, hidden_dim: int, latent_dim: int
) -> tuple[nn.Module, nn.Module]:
    """For vectors (Section 3.1): two hidden layers with LeakyReLU of slope 0.2, mirrored in the decoder.

    Args:
        in_channels: C; a vector of n numbers is an image of n channels.
        image_size: H = W; 1 for vectors.
        hidden_dim: Width of the hidden layers.
        latent_dim: D.
    """
    shape = (in_channels, image_size, image_size)
    flat = in_channels * image_size**2

    def layers(before: int, after: int) -> list[nn.Module]:
        # nearer to linear than the default slope of 0.01, with which a Gaussian prior bends the axes more
        hidden = [nn.Linear(before, hidden_dim), nn.LeakyReLU(0.2)]
        return [*hidden, nn.Linear(hidden_dim, hidden_dim), nn.LeakyReLU(0.2), nn.Linear(hidden_dim, after)]

    encoder = nn.Sequential(nn.Flatten(), *layers(flat, 2 * latent_dim))
    return encoder, nn.Sequential(*layers(latent_dim, flat), nn.Unflatten(1, shape))


BACKBONES: dict[str, Callable[..., tuple[nn.Module, nn.Module]]] = {"cnn": cnn, "mlp": mlp}
