"""The oracle of the sampling tests: Gaussian data N(MEAN, STD^2), of which all is known.

x_t is Gaussian with mean alpha m and variance v = alpha^2 s^2 + sigma^2, the exact noise prediction is
sigma (x_t - alpha m) / v, and each step of a solver is affine in the sample and in the noise, so that mean and variance
after many steps follow by recursion, without sampling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from idiff_hf.schedulers import VPSDEScheduler

MEAN, STD = 0.7, 0.5


def gaussian_output(scheduler: VPSDEScheduler, x: Tensor, timestep: Tensor) -> Tensor:
    """The exact output of the network, in float64."""
    alpha, sigma = scheduler.alpha_sigma(scheduler.t_from_timestep(timestep.double()))
    centred = (x.double() - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
    eps, x_0 = sigma * centred, MEAN + alpha * STD**2 * centred
    return {"epsilon": eps, "v_prediction": alpha * eps - sigma * x_0, "sample": x_0}[
        scheduler.config.prediction_type
    ]


def exact_law(scheduler: VPSDEScheduler, t: float) -> tuple[float, float]:
    """Mean and variance of x_t, by hand."""
    exponent = (
        scheduler.config.beta_min * t + 0.5 * (scheduler.config.beta_max - scheduler.config.beta_min) * t**2
    )
    return math.exp(-0.5 * exponent) * MEAN, 1.0 - math.exp(-exponent) * (1.0 - STD**2)


def affine_steps(scheduler: VPSDEScheduler, num_steps: int) -> np.ndarray:
    """The steps x' = a x + b + c z that `num_steps` calls of the solver take, as rows (t, t', a, b, c), by calling it.

    The config must have `final_denoise=False`. A Heun step is two calls of `step`.
    """
    scheduler.set_timesteps(num_steps)
    seeds = (0, 0, 1)
    z = [
        float(torch.randn(1, 1, generator=torch.Generator().manual_seed(s), dtype=torch.float64))
        for s in seeds
    ]
    times = [*scheduler.t_from_timestep(scheduler.timesteps.double()).tolist()[:: scheduler.order]]
    times.append(scheduler.config.sampling_eps)
    rows = []
    for i in range(num_steps):
        x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
        for timestep in scheduler.timesteps[i * scheduler.order : (i + 1) * scheduler.order]:
            generators = [torch.Generator().manual_seed(s) for s in seeds]
            x = scheduler.step(gaussian_output(scheduler, x, timestep), timestep, x, generators).prev_sample
        at_0, at_1, other = x.flatten().tolist()
        c = (other - at_0) / (z[2] - z[0])
        rows.append((times[i], times[i + 1], at_1 - at_0, at_0 - c * z[0], c))
    return np.array(rows)


def law_at(scheduler: VPSDEScheduler, steps: np.ndarray, num_times: int) -> np.ndarray:
    """Time, mean and variance after `steps` at `num_times` of them, the last at the end, from the exact law at t = 1."""
    mean, variance = exact_law(scheduler, 1.0)
    laws = []
    for _, t, a, b, c in steps:
        mean, variance = a * mean + b, a**2 * variance + c**2
        laws.append((t, mean, variance))
    return np.array(laws)[len(steps) // num_times - 1 :: len(steps) // num_times]


def slope(errors: Sequence[float]) -> float:
    """Order of convergence, fitted to errors at step counts that double."""
    return -float(np.polyfit(np.arange(len(errors)) * math.log(2.0), np.log(errors), 1)[0])
