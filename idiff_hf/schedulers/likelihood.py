"""Likelihoods of a score model by the probability-flow ODE of its variance-preserving SDE (arXiv:2011.13456, section 4.3).

With u = log(sigma / alpha) and v = alpha eps - sigma x_0 the ODE (Eq. 13 there) is  dx / du = alpha sigma v(x, u),  and
along it (instantaneous change of variables, Eq. 39 there)

    log p_eps(x) = log N(x_1; 0, I) + int tr(d(alpha sigma v) / dx) du

with u from its value at t = sampling_eps, where the image x is, to that at t = 1, where the path through x ends in x_1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .checks import require, require_one_of, same_shape, working_dtype
from .scheduling_vp_sde import VPSDEScheduler

DIVERGENCES = ("hutchinson", "exact")

# alpha sigma v = a x + b output, by what the network predicts
_SLOPE: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "epsilon": lambda alpha, sigma: (-(sigma**2), sigma),
    "sample": lambda alpha, sigma: (alpha**2, -alpha),
    "v_prediction": lambda alpha, sigma: (0.0, alpha * sigma),
}
_NO_GRADIENT = (
    "model_fn must be differentiable in its sample, got an output without that gradient: do not call it under no_grad "
    "or detach its sample."
)


def bits_per_dim(
    sample: Tensor,
    model_fn: Callable[[Tensor, Tensor], Tensor],
    scheduler: VPSDEScheduler,
    *,
    num_steps: int = 50,
    divergence: str = "hutchinson",
    generator: torch.Generator | list[torch.Generator] | None = None,
    scale: float = 127.5,
) -> Tensor:
    """Negative log-likelihood of images in bits per dimension, of the density of pixels that range over 0 .. 255.

    With D dimensions a sample, from `log_likelihood` of x in nats and the log-determinant of y = scale (x + 1),
    D log(scale):

        bits = (-log p(x) + D log(scale)) / (D log 2)

    The density of whole numbers has no upper bound. What bounds the bits of a lossless code from above is that of pixels
    with uniform noise over one grey level, x + (w - 1/2) / 127.5, w ~ U[0, 1)^D: add it to `sample` first.

    Args:
        sample: Images x in [-1, 1], `(B, ...)`.
        model_fn: See `log_likelihood`, as for all but the last.
        scheduler: See there.
        num_steps: See there.
        divergence: See there.
        generator: See there.
        scale: Grey levels in a unit of x, above 0: 127.5 maps [-1, 1] to 0 .. 255, which adds log2(127.5) = 6.994 bits;
            the literature often has 128, which adds 7; with 1 the result is that of x itself.

    Returns:
        Bits per dimension, float64, `(B,)`.

    Raises:
        ValueError: If `scale` is not above 0 and finite, and as in `log_likelihood`.
    """
    require(0.0 < scale < math.inf, "scale", scale, "above 0 and finite")
    log_p = log_likelihood(
        sample, model_fn, scheduler, num_steps=num_steps, divergence=divergence, generator=generator
    )
    return -log_p / (sample[0].numel() * math.log(2.0)) + math.log2(scale)


def log_likelihood(
    sample: Tensor,
    model_fn: Callable[[Tensor, Tensor], Tensor],
    scheduler: VPSDEScheduler,
    *,
    num_steps: int = 50,
    divergence: str = "hutchinson",
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> Tensor:
    """log p(x) in nats, the density of the model at t = sampling_eps, by the probability-flow ODE.

    Classical Runge-Kutta on steps of one size in u = log(sigma / alpha): order 4, deterministic, 4 calls of `model_fn` a
    step. The prediction of x_0 is not limited, whatever the scheduler's config asks of sampling.

    Args:
        sample: x, `(B, ...)`, B of 1 or more.
        model_fn: The network, `model_fn(x_t, timesteps)` of shapes `(B, ...)` and `(B,)`, in float32 (float64 where
            `sample` is), differentiable in x_t, with sample i of its output a function of sample i of its input
            alone. It returns what the scheduler's `prediction_type` says, of the shape of x_t.
        scheduler: The SDE, its `sampling_eps` and `prediction_type`; its `solver` plays no part.
        num_steps: Steps of the ODE, 1 or more.
        divergence: "exact" sums D derivatives, a backward pass each, for data of few dimensions D. "hutchinson" is
            the unbiased estimate w^T (d / dx) w with one vector of random signs w for each sample (arXiv:1810.01367,
            section 3.1), one backward pass.
        generator: Source of the signs, one for the batch or a list of B, such as `idiff_hf.random.generator(seed,
            "hutchinson")`. Needed by "hutchinson"; "exact" draws nothing.

    Returns:
        Nats, float64, `(B,)`, without gradient.

    Raises:
        ValueError: If an argument is outside the range above, a list of generators is not B long, or the output of
            `model_fn` has another shape than its input or no gradient.
    """
    require(
        sample.ndim >= 1 and sample.numel() > 0,
        "sample",
        tuple(sample.shape),
        "a batch (B, ...) of 1 or more",
    )
    require(num_steps >= 1, "num_steps", num_steps, "1 or more")
    require_one_of("divergence", divergence, DIVERGENCES)
    dtype = working_dtype(sample)
    probe: Tensor | None = None
    if divergence == "hutchinson":
        if generator is None:
            raise ValueError(
                "generator must be given for divergence='hutchinson', got None: pass "
                "idiff_hf.random.generator(seed, 'hutchinson'), or divergence='exact' for data of few dimensions."
            )
        count = len(generator) if isinstance(generator, list) else len(sample)
        require(count == len(sample), "generator", count, f"a list of {len(sample)}, one a sample")
        noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=dtype)
        probe = torch.where(noise < 0.0, -1.0, 1.0).to(dtype)

    def rate(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """dx / du and its divergence, summed over each sample."""
        t = scheduler.sde.t_from_log_noise_ratio(u)
        alpha, sigma = (float(c) for c in scheduler.sde.alpha_sigma(t))
        timesteps = scheduler.timestep_from_t(t).to(x.device, dtype).expand(len(x))
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone().requires_grad_()
            output = model_fn(x, timesteps)
            same_shape(x, output)
            trace = _divergence(output, x, probe)
        of_x, of_output = _SLOPE[scheduler.config["prediction_type"]](alpha, sigma)
        slope = of_x * x.detach() + of_output * output.detach().to(dtype)
        return slope, of_x * x[0].numel() + of_output * trace

    ends = scheduler.sde.log_noise_ratio(
        torch.tensor([scheduler.config["sampling_eps"], 1.0], dtype=torch.float64)
    )
    h = (ends[1] - ends[0]) / num_steps
    x, log_det = (
        sample.detach().to(dtype),
        torch.zeros(len(sample), dtype=torch.float64, device=sample.device),
    )
    step = float(h)
    for i in range(num_steps):
        u = ends[0] + i * h
        k_1, d_1 = rate(x, u)
        k_2, d_2 = rate(x + 0.5 * step * k_1, u + 0.5 * h)
        k_3, d_3 = rate(x + 0.5 * step * k_2, u + 0.5 * h)
        k_4, d_4 = rate(x + step * k_3, u + h)
        x = x + step / 6.0 * (k_1 + 2.0 * k_2 + 2.0 * k_3 + k_4)
        log_det = log_det + step / 6.0 * (d_1 + 2.0 * d_2 + 2.0 * d_3 + d_4)

    log_prior = -0.5 * (x.double().square() + math.log(2.0 * math.pi))
    return log_prior.reshape(len(x), -1).sum(dim=1) + log_det


def _divergence(y: Tensor, x: Tensor, probe: Tensor | None) -> Tensor:
    """tr(dy / dx) of each sample, float64: by a backward pass for each dimension, or w^T (dy / dx) w if w is given."""
    if not y.requires_grad:
        raise ValueError(_NO_GRADIENT)
    trace = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    if probe is not None:
        return trace + (_gradient(y, x, probe.to(y.dtype)) * probe).reshape(len(y), -1).double().sum(dim=1)
    flat = y.reshape(len(y), -1)
    for i in range(flat.shape[1]):
        trace += _gradient(flat[:, i].sum(), x).reshape(len(y), -1)[:, i]
    return trace


def _gradient(y: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
    (gradient,) = torch.autograd.grad(y, x, weights, retain_graph=weights is None, allow_unused=True)
    if gradient is None:
        raise ValueError(_NO_GRADIENT)
    return gradient
