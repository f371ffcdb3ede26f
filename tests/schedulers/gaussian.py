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


def reverse_flow(scheduler: VPSDEScheduler, t: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Phi of the exact reverse SDE, x_end - mean = Phi (x_t - mean) + noise.

    d(log Phi) = (1/2 - 1/v) d(-B), B = int_0^t beta, v = 1 - (1 - s^2) exp(-B), so that
    Phi = exp((B - B') / 2) (exp(B') - (1 - s^2)) / (exp(B) - (1 - s^2)).
    """
    before, after = scheduler.sde.integrated_beta(t), scheduler.sde.integrated_beta(end)
    kappa = 1.0 - STD**2
    return np.exp(0.5 * (before - after)) * (np.exp(after) - kappa) / (np.exp(before) - kappa)


def strong_error(steps: np.ndarray) -> tuple[float, float]:
    """Root mean square distance of Euler-Maruyama's end from the exact solution on the same Brownian path, and that one's variance.

    Numerical and exact solution are affine in the same path, so E[(x_num - x)^2] is a recursion as well: on a step, x_num has
    c W / sqrt(dt) where x has int Phi(r) sqrt(beta(r)) dW_r, whose covariances are integrals.
    """
    scheduler = VPSDEScheduler()
    nodes, weights = np.polynomial.legendre.leggauss(16)
    offset, variance, covariance, exact_variance = 0.0, *[exact_law(scheduler, 1.0)[1]] * 3
    for t, end, a, b, c in steps:
        offset = a * (offset + exact_law(scheduler, t)[0]) + b - exact_law(scheduler, end)[0]
        dt = t - end
        r = end + 0.5 * dt * (nodes + 1.0)
        gain = reverse_flow(scheduler, r, np.float64(end)) * np.sqrt(scheduler.sde.beta(r))
        phi = reverse_flow(scheduler, np.float64(t), np.float64(end))
        variance = a**2 * variance + c**2
        covariance = a * phi * covariance + c / math.sqrt(dt) * 0.5 * dt * weights @ gain
        exact_variance = phi**2 * exact_variance + 0.5 * dt * weights @ gain**2
    return math.sqrt(offset**2 + variance - 2.0 * covariance + exact_variance), float(exact_variance)


def slope(errors: Sequence[float]) -> float:
    """Order of convergence, fitted to errors at step counts that double."""
    return -float(np.polyfit(np.arange(len(errors)) * math.log(2.0), np.log(errors), 1)[0])
