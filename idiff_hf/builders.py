"""Config to components: the one place that turns names into classes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from torch import Tensor, nn

from .arguments import config_from_yaml
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
from .models import (
    AdditiveConditioning,
    Autoencoder,
    Conditioning,
    IVAEModel,
    NoConditioning,
    ScaleShiftConditioning,
    TokenConditioning,
    load_pretrained_encoder,
)
from .pipelines import IVAEDiffusionPipeline
from .processes import leave_group_at_exit
from .random import generator, key
from .schedulers import VPSDEScheduler

CPU_BUCKET_MB = 1000
"""Of gradients that processes on a CPU exchange in one message: more than a network of a CPU has."""


def build_accelerator(config: Config) -> Accelerator:
    """What trains on one process or many; on a CPU it gives this process its share of the cores as threads."""
    leave_group_at_exit()
    accelerator = Accelerator(
        mixed_precision=config.train.mixed_precision,
        log_with=None if config.train.report_to == "none" else config.train.report_to,
        project_dir=config.train.output_dir,
        # the parts that do not learn in a stage have no gradient
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)
        ],
    )
    if accelerator.device.type == "cpu":
        # `accelerate launch` leaves one thread to a process, whatever the machine has
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // accelerator.num_processes))
        # sent early, gradients would only take the core from those that are still computed
        accelerator.ddp_handler.bucket_cap_mb = CPU_BUCKET_MB
    return accelerator


STREAM_HELD_OUT = 1000
"""Held-out images of a stream that are kept, unless more are asked for."""


def same_rows(one: DataConfig, other: DataConfig) -> bool:
    """Whether two configs name one set: images of one's own by their place, all others by name, for their sources have the same rows."""
    return one.name == other.name and (one.name != "own" or one.path == other.path)


def open_dataset(
    data: DataConfig,
    seed: int = 0,
    device: torch.device | str = "cpu",
    num_held_out: int = STREAM_HELD_OUT,
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


def scored_rows(config: Config, held_out: Tensor) -> Tensor:
    """Held-out rows in the order in which evaluation takes them, `eval.num_samples` of them at most."""
    order = torch.randperm(len(held_out), generator=generator(config.train.seed, "evaluation"))
    return held_out[order[: config.eval.num_samples]]


def check_scored(config: Config, dataset: ImageDataset) -> None:
    """Refuse, before anything is trained, own data whose held-out rows leave the scores of the latents undefined.

    A grid of factors has every value there; the held-out rows of a stream are not known before it is read.

    Raises:
        ValueError: One line: a row, or one value of a factor, is all that is held out.
    """
    if config.data.name != "own" or config.data.streaming or not (config.model.ivae and dataset.factor_names):
        return
    _, held_out = dataset.split(config.data.held_out, config.train.seed)
    rows = scored_rows(config, held_out)
    factors = dataset.factors(rows)
    constant = [name for k, name in enumerate(dataset.factor_names) if (factors[:, k] == factors[0, k]).all()]
    if constant:
        raise ValueError(
            f"data.held_out={config.data.held_out} of {len(dataset)} images leaves {len(rows)} to be scored on, in which factor "
            f"{constant[0]!r} has one value: raise data.held_out, take another train.seed, or leave the factor out"
        )


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
    """The scheduler that the pipeline is saved with. Both clip the predicted x_0 to [-1, 1] where it is an image."""
    scheduler = build_scheduler(config)
    # latents have no bounds
    clips = config.autoencoder.type == "none"
    if config.scheduler.solver != "dpm_solver":
        return VPSDEScheduler.from_config(
            scheduler.config,
            solver=config.scheduler.solver,
            time_grid=config.scheduler.time_grid,
            snr=config.scheduler.snr,
            clip_sample=clips,
            clip_sample_range=1.0,
        )
    return DPMSolverMultistepScheduler.from_config(scheduler.config, thresholding=clips, sample_max_value=1.0)


def build_unet(config: Config, in_channels: int) -> UNet2DModel | UNet2DConditionModel:
    """A stock U-Net over `in_channels * patch_size**2` channels that takes the condition of `unet.conditioning`."""
    unet = config.unet
    depth = len(unet.block_out_channels)
    channels = in_channels * unet.patch_size**2
    shared: dict[str, Any] = {
        "sample_size": config.data.image_size // config.autoencoder.downsampling // unet.patch_size,
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": unet.layers_per_block,
        "block_out_channels": unet.block_out_channels,
        "norm_num_groups": unet.norm_num_groups,
        "resnet_time_scale_shift": unet.resnet_time_scale_shift,
    }
    if unet.conditioning == "tokens":
        attends = [level in unet.cross_attention for level in range(depth)]
        return UNet2DConditionModel(
            **shared,
            down_block_types=tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attends),
            mid_block_type="UNetMidBlock2DCrossAttn" if attends[-1] else "UNetMidBlock2D",
            up_block_types=tuple("CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
            cross_attention_dim=unet.token_dim,
            # in diffusers this is the number of heads, whatever its name says
            attention_head_dim=unet.attention_heads,
        )
    kind = ["DownBlock2D"] * (depth - 1) + ["AttnDownBlock2D" if unet.attention else "DownBlock2D"]
    return UNet2DModel(
        **shared,
        down_block_types=tuple(kind),
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(kind)),
        add_attention=unet.attention,
        class_embed_type="identity" if config.model.ivae else None,
    )


