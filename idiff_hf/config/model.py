"""What learns: networks, SDE, loss and guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .checks import fraction, positive, require


@dataclass(frozen=True)
class ModelConfig:
    """The identifiable VAE (Sections 2.1 and 2.3).

    Args:
        backbone: `cnn` is four convolutions and two linear layers, mirrored in the decoder; `mlp` is for vectors (`data.name=rotation`).
        latent_dim: D. The paper: 10.
        channels: Output channels of the four convolutions.
        hidden_dim: Width of the first linear layer; of every hidden layer of `mlp`.
        norm: `group` puts GroupNorm after each convolution; the paper has none.
        prior_type: `standard` N(0, I), `learned` an MLP of u (the paper), `known` the moments of u, `released` the known moments plus an
            MLP that starts at zero and is switched on at `prior_release`.
        prior_family: The law of z given u: `gaussian` (the paper), or `uniform` with soft edges, which is the law that the known moments
            of `interval` and `bounds` stand for.
        prior_hidden_dim: Width of the two hidden layers of the prior's MLP.
        prior_release: With `released`: the fraction of the iVAE's steps at which the MLP is switched on.
        diffusion: Train a U-Net on the latents. `false` leaves the iVAE alone.
    """

    backbone: Literal["cnn", "mlp"] = "cnn"
    latent_dim: int = 10
    channels: tuple[int, ...] = (32, 32, 64, 64)
    hidden_dim: int = 256
    norm: Literal["group", "none"] = "group"
    prior_type: Literal["standard", "learned", "known", "released"] = "learned"
    prior_family: Literal["gaussian", "uniform"] = "gaussian"
    prior_hidden_dim: int = 128
    prior_release: float = 0.5
    diffusion: bool = True

    def __post_init__(self) -> None:
        positive(
            **{
                "model.latent_dim": self.latent_dim,
                "model.hidden_dim": self.hidden_dim,
                "model.prior_hidden_dim": self.prior_hidden_dim,
            }
        )
        require(
            len(self.channels) == 4,
            f"model.channels must have 4 entries, got {len(self.channels)}: {self.channels}",
        )
        positive(**{"model.channels": min(self.channels)})
        require(
            self.norm == "none" or all(c % 8 == 0 for c in self.channels),
            f"model.channels must be multiples of 8 with model.norm=group, got {self.channels}",
        )
        fraction(**{"model.prior_release": self.prior_release})


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
        positive(**{"unet.patch_size": self.patch_size, "unet.layers_per_block": self.layers_per_block})
        require(len(self.block_out_channels) >= 1, "unet.block_out_channels must not be empty")
        positive(**{"unet.norm_num_groups": self.norm_num_groups})
        require(
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
        solver: `dpm_solver` saves a `DPMSolverMultistepScheduler` (second order, 20 steps suffice); the SDE's own are `euler_maruyama`,
            `predictor_corrector` (it with a Langevin step at each time) and `heun_ode` (the probability-flow ODE, second order).
        time_grid: Of the SDE's own solvers: `uniform` in t, or `quadratic`, finer near the images.
        snr: With `predictor_corrector`: signal-to-noise ratio of a Langevin step.
    """

    num_train_timesteps: int = 1000
    beta_min: float = 0.1
    beta_max: float = 20.0
    sampling_eps: float = 1e-3
    solver: Literal["dpm_solver", "euler_maruyama", "predictor_corrector", "heun_ode"] = "dpm_solver"
    time_grid: Literal["uniform", "quadratic"] = "uniform"
    snr: float = 0.16

    def __post_init__(self) -> None:
        positive(
            **{
                "scheduler.num_train_timesteps": self.num_train_timesteps,
                "scheduler.beta_min": self.beta_min,
                "scheduler.sampling_eps": self.sampling_eps,
                "scheduler.snr": self.snr,
            }
        )
        require(
            self.beta_max > self.beta_min,
            f"scheduler.beta_max must exceed scheduler.beta_min={self.beta_min}, got {self.beta_max}",
        )
        require(
            self.time_grid == "uniform" or self.solver != "dpm_solver",
            f"scheduler.time_grid={self.time_grid} has no effect with scheduler.solver=dpm_solver, which has a grid of its own",
        )
        require(self.sampling_eps < 1, f"scheduler.sampling_eps must be below 1, got {self.sampling_eps}")


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
            require(value >= 0, f"loss.{name} must be 0 or more, got {value}")
        positive(**{"loss.kl_anneal_factor": self.kl_anneal_factor, "loss.timestep_beta": self.timestep_beta})
        fraction(
            **{
                "loss.kl_anneal_hold": self.kl_anneal_hold,
                "loss.kl_anneal_end": self.kl_anneal_end,
                "loss.latent_grad_scale": self.latent_grad_scale,
            }
        )
        require(
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
        fraction(**{"cfg.drop_prob": self.drop_prob})
