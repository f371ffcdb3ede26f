"""Steps of the solvers of the reverse-time SDE and of its probability-flow ODE, and the order they are called in.

Each call of the network is one `Stage`, so that a sampling loop that calls the network once for every timestep, as
every pipeline of diffusers does, drives a solver that needs several calls a step.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

SOLVERS = ("euler_maruyama", "predictor_corrector", "heun_ode")
TIME_GRIDS = ("uniform", "quadratic")


class Stage(NamedTuple):
    """One call of the network: what its output is used for, and the time it is called at.

    Attributes:
        kind: The update. `heun_predict` is the Euler half of a step and `heun_correct` the trapezoidal one.
        t: Time of the sample, where the network is called.
        start: Time at which the step that the stage belongs to starts.
        end: Time that the step ends at: 0 for `denoise`, `t` for `langevin`.
    """

    kind: Literal["euler_maruyama", "langevin", "heun_predict", "heun_correct", "denoise"]
    t: float
    start: float
    end: float


def time_grid(kind: str, last: float, num_points: int) -> Tensor:
    """`num_points` times from 1 down to `last`, float64; 1 alone if there is one point.

    "uniform" is uniform in t; "quadratic" is uniform in sqrt(t), so that steps shrink towards the data, where the
    score changes fastest (the quadratic sub-sequence of arXiv:2010.02502, appendix D.2).
    """
    if kind == "uniform":
        return torch.linspace(1.0, last, num_points, dtype=torch.float64)
    times = torch.linspace(1.0, math.sqrt(last), num_points, dtype=torch.float64).square()
    if num_points > 1:
        times[-1] = last
    return times


def stages(solver: str, times: list[float], final_denoise: bool) -> list[Stage]:
    """The calls of the network by which `solver` goes along `times`, which decrease.

    Args:
        solver: One of `SOLVERS`.
        times: Grid points.
        final_denoise: Whether a call at the last of them follows, for E[x_0 | x_t].
    """
    calls: list[Stage] = []
    for start, end in pairwise(times):
        if solver == "heun_ode":
            calls += [Stage("heun_predict", start, start, end), Stage("heun_correct", end, start, end)]
        else:
            calls.append(Stage("euler_maruyama", start, start, end))
            if solver == "predictor_corrector":
                calls.append(Stage("langevin", end, end, end))
    if final_denoise:
        calls.append(Stage("denoise", times[-1], times[-1], 0.0))
    return calls


def euler_maruyama(x_t: Tensor, score: Tensor, beta_dt: float, z: Tensor) -> Tensor:
    """One Euler-Maruyama step of the reverse SDE (Eq. 6 of arXiv:2011.13456) from t to t - dt.

        x_{t-dt} = x_t + (1/2 beta(t) x_t + beta(t) score) dt + sqrt(beta(t) dt) z,    z ~ N(0, I)

    Ito; weak order 1; strong order 0.5 in general, 1.0 here because the noise is additive. One call.
    """
    return x_t + (0.5 * x_t + score) * beta_dt + z * math.sqrt(beta_dt)


def langevin(x_t: Tensor, score: Tensor, snr: float, z: Tensor) -> Tensor:
    """One corrector step of Langevin dynamics at fixed t (algorithm 5 of arXiv:2011.13456).

        x_t <- x_t + step score + sqrt(2 step) z,    step = 2 (snr ||z|| / ||score||)^2,    z ~ N(0, I)

    Ito, Euler-Maruyama in the Langevin dynamics' own time, which leaves p_t as it is up to the discretisation. The
    step size makes ||step score|| / ||sqrt(2 step) z|| = snr, with norms over each sample by itself, so that a sample
    does not depend on its batch; the factor 1 - beta_i there is 1 in continuous time. Norms are taken over many
    pixels: in few dimensions the step size has heavy tails. For Gaussian p_t of variance V in many dimensions the
    stationary variance is (1 + snr^2) V. That bias does not vanish as the time grid is refined, so the order in dt of
    predictor-corrector sampling is that of its predictor only down to an error of O(snr^2). One call.

    A sample whose score is 0 everywhere has no step size, and is left as it is.
    """
    shape = (-1,) + (1,) * (x_t.ndim - 1)
    noise_norm, score_norm = (y.reshape(len(y), -1).norm(dim=1).reshape(shape) for y in (z, score))
    step = torch.where(score_norm > 0.0, 2.0 * (snr * noise_norm / score_norm).square(), 0.0)
    return x_t + step * score + torch.sqrt(2.0 * step) * z


def ode(x: Tensor, eps: Tensor, start: tuple[float, float], end: tuple[float, float]) -> Tensor:
    """The probability-flow ODE (Eq. 13 of arXiv:2011.13456) from one time to another along a constant eps.

    In x / alpha and sigma / alpha that ODE is d(x / alpha) = eps d(sigma / alpha), without a stiff linear part, so

        x_end = alpha_end / alpha_start (x_start - sigma_start eps) + sigma_end eps

    With eps at the start this is Euler's method in sigma / alpha, the update of DDIM (order 1). With the mean of eps
    at the start and eps at the end that Euler predicts it is Heun's method, the explicit trapezoidal rule in
    sigma / alpha (algorithm 1 of arXiv:2206.00364 without noise): order 2, deterministic, two calls.

    Args:
        x: The sample at the start.
        eps: -sigma score, of its shape.
        start: alpha and sigma at the start.
        end: alpha and sigma at the end.
    """
    return (x - start[1] * eps) * (end[0] / start[0]) + end[1] * eps


def dynamic_threshold(x_0: Tensor, ratio: float, largest: float) -> Tensor:
    """x_0 cut at its own quantile `ratio` of |x_0|, in [1, `largest`], and divided by it (arXiv:2205.11487, section 2.3)."""
    cut = torch.quantile(x_0.reshape(len(x_0), -1).abs(), ratio, dim=1)
    cut = cut.clamp(1.0, largest).reshape((-1,) + (1,) * (x_0.ndim - 1))
    return x_0.clamp(-cut, cut) / cut
