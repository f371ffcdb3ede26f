"""The variance-preserving SDE of Song et al. (arXiv:2011.13456) in continuous time, a diffusers scheduler.

The SDE itself, t from 0 (data) to 1 (noise), is in `vp_sde.py`, what training asks of it in `marginals.py`, and the steps of its
solvers are in `solvers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from . import solvers
from .checks import require, require_derived, require_one_of, same_shape, working_dtype
from .marginals import VPSDEMarginals
from .vp_sde import VPSDE, convert

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
TIMESTEP_SPACINGS = ("trailing", "leading", "linspace")


@dataclass
class VPSDESchedulerOutput(BaseOutput):
    """Result of one sampling step.

    Attributes:
        prev_sample: The sample at the next smaller time, of the shape and dtype of the sample given.
        pred_original_sample: The prediction of x_0 made at this step, limited as the config asks, same shape.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class VPSDEScheduler(VPSDEMarginals, SchedulerMixin, ConfigMixin):
    """The variance-preserving SDE with beta linear in t, sampled by its reverse SDE or its probability-flow ODE.

    Beside the SDE's own keys, the config holds those by which other schedulers of diffusers build the same
    marginals, `trained_betas` above all: `DPMSolverMultistepScheduler.from_config(scheduler.config)` samples
    the same model, before the config is saved as after it is loaded. The solvers of this class are a key of its
    config likewise: `VPSDEScheduler.from_config(scheduler.config, solver="heun_ode")`.

    | `solver` | equation | order in the time step | calls of the network for n steps |
    |---|---|---|---|
    | `euler_maruyama` | reverse SDE, Ito | weak 1, strong 1 (additive noise) | n |
    | `predictor_corrector` | the same, and a Langevin step at each new time | that, to an error O(snr^2) | 2n - 1 |
    | `heun_ode` | probability-flow ODE, no noise | 2 | 2n - 1 |

    `timesteps` holds one entry for each call, so that a loop over it that calls the network and then `step` drives
    all three; between the two calls of a Heun step the scheduler keeps what the second needs.

    Args:
        num_train_timesteps: Grid points N of the discrete schedulers, and scale of the network's timestep.
        beta_min: beta(0), in (0, beta_max).
        beta_max: beta(1). Large enough that x_1 is N(0, I), where sampling starts: alpha_1 is
            exp(-(beta_min + beta_max) / 4), 0.0066 by default.
        prediction_type: What the network predicts: "epsilon", "sample" (x_0), or "v_prediction"
            (alpha eps - sigma x_0).
        sampling_eps: The smallest t met in sampling, in (0, 1).
        clip_sample: Whether a step clips its prediction of x_0 to +-clip_sample_range.
        clip_sample_range: See `clip_sample`; above 0.
        thresholding: Whether a step limits its prediction of x_0 by dynamic thresholding instead, made for
            pixels in [-1, 1] (section 2.3 of arXiv:2205.11487).
        dynamic_thresholding_ratio: Quantile of |x_0| where it cuts each sample, in [0, 1].
        sample_max_value: Its largest cut, 1 or more.
        timestep_spacing: How swapped schedulers space their grid; `time_grid` is that of this one.
        steps_offset: Offset of their grid for "leading" spacing, 0 or more.
        trained_betas: The N values 1 - alpha_{t_i}^2 / alpha_{t_{i-1}}^2. Like the next two it is derived if
            None; if given, as on loading, it must be that of the SDE to a relative 1e-6.
        beta_start: beta_min / N, which the betas start at to first order.
        beta_end: beta_max / N, which they end at to first order.
        beta_schedule: "linear", the only one.
        rescale_betas_zero_snr: False, as alpha_1 of the SDE is not 0.
        solver: "euler_maruyama", "predictor_corrector" or "heun_ode", see above and the functions of `solvers.py`.
        snr: Ratio of the norms of drift and noise in a Langevin step of "predictor_corrector", finite and above 0.
            It multiplies the variance of the samples by up to 1 + snr^2.
        time_grid: "uniform" in t, or "quadratic": uniform in sqrt(t), with smaller steps near the data.
        final_denoise: Whether the last call of the network, at sampling_eps, takes the sample to its posterior
            mean E[x_0 | x_t]. If not, all calls are spent on the way, and sampling ends with a draw at sampling_eps.

    Attributes:
        betas, alphas, alphas_cumprod: float32 tensors `(N,)`; `alphas_cumprod[i]` is alpha_{t_i}^2.
        init_noise_sigma: 1.0, the standard deviation of the sample that sampling starts from.
        timesteps: Timesteps of sampling, float32, largest first; the whole grid before `set_timesteps`.
        num_inference_steps: As given to `set_timesteps`, or None before it.
        order: Calls of the network for one step of the solver, 1 or 2, as pipelines of diffusers count them.

    Raises:
        ValueError: If an argument is outside the range above or disagrees with the SDE.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012 - as in diffusers

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_min: float = 0.1,
        beta_max: float = 20.0,
        prediction_type: str = "epsilon",
        sampling_eps: float = 1e-3,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "trailing",
        steps_offset: int = 0,
        trained_betas: Sequence[float] | None = None,
        beta_start: float | None = None,
        beta_end: float | None = None,
        beta_schedule: str = "linear",
        rescale_betas_zero_snr: bool = False,
        solver: str = "euler_maruyama",
        snr: float = 0.16,
        time_grid: str = "uniform",
        final_denoise: bool = True,
    ) -> None:
        n = num_train_timesteps
        ratio = dynamic_thresholding_ratio
        require(isinstance(n, int) and n >= 1, "num_train_timesteps", n, "an integer of 1 or more")
        require(0.0 < beta_min < beta_max, "beta_min", beta_min, f"above 0 and below beta_max={beta_max}")
        require(beta_max < math.inf, "beta_max", beta_max, "finite")
        require(0.0 < sampling_eps < 1.0, "sampling_eps", sampling_eps, "above 0 and below 1")
        require(clip_sample_range > 0.0, "clip_sample_range", clip_sample_range, "above 0")
        require(0.0 <= ratio <= 1.0, "dynamic_thresholding_ratio", ratio, "in [0, 1]")
        require(sample_max_value >= 1.0, "sample_max_value", sample_max_value, "1 or more")
        require(steps_offset >= 0, "steps_offset", steps_offset, "0 or more")
        require(0.0 < snr < math.inf, "snr", snr, "above 0 and finite")
        require_one_of("prediction_type", prediction_type, PREDICTION_TYPES)
        require_one_of("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS)
        require_one_of("beta_schedule", beta_schedule, ("linear",))
        require_one_of("rescale_betas_zero_snr", rescale_betas_zero_snr, (False,))
        require_one_of("solver", solver, solvers.SOLVERS)
        require_one_of("time_grid", time_grid, solvers.TIME_GRIDS)
        require_one_of("final_denoise", final_denoise, (True, False))

        self.sde = VPSDE(beta_min, beta_max)
        grid = torch.arange(n + 1, dtype=torch.float64) / n
        exponent = self.sde.integrated_beta(grid)
        betas = -torch.expm1(exponent[:-1] - exponent[1:])
        ends = torch.tensor([beta_min / n, beta_max / n], dtype=torch.float64)
        settings = f"num_train_timesteps={n}, beta_min={beta_min}, beta_max={beta_max}"
        require_derived("trained_betas", trained_betas, betas, settings)
        require_derived("beta_start", beta_start, ends[0], settings)
        require_derived("beta_end", beta_end, ends[1], settings)
        # Another scheduler's from_config replaces what _use_default_values lists by its own defaults, and
        # that list is not saved: emptied, it makes a swap in memory the same as one after loading.
        self.register_to_config(
            trained_betas=betas.tolist(),
            beta_start=beta_min / n,
            beta_end=beta_max / n,
            _use_default_values=[],
        )

        self.betas = betas.float()
        self.alphas = (1.0 - betas).float()
        self.alphas_cumprod = torch.exp(-exponent[1:]).float()
        self.init_noise_sigma = 1.0
        self.order = 1 if solver == "euler_maruyama" else 2
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(n - 1, -1, -1, dtype=torch.float32)
        self._stages: list[solvers.Stage] = []
        self._step_index = 0
        # x_t and eps at the start of a Heun step, between its two calls
        self._start: tuple[Tensor, Tensor] | None = None

    @property
    def step_index(self) -> int:
        """Position in `timesteps` of the next call of `step`."""
        return self._step_index

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Sets the grid of sampling, from t = 1 down to `sampling_eps`, and goes to its start.

        Args:
            num_inference_steps: Steps n, 1 or more, the final denoising included: the grid has n points with
                `final_denoise` and n + 1 without. `timesteps` has n entries for "euler_maruyama", and else
                2n - 1 with `final_denoise` and 2n without: one for each call of the network.
            device: Where `timesteps` is put.

        Raises:
            ValueError: If `num_inference_steps` is no whole number, or below 1.
        """
        if not isinstance(num_inference_steps, Integral):
            raise ValueError(f"num_inference_steps must be a whole number, got {num_inference_steps!r}.")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be 1 or more, got {num_inference_steps}.")
        num_points = num_inference_steps + (not self.config["final_denoise"])
        grid = solvers.time_grid(self.config["time_grid"], self.config["sampling_eps"], num_points)
        self._stages = solvers.stages(self.config["solver"], grid.tolist(), self.config["final_denoise"])
        times = torch.tensor([stage.t for stage in self._stages], dtype=torch.float64)
        self.num_inference_steps = num_inference_steps
        self.timesteps = self.timestep_from_t(times).float().to(device)
        self._step_index = 0
        self._start = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Makes `timesteps[begin_index]` the next step, to sample on from a sample at that time.

        Raises:
            ValueError: If `set_timesteps` made no such timestep, or it is that of the second call of a Heun step.
        """
        if not 0 <= begin_index < len(self._stages):
            raise ValueError(
                f"begin_index must be in [0, {len(self._stages)}), the grid set, got {begin_index}."
            )
        if self._stages[begin_index].kind == "heun_correct":
            raise ValueError(
                f"begin_index must be that of the first call of a Heun step, got {begin_index}: pass "
                f"{begin_index - 1} or {begin_index + 1}."
            )
        self._step_index = begin_index
        self._start = None

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """The sample unchanged: the SDE preserves the variance, so the network needs no scaling."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> VPSDESchedulerOutput | tuple[Tensor, Tensor]:
        """Takes the output of one call of the network to the sample for the next call.

        By `solver` that is one of the updates of `solvers.py`, whose docstrings give formula, calculus and order:
        `euler_maruyama`, or that and `langevin` at the next entry of `timesteps`, or the two halves of a Heun step
        by `ode`, of which the first returns what Euler's method predicts. Where the config asks to limit x_0 all see
        the network through its limited prediction of x_0. With `final_denoise` the last call, at t = sampling_eps, goes
        to t = 0, where alpha = 1, and adds no noise: it returns the mean of the posterior,
        E[x_0 | x_t] = (x_t + sigma_t^2 score) / alpha_t, which is the prediction of x_0.

        Args:
            model_output: Output of the network at `sample` and `timestep`, `(B, ...)`.
            timestep: The element of `timesteps` that is next; checked, unless it lies on an accelerator.
            sample: x_t, of the shape of `model_output`.
            generator: Source of the noise z: one for the batch, the global one if None, or a list of B, one a
                sample, with which a sample does not depend on the batch it is in. "heun_ode" draws nothing.
            return_dict: Whether to return a `VPSDESchedulerOutput` or a plain tuple of its fields.

        Returns:
            The sample at the next time and the prediction of x_0, both of the shape and dtype of `sample`.

        Raises:
            ValueError: If `set_timesteps` was not called, all steps are done, `timestep` is not next, the
                shapes disagree, also with the first call of a Heun step, or a list of generators is not B long.
        """
        same_shape(sample, model_output)
        if isinstance(generator, list) and len(generator) != sample.shape[0]:
            raise ValueError(
                f"generator must be a list of {sample.shape[0]}, one a sample, got {len(generator)}."
            )
        self._check_is_next(timestep)
        if self._start is not None:
            same_shape(sample, self._start[0])
        stage = self._stages[self._step_index]
        self._step_index += 1
        x_t = sample.to(working_dtype(sample))

        # 1. Prediction of x_0, limited
        alpha, sigma = self._scales(stage.t)
        prediction_type = self.config["prediction_type"]
        output = model_output.to(x_t.dtype)
        predicted = convert(output, x_t, alpha, sigma, prediction_type, "sample")
        x_0 = self._limit(predicted)

        # 2. The update of this stage. Where nothing is limited it sees the network's output itself: by way of x_0 a score of 0 would come
        # back as rounding, which has a direction.
        seen, source = (output, prediction_type) if x_0 is predicted else (x_0, "sample")
        if stage.kind == "denoise":
            prev_sample = x_0
        elif stage.kind in ("euler_maruyama", "langevin"):
            score = convert(seen, x_t, alpha, sigma, source, "score")
            z = randn_tensor(x_t.shape, generator=generator, device=x_t.device, dtype=x_t.dtype)
            if stage.kind == "euler_maruyama":
                beta_dt = self.sde.beta(stage.t) * (stage.start - stage.end)
                prev_sample = solvers.euler_maruyama(x_t, score, beta_dt, z)
            else:
                prev_sample = solvers.langevin(x_t, score, self.config["snr"], z)
        else:
            x_start, eps = x_t, convert(seen, x_t, alpha, sigma, source, "epsilon")
            if self._start is None:
                self._start = (x_start, eps)
            else:
                (x_start, eps_start), self._start = self._start, None
                eps = 0.5 * (eps_start + eps)
            prev_sample = solvers.ode(x_start, eps, self._scales(stage.start), self._scales(stage.end))

        result = VPSDESchedulerOutput(prev_sample.to(sample.dtype), x_0.to(sample.dtype))
        return result if return_dict else (result.prev_sample, result.pred_original_sample)

    def _scales(self, t: float) -> tuple[float, float]:
        alpha, sigma = self.sde.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        return float(alpha), float(sigma)

    def _check_is_next(self, timestep: Tensor | float) -> None:
        if not self._stages:
            raise ValueError("step has no grid: call set_timesteps first.")
        if self._step_index == len(self._stages):
            raise ValueError(f"all {len(self._stages)} steps are done: call set_timesteps to sample again.")
        if isinstance(timestep, Tensor):
            if timestep.numel() != 1:
                raise ValueError(
                    f"timestep must be one element of timesteps, got shape {tuple(timestep.shape)}."
                )
            # Reading it from an accelerator would wait for all work queued there, at every step.
            if timestep.device.type != "cpu":
                return
        tau = len(self) * self._stages[self._step_index].t - 1.0
        if not math.isclose(float(timestep), tau, rel_tol=1e-5, abs_tol=1e-3):
            raise ValueError(
                f"timestep {float(timestep):g} is not next, {tau:g} (index {self._step_index}) is: pass the "
                "elements of timesteps in order, after set_begin_index to start at another than the first."
            )

    def _limit(self, x_0: Tensor) -> Tensor:
        """Dynamic thresholding, clipping, or neither, as the config asks: then `x_0` itself."""
        if self.config["thresholding"]:
            return solvers.dynamic_threshold(
                x_0, self.config["dynamic_thresholding_ratio"], self.config["sample_max_value"]
            )
        if self.config["clip_sample"]:
            return x_0.clamp(-self.config["clip_sample_range"], self.config["clip_sample_range"])
        return x_0
