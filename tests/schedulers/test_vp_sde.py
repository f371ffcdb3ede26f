"""Closed forms of the SDE: moments against its own differential equations, times and back, the twelve conversions."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from idiff_hf.schedulers import VPSDE, VPSDEScheduler
from idiff_hf.schedulers.vp_sde import QUANTITIES, convert

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def test_moments_at_twenty_times_solve_the_equations_of_the_sde() -> None:
    # For dx = -1/2 beta x dt + sqrt(beta) dw: dm/dt = -1/2 beta m and dv/dt = beta (1 - v), from (0.8, 0.09) at 0.
    times = np.linspace(0.05, 1.0, 20)
    for sde in (VPSDE(0.1, 20.0), VPSDE(0.4, 3.0)):
        moments = solve_ivp(
            lambda t, y, sde=sde: sde.beta(t) * np.array([-0.5 * y[0], 1.0 - y[1]]),
            (0.0, 1.0),
            [0.8, 0.09],
            t_eval=times,
            rtol=1e-10,
            atol=1e-12,
        ).y
        alpha, sigma = (c.numpy() for c in sde.alpha_sigma(torch.from_numpy(times)))
        np.testing.assert_allclose(alpha * 0.8, moments[0], rtol=1e-7)
        np.testing.assert_allclose(alpha**2 * 0.09 + sigma**2, moments[1], rtol=1e-7)


def test_beta_is_linear_and_its_integral_is_that_on_paper() -> None:
    sde = VPSDE(0.1, 20.0)
    assert [sde.beta(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.1, 10.05, 20.0])
    assert [sde.integrated_beta(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.0, 2.5375, 10.05])


def test_noise_ratio_is_that_of_the_scales_and_its_inverse_gives_the_time_back() -> None:
    sde = VPSDE(0.1, 20.0)
    t = torch.cat([torch.logspace(-6, 0, 20, dtype=torch.float64), torch.linspace(0.05, 1, 20).double()])
    alpha, sigma = sde.alpha_sigma(t)
    torch.testing.assert_close(sde.log_noise_ratio(t), torch.log(sigma / alpha), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sde.t_from_log_noise_ratio(sde.log_noise_ratio(t)), t, rtol=1e-9, atol=0.0)
    assert sde.log_noise_ratio(t.half()).dtype == sde.t_from_log_noise_ratio(t.half()).dtype == torch.float32


@pytest.mark.parametrize(("source", "target"), list(itertools.product(QUANTITIES, QUANTITIES)))
def test_each_quantity_is_had_from_each_other(source: str, target: str) -> None:
    scheduler = VPSDEScheduler()
    x_0, eps = torch.randn(
        2, 5, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).unbind()
    tau = torch.tensor([0.0, 1.5, 200.0, 900.0, 999.0], dtype=torch.float64)
    alpha, sigma = (c.reshape(-1, 1, 1) for c in scheduler.alpha_sigma(scheduler.t_from_timestep(tau)))
    x_t = alpha * x_0 + sigma * eps
    values = {"epsilon": eps, "sample": x_0, "v_prediction": alpha * eps - sigma * x_0, "score": -eps / sigma}
    # alpha_1 = 0.0066 divides in some of them
    actual = scheduler.convert(values[source], x_t, tau, source, target)
    torch.testing.assert_close(actual, values[target], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(convert(values[source], x_t, alpha, sigma, source, target), actual)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_named_predictions_convert_from_what_the_network_predicts(prediction_type: str) -> None:
    scheduler = VPSDEScheduler(prediction_type=prediction_type)
    x_0, eps = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind()
    tau = torch.tensor([3.0, 250.0, 700.5, 999.0], dtype=torch.float64)
    x_t, output = scheduler.add_noise(x_0, eps, tau), scheduler.target(x_0, eps, tau)
    _, sigma = scheduler.alpha_sigma(scheduler.t_from_timestep(tau))
    torch.testing.assert_close(scheduler.predict_original(output, x_t, tau), x_0)
    torch.testing.assert_close(scheduler.predict_noise(output, x_t, tau), eps)
    torch.testing.assert_close(
        scheduler.predict_velocity(output, x_t, tau), scheduler.get_velocity(x_0, eps, tau)
    )
    torch.testing.assert_close(scheduler.score(output, x_t, tau), -eps / sigma[:, None])


def test_score_is_the_gradient_of_the_log_density_of_gaussian_data() -> None:
    # Data N(0.3, 0.2^2): E[eps | x_t] = sigma (x - alpha 0.3) / v and grad log p_t = -(x - alpha 0.3) / v.
    scheduler = VPSDEScheduler()
    x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64).requires_grad_()
    for tau in (torch.tensor([5.0]), torch.tensor([400.0])):
        alpha, sigma = (float(c) for c in scheduler.alpha_sigma(scheduler.t_from_timestep(tau.double())))
        variance = 0.04 * alpha**2 + sigma**2
        log_density = torch.distributions.Normal(0.3 * alpha, math.sqrt(variance)).log_prob(x)
        (expected,) = torch.autograd.grad(log_density.sum(), x)
        output = sigma * (x.detach() - alpha * 0.3) / variance
        torch.testing.assert_close(scheduler.score(output, x.detach(), tau), expected)


@pytest.mark.parametrize(("argument", "name"), [(("eps", "sample"), "source"), (("sample", "x0"), "target")])
def test_unknown_quantities_are_refused(argument: tuple[str, str], name: str) -> None:
    x = torch.zeros(2, 3)
    message = f"{name} must be 'epsilon' or 'sample' or 'v_prediction' or 'score', got "
    with pytest.raises(ValueError, match=re.escape(message)):
        VPSDEScheduler().convert(x, x, torch.tensor([1, 2]), *argument)


def test_shapes_that_would_broadcast_are_refused() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(
        ValueError, match=re.escape("both tensors must have one shape, got (2, 3) and (1, 3).")
    ):
        VPSDEScheduler().convert(x[:1], x, torch.tensor([1, 2]), "epsilon", "score")
    with pytest.raises(
        ValueError, match=re.escape("timesteps must hold one value or one a sample: 2, got 3.")
    ):
        VPSDEScheduler().convert(x, x, torch.tensor([1, 2, 3]), "epsilon", "score")
