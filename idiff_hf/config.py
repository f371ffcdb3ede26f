"""Configuration of one experiment: frozen, typed dataclasses, checked when they are built.

A YAML file and the command line both fill these classes (see `idiff_hf.arguments`); the resolved configuration is saved with every
checkpoint and beside every result. Each field says what it means, its range, and what the paper used.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

BLOCK_SIZE = 8
"""Rows of the global batch that share one random generator (`idiff_hf.random`)."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _positive(**values: float) -> None:
    for name, value in values.items():
        _require(value > 0, f"{name} must be positive, got {value}")


def _fraction(**values: float) -> None:
    for name, value in values.items():
        _require(0.0 <= value <= 1.0, f"{name} must lie in [0, 1], got {value}")


@dataclass(frozen=True)
class DataConfig:
    """Which images are seen.

    Args:
        name: The dataset. `shapes3d` is rendered here, nothing is downloaded.
        image_size: Height and width in pixels, even, 16 to 128. The paper: 64.
        held_out: Fraction of the factor combinations kept for evaluation, chosen by `train.seed`. The paper holds out none.
    """

    name: Literal["shapes3d"] = "shapes3d"
    image_size: int = 64
    held_out: float = 0.1

    def __post_init__(self) -> None:
        _require(
            16 <= self.image_size <= 128 and self.image_size % 2 == 0,
            f"data.image_size must be even and from 16 to 128, got {self.image_size}",
        )
        _require(0.0 < self.held_out < 1.0, f"data.held_out must lie in (0, 1), got {self.held_out}")


@dataclass(frozen=True)
class AuxConfig:
    """The auxiliary variable u, what the model is told of the factors while it trains.

    Args:
        name: `uniform_posterior` is the paper's (Section 2.4), `interval` tells on which side of a random cut each factor lies,
            `none` is the VAE baseline.
        label_to_z: `endpoints` maps label k of n to k / (n - 1) - 0.5, `centers` to (k + 0.5) / n - 0.5.
        jitter: With `centers`: shift z uniformly inside its bin, so that its marginal is exactly uniform.
        num_bins: With `uniform_posterior`: 0 draws the variance exactly, 100 is the paper's grid.
    """

    name: Literal["interval", "uniform_posterior", "none"] = "interval"
    label_to_z: Literal["endpoints", "centers"] = "endpoints"
    jitter: bool = False
    num_bins: int = 0

    def __post_init__(self) -> None:
        _require(self.num_bins >= 0, f"aux.num_bins must be 0 (exact) or more, got {self.num_bins}")
        _require(
            self.num_bins == 0 or self.name == "uniform_posterior",
            f"aux.num_bins={self.num_bins} needs aux.name=uniform_posterior, got aux.name={self.name}",
        )
        _require(
            not self.jitter or self.label_to_z == "centers",
            f"aux.jitter=true needs aux.label_to_z=centers, got {self.label_to_z}",
        )


@dataclass(frozen=True)
class ModelConfig:
    """The identifiable VAE (Sections 2.1 and 2.3).

    Args:
        backbone: `cnn` is four convolutions and two linear layers, mirrored in the decoder.
        latent_dim: D. The paper: 10.
        channels: Output channels of the four convolutions.
        hidden_dim: Width of the first linear layer.
        norm: `group` puts GroupNorm after each convolution; the paper has none.
        prior_type: `standard` N(0, I), `learned` an MLP of u (the paper), `known` the moments of u, `released` the known moments plus an
            MLP that starts at zero and is switched on at `prior_release`.
        prior_hidden_dim: Width of the two hidden layers of the prior's MLP.
        prior_release: With `released`: the fraction of the iVAE's steps at which the MLP is switched on.
        diffusion: Train a U-Net on the latents. `false` leaves the iVAE alone.
    """

    backbone: Literal["cnn"] = "cnn"
    latent_dim: int = 10
    channels: tuple[int, ...] = (32, 32, 64, 64)
    hidden_dim: int = 256
    norm: Literal["group", "none"] = "group"
    prior_type: Literal["standard", "learned", "known", "released"] = "learned"
    prior_hidden_dim: int = 128
    prior_release: float = 0.5
    diffusion: bool = True

    def __post_init__(self) -> None:
        _positive(
            **{
                "model.latent_dim": self.latent_dim,
                "model.hidden_dim": self.hidden_dim,
                "model.prior_hidden_dim": self.prior_hidden_dim,
            }
        )
        _require(
            len(self.channels) == 4,
            f"model.channels must have 4 entries, got {len(self.channels)}: {self.channels}",
        )
        _positive(**{"model.channels": min(self.channels)})
        _require(
            self.norm == "none" or all(c % 8 == 0 for c in self.channels),
            f"model.channels must be multiples of 8 with model.norm=group, got {self.channels}",
        )
        _fraction(**{"model.prior_release": self.prior_release})


