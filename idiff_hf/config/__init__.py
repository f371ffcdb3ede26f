"""Configuration of one experiment: frozen, typed dataclasses, checked when they are built.

A YAML file and the command line both fill these classes (see `idiff_hf.arguments`); the resolved configuration is saved with every
checkpoint and beside every result. Each field says what it means, its range, and what the paper used.
"""

from __future__ import annotations

from .autoencoder import AutoencoderConfig
from .data import GRID_DATASETS, AuxConfig, DataConfig
from .diffusion import CFGConfig, SchedulerConfig, UNetConfig
from .experiment import Config
from .hub import HubConfig
from .loss import LossConfig
from .model import RECIPROCAL, RESNETS, ModelConfig
from .run import BLOCK_SIZE, EvalConfig, OptimConfig, TrainConfig

__all__ = [
    "BLOCK_SIZE",
    "GRID_DATASETS",
    "RECIPROCAL",
    "RESNETS",
    "AutoencoderConfig",
    "AuxConfig",
    "CFGConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "HubConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "SchedulerConfig",
    "TrainConfig",
    "UNetConfig",
]
