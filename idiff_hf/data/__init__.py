"""Datasets drawn from their factors, the factors themselves, and the auxiliary variables u about them."""

from __future__ import annotations

from .auxiliary import AUXILIARY, Auxiliary, Interval, NoAuxiliary, UniformPosterior, label_to_z
from .batches import Batch, TrainingBatches, to_float
from .factors import FactorSpace
from .shapes3d import Shapes3D

# A new dataset adds itself here: name in a config -> class.
DATASETS = {"shapes3d": Shapes3D}

__all__ = [
    "AUXILIARY",
    "DATASETS",
    "Auxiliary",
    "Batch",
    "FactorSpace",
    "Interval",
    "NoAuxiliary",
    "Shapes3D",
    "TrainingBatches",
    "UniformPosterior",
    "label_to_z",
    "to_float",
]
