"""For vectors (Section 3.1)."""

from __future__ import annotations

from torch import nn


def mlp(
    *, in_channels: int, image_size: int, encoder_dim: int, code_dim: int, hidden_dim: int
) -> tuple[nn.Module, nn.Module]:
    """Two hidden layers with LeakyReLU of slope 0.2, mirrored in the decoder.

    Args:
        in_channels: C; a vector of n numbers is an image of n channels.
        image_size: H = W; 1 for vectors.
        encoder_dim: Width of the encoder's output.
        code_dim: Width of the decoder's input.
        hidden_dim: Width of the hidden layers.

    Returns:
        The encoder `(B, C, H, W) -> (B, encoder_dim)` and the decoder `(B, code_dim) -> (B, C, H, W)`.
    """
    shape = (in_channels, image_size, image_size)
    flat = in_channels * image_size**2

    def layers(before: int, after: int) -> list[nn.Module]:
        # nearer to linear than the default slope of 0.01, with which a Gaussian prior bends the axes more
        hidden = [nn.Linear(before, hidden_dim), nn.LeakyReLU(0.2)]
        return [*hidden, nn.Linear(hidden_dim, hidden_dim), nn.LeakyReLU(0.2), nn.Linear(hidden_dim, after)]

    encoder = nn.Sequential(nn.Flatten(), *layers(flat, encoder_dim))
    return encoder, nn.Sequential(*layers(code_dim, flat), nn.Unflatten(1, shape))
