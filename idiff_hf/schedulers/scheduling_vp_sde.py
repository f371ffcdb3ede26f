"""The variance-preserving SDE of Song et al. (arXiv:2011.13456) in continuous time, a diffusers scheduler.

Forward SDE (Ito; Eq. 11 there), t from 0 (data) to 1 (noise), with beta linear in t (appendix C there):

    dx = -1/2 beta(t) x dt + sqrt(beta(t)) dw,    beta(t) = beta_min + t (beta_max - beta_min)

Its marginal given x_0 is  x_t = alpha_t x_0 + sigma_t eps,  eps ~ N(0, I),  with

    alpha_t = exp(-1/2 int_0^t beta(s) ds),    sigma_t^2 = 1 - alpha_t^2

The network is not given t but the timestep tau = N t - 1, a float, N = num_train_timesteps: the integer grid
i = 0 .. N - 1 of the other schedulers of diffusers is t_i = (i + 1) / N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
TIMESTEP_SPACINGS = ("trailing", "leading", "linspace")

Coefficient = TypeVar("Coefficient", Tensor, float)


@dataclass
class VPSDESchedulerOutput(BaseOutput):
    """Result of one sampling step.

    Attributes:
        prev_sample: The sample at the next smaller time, of the shape and dtype of the sample given.
        pred_original_sample: The prediction of x_0 made at this step, limited as the config asks, same shape.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class VPSDEScheduler(SchedulerMixin, ConfigMixin):
    """The variance-preserving SDE with beta linear in t, sampled by Euler-Maruyama on the reverse SDE.

    Beside the SDE's own keys, the config holds those by which other schedulers of diffusers build the same
    marginals, `trained_betas` above all: `DPMSolverMultistepScheduler.from_config(scheduler.config)` samples
    the same model, before the config is saved as after it is loaded.

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
        timestep_spacing: How swapped schedulers space their grid; the grid of this one is uniform in t.
        steps_offset: Offset of their grid for "leading" spacing, 0 or more.
        trained_betas: The N values 1 - alpha_{t_i}^2 / alpha_{t_{i-1}}^2. Like the next two it is derived if
            None; if given, as on loading, it must be that of the SDE to a relative 1e-6.
        beta_start: beta_min / N, which the betas start at to first order.
        beta_end: beta_max / N, which they end at to first order.
        beta_schedule: "linear", the only one.
        rescale_betas_zero_snr: False, as alpha_1 of the SDE is not 0.

    Attributes:
        betas, alphas, alphas_cumprod: float32 tensors `(N,)`; `alphas_cumprod[i]` is alpha_{t_i}^2.
        init_noise_sigma: 1.0, the standard deviation of the sample that sampling starts from.
        timesteps: Timesteps of sampling, float32, largest first; the whole grid before `set_timesteps`.
        num_inference_steps: Their number, or None before `set_timesteps`.

    Raises:
        ValueError: If an argument is outside the range above or disagrees with the SDE.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012 - as in diffusers
    order = 1

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
    ) -> None:
        n = num_train_timesteps
        ratio = dynamic_thresholding_ratio
        _require(isinstance(n, int) and n >= 1, "num_train_timesteps", n, "an integer of 1 or more")
        _require(0.0 < beta_min < beta_max, "beta_min", beta_min, f"above 0 and below beta_max={beta_max}")
        _require(beta_max < math.inf, "beta_max", beta_max, "finite")
        _require(0.0 < sampling_eps < 1.0, "sampling_eps", sampling_eps, "above 0 and below 1")
        _require(clip_sample_range > 0.0, "clip_sample_range", clip_sample_range, "above 0")
        _require(0.0 <= ratio <= 1.0, "dynamic_thresholding_ratio", ratio, "in [0, 1]")
        _require(sample_max_value >= 1.0, "sample_max_value", sample_max_value, "1 or more")
        _require(steps_offset >= 0, "steps_offset", steps_offset, "0 or more")
        for name, value, allowed in (
            ("prediction_type", prediction_type, PREDICTION_TYPES),
            ("timestep_spacing", timestep_spacing, TIMESTEP_SPACINGS),
            ("beta_schedule", beta_schedule, ("linear",)),
            ("rescale_betas_zero_snr", rescale_betas_zero_snr, (False,)),
        ):
            _require(value in allowed, name, value, " or ".join(map(repr, allowed)))

        grid = torch.arange(n + 1, dtype=torch.float64) / n
        exponent = _integrated_beta(grid, beta_min, beta_max)
        betas = -torch.expm1(exponent[:-1] - exponent[1:])
        for name, given, derived in (
            ("trained_betas", trained_betas, betas),
            ("beta_start", beta_start, torch.tensor(beta_min / n, dtype=torch.float64)),
            ("beta_end", beta_end, torch.tensor(beta_max / n, dtype=torch.float64)),
        ):
            seen = derived if given is None else torch.as_tensor(given, dtype=torch.float64)
            if seen.shape != derived.shape or not torch.allclose(seen, derived, rtol=1e-6, atol=0.0):
                raise ValueError(
                    f"{name} (shape {tuple(seen.shape)}, mean {seen.mean():g}) is not that of the SDE "
                    f"(mean {derived.mean():g}) with num_train_timesteps={n}, beta_min={beta_min}, "
                    f"beta_max={beta_max}: pass trained_betas, beta_start, beta_end as None to derive them."
                )
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
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(n - 1, -1, -1, dtype=torch.float32)
        self._times: list[float] = []
        self._step_index = 0

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    @property
    def step_index(self) -> int:
        """Position in `timesteps` of the next call of `step`."""
        return self._step_index

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Scales of data and noise at times t in [0, 1]: alpha_t = exp(-1/2 int_0^t beta) and sigma_t.

        Returns:
            alpha and sigma of the shape of `t`, in float32 (float64 where `t` is); computed in float64.
        """
        exponent = _integrated_beta(t.double(), self.config["beta_min"], self.config["beta_max"])
        dtype = _working_dtype(t)
        return torch.exp(-0.5 * exponent).to(dtype), torch.sqrt(-torch.expm1(-exponent)).to(dtype)

    def timestep_from_t(self, t: Tensor) -> Tensor:
        """The timesteps tau = N t - 1 of times t, same shape, in float32 (float64 where `t` is)."""
        return (t.double() * len(self) - 1.0).to(_working_dtype(t))

    def t_from_timestep(self, timesteps: Tensor) -> Tensor:
        """The times t = (tau + 1) / N of timesteps tau, same shape, in float32 (float64 where they are)."""
        return ((timesteps.double() + 1.0) / len(self)).to(_working_dtype(timesteps))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """A draw from the marginal of the SDE at each timestep: x_t = alpha_t x_0 + sigma_t eps.

        Args:
            original_samples: x_0, `(B, ...)`.
            noise: eps ~ N(0, I), of the same shape.
            timesteps: tau, integer or float, `(B,)`, `(1,)` or `()`.

        Returns:
            x_t, of the shape and dtype of `original_samples`.

        Raises:
            ValueError: If the shapes disagree.
        """
        alpha, sigma = self._coefficients(timesteps, original_samples, noise)
        return (alpha * original_samples + sigma * noise).to(original_samples.dtype)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity v = alpha_t eps - sigma_t x_0 (appendix D of arXiv:2202.00512).

        Args and errors are those of `add_noise`; `sample` is x_0, as everywhere in diffusers.
        """
        alpha, sigma = self._coefficients(timesteps, sample, noise)
        return (alpha * noise - sigma * sample).to(sample.dtype)

    def target(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The network's target by `prediction_type`: eps, v or x_0. Args are those of `add_noise`."""
        if self.config["prediction_type"] == "epsilon":
            return noise
        if self.config["prediction_type"] == "sample":
            return original_samples
        return self.get_velocity(original_samples, noise, timesteps)

    def predict_original(self, model_output: Tensor, sample: Tensor, timesteps: Tensor) -> Tensor:
        """The prediction of x_0, not limited: (x_t - sigma eps) / alpha, alpha x_t - sigma v, or the output.

        Args:
            model_output: Prediction of eps, v or x_0, `(B, ...)`.
            sample: x_t, of the same shape.
            timesteps: tau, integer or float, `(B,)`, `(1,)` or `()`.

        Returns:
            x_0, of the shape and dtype of `sample`.

        Raises:
            ValueError: If the shapes disagree.
        """
        alpha, sigma = self._coefficients(timesteps, sample, model_output)
        return self._original(model_output, sample, alpha, sigma).to(sample.dtype)

    def score(self, model_output: Tensor, sample: Tensor, timesteps: Tensor) -> Tensor:
        """The score, grad log p_t(x_t) = -eps / sigma = -x_t - alpha v / sigma = (alpha x_0 - x_t) / sigma^2.

        Args, shapes and errors are those of `predict_original`.
        """
        alpha, sigma = self._coefficients(timesteps, sample, model_output)
        if self.config["prediction_type"] == "epsilon":
            score = -model_output / sigma
        elif self.config["prediction_type"] == "sample":
            score = (alpha * model_output - sample) / sigma**2
        else:
            score = -sample - alpha * model_output / sigma
        return score.to(sample.dtype)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Sets the grid of sampling, uniform in t from 1 down to `sampling_eps`, and goes to its start.

        Args:
            num_inference_steps: Number of grid points and of network evaluations, 1 or more.
            device: Where `timesteps` is put.

        Raises:
            ValueError: If `num_inference_steps` is below 1.
        """
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be 1 or more, got {num_inference_steps}.")
        times = torch.linspace(1.0, self.config["sampling_eps"], num_inference_steps, dtype=torch.float64)
        self.num_inference_steps = num_inference_steps
        self.timesteps = self.timestep_from_t(times).float().to(device)
        self._times = times.tolist()
        self._step_index = 0

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Makes `timesteps[begin_index]` the next step, to sample on from a sample at that time.

        Raises:
            ValueError: If `set_timesteps` made no such timestep.
        """
        if not 0 <= begin_index < len(self._times):
            raise ValueError(
                f"begin_index must be in [0, {len(self._times)}), the grid set, got {begin_index}."
            )
        self._step_index = begin_index

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
        """One Euler-Maruyama step of the reverse SDE (Eq. 6 of arXiv:2011.13456) to the next time, t - dt.

            x_{t-dt} = x_t + (1/2 beta(t) x_t + beta(t) score) dt + sqrt(beta(t) dt) z,    z ~ N(0, I)

        Ito; weak order 1; strong order 0.5 in general, 1.0 here because the noise is additive. The last step,
        at t = sampling_eps, goes to t = 0, where alpha = 1, and adds no noise: it returns the mean of the
        posterior, E[x_0 | x_t] = (x_t + sigma_t^2 score) / alpha_t, which is the prediction of x_0.

        Args:
            model_output: Output of the network at `sample` and `timestep`, `(B, ...)`.
            timestep: The element of `timesteps` that is next; checked, unless it lies on an accelerator.
            sample: x_t, of the shape of `model_output`.
            generator: Source of z: one for the batch, the global one if None, or a list of B, one a sample,
                with which a sample does not depend on the batch it is in.
            return_dict: Whether to return a `VPSDESchedulerOutput` or a plain tuple of its fields.

        Returns:
            The sample at the next time and the prediction of x_0, both of the shape and dtype of `sample`.

        Raises:
            ValueError: If `set_timesteps` was not called, all steps are done, `timestep` is not next, the
                shapes disagree, or a list of generators is not B long.
        """
        _check_shapes(sample, model_output)
        if isinstance(generator, list) and len(generator) != sample.shape[0]:
            raise ValueError(
                f"generator must be a list of {sample.shape[0]}, one a sample, got {len(generator)}."
            )
        self._check_is_next(timestep)
        t = self._times[self._step_index]
        self._step_index += 1
        dtype = _working_dtype(sample)
        x_t = sample.to(dtype)

        # 1. Prediction of x_0, limited
        alpha, sigma = (float(c) for c in self.alpha_sigma(torch.tensor(t, dtype=torch.float64)))
        x_0 = self._limit(self._original(model_output.to(dtype), x_t, alpha, sigma))

        if self._step_index == len(self._times):
            # 2a. E[x_0 | x_t]
            prev_sample = x_0
        else:
            # 2b. x_{t-dt} = x_t + (1/2 beta x_t + beta score) dt + sqrt(beta dt) z
            beta = self.config["beta_min"] + t * (self.config["beta_max"] - self.config["beta_min"])
            beta_dt = beta * (t - self._times[self._step_index])
            score = (alpha * x_0 - x_t) / sigma**2
            z = randn_tensor(x_t.shape, generator=generator, device=x_t.device, dtype=dtype)
            prev_sample = x_t + (0.5 * x_t + score) * beta_dt + z * math.sqrt(beta_dt)

        output = VPSDESchedulerOutput(prev_sample.to(sample.dtype), x_0.to(sample.dtype))
        return output if return_dict else (output.prev_sample, output.pred_original_sample)

    def _check_is_next(self, timestep: Tensor | float) -> None:
        if not self._times:
            raise ValueError("step has no grid: call set_timesteps first.")
        if self._step_index == len(self._times):
            raise ValueError(f"all {len(self._times)} steps are done: call set_timesteps to sample again.")
        if isinstance(timestep, Tensor):
            if timestep.numel() != 1:
                raise ValueError(
                    f"timestep must be one element of timesteps, got shape {tuple(timestep.shape)}."
                )
            # Reading it from an accelerator would wait for all work queued there, at every step.
            if timestep.device.type != "cpu":
                return
        tau = len(self) * self._times[self._step_index] - 1.0
        if not math.isclose(float(timestep), tau, rel_tol=1e-5, abs_tol=1e-3):
            raise ValueError(
                f"timestep {float(timestep):g} is not next, {tau:g} (index {self._step_index}) is: pass the "
                "elements of timesteps in order, after set_begin_index to start at another than the first."
            )

    def _coefficients(self, timesteps: Tensor, sample: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma, shaped to broadcast against `sample`."""
        _check_shapes(sample, other)
        if timesteps.numel() not in (1, sample.shape[0]):
            raise ValueError(
                f"timesteps must hold one value or one a sample: {sample.shape[0]}, got {timesteps.numel()}."
            )
        shape = (-1,) + (1,) * (sample.ndim - 1)
        alpha, sigma = self.alpha_sigma(self.t_from_timestep(timesteps.to(sample.device, torch.float64)))
        dtype = _working_dtype(sample)
        return alpha.to(dtype).reshape(shape), sigma.to(dtype).reshape(shape)

    def _original(self, output: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        if self.config["prediction_type"] == "epsilon":
            return (x_t - sigma * output) / alpha
        if self.config["prediction_type"] == "sample":
            return output
        return alpha * x_t - sigma * output

    def _limit(self, x_0: Tensor) -> Tensor:
        """Dynamic thresholding, clipping, or neither, as the config asks."""
        if self.config["thresholding"]:
            cut = torch.quantile(x_0.flatten(1).abs(), self.config["dynamic_thresholding_ratio"], dim=1)
            cut = cut.clamp(1.0, self.config["sample_max_value"]).reshape((-1,) + (1,) * (x_0.ndim - 1))
            return x_0.clamp(-cut, cut) / cut
        if self.config["clip_sample"]:
            return x_0.clamp(-self.config["clip_sample_range"], self.config["clip_sample_range"])
        return x_0


def _integrated_beta(t: Tensor, beta_min: float, beta_max: float) -> Tensor:
    """int_0^t beta(s) ds."""
    return t * (beta_min + 0.5 * t * (beta_max - beta_min))


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, got {value!r}.")


def _working_dtype(x: Tensor) -> torch.dtype:
    """float32, or float64 for a float64 tensor: half precision is too coarse for times and coefficients."""
    return torch.promote_types(x.dtype, torch.float32)


def _check_shapes(sample: Tensor, other: Tensor) -> None:
    # Unequal shapes would broadcast, one noise for the whole batch for example, without a word.
    if sample.shape != other.shape:
        raise ValueError(
            f"both tensors must have one shape, got {tuple(sample.shape)} and {tuple(other.shape)}."
        )
