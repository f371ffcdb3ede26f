"""The probability-flow ODE from images to noise and back: what edits keep."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ..schedulers import VPSDEScheduler
from ..schedulers.solvers import ode


def flow_times(sde: VPSDEScheduler, first: float, num_steps: int) -> list[float]:
    """`num_steps + 1` times from `first` up to 1, at even distances of log(sigma / alpha)."""
    ends = sde.sde.log_noise_ratio(torch.tensor([first, 1.0], dtype=torch.float64))
    ratios = torch.linspace(float(ends[0]), float(ends[1]), num_steps + 1, dtype=torch.float64)
    inner = sde.sde.t_from_log_noise_ratio(ratios[1:-1]).tolist()
    return [first, *inner, 1.0]


def probability_flow(
    sample: Tensor,
    predict: Callable[[Tensor, Tensor, float], Tensor],
    sde: VPSDEScheduler,
    times: list[float],
) -> Tensor:
    """Follow the probability-flow ODE by Heun's method in sigma / alpha, two calls of the network a step, order 2.

    Up and down the same times it returns to where it began, up to its own error: no noise is drawn, no prediction is limited, and there is
    no last denoising step.

    Args:
        sample: x_t at the first time, `(B, C, H, W)`.
        predict: The network, of x_t, tau `()` and t, with the output that `sde` says.
        sde: For the conversions.
        times: Where the steps begin and end, rising from image to noise or falling from noise to image.

    Returns:
        x_t at the last time.
    """

    def noise(x: Tensor, t: float) -> Tensor:
        timestep = sde.timestep_from_t(torch.tensor(t, dtype=torch.float64)).to(x.device, torch.float32)
        return sde.predict_noise(predict(x, timestep, t), x, timestep)

    def scales(t: float) -> tuple[float, float]:
        alpha, sigma = sde.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        return float(alpha), float(sigma)

    for start, end in pairwise(times):
        before = noise(sample, start)
        after = noise(ode(sample, before, scales(start), scales(end)), end)
        sample = ode(sample, 0.5 * (before + after), scales(start), scales(end))
    return sample
