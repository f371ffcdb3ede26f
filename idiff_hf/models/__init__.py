"""Networks: the iVAE, the condition of the U-Net, and the autoencoder that it may run in."""

from .autoencoder import Autoencoder, autoencode, decode_latents, encode_latents
from .backbones import BACKBONES, load_pretrained_encoder
from .conditioning import (
    CONDITIONINGS,
    AdditiveConditioning,
    Conditioning,
    NoConditioning,
    ScaleShiftConditioning,
    TokenConditioning,
    denoise,
)
from .ivae import IVAEModel
from .strict import check_config_keys, load_strict

__all__ = [
    "BACKBONES",
    "CONDITIONINGS",
    "AdditiveConditioning",
    "Autoencoder",
    "Conditioning",
    "IVAEModel",
    "NoConditioning",
    "ScaleShiftConditioning",
    "TokenConditioning",
    "autoencode",
    "check_config_keys",
    "decode_latents",
    "denoise",
    "encode_latents",
    "load_pretrained_encoder",
    "load_strict",
]
