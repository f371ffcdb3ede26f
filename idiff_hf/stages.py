"""What follows from the step alone: which part learns, with what weight and at what rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .annealing import anneal
from .config import Config, OptimConfig


@dataclass(frozen=True)
class Phase:
    """What is trained at one optimiser step, a pure function of the config and the step.

    Args:
        ivae: The iVAE's terms are in the loss and its parameters learn.
        unet: The DDPM term is in the loss and the U-Net learns.
        released: A `released` prior is released.
        kl_weight: lambda_KL times its annealing factor, and before the release times `kl_before_release`.
        kl_temperature: T of the KL term.
        autoencoder: The autoencoder's terms are in the loss and it learns.
    """

    ivae: bool
    unet: bool
    released: bool
    kl_weight: float
    kl_temperature: float = 1.0
    autoencoder: bool = False


def phase(config: Config, step: int) -> Phase:
    """The phase of optimiser step `step`: windows of all parts, release of the prior, annealing of the KL weight."""
    ivae_start, ivae_stop = config.optim_ivae.start_step, config.stop_step(config.optim_ivae)
    active = {
        name: window.start_step <= step < config.stop_step(window) for name, window in config.windows.items()
    }
    progress, loss = (step - ivae_start) / (ivae_stop - ivae_start), config.loss
    factor = anneal(
        min(max(progress, 0.0), 1.0),
        factor=loss.kl_anneal_factor,
        hold=loss.kl_anneal_hold,
        end=loss.kl_anneal_end,
        shape=loss.kl_anneal_shape,
        cycles=loss.kl_anneal_cycles,
    )
    released = progress >= config.model.prior_release
    return Phase(
        ivae=active.get("optim_ivae", False),
        unet=active.get("optim_unet", False),
        released=released,
        kl_weight=loss.kl * factor * (1.0 if released else loss.kl_before_release),
        kl_temperature=loss.kl_temperature if progress >= loss.kl_temperature_start else 1.0,
        autoencoder=active.get("optim_autoencoder", False),
    )


def learning_rate(optim: OptimConfig, stop_step: int, step: int) -> float:
    """The learning rate at optimiser step `step`, a pure function: linear warm-up, then constant or a cosine to the end of the window."""
    done = step - optim.start_step
    warm = min(1.0, (done + 1) / optim.lr_warmup_steps) if optim.lr_warmup_steps else 1.0
    if optim.lr_scheduler == "constant":
        return optim.learning_rate * warm
    length = max(1, stop_step - optim.start_step - optim.lr_warmup_steps)
    progress = min(1.0, max(0, done - optim.lr_warmup_steps) / length)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return optim.learning_rate * warm * (optim.lr_end_factor + (1.0 - optim.lr_end_factor) * cosine)
