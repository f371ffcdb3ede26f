"""Encoders and their mirrored decoders (Section 2.3).

A backbone returns the encoder `(B, C, H, W) -> (B, encoder_dim)` and the decoder `(B, code_dim) -> (B, C, H, W)`. Its arguments are these
two widths, which follow from the kind of latents, and the entries of `IVAEModel`'s config that it needs, by their names.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .cnn import cnn
from .mlp import mlp
from .norm import GlobalBatchNorm2d
from .resnet import load_pretrained_encoder, resnet18, resnet50

BACKBONES: dict[str, Callable[..., tuple[nn.Module, nn.Module]]] = {
    "cnn": cnn,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mlp": mlp,
}

__all__ = ["BACKBONES", "GlobalBatchNorm2d", "cnn", "load_pretrained_encoder", "mlp", "resnet18", "resnet50"]
