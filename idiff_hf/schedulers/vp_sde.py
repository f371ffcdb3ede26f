"""Closed forms of the variance-preserving SDE of Song et al. (arXiv:2011.13456): marginals, times, conversions.

Forward SDE (Ito; Eq. 11 there), t from 0 (data) to 1 (noise), with beta linear in t (appendix C there):

    dx = -1/2 beta(t) x dt + sqrt(beta(t)) dw,    beta(t) = beta_min + t (beta_max - beta_min)

Its marginal given x_0 is  x_t = alpha_t x_0 + sigma_t eps,  eps ~ N(0, I),  with

    alpha_t = exp(-1/2 int_0^t beta(s) ds),    sigma_t^2 = 1 - alpha_t^2
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from .checks import require_one_of, working_dtype

QUANTITIES = ("epsilon", "sample", "v_prediction", "score")

Coefficient = TypeVar("Coefficient", Tensor, float)


@dataclass(frozen=True)
class VPSDE:
    """The SDE as functions of the time t in [0, 1], each of the shape of `t` and computed in float64.

    Results are in float32, or float64 where `t` is.

    Args:
        beta_min: beta(0), above 0.
        beta_max: beta(1), above `beta_min`.
    """

    beta_min: float
    beta_max: float

    def beta(self, t: Coefficient) -> Coefficient:
        """beta(t), the squared diffusion coefficient, in the dtype of `t`."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integrated_beta(self, t: Coefficient) -> Coefficient:
        """int_0^t beta(s) ds = -2 log alpha_t, in the dtype of `t`."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Scales of data and noise: alpha_t and sigma_t, the latter precise where it is small."""
        exponent = self.integrated_beta(t.double())
        dtype = working_dtype(t)
        return torch.exp(-0.5 * exponent).to(dtype), torch.sqrt(-torch.expm1(-exponent)).to(dtype)

    def log_noise_ratio(self, t: Tensor) -> Tensor:
        """log(sigma_t / alpha_t) = 1/2 log(exp(int_0^t beta) - 1), for t above 0; it increases with t."""
        return (0.5 * torch.log(torch.expm1(self.integrated_beta(t.double())))).to(working_dtype(t))

    def t_from_log_noise_ratio(self, ratio: Tensor) -> Tensor:
        """The time t at which log(sigma_t / alpha_t) is `ratio`, the inverse of `log_noise_ratio`."""
        # int_0^t beta = log(1 + sigma^2 / alpha^2), then the positive root of the quadratic in t, without cancellation
        integral = torch.nn.functional.softplus(2.0 * ratio.double())
        slope = self.beta_max - self.beta_min
        root = torch.sqrt(self.beta_min**2 + 2.0 * slope * integral)
        return (2.0 * integral / (self.beta_min + root)).to(working_dtype(ratio))


# (source, target) -> target as a function of the source y, x_t, alpha, sigma, where x_t = alpha x_0 + sigma eps,
# v = alpha eps - sigma x_0 (appendix D of arXiv:2202.00512) and score = -eps / sigma, with alpha^2 + sigma^2 = 1.
_CONVERSIONS: dict[tuple[str, str], Callable[[Any, Any, Any, Any], Any]] = {
    ("epsilon", "sample"): lambda y, x_t, alpha, sigma: (x_t - sigma * y) / alpha,
    ("epsilon", "v_prediction"): lambda y, x_t, alpha, sigma: (y - sigma * x_t) / alpha,
    ("epsilon", "score"): lambda y, x_t, alpha, sigma: -y / sigma,
    ("sample", "epsilon"): lambda y, x_t, alpha, sigma: (x_t - alpha * y) / sigma,
    ("sample", "v_prediction"): lambda y, x_t, alpha, sigma: (alpha * x_t - y) / sigma,
    ("sample", "score"): lambda y, x_t, alpha, sigma: (alpha * y - x_t) / sigma**2,
    ("v_prediction", "epsilon"): lambda y, x_t, alpha, sigma: sigma * x_t + alpha * y,
    ("v_prediction", "sample"): lambda y, x_t, alpha, sigma: alpha * x_t - sigma * y,
    ("v_prediction", "score"): lambda y, x_t, alpha, sigma: -x_t - alpha * y / sigma,
    ("score", "epsilon"): lambda y, x_t, alpha, sigma: -sigma * y,
    ("score", "sample"): lambda y, x_t, alpha, sigma: (x_t + sigma**2 * y) / alpha,
    ("score", "v_prediction"): lambda y, x_t, alpha, sigma: -sigma * (x_t + y) / alpha,
}


def convert(
    value: Tensor, x_t: Tensor, alpha: Coefficient, sigma: Coefficient, source: str, target: str
) -> Tensor:
    """One of eps, x_0, v and the score of x_t from another.

    Args:
        value: The quantity known, of the shape of `x_t`.
        x_t: The noisy sample.
        alpha: Scale of the data in it, above 0, a float or broadcastable.
        sigma: Scale of the noise in it, above 0, likewise.
        source: What `value` is: "epsilon", "sample" (x_0), "v_prediction" (alpha eps - sigma x_0) or "score".
        target: What is wanted, likewise.

    Returns:
        The quantity wanted, of the shape of `x_t`.

    Raises:
        ValueError: If `source` or `target` is none of these.
    """
    require_one_of("source", source, QUANTITIES)
    require_one_of("target", target, QUANTITIES)
    return value if source == target else _CONVERSIONS[source, target](value, x_t, alpha, sigma)
