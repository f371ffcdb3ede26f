"""The U-Net, what stands before it, the SDE and guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .checks import fraction, positive, require


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
        conditioning: How z enters. `additive`: a bias-free projection is added to the time embedding (the paper); `scale_shift`: z
            scales and shifts the time embedding; `tokens`: each latent becomes a token of its own, for cross-attention.
        condition_on: What it is shown of z while it learns: a `sample` of q(z|x) (the paper), or the `mean`, which is what `encode` gives
            afterwards. A sample of a wide q may be further from the mean than neighbouring values of a factor are from each other.
        token_dim: With `tokens`: width of a token.
        token_hidden_dim: With `tokens`: width of the hidden layer of each latent's own MLP.
        cross_attention: With `tokens`: the resolutions, as places in `block_out_channels`, whose blocks attend to the tokens; the middle
            block does where the last one is among them.
        attention_heads: With `tokens`: heads of the attention.
        prediction_type: What the network predicts. The paper: `epsilon`.
    """

    patch_size: int = 1
    block_out_channels: tuple[int, ...] = (64, 128, 128)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    attention: bool = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    conditioning: Literal["additive", "scale_shift", "tokens"] = "additive"
    condition_on: Literal["sample", "mean"] = "sample"
    token_dim: int = 16
    token_hidden_dim: int = 64
    cross_attention: tuple[int, ...] = (0,)
    attention_heads: int = 4

    def __post_init__(self) -> None:
        positive(**{"unet.patch_size": self.patch_size, "unet.layers_per_block": self.layers_per_block})
        require(len(self.block_out_channels) >= 1, "unet.block_out_channels must not be empty")
        positive(**{"unet.norm_num_groups": self.norm_num_groups})
        require(
            all(c > 0 and c % self.norm_num_groups == 0 for c in self.block_out_channels),
            f"unet.block_out_channels must be multiples of unet.norm_num_groups={self.norm_num_groups}, got {self.block_out_channels}",
        )
        tokens = ("token_dim", "token_hidden_dim", "cross_attention", "attention_heads")
        if self.conditioning != "tokens":
            unread = [name for name in tokens if getattr(self, name) != getattr(UNetConfig, name)]
            require(
                not unread,
                f"unet.{', unet.'.join(unread)} needs unet.conditioning=tokens, got unet.conditioning={self.conditioning}",
            )
            return
        positive(**{f"unet.{name}": getattr(self, name) for name in tokens if name != "cross_attention"})
        depth = len(self.block_out_channels)
        require(
            len(set(self.cross_attention)) == len(self.cross_attention) > 0
            and all(0 <= level < depth for level in self.cross_attention),
            f"unet.cross_attention must name one or more of the resolutions 0 to {depth - 1}, got {self.cross_attention}",
        )
        attending = [self.block_out_channels[level] for level in self.cross_attention]
        require(
            all(channels % self.attention_heads == 0 for channels in attending),
            f"unet.attention_heads={self.attention_heads} must divide the channels of the resolutions that attend, got {attending}",
        )
        require(
            not self.attention,
            "unet.attention=true has no effect with unet.conditioning=tokens, whose attention blocks attend to the image too",
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
class CFGConfig:
    """Classifier-free guidance (Section 2.5).

    Args:
        drop_prob: Probability, per sample, that the U-Net is shown the null condition. The paper: 0.2.
        null_condition: `zeros` (the paper: z = 0, exactly no condition; with tokens, all of them 0), or an embedding that is `learned`.
    """

    drop_prob: float = 0.2
    null_condition: Literal["zeros", "learned"] = "zeros"

    def __post_init__(self) -> None:
        fraction(**{"cfg.drop_prob": self.drop_prob})
        require(
            self.null_condition == "zeros" or self.drop_prob > 0.0,
            "cfg.null_condition=learned needs cfg.drop_prob above 0: it would never be trained",
        )
