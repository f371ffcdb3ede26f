"""What a model is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .config import Config, OptimConfig


def has_known_prior(config: Config) -> bool:
    """Whether u states moments of the factors, so that a known prior, and with it the supervision baseline, is there."""
    return config.aux.name not in ("none", "observed")


def supervision_baseline(config: Config) -> Config:
    """The same encoder trained on the KL to the known prior alone, for as many steps: what u gives without a generative model."""
    stop = config.stop_step(config.optim_ivae)
    window = replace(config.optim_ivae, start_step=0, stop_step=None)
    return replace(
        config,
        model=replace(config.model, prior_type="known", diffusion=False),
        loss=replace(config.loss, rec=0.0, latent_grad_scale=0.0),
        optim_ivae=window,
        optim_unet=OptimConfig(),
        train=replace(
            config.train,
            output_dir=str(Path(config.train.output_dir) / "supervision_baseline"),
            max_train_steps=stop - config.optim_ivae.start_step,
            resume_from_checkpoint="latest",
            report_to="none",
        ),
    )