@dataclass(frozen=True)
class UNetConfig:
    """The stock `UNet2DModel` and what stands before it.

    Args:
        patch_size: Pixel-unshuffle factor p before the U-Net (and shuffle after it): 1 is none. Images have 3 p^2 channels inside.
        block_out_channels: Channels of each resolution.
        layers_per_block: Residual blocks at each resolution.
        norm_num_groups: Groups of its GroupNorm; divides every entry of `block_out_channels`.
        attention: Self-attention at the lowest resolution and in the middle.
        resnet_time_scale_shift: How the time embedding enters a residual block.
        prediction_type: What the network predicts. The paper: `epsilon`.
    """

    patch_size: int = 1
    block_out_channels: tuple[int, ...] = (64, 128, 128)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    attention: bool = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"

    def __post_init__(self) -> None:
        _positive(**{"unet.patch_size": self.patch_size, "unet.layers_per_block": self.layers_per_block})
        _require(len(self.block_out_channels) >= 1, "unet.block_out_channels must not be empty")
        _positive(**{"unet.norm_num_groups": self.norm_num_groups})
        _require(
            all(c > 0 and c % self.norm_num_groups == 0 for c in self.block_out_channels),
            f"unet.block_out_channels must be multiples of unet.norm_num_groups={self.norm_num_groups}, got {self.block_out_channels}",
        )


@dataclass(frozen=True)
class SchedulerConfig:
    """The variance-preserving SDE and the solver that the pipeline is saved with.

    Args:
        num_train_timesteps: Grid of the timestep that the network is given.
        beta_min: beta(0) of the SDE.
        beta_max: beta(1) of the SDE.
        sampling_eps: Smallest time in (0, 1) that is trained on and sampled to.
        solver: `dpm_solver` saves a `DPMSolverMultistepScheduler` (second order, 20 steps suffice), `euler_maruyama` the SDE's own.
    """

    num_train_timesteps: int = 1000
    beta_min: float = 0.1
    beta_max: float = 20.0
    sampling_eps: float = 1e-3
    solver: Literal["dpm_solver", "euler_maruyama"] = "dpm_solver"

    def __post_init__(self) -> None:
        _positive(
            **{
                "scheduler.num_train_timesteps": self.num_train_timesteps,
                "scheduler.beta_min": self.beta_min,
                "scheduler.sampling_eps": self.sampling_eps,
            }
        )
        _require(
            self.beta_max > self.beta_min,
            f"scheduler.beta_max must exceed scheduler.beta_min={self.beta_min}, got {self.beta_max}",
        )
        _require(self.sampling_eps < 1, f"scheduler.sampling_eps must be below 1, got {self.sampling_eps}")


@dataclass(frozen=True)
class LossConfig:
    """Weights of Eq. 2. Squared errors are means over pixels of images in [-1, 1], the KL is a sum over latents in nats.

    Args:
        rec: lambda_rec. The paper's best: 0.1. 0 leaves the decoder untrained.
        kl: lambda_KL. The paper's best: 1e-4.
        kl_anneal_factor: The KL weight starts at `kl` times this; 1 is no annealing (the paper).
        kl_anneal_hold: Fraction of the iVAE's steps at the starting weight.
        kl_anneal_end: Fraction of the iVAE's steps at which the weight, falling geometrically, has reached `kl`.
        latent_grad_scale: Scale on the U-Net's gradient to z. 1 is the paper; 0 detaches z.
        timestep_beta: b of the law t ~ Beta(1, b) of the times trained on. 1 is uniform (the paper); below 1 there are more noisy ones,
            where z tells most (the paper's first proposal in Section 4).
    """

    rec: float = 0.1
    kl: float = 1e-4
    kl_anneal_factor: float = 1.0
    kl_anneal_hold: float = 0.17
    kl_anneal_end: float = 0.5
    latent_grad_scale: float = 0.0
    timestep_beta: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rec", "kl"):
            value = getattr(self, name)
            _require(value >= 0, f"loss.{name} must be 0 or more, got {value}")
        _positive(
            **{"loss.kl_anneal_factor": self.kl_anneal_factor, "loss.timestep_beta": self.timestep_beta}
        )
        _fraction(
            **{
                "loss.kl_anneal_hold": self.kl_anneal_hold,
                "loss.kl_anneal_end": self.kl_anneal_end,
                "loss.latent_grad_scale": self.latent_grad_scale,
            }
        )
        _require(
            self.kl_anneal_hold <= self.kl_anneal_end,
            f"loss.kl_anneal_hold={self.kl_anneal_hold} must not exceed loss.kl_anneal_end={self.kl_anneal_end}",
        )


