"""The smallest real experiment: 16x16 images, a few thousand parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from idiff_hf.builders import build_batches, build_dataset, build_objective
from idiff_hf.config import (
    Config,
    DataConfig,
    EvalConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SchedulerConfig,
    TrainConfig,
    UNetConfig,
)
from idiff_hf.losses import IVAEDiffusionLoss
from idiff_hf.random import BatchRandom


def tiny_config(output_dir: Path | str, **train: object) -> Config:
    """Two stages of a tiny model; `train` overrides fields of `TrainConfig`."""
    settings: dict[str, object] = {
        "output_dir": str(output_dir),
        "max_train_steps": 8,
        "train_batch_size": 16,
        "checkpointing_steps": 1,
        "checkpoints_total_limit": 100,
        "report_to": "none",
        "logging_steps": 1,
        "validation_steps": 1000,
    }
    return Config(
        data=DataConfig(image_size=16),
        model=ModelConfig(
            latent_dim=6, channels=(8, 8, 8, 16), hidden_dim=16, prior_hidden_dim=8, prior_type="released"
        ),
        unet=UNetConfig(patch_size=4, block_out_channels=(8,), norm_num_groups=4, prediction_type="sample"),
        scheduler=SchedulerConfig(num_train_timesteps=100),
        loss=LossConfig(kl_anneal_factor=9.0),
        optim_ivae=OptimConfig(stop_step=4, learning_rate=1e-3),
        optim_unet=OptimConfig(start_step=4, learning_rate=1e-3, lr_warmup_steps=2, lr_scheduler="cosine"),
        train=TrainConfig(**{**settings, **train}),  # type: ignore[arg-type]
        eval=EvalConfig(
            num_samples=64,
            num_generated=8,
            num_inference_steps=2,
            supervision_baseline=False,
            supervised_probe=False,
        ),
    )


def joint(config: Config) -> Config:
    """Both parts learn in every step, with the U-Net's gradient reaching the encoder."""
    return replace(
        config,
        loss=replace(config.loss, latent_grad_scale=1.0),
        optim_ivae=replace(config.optim_ivae, stop_step=None),
        optim_unet=replace(config.optim_unet, start_step=0),
    )


def objective_and_inputs(
    config: Config,
) -> tuple[IVAEDiffusionLoss, tuple[torch.Tensor, torch.Tensor, BatchRandom]]:
    """The objective of a config, and what it takes: images, u and draws of 16 rows."""
    dataset = build_dataset(config)
    random = BatchRandom(0, 0, 0, 16, torch.device("cpu"))
    batch = build_batches(config, dataset)(16, random)
    return build_objective(config, dataset), (batch.image, batch.aux, random)
