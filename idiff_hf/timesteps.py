"""At which times the U-Net learns, and with what weight (Eq. 3, Section 4)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .schedulers import VPSDEScheduler

TimeLaw = Literal["uniform", "beta", "logit_normal"]
Weighting = Literal["plain", "sigma2", "likelihood", "min_snr", "min_snr_plus_one"]


def draw_times(
    uniform: Tensor,
    eps: float,
    law: TimeLaw = "uniform",
    *,
    beta: float = 1.0,
    mean: float = 0.0,
    std: float = 1.0,
) -> Tensor:
    """Times in [eps, 1]: t = eps + (1 - eps) s, with s by the inverse of its distribution function.

    Args:
        uniform: Numbers in [0, 1), `(B,)`.
        eps: The smallest time.
        law: Of s. `uniform` (the paper); `beta`: Beta(1, beta), with distribution function 1 - (1 - s)^beta; `logit_normal`:
            log(s / (1 - s)) ~ N(mean, std^2), as in Esser et al. (arXiv:2403.03206).
        beta: Of `beta`: 1 is uniform, below 1 puts more weight on noisy times.
        mean: Of `logit_normal`: above 0 puts more weight on noisy times.
        std: Of `logit_normal`.

    Returns:
        `(B,)`.
    """
    if law == "beta":
        s = 1.0 - (1.0 - uniform) ** (1.0 / beta)
    elif law == "logit_normal":
        s = torch.sigmoid(mean + std * torch.special.ndtri(uniform))
    else:
        s = uniform
    return eps + (1.0 - eps) * s


def loss_weight(scheduler: VPSDEScheduler, t: Tensor, weighting: Weighting, gamma: float = 5.0) -> Tensor:
    """The weight of the squared error of the network's own prediction at time t.

    With SNR = alpha^2 / sigma^2 the squared errors of one network are |eps|^2 = SNR |x_0|^2 and |v|^2 = (1 + SNR) |x_0|^2, so that each
    weighting below is one function of t whatever is predicted. The squared error of the score is |eps|^2 / sigma^2.

    Args:
        scheduler: The SDE, with its `prediction_type`.
        t: Times in (0, 1], `(B,)`.
        weighting: `plain` is 1; `sigma2` gives sigma^2(t) times the squared error of the score, the paper's Eq. 3; `likelihood` gives
            g^2(t) = beta(t) times it (Song et al., arXiv:2101.09258); `min_snr` gives min(SNR, gamma) |x_0|^2 (Hang et al.,
            arXiv:2303.09556); `min_snr_plus_one` gives (min(SNR, gamma) + 1) |x_0|^2, the weight of v (Salimans and Ho,
            arXiv:2202.00512, section 4) with that bound.
        gamma: Of the last two.

    Returns:
        `(B,)`.
    """
    if weighting == "plain":
        return torch.ones_like(t)
    alpha, sigma = scheduler.alpha_sigma(t)
    snr = (alpha / sigma) ** 2
    of_x0 = {"epsilon": snr, "v_prediction": 1.0 + snr, "sample": torch.ones_like(snr)}[
        scheduler.config["prediction_type"]
    ]
    if weighting == "min_snr":
        return snr.clamp_max(gamma) / of_x0
    if weighting == "min_snr_plus_one":
        return (snr.clamp_max(gamma) + 1.0) / of_x0
    if weighting == "sigma2":
        return snr / of_x0
    return scheduler.sde.beta(t) * snr / sigma**2 / of_x0