@dataclass(frozen=True)
class CFGConfig:
    """Classifier-free guidance (Section 2.5).

    Args:
        drop_prob: Probability, per sample, that the U-Net is shown z = 0. The paper: 0.2.
    """

    drop_prob: float = 0.2

    def __post_init__(self) -> None:
        _fraction(**{"cfg.drop_prob": self.drop_prob})


@dataclass(frozen=True)
class OptimConfig:
    """How one part, the iVAE or the U-Net, is optimised, and during which steps. AdamW; the learning rate is a function of the step.

    Args:
        start_step: First optimiser step of this part.
        stop_step: The step before which the part stops learning and is frozen; null is the end of training.
        learning_rate: Its peak. The paper: 2e-4.
        lr_scheduler: `constant`, or `cosine` to `lr_end_factor` times the peak, both after a linear warm-up.
        lr_warmup_steps: Steps of the warm-up.
        lr_end_factor: With `cosine`: the last learning rate over the peak.
        adam_beta2: Second moment decay.
        adam_epsilon: Added to the root of the second moment.
        adam_weight_decay: Decoupled weight decay.
        max_grad_norm: The part's gradient is clipped to this norm.
    """

    start_step: int = 0
    stop_step: int | None = None
    learning_rate: float = 2e-4
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    lr_warmup_steps: int = 0
    lr_end_factor: float = 0.0
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    adam_weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        _require(self.start_step >= 0, f"start_step must be 0 or more, got {self.start_step}")
        _require(
            self.stop_step is None or self.stop_step > self.start_step,
            f"stop_step must exceed start_step={self.start_step}, got {self.stop_step}",
        )
        _require(self.lr_warmup_steps >= 0, f"lr_warmup_steps must be 0 or more, got {self.lr_warmup_steps}")
        _positive(
            learning_rate=self.learning_rate, adam_epsilon=self.adam_epsilon, max_grad_norm=self.max_grad_norm
        )
        _fraction(lr_end_factor=self.lr_end_factor, adam_beta2=self.adam_beta2)
        _require(
            self.adam_weight_decay >= 0, f"adam_weight_decay must be 0 or more, got {self.adam_weight_decay}"
        )


@dataclass(frozen=True)
class TrainConfig:
    """The run.

    Args:
        output_dir: Everything the run writes.
        seed: Every random draw is a function of it, of a purpose and of the step.
        max_train_steps: Optimiser steps, all parts together.
        train_batch_size: Images for each process and micro-batch; a multiple of 8. The paper: 32.
        gradient_accumulation_steps: Micro-batches of one optimiser step.
        mixed_precision: Autocast of Accelerate.
        ema_max_decay: Ceiling of the moving average's decay, min(ceiling, (1 + n) / (10 + n)) after n updates; 0 is no averaging.
        checkpointing_steps: A checkpoint every so many steps, and one at the end.
        checkpoints_total_limit: Committed checkpoints that are kept, 2 or more.
        resume_from_checkpoint: `latest`, the path of one, or null to start anew.
        report_to: Trackers of Accelerate, `none` for the JSON lines alone.
        logging_steps: Losses are averaged over so many steps, then written.
        validation_steps: A sample grid every so many steps.
    """

    output_dir: str = "runs/idiff"
    seed: int = 0
    max_train_steps: int = 1000
    train_batch_size: int = 32
    gradient_accumulation_steps: int = 1
    mixed_precision: Literal["no", "bf16"] = "no"
    ema_max_decay: float = 0.9999
    checkpointing_steps: int = 500
    checkpoints_total_limit: int = 2
    resume_from_checkpoint: str | None = None
    report_to: Literal["tensorboard", "none"] = "tensorboard"
    logging_steps: int = 50
    validation_steps: int = 1000

    def __post_init__(self) -> None:
        _require(self.output_dir != "", "train.output_dir must not be empty")
        _require(0 <= self.seed < 2**63, f"train.seed must lie in [0, 2^63), got {self.seed}")
        for name in (
            "max_train_steps",
            "gradient_accumulation_steps",
            "checkpointing_steps",
            "logging_steps",
            "validation_steps",
        ):
            _positive(**{f"train.{name}": getattr(self, name)})
        _require(
            self.train_batch_size > 0 and self.train_batch_size % BLOCK_SIZE == 0,
            f"train.train_batch_size must be a positive multiple of {BLOCK_SIZE}, got {self.train_batch_size}",
        )
        _require(
            self.checkpoints_total_limit >= 2,
            f"train.checkpoints_total_limit must be 2 or more, got {self.checkpoints_total_limit}",
        )
        _require(
            0.0 <= self.ema_max_decay < 1.0,
            f"train.ema_max_decay must lie in [0, 1), got {self.ema_max_decay}",
        )


