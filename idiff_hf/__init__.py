"""Disentangled, identifiable diffusion models.

diffusers resolves the components of a saved pipeline by the names bound in this module, so the public classes, and the base classes it
checks them against, are imported here and not lazily.
"""

from diffusers import ConfigMixin, ModelMixin, SchedulerMixin

from .config import Config
from .data import DSprites, Shapes3D
from .models import AdditiveConditioning, IVAEModel, NoConditioning, ScaleShiftConditioning, TokenConditioning
from .pipelines import IVAEDiffusionPipeline, IVAEDiffusionPipelineOutput
from .schedulers import VPSDEScheduler

__version__ = "0.1.0"

__all__ = [
    "AdditiveConditioning",
    "Config",
    "ConfigMixin",
    "DSprites",
    "IVAEDiffusionPipeline",
    "IVAEDiffusionPipelineOutput",
    "IVAEModel",
    "ModelMixin",
    "NoConditioning",
    "ScaleShiftConditioning",
    "SchedulerMixin",
    "Shapes3D",
    "TokenConditioning",
    "VPSDEScheduler",
]
