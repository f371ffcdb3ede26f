"""Laws of t against scipy's, weights against the squared errors that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from idiff_hf.schedulers import VPSDEScheduler
from idiff_hf.timesteps import draw_times, loss_weight

EPS = 1e-3


class LogitNormal:
    """The law of s by its distribution function."""

    def __init__(self, mean: float, std: float) -> None:
        self.normal = stats.norm(mean, std)

    def cdf(self, t: np.ndarray) -> np.ndarray:
        s = (t - EPS) / (1 - EPS)
        return self.normal.cdf(np.log(s) - np.log1p(-s))


@pytest.mark.parametrize(
    ("options", "law"),
    [
        ({"law": "uniform"}, stats.uniform(EPS, 1 - EPS)),
        ({"law": "beta", "beta": 0.5}, stats.beta(1, 0.5, loc=EPS, scale=1 - EPS)),
        ({"law": "beta", "beta": 2.0}, stats.beta(1, 2.0, loc=EPS, scale=1 - EPS)),
        ({"law": "logit_normal"}, LogitNormal(0.0, 1.0)),
        ({"law": "logit_normal", "mean": 0.7, "std": 0.4}, LogitNormal(0.7, 0.4)),
    ],
)
def test_times_follow_their_law(options: dict[str, Any], law: Any) -> None:
    uniform = torch.rand(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = draw_times(uniform, EPS, **options)
    assert t.min() >= EPS and t.max() <= 1
    assert stats.kstest(t.numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("law", ["uniform", "beta", "logit_normal"])
def test_the_least_and_the_largest_number_give_times_inside(law: Any) -> None:
    t = draw_times(torch.tensor([0.0, 1.0 - 2.0**-24]), EPS, law, beta=0.5)
    assert t[0] == EPS and EPS < t[1] <= 1


def test_beta_1_is_uniform() -> None:
    uniform = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    torch.testing.assert_close(draw_times(uniform, EPS, "beta", beta=1.0), draw_times(uniform, EPS))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_weights_turn_the_error_of_any_prediction_into_the_error_they_stand_for(prediction: str) -> None:
    """One pair of images x_0, one x_t: the error of each quantity, converted, times its weight is the same number."""
    scheduler = VPSDEScheduler(prediction_type=prediction)
    t = torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64)
    timestep = scheduler.timestep_from_t(t)
    shape = (3, 1, 4, 4)
    x_t, x_0, other = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def error(quantity: str) -> torch.Tensor:
        values = [scheduler.convert(x, x_t, timestep, "sample", quantity) for x in (x_0, other)]
        return (values[0] - values[1]).square().mean(dim=(1, 2, 3))

    own = error(prediction)
    alpha, sigma = scheduler.alpha_sigma(t)
    score = error("score")
    torch.testing.assert_close(loss_weight(scheduler, t, "plain") * own, own)
    torch.testing.assert_close(loss_weight(scheduler, t, "sigma2") * own, sigma**2 * score)
    g2 = 0.1 + t * (20.0 - 0.1)
    torch.testing.assert_close(loss_weight(scheduler, t, "likelihood") * own, g2 * score)
    snr = (alpha / sigma) ** 2
    torch.testing.assert_close(
        loss_weight(scheduler, t, "min_snr", 5.0) * own, snr.clamp_max(5.0) * error("sample")
    )
    torch.testing.assert_close(
        loss_weight(scheduler, t, "min_snr_plus_one", 5.0) * own, (snr.clamp_max(5.0) + 1) * error("sample")
    )
    # without a bound it is the error of v
    unbounded = loss_weight(scheduler, t, "min_snr_plus_one", torch.inf) * own
    torch.testing.assert_close(unbounded, error("v_prediction"))


def test_the_papers_weighting_of_a_noise_prediction_is_its_plain_squared_error() -> None:
    t = torch.linspace(EPS, 1, 20)
    assert torch.equal(loss_weight(VPSDEScheduler(), t, "sigma2"), torch.ones(20))


def test_min_snr_agrees_with_diffusers() -> None:
    """diffusers' examples weigh an eps prediction by min(SNR, gamma) / SNR, with its own SNR at the grid's times."""
    from diffusers.training_utils import compute_snr

    scheduler = VPSDEScheduler()
    # not at 0, where 1 - alphas_cumprod in float32 keeps three digits
    timesteps = torch.tensor([10, 100, 500, 999])
    snr = compute_snr(scheduler, timesteps)
    expected = torch.minimum(snr, torch.full_like(snr, 5.0)) / snr
    t = scheduler.t_from_timestep(timesteps.float())
    torch.testing.assert_close(loss_weight(scheduler, t, "min_snr", 5.0), expected, rtol=1e-5, atol=0)