def build_autoencoder(config: Config, in_channels: int) -> Autoencoder | None:
    """A stock autoencoder of images for latent diffusion, or None where the diffusion runs on pixels."""
    part = config.autoencoder
    if part.type == "none":
        return None
    levels = len(part.block_out_channels)
    shared: dict[str, Any] = {
        "in_channels": in_channels,
        "out_channels": in_channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": part.block_out_channels,
        "layers_per_block": part.layers_per_block,
        "latent_channels": part.latent_channels,
        "sample_size": config.data.image_size,
        "norm_num_groups": part.norm_num_groups,
    }
    return (
        AutoencoderKL(**shared) if part.type == "kl" else VQModel(**shared, num_vq_embeddings=part.num_codes)
    )


def build_conditioning(config: Config) -> Conditioning:
    """How z enters the U-Net."""
    unet, model = config.unet, config.model
    if not model.ivae:
        return NoConditioning(patch_size=unet.patch_size)
    numbers = model.num_categories if model.latent_type == "categorical" else 1
    null = {"patch_size": unet.patch_size, "null_condition": config.cfg.null_condition}
    if unet.conditioning == "tokens":
        return TokenConditioning(
            num_tokens=model.latent_dim,
            numbers_per_token=numbers,
            token_dim=unet.token_dim,
            hidden_dim=unet.token_hidden_dim,
            **null,
        )
    kind = AdditiveConditioning if unet.conditioning == "additive" else ScaleShiftConditioning
    return kind(model.latent_dim * numbers, 4 * unet.block_out_channels[0], **null)


def build_ivae(config: Config, dataset: ImageDataset) -> IVAEModel:
    """The iVAE, from `model.pretrained_ivae` where it is given.

    Raises:
        ValueError: One line, where the iVAE of `model.pretrained_ivae` is another than the config's, or cannot be loaded.
    """
    auxiliary, observed, model = build_auxiliary(config, dataset), dataset.observed, config.model
    ivae = IVAEModel(
        image_size=dataset.image_size,
        in_channels=dataset.channels,
        backbone=model.backbone,
        channels=model.channels,
        hidden_dim=model.hidden_dim,
        norm=model.norm,
        latent_dim=model.latent_dim,
        latent_type=model.latent_type,
        num_categories=model.num_categories,
        uniform_mix=model.uniform_mix,
        logvar_bounds=model.logvar_bounds,
        num_factors=auxiliary.num_factors,
        prior_type=model.prior_type,
        prior_mean=model.prior_mean,
        prior_family=model.prior_family,
        aux_moments=auxiliary.moments,
        aux_dim=auxiliary.size if auxiliary.moments == "observed" else None,
        aux_columns=None if observed is None else observed.statistics,
        prior_hidden_dim=model.prior_hidden_dim,
        factor_names=dataset.factor_names if observed is None else observed.names,
    )
    if model.pretrained_backbone is not None:
        load_pretrained_encoder(ivae.encoder, model.pretrained_backbone)
    if model.pretrained_ivae is not None:
        _check_split(Path(model.pretrained_ivae), config)
        _copy_ivae(Path(model.pretrained_ivae), ivae)
    return ivae


