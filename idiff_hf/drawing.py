"""Images that a model draws of held-out rows, by all processes together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .config import Config
from .data import ImageDataset
from .pipelines import IVAEDiffusionPipeline
from .processes import map_batches
from .random import generator

DRAWN_AT_A_TIME = 32
"""Images: few enough for any memory, and as many on any number of processes, so that each image is the same."""


def draw_rows(
    config: Config, pipeline: IVAEDiffusionPipeline, dataset: ImageDataset, rows: Tensor
) -> dict[str, Tensor]:
    """What a model draws from the latents of these rows, or beside them; every process has to call this, and gets all images.

    Args:
        config: Of its training: seed, guidance scales, solver steps, and whether the iVAE has a decoder that was trained.
        pipeline: The model, of images.
        dataset: The images.
        rows: Row numbers, `(N,)`.

    Returns:
        Images `(N, C, H, W)` in [0, 1], each from noise of its own: `ivae` by its decoder, left out where lambda_rec = 0 left it untrained,
        and by each guidance scale, such as `1.0`, those of the diffusion model; of an unconditional model `unconditional`.
    """

    def diffusion(part: Tensor, **condition: Any) -> Tensor:
        images: Tensor = pipeline(
            **condition,
            num_inference_steps=config.eval.num_inference_steps,
            generator=[
                generator(config.train.seed, "generation", i, device=pipeline.device) for i in part.tolist()
            ],
            output_type="pt",
        ).images
        return images.cpu()

    def draw(part: Tensor) -> dict[str, Tensor]:
        if pipeline.ivae is None:
            return {"unconditional": diffusion(part, batch_size=len(part))}
        latents = pipeline.encode(dataset.images(rows[part]))
        images = {"ivae": pipeline.decode(latents, "pt").cpu()} if config.loss.rec > 0 else {}
        if pipeline.unet is not None:
            for scale in config.eval.guidance_scales:
                images[str(float(scale))] = diffusion(part, latents=latents, guidance_scale=scale)
        return images

    parts = map_batches(draw, torch.arange(len(rows)), DRAWN_AT_A_TIME, shared=True, progress="draw")
    return {name: torch.cat([part[name] for part in parts]).to(pipeline.device) for name in parts[0]}
