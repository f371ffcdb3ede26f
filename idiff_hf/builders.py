"""Config to components: the one place that turns names into classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DModel
from torch import nn

from .config import Config, DataConfig
from .data import (
    AUXILIARY,
    RENDERERS,
    Auxiliary,
    ImageDataset,
    ImageStream,
    NormalFirst,
    Observed,
    Rotation,
    StreamedHeldOut,
    StreamingBatches,
    TrainingBatches,
    open_file,
    open_hub_grid,
    open_own,
)
from .losses import IVAEDiffusionLoss
from .models import AdditiveConditioning, IVAEModel
from .pipelines import IVAEDiffusionPipeline
from .random import key
from .schedulers import VPSDEScheduler


def open_dataset(
    data: DataConfig, seed: int = 0, device: torch.device | str = "cpu", num_held_out: int = 1000
) -> ImageDataset:
    """The dataset that gives images on `device`.

    Args:
        data: Which one.
        seed: Of what a dataset draws for itself: the rotation of `rotation`, the held-out images of a stream.
        device: Where images are put.
        num_held_out: Of a stream, the held-out images that are kept; the rest is seen in training only.

    Raises:
        ValueError: One line, where files are missing or are not what they should be.
    """
    if data.name == "rotation":
        return Rotation(data.rotation_dim, seed, device=device)
    if data.streaming:
        return StreamedHeldOut(ImageStream(data, seed), num_held_out, device)
    if data.name == "own":
        return open_own(data, device)
    if data.source == "rendered":
        return RENDERERS[data.name](image_size=data.image_size, device=device)
    assert data.path is not None
    cache = None if data.cache_dir is None else Path(data.cache_dir)
    if data.source == "file":
        return open_file(data.name, Path(data.path), data.image_size, cache, device)
    return open_hub_grid(data.name, data.path, data.split, data.image_column, data.image_size, cache, device)


def build_dataset(config: Config, device: torch.device | str = "cpu") -> ImageDataset:
    """The dataset of an experiment, see `open_dataset`."""
    return open_dataset(config.data, config.train.seed, device, config.eval.num_samples)


def build_auxiliary(config: Config, dataset: ImageDataset) -> Auxiliary | NormalFirst | Observed:
    """u: drawn given z, drawn before z, or observed beside the images of `dataset`."""
    aux, num_factors = config.aux, len(dataset.factor_names)
    if dataset.observed is not None:
        return dataset.observed
    if aux.name == "normal":
        return NormalFirst(num_factors, modulate_mean=aux.modulate_mean)
    options = {"uniform_posterior": {"num_bins": aux.num_bins}, "interval": {"num_cuts": aux.num_cuts}}
    return AUXILIARY[aux.name](num_factors, **options.get(aux.name, {}))


def build_batches(
    config: Config, dataset: ImageDataset, rank: int = 0, world_size: int = 1
) -> TrainingBatches | StreamingBatches:
    """Training batches over the rows that are not held out; of a stream, the share of process `rank` out of `world_size`."""
    if isinstance(dataset, StreamedHeldOut):
        return StreamingBatches(dataset.stream, rank, world_size)
    train, _ = dataset.split(config.data.held_out, config.train.seed)
    auxiliary = build_auxiliary(config, dataset)
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
    if config.scheduler.solver != "dpm_solver":
        return VPSDEScheduler.from_config(
            scheduler.config,
            solver=config.scheduler.solver,
            time_grid=config.scheduler.time_grid,
            snr=config.scheduler.snr,
            clip_sample=True,
            clip_sample_range=1.0,
        )
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


def build_objective(config: Config, dataset: ImageDataset) -> IVAEDiffusionLoss:
    """Every trainable part, initialised by `train.seed`, in one module."""
    auxiliary = build_auxiliary(config, dataset)
    observed = dataset.observed
    torch.manual_seed(key(config.train.seed, "init"))
    ivae = IVAEModel(
        image_size=dataset.image_size,
        in_channels=dataset.channels,
        backbone=config.model.backbone,
        channels=config.model.channels,
        hidden_dim=config.model.hidden_dim,
        norm=config.model.norm,
        latent_dim=config.model.latent_dim,
        num_factors=auxiliary.num_factors,
        prior_type=config.model.prior_type,
        prior_family=config.model.prior_family,
        aux_moments=auxiliary.moments,
        aux_dim=auxiliary.size if auxiliary.moments == "observed" else None,
        aux_columns=None if observed is None else observed.statistics,
        prior_hidden_dim=config.model.prior_hidden_dim,
        factor_names=dataset.factor_names if observed is None else observed.names,
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