def _check_split(folder: Path, config: Config) -> None:
    """Refuse an iVAE that has learned from images of the same dataset that this run holds out."""
    path = folder / "config.yaml"
    if not path.is_file():
        return
    theirs = config_from_yaml(path.read_text(encoding="utf-8"))
    if not same_rows(theirs.data, config.data):
        return
    for name, there, here in (
        ("train.seed", theirs.train.seed, config.train.seed),
        ("data.held_out", theirs.data.held_out, config.data.held_out),
    ):
        if there != here:
            raise ValueError(
                f"model.pretrained_ivae={folder} was trained with {name}={there}, this config has {name}={here}, and so holds out images "
                f"that the iVAE has learned: give --{name} {there}"
            )


def _copy_ivae(folder: Path, ivae: IVAEModel) -> None:
    """Fill `ivae` with the weights of a saved pipeline's."""
    saved = IVAEDiffusionPipeline.from_pretrained(folder).ivae
    if saved is None:
        raise ValueError(f"model.pretrained_ivae={folder} has no iVAE: name a pipeline that has one")
    public = [{key: value for key, value in dict(m.config).items() if key[0] != "_"} for m in (saved, ivae)]
    theirs, ours = (json.loads(json.dumps(config)) for config in public)
    for name in ours:
        if theirs[name] != ours[name]:
            raise ValueError(
                f"model.pretrained_ivae={folder} has {name}={theirs[name]}, this config {name}={ours[name]}: let them agree"
            )
    ivae.load_state_dict(saved.state_dict())


def build_objective(config: Config, dataset: ImageDataset) -> IVAEDiffusionLoss:
    """Every trainable part, initialised by `train.seed`, in one module."""
    torch.manual_seed(key(config.train.seed, "init"))
    ivae = build_ivae(config, dataset) if config.model.ivae else None
    unet: UNet2DModel | UNet2DConditionModel | None = None
    conditioning: Conditioning | None = None
    vae: Autoencoder | None = None
    if config.model.diffusion:
        vae = build_autoencoder(config, dataset.channels)
        unet = build_unet(config, dataset.channels if vae is None else config.autoencoder.latent_channels)
        conditioning = build_conditioning(config)
    return IVAEDiffusionLoss(config, ivae, unet, conditioning, build_scheduler(config), vae)


def parameter_groups(objective: IVAEDiffusionLoss) -> dict[str, nn.ModuleList]:
    """The parts with an optimiser of their own: `ivae`, unless it is frozen, `autoencoder`, and `unet` with its conditioning."""
    groups = {}
    if objective.vae is not None:
        groups["autoencoder"] = nn.ModuleList([objective.vae])
    if objective.ivae is not None and objective.config.model.learns_ivae:
        groups["ivae"] = nn.ModuleList([objective.ivae])
    if objective.unet is not None and objective.conditioning is not None:
        groups["unet"] = nn.ModuleList([objective.unet, objective.conditioning])
    return groups


def build_pipeline(config: Config, objective: IVAEDiffusionLoss) -> IVAEDiffusionPipeline:
    """The parts as a pipeline for inference."""
    solver = build_solver(config) if objective.unet is not None else None
    if objective.vae is not None:
        objective.vae.register_to_config(scaling_factor=float(objective.scaling_factor))
    return IVAEDiffusionPipeline(
        objective.ivae, objective.unet, objective.conditioning, solver, objective.vae
    )
