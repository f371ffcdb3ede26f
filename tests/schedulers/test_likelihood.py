"""Likelihoods by the probability-flow ODE against closed forms, and the estimator of the divergence.

For Gaussian data N(mean, C) the exact eps is sigma V^-1 (x - alpha mean) with V = alpha^2 C + sigma^2, and the ODE takes x at
t = eps to alpha_1 mean + V_1^(1/2) V_eps^(-1/2) (x - alpha_eps mean), so that the density that it gives with the prior N(0, I),
which is not quite the law at t = 1, is known as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from idiff_hf.random import generator
from idiff_hf.schedulers import VPSDEScheduler, bits_per_dim, log_likelihood
from tests.schedulers.gaussian import slope

Model = Callable[[Tensor, Tensor], Tensor]
MEAN = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.30, 0.12, 0.0], [0.12, 0.20, 0.05], [0.0, 0.05, 0.10]], dtype=torch.float64)
POINTS = torch.tensor([[0.4, -0.2, 0.1], [1.0, 0.3, -0.5], [-0.7, 0.6, 0.2]], dtype=torch.float64)


def marginal(scheduler: VPSDEScheduler, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    alpha, sigma = (c.double() for c in scheduler.alpha_sigma(t))
    return alpha, sigma, alpha * MEAN, alpha**2 * COVARIANCE + sigma**2 * torch.eye(3, dtype=torch.float64)


def gaussian_model(scheduler: VPSDEScheduler) -> Model:
    """The exact network for data N(MEAN, COVARIANCE)."""

    def model(x: Tensor, timesteps: Tensor) -> Tensor:
        assert timesteps.shape == (len(x),)
        _, _, mean, variance = marginal(scheduler, scheduler.t_from_timestep(timesteps[:1].double())[0])
        score = -torch.linalg.solve(variance, (x.double().reshape(-1, 3) - mean).T).T.reshape(x.shape)
        noise = scheduler.convert(score, x.double(), timesteps, "score", scheduler.config.prediction_type)
        return noise.to(x.dtype)

    return model


def data_log_density(x: Tensor) -> Tensor:
    return torch.distributions.MultivariateNormal(MEAN, COVARIANCE).log_prob(x)


def flow_log_density(scheduler: VPSDEScheduler, x: Tensor) -> Tensor:
    """log N(x_1; 0, I) + log |dx_1 / dx| along the exact ODE."""
    ends = torch.tensor([scheduler.config.sampling_eps, 1.0], dtype=torch.float64)
    (_, _, mean, variance), (_, _, last_mean, last_variance) = (marginal(scheduler, t) for t in ends)
    _, vectors = torch.linalg.eigh(COVARIANCE)
    # V_t shares the eigenvectors of C
    gain = torch.sqrt(
        (vectors.T @ last_variance @ vectors).diagonal() / (vectors.T @ variance @ vectors).diagonal()
    )
    x_1 = last_mean + ((x - mean) @ vectors * gain) @ vectors.T
    return -0.5 * (x_1**2 + math.log(2.0 * math.pi)).sum(dim=1) + gain.log().sum()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_likelihood_of_gaussian_data_is_the_closed_form(prediction_type: str) -> None:
    scheduler = VPSDEScheduler(prediction_type=prediction_type)
    actual = log_likelihood(POINTS, gaussian_model(scheduler), scheduler, num_steps=80, divergence="exact")
    assert actual.dtype == torch.float64
    assert not actual.requires_grad
    torch.testing.assert_close(actual, flow_log_density(scheduler, POINTS), rtol=0.0, atol=1e-5)
    # The law at sampling_eps is not quite that of the data: sigma_eps^2 = 1.1e-4 beside variances of 0.07 and more, and
    # alpha_1 = 0.0066 is not quite 0. In the limit of both it is.
    torch.testing.assert_close(actual, data_log_density(POINTS), rtol=0.0, atol=0.02)
    scheduler = VPSDEScheduler(prediction_type=prediction_type, sampling_eps=1e-5, beta_max=40.0)
    actual = log_likelihood(POINTS, gaussian_model(scheduler), scheduler, num_steps=100, divergence="exact")
    torch.testing.assert_close(actual, data_log_density(POINTS), rtol=0.0, atol=5e-4)


def test_likelihood_converges_at_order_four() -> None:
    scheduler = VPSDEScheduler()
    exact = flow_log_density(scheduler, POINTS)
    errors = []
    for num_steps in (10, 20, 40, 80):
        actual = log_likelihood(
            POINTS, gaussian_model(scheduler), scheduler, num_steps=num_steps, divergence="exact"
        )
        errors.append(float((actual - exact).abs().max()))
    assert slope(errors) == pytest.approx(4.0, abs=0.3)


def test_likelihood_of_a_mixture_is_the_closed_form() -> None:
    # Weights 0.3 and 0.7, means -1 and 0.5, deviation 0.2: neither score nor divergence is constant in x.
    scheduler = VPSDEScheduler()
    weights, means = torch.tensor([0.3, 0.7]).double(), torch.tensor([-1.0, 0.5]).double()

    def density(t: Tensor) -> torch.distributions.Distribution:
        alpha, sigma = (c.double() for c in scheduler.alpha_sigma(t))
        parts = torch.distributions.Normal(alpha * means, torch.sqrt(alpha**2 * 0.04 + sigma**2))
        return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), parts)

    def model(x: Tensor, timesteps: Tensor) -> Tensor:
        t = scheduler.t_from_timestep(timesteps[0].double())
        (score,) = torch.autograd.grad(density(t).log_prob(x).sum(), x, create_graph=True)
        return -scheduler.alpha_sigma(t)[1] * score

    x = torch.tensor([[-1.5], [-1.0], [-0.4], [0.0], [0.5], [1.2]], dtype=torch.float64)
    actual = log_likelihood(x, model, scheduler, num_steps=100, divergence="exact")
    expected = density(torch.tensor(1e-3, dtype=torch.float64)).log_prob(x)[:, 0]
    # The law at t = 1 differs from N(0, I) by alpha_1 = 0.0066 times the mean.
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.01)


def test_density_integrates_to_one() -> None:
    # For a network that is the score of no law: the density of a flow is one whatever the network is.
    scheduler = VPSDEScheduler()

    def model(x: Tensor, timesteps: Tensor) -> Tensor:
        alpha, sigma = scheduler.alpha_sigma(scheduler.t_from_timestep(timesteps[:1]))
        return sigma * x + 0.5 * alpha * torch.sin(3.0 * x)

    x = torch.linspace(-8.0, 8.0, 2001, dtype=torch.float64)[:, None]
    log_p = log_likelihood(x, model, scheduler, num_steps=40, divergence="exact")
    assert float(torch.trapezoid(log_p.exp(), x[:, 0])) == pytest.approx(1.0, abs=1e-4)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(x[:, 0])
    assert float((log_p - normal).abs().max()) > 0.5


def test_hutchinsons_estimates_are_the_exact_value_plus_their_off_diagonal_terms() -> None:
    # w^T J w = tr J + 2 sum_{i<j} w_i w_j J_ij, and w_1 w_3 J_13 and so on sum to 0 over the eight vectors of signs: what
    # these give, four different values, twice each, has the exact one for mean.
    scheduler = VPSDEScheduler()
    model = gaussian_model(scheduler)
    exact = log_likelihood(POINTS[1:2], model, scheduler, num_steps=20, divergence="exact")
    many = log_likelihood(
        POINTS[1:2].expand(200, 3), model, scheduler, num_steps=20, generator=generator(0, "hutchinson")
    )
    values = torch.unique(torch.round(many, decimals=6))
    assert len(values) == 4
    assert float(values.mean()) == pytest.approx(float(exact), abs=1e-5)
    assert float(values.std()) > 0.01


def test_hutchinsons_estimates_are_exact_for_independent_dimensions() -> None:
    scheduler = VPSDEScheduler()
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def model(x: Tensor, timesteps: Tensor) -> Tensor:
        return x + 0.1 * torch.sin(x)

    exact = log_likelihood(x, model, scheduler, num_steps=5, divergence="exact")
    estimate = log_likelihood(x, model, scheduler, num_steps=5, generator=generator(0, "hutchinson"))
    torch.testing.assert_close(estimate, exact, rtol=1e-12, atol=1e-12)


def test_estimates_are_a_function_of_the_key_and_of_the_sample_alone() -> None:
    scheduler = VPSDEScheduler()
    model = gaussian_model(scheduler)

    def estimate(rows: list[int], first: int = 0) -> Tensor:
        generators = [generator(first, "hutchinson", row) for row in rows]
        return log_likelihood(POINTS[rows], model, scheduler, num_steps=4, generator=generators)

    together = estimate([0, 1, 2])
    assert torch.equal(estimate([0, 1, 2]), together)
    torch.testing.assert_close(torch.cat([estimate([i]) for i in range(3)]), together, rtol=1e-12, atol=0.0)
    assert any(not torch.equal(estimate([0, 1, 2], seed), together) for seed in (1, 2, 3))


def test_bits_are_those_of_grey_levels_from_0_to_255() -> None:
    scheduler = VPSDEScheduler()
    model = gaussian_model(scheduler)
    log_p = log_likelihood(POINTS, model, scheduler, num_steps=20, divergence="exact")
    bits = bits_per_dim(POINTS, model, scheduler, num_steps=20, divergence="exact")
    # y = 127.5 (x + 1) has the density p(x) / 127.5^3
    torch.testing.assert_close(bits, -(log_p - 3.0 * math.log(127.5)) / (3.0 * math.log(2.0)))
    plain = bits_per_dim(POINTS, model, scheduler, num_steps=20, divergence="exact", scale=1.0)
    torch.testing.assert_close(
        bits - plain, torch.full((3,), 6.994353, dtype=torch.float64), rtol=1e-6, atol=0.0
    )


def test_exact_and_estimated_bits_agree_over_images() -> None:
    # 4x4 pixels of standard normal noise: eps = sigma x (v = 0), so log p is that of N(0, I), in single precision too.
    scheduler = VPSDEScheduler()

    def model(x: Tensor, timesteps: Tensor) -> Tensor:
        _, sigma = scheduler.alpha_sigma(scheduler.t_from_timestep(timesteps))
        return sigma.reshape(-1, 1, 1, 1) * x

    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(x.double()).sum(dim=(1, 2, 3))
    expected = -log_p / (16.0 * math.log(2.0)) + math.log2(127.5)
    with torch.inference_mode():
        for options in ({"divergence": "exact"}, {"generator": generator(0, "hutchinson")}):
            actual = bits_per_dim(x, model, scheduler, num_steps=10, **options)  # type: ignore[arg-type]
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be 1 or more, got 0."),
        ({"divergence": "trace"}, "divergence must be 'hutchinson' or 'exact', got 'trace'."),
        ({"scale": 0.0}, "scale must be above 0 and finite, got 0.0."),
        (
            {"divergence": "hutchinson"},
            "generator must be given for divergence='hutchinson', got None: pass idiff_hf.random.generator(seed, "
            "'hutchinson'), or divergence='exact' for data of few dimensions.",
        ),
        (
            {"divergence": "hutchinson", "generator": [torch.Generator()]},
            "generator must be a list of 3, one a sample, got 1.",
        ),
        ({"sample": torch.zeros(0, 3)}, "sample must be a batch (B, ...) of 1 or more, got (0, 3)."),
        (
            {"model_fn": lambda x, _: x[:1]},
            "both tensors must have one shape, got (3, 3) and (1, 3).",
        ),
        (
            {"model_fn": lambda x, _: x.detach()},
            "model_fn must be differentiable in its sample, got an output without that gradient: do not call it under "
            "no_grad or detach its sample.",
        ),
        (
            {"model_fn": lambda x, _: torch.ones(3, requires_grad=True) * x.detach()},
            "model_fn must be differentiable in its sample, got an output without that gradient: do not call it under "
            "no_grad or detach its sample.",
        ),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    arguments = {
        "sample": POINTS,
        "model_fn": lambda x, _: x,
        "scheduler": VPSDEScheduler(),
        "divergence": "exact",
        "num_steps": 1,
    }
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        bits_per_dim(**{**arguments, **options})  # type: ignore[arg-type]
