"""The grid of samples that a run draws now and then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .builders import build_pipeline
from .config import Config
from .data import ImageDataset, to_float
from .figures import channels_last, image_grid, to_uint8
from .interruption import requested
from .losses import IVAEDiffusionLoss
from .models import autoencode
from .pipelines import IVAEDiffusionPipeline

NUM_IMAGES = 8


def draw_sample_grid(
    config: Config, module: IVAEDiffusionLoss, dataset: ImageDataset, done: int, path: Path
) -> None:
    """Held-out images, their reconstruction and, where the U-Net has begun, what it draws, as a PNG; left out when a signal comes.

    Args:
        config: The experiment.
        module: The objective, with the weights to draw with.
        dataset: The images.
        done: Steps of training that are done.
        path: The file.
    """
    _, held_out = dataset.split(config.data.held_out, config.train.seed)
    picked = held_out[torch.linspace(0, len(held_out) - 1, NUM_IMAGES).long()]
    originals = dataset.images(picked)
    pipeline = build_pipeline(config, module)
    pipeline.set_progress_bar_config(disable=True)
    rows, labels = [channels_last(originals)], ["input"]
    if config.model.ivae and config.loss.rec > 0:
        rows.append(to_uint8(pipeline.reconstruct(originals, "np")))
        labels.append("iVAE")
    if module.vae is not None:
        rows.append(to_uint8(channels_last(autoencode(module.vae, to_float(originals)) / 2 + 0.5)))
        labels.append("autoencoder")
    if config.model.diffusion and done > config.optim_unet.start_step:
        generators = [torch.Generator(pipeline.device).manual_seed(i) for i in range(NUM_IMAGES)]
        given: dict[str, Any] = {"images": originals} if config.model.ivae else {"batch_size": NUM_IMAGES}
        drawn = pipeline(
            **given,
            guidance_scale=1.0,
            generator=generators,
            output_type="np",
            callback_on_step_end=_stop_when_requested,
        ).images
        rows.append(to_uint8(drawn))
        labels.append("DDPM")
    if not requested():
        path.parent.mkdir(exist_ok=True)
        image_grid(rows, labels, path)


def _stop_when_requested(
    pipeline: IVAEDiffusionPipeline, step: int, timestep: torch.Tensor, tensors: dict[str, Any]
) -> dict[str, Any]:
    pipeline._interrupt = requested()
    return tensors
