"""A tiny pipeline of each type of model, 16x16, untrained, whose U-Net's condition can be seen."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DModel, VQModel

from idiff_hf import AdditiveConditioning, IVAEDiffusionPipeline
from idiff_hf.builders import build_dataset, build_objective, build_pipeline
from idiff_hf.config import AuxConfig, OptimConfig
from tests.tiny import joint, tiny_config

KINDS = (
    "additive",
    "scale_shift",
    "tokens",
    "distances",
    "categorical",
    "categorical_tokens",
    "unconditional",
    "kl",
    "vq",
)
"""Of model: how the latents enter, and for `kl` and `vq` latent diffusion in such an autoencoder."""

CONDITIONAL = tuple(kind for kind in KINDS if kind != "unconditional")


def make(
    kind: str = "additive", solver: str = "dpm_solver", prediction_type: str = "sample", **model: Any
) -> IVAEDiffusionPipeline:
    """A pipeline of one of `KINDS`; `model` changes fields of `ModelConfig`."""
    config = joint(tiny_config("unused"))
    if kind.startswith("categorical"):
        model = {"latent_type": "categorical", "num_categories": 5, "prior_type": "per_dimension", **model}
    unet = replace(config.unet, prediction_type=prediction_type)  # type: ignore[arg-type]
    others: dict[str, Any] = {}
    if kind == "distances":
        model = {"prior_type": "known", "prior_family": "half_reciprocal", **model}
        others = {"aux": AuxConfig(name="uniform_posterior", label_to_z="centers")}
    if kind.endswith("tokens"):
        unet = replace(unet, conditioning="tokens", attention_heads=2, token_dim=8, token_hidden_dim=8)
    if kind == "scale_shift":
        unet = replace(unet, conditioning="scale_shift")
    if kind == "unconditional":
        model = {"ivae": False, "prior_type": "standard", **model}
        others = {"aux": AuxConfig(name="none"), "optim_ivae": OptimConfig()}
        config = replace(config, loss=replace(config.loss, latent_grad_scale=0.0))
    config = replace(
        config,
        scheduler=replace(config.scheduler, solver=solver),  # type: ignore[arg-type]
        model=replace(config.model, **model),
        unet=unet,
        **others,
    )
    objective = build_objective(config, build_dataset(config))
    if kind in ("kl", "vq"):
        _into_latents(objective, kind)
    pipeline = build_pipeline(config, objective.eval())
    if kind in ("kl", "vq"):
        pipeline.register_modules(vae=_autoencoder(kind))
    if objective.conditioning is not None:
        # an untrained projection is too faint for guidance to be seen
        source = torch.Generator().manual_seed(0)
        for parameter in objective.conditioning.parameters():
            torch.nn.init.normal_(parameter, generator=source)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@cache
def one(kind: str) -> IVAEDiffusionPipeline:
    """The pipeline of a kind that tests share, which leave it as it was."""
    return make(kind)


def _autoencoder(kind: str) -> AutoencoderKL | VQModel:
    shape: dict[str, Any] = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "sample_size": 16,
        "scaling_factor": 3.0,
    }
    torch.manual_seed(0)
    return (AutoencoderKL if kind == "kl" else VQModel)(**shape).eval()


def _into_latents(objective: Any, kind: str) -> None:
    """Another U-Net, of 4x8x8 latents in patches of 2."""
    torch.manual_seed(1)
    objective.unet = UNet2DModel(
        sample_size=4,
        in_channels=16,
        out_channels=16,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        add_attention=False,
        class_embed_type="identity",
    )
    objective.conditioning = AdditiveConditioning(6, 32, patch_size=2)


def seeds(count: int, first: int = 0) -> list[torch.Generator]:
    """A generator for each image."""
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def source(pipeline: IVAEDiffusionPipeline, count: int, seed: int = 0) -> dict[str, Any]:
    """What a call draws `count` images from."""
    if pipeline.ivae is None:
        return {"batch_size": count}
    z = torch.randn(count, pipeline.latent_dim, generator=torch.Generator().manual_seed(seed))
    if pipeline.ivae.config["latent_type"] == "categorical":
        classes = pipeline.ivae.config["num_categories"]
        return {
            "latents": torch.nn.functional.one_hot(z.view(count, -1, classes).argmax(2), classes)
            .flatten(1)
            .float()
        }
    return {"latents": z}
