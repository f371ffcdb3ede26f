"""Config to components: the one place that turns names into classes."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DModel
from torch import nn

from .config import Config
from .data import AUXILIARY, DATASETS, TrainingBatches
from .losses import IVAEDiffusionLoss
from .models import AdditiveConditioning, IVAEModel
from .pipelines import IVAEDiffusionPipeline
from .random import key
from .schedulers import VPSDEScheduler


def build_dataset(config: Config, device: torch.device | str = "cpu") -> Any:
    """The dataset that renders factors to uint8 images on `device`."""
    return DATASETS[config.data.name](image_size=config.data.image_size, device=device)


def build_auxiliary(config: Config, num_factors: int) -> Any:
    """u given z."""
    options = {"num_bins": config.aux.num_bins} if config.aux.name == "uniform_posterior" else {}
    return AUXILIARY[config.aux.name](num_factors, **options)


def build_batches(config: Config, dataset: Any) -> TrainingBatches:
    """Training batches over the combinations that are not held out."""
    train, _ = dataset.factor_space.split(config.data.held_out, config.train.seed)
    auxiliary = build_auxiliary(config, len(dataset.factor_space.sizes))
    return TrainingBatches(
        dataset, auxiliary, train, config.train.seed, config.aux.label_to_z, config.aux.jitter
    )


def build_scheduler(config: Config) -> VPSDEScheduler:
    """The SDE, with every key passed."""
    return VPSDEScheduler(
        num_train_timesteps=config.scheduler.num_train_timesteps,
        beta_min=config.scheduler.beta_min,
        beta_max=config.scheduler.beta_max,
        sampling_eps=config.scheduler.sampling_eps,
        prediction_type=config.unet.prediction_type,
    )


def build_solver(config: Config) -> Any:
    """The scheduler that the pipeline is saved with. Both clip the predicted x_0 to [-1, 1]."""
    scheduler = build_scheduler(config)
    if config.scheduler.solver == "euler_maruyama":
        return VPSDEScheduler.from_config(scheduler.config, clip_sample=True, clip_sample_range=1.0)
    return DPMSolverMultistepScheduler.from_config(scheduler.config, thresholding=True, sample_max_value=1.0)


def build_unet(config: Config, in_channels: int) -> UNet2DModel:
    """A stock U-Net over `in_channels * patch_size**2` channels whose class embedding takes the condition."""
    unet = config.unet
    depth = len(unet.block_out_channels)
    kind = ["DownBlock2D"] * (depth - 1) + ["AttnDownBlock2D" if unet.attention else "DownBlock2D"]
    channels = in_channels * unet.patch_size**2
    return UNet2DModel(
        sample_size=config.data.image_size // unet.patch_size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=unet.layers_per_block,
        block_out_channels=unet.block_out_channels,
        down_block_types=tuple(kind),
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(kind)),
        norm_num_groups=unet.norm_num_groups,
        add_attention=unet.attention,
        class_embed_type="identity",
        resnet_time_scale_shift=unet.resnet_time_scale_shift,
    )


def build_objective(config: Config, dataset: Any) -> IVAEDiffusionLoss:
    """Every trainable part, initialised by `train.seed`, in one module."""
    space = dataset.factor_space
    auxiliary = build_auxiliary(config, len(space.sizes))
    torch.manual_seed(key(config.train.seed, "init"))
    ivae = IVAEModel(
        image_size=config.data.image_size,
        in_channels=dataset.channels,
        backbone=config.model.backbone,
        channels=config.model.channels,
        hidden_dim=config.model.hidden_dim,
        norm=config.model.norm,
        latent_dim=config.model.latent_dim,
        num_factors=len(space.sizes),
        prior_type=config.model.prior_type,
        aux_moments=auxiliary.moments,
        prior_hidden_dim=config.model.prior_hidden_dim,
        factor_names=space.names,
    )
    unet: UNet2DModel | None = None
    conditioning: AdditiveConditioning | None = None
    if config.model.diffusion:
        unet = build_unet(config, dataset.channels)
        conditioning = AdditiveConditioning(
            config.model.latent_dim, 4 * config.unet.block_out_channels[0], config.unet.patch_size
        )
    return IVAEDiffusionLoss(config, ivae, unet, conditioning, build_scheduler(config))


def parameter_groups(objective: IVAEDiffusionLoss) -> dict[str, nn.ModuleList]:
    """The two parts that have an optimiser of their own: `ivae`, and `unet` with its conditioning where there is one."""
    groups = {"ivae": nn.ModuleList([objective.ivae])}
    if objective.unet is not None and objective.conditioning is not None:
        groups["unet"] = nn.ModuleList([objective.unet, objective.conditioning])
    return groups


def build_pipeline(config: Config, objective: IVAEDiffusionLoss) -> IVAEDiffusionPipeline:
    """The parts as a pipeline for inference."""
    solver = build_solver(config) if objective.unet is not None else None
    return IVAEDiffusionPipeline(objective.ivae, objective.unet, objective.conditioning, solver)