@dataclass(frozen=True)
class EvalConfig:
    """What is measured after training.

    Args:
        num_samples: Held-out images that are encoded for the metrics.
        num_generated: Held-out images that are generated anew from their latents and read back.
        num_inference_steps: Solver steps.
        guidance_scales: Each gamma of Eq. 10 that is measured. The paper: 1 and 4.
        supervision_baseline: Train the known prior alone on the same u (no reconstruction, no U-Net) and report it beside the model.
    """

    num_samples: int = 10000
    num_generated: int = 96
    num_inference_steps: int = 20
    guidance_scales: tuple[float, ...] = (1.0, 4.0)
    supervision_baseline: bool = True

    def __post_init__(self) -> None:
        _require(self.num_samples >= 2, f"eval.num_samples must be 2 or more, got {self.num_samples}")
        _require(self.num_generated >= 8, f"eval.num_generated must be 8 or more, got {self.num_generated}")
        _positive(**{"eval.num_inference_steps": self.num_inference_steps})
        _require(
            len(self.guidance_scales) > 0 and min(self.guidance_scales) >= 0,
            f"eval.guidance_scales must be one or more values of 0 or more, got {self.guidance_scales}",
        )


@dataclass(frozen=True)
class Config:
    """One experiment. `optim_ivae` and `optim_unet` are the stages: windows of steps in which each part learns."""

    data: DataConfig = field(default_factory=DataConfig)
    aux: AuxConfig = field(default_factory=AuxConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    cfg: CFGConfig = field(default_factory=CFGConfig)
    optim_ivae: OptimConfig = field(default_factory=OptimConfig)
    optim_unet: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        size, patch = self.data.image_size, self.unet.patch_size
        _require(
            size % 16 == 0, f"data.image_size must be a multiple of 16 for model.backbone=cnn, got {size}"
        )
        _require(
            self.model.norm == "none" or (size // 16) ** 2 * self.model.channels[-1] > 8,
            f"model.norm=group would see one value a group at data.image_size={size} with "
            f"model.channels={self.model.channels}: make the last entry 16 or more",
        )
        needs_u = self.model.prior_type != "standard"
        _require(
            needs_u == (self.aux.name != "none"),
            f"model.prior_type={self.model.prior_type} does not go with aux.name={self.aux.name}: "
            "use prior_type=standard with aux.name=none (VAE), another prior with an auxiliary variable (iVAE)",
        )
        for name, part in (("optim_ivae", self.optim_ivae), ("optim_unet", self.optim_unet)):
            stop = self.stop_step(part)
            _require(
                part.start_step < stop <= self.train.max_train_steps,
                f"{name}: steps {part.start_step} to {stop} do not fit train.max_train_steps={self.train.max_train_steps}",
            )
        if self.model.diffusion:
            down = 2 ** (len(self.unet.block_out_channels) - 1)
            _require(
                size % patch == 0 and (size // patch) % down == 0,
                f"data.image_size={size} must be divisible by unet.patch_size={patch} times {down} "
                f"(unet.block_out_channels has {len(self.unet.block_out_channels)} resolutions)",
            )
            _require(
                self.loss.latent_grad_scale == 0
                or self.optim_unet.start_step < self.stop_step(self.optim_ivae),
                f"loss.latent_grad_scale={self.loss.latent_grad_scale} has no effect: the iVAE is frozen before the U-Net starts "
                "(optim_ivae.stop_step <= optim_unet.start_step)",
            )

        covered = 0
        parts = [self.optim_ivae, self.optim_unet] if self.model.diffusion else [self.optim_ivae]
        for part in sorted(parts, key=lambda part: part.start_step):
            _require(
                part.start_step <= covered,
                f"no part learns in steps {covered} to {part.start_step}: let the next part (optim_ivae, optim_unet) start earlier",
            )
            covered = max(covered, self.stop_step(part))
        _require(
            covered == self.train.max_train_steps,
            f"no part learns in steps {covered} to train.max_train_steps={self.train.max_train_steps}: lower it, or let a part stop later",
        )

    def stop_step(self, part: OptimConfig) -> int:
        """The step before which `part` stops learning."""
        return self.train.max_train_steps if part.stop_step is None else part.stop_step

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, tuples as lists."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
