"""Networks: the iVAE and the condition of the U-Net."""

from .backbones import BACKBONES
from .conditioning import AdditiveConditioning, denoise
from .ivae import IVAEModel
from .strict import check_config_keys, load_strict

__all__ = ["BACKBONES", "AdditiveConditioning", "IVAEModel", "check_config_keys", "denoise", "load_strict"]
