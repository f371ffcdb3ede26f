"""Disentangled, identifiable diffusion models.

A public name is imported when it is first asked for, so that the command line answers without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config
    from .data import DSprites, Shapes3D
    from .models import (
        AdditiveConditioning,
        IVAEModel,
        NoConditioning,
        ScaleShiftConditioning,
        TokenConditioning,
    )
    from .pipelines import IVAEDiffusionPipeline, IVAEDiffusionPipelineOutput
    from .schedulers import VPSDEScheduler

__version__ = "0.1.0"

__all__ = [
    "AdditiveConditioning",
    "Config",
    "DSprites",
    "IVAEDiffusionPipeline",
    "IVAEDiffusionPipelineOutput",
    "IVAEModel",
    "NoConditioning",
    "ScaleShiftConditioning",
    "Shapes3D",
    "TokenConditioning",
    "VPSDEScheduler",
]

_ROOMS = {
    "config": ("Config",),
    "data": ("DSprites", "Shapes3D"),
    "models": (
        "AdditiveConditioning",
        "IVAEModel",
        "NoConditioning",
        "ScaleShiftConditioning",
        "TokenConditioning",
    ),
    "pipelines": ("IVAEDiffusionPipeline", "IVAEDiffusionPipelineOutput"),
    "schedulers": ("VPSDEScheduler",),
}


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f".{room}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
