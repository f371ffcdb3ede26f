"""Datasets by row number, the factors behind them, and the auxiliary variables u about them."""

from __future__ import annotations

from .auxiliary import (
    AUXILIARY,
    Auxiliary,
    ExactFactors,
    Interval,
    NoAuxiliary,
    NormalFirst,
    Observed,
    UniformPosterior,
)
from .batches import Batch, TrainingBatches, to_float
from .dataset import FactorDataset, GridDataset, ImageDataset
from .dsprites import ColorDSprites, DSprites, HueDSprites, NoisyDSprites
from .factors import FactorSpace, label_to_z, split_rows
from .files import FileDataset, open_file
from .hub_grid import HubGridDataset, open_hub_grid
from .own import OwnDataset, open_own
from .prefetch import Prefetcher
from .rotation import Rotation
from .shapes3d import Shapes3D
from .stream import ImageStream
from .streaming import StreamedHeldOut, StreamingBatches

# A new renderer adds itself here: name in a config -> class.
RENDERERS = {
    "shapes3d": Shapes3D,
    "dsprites": DSprites,
    "color_dsprites": ColorDSprites,
    "noisy_dsprites": NoisyDSprites,
    "hue_dsprites": HueDSprites,
}

__all__ = [
    "AUXILIARY",
    "RENDERERS",
    "Auxiliary",
    "Batch",
    "ColorDSprites",
    "DSprites",
    "ExactFactors",
    "FactorDataset",
    "FactorSpace",
    "FileDataset",
    "GridDataset",
    "HubGridDataset",
    "HueDSprites",
    "ImageDataset",
    "ImageStream",
    "Interval",
    "NoAuxiliary",
    "NoisyDSprites",
    "NormalFirst",
    "Observed",
    "OwnDataset",
    "Prefetcher",
    "Rotation",
    "Shapes3D",
    "StreamedHeldOut",
    "StreamingBatches",
    "TrainingBatches",
    "UniformPosterior",
    "label_to_z",
    "open_file",
    "open_hub_grid",
    "open_own",
    "split_rows",
    "to_float",
]
