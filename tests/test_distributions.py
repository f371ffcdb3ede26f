"""Closed forms against torch.distributions, quadrature and paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, Uniform, kl_divergence

from idiff_hf.distributions import DiagonalGaussian, SoftUniform


def test_kl_equals_torch_distributions_in_both_directions() -> None:
    torch.manual_seed(0)
    p = DiagonalGaussian(torch.randn(5, 3), torch.randn(5, 3))
    q = DiagonalGaussian(torch.randn(5, 3), torch.randn(5, 3))
    for one, other in ((p, q), (q, p)):
        expected = kl_divergence(Normal(one.mean, one.std), Normal(other.mean, other.std))
        torch.testing.assert_close(one.kl(other), expected)


def test_kl_of_a_distribution_to_itself_is_exactly_zero() -> None:
    p = DiagonalGaussian(torch.randn(4, 2), torch.randn(4, 2))
    assert torch.equal(p.kl(p), torch.zeros(4, 2))


def test_sample_is_mean_plus_std_times_noise() -> None:
    p = DiagonalGaussian(torch.tensor([[1.0]]), torch.tensor([[4.0]]).log())
    assert torch.allclose(p.sample(torch.tensor([[2.0]])), torch.tensor([[5.0]]))
    assert torch.equal(p.mode(), p.mean)


def soft_uniform(edge: float = 0.1) -> SoftUniform:
    """Four laws in double precision: narrow to wide, off centre."""
    mean = torch.tensor([[-2.0, 0.0, 0.3, 5.0]], dtype=torch.float64)
    return SoftUniform(mean, torch.tensor([[-6.0, -1.0, 0.0, 2.0]], dtype=torch.float64), edge)


def grid(p: SoftUniform, reach: float = 20.0, points: int = 400_001) -> tuple[Tensor, Tensor]:
    """Midpoints `(points, D)` over `reach` half-widths on either side of the means, and their spacing `(D,)`."""
    step = 2 * reach / points
    offsets = (torch.arange(points, dtype=torch.float64) + 0.5) * step - reach
    return p.mean + offsets[:, None] * p.half_width, (step * p.half_width)[0]


def test_density_is_flat_between_the_edges_and_exponential_outside() -> None:
    p = SoftUniform(torch.tensor([[1.0]]), torch.tensor([[4.0 / 3.0]]).log(), 0.5)
    # half-width 2, tails of length 1: mass 2 (2 + 1)
    z = torch.tensor([[-1.0], [1.0], [2.9], [3.0], [4.0], [-3.0]])
    flat = -math.log(6)
    expected = torch.tensor([[flat], [flat], [flat], [flat], [flat - 1.0], [flat - 2.0]])
    torch.testing.assert_close(p.log_prob(z), expected)


@pytest.mark.parametrize("edge", [0.02, 0.1, 1.0])
def test_density_integrates_to_one_with_the_moments_on_paper(edge: float) -> None:
    p = soft_uniform(edge)
    z, spacing = grid(p)
    weight = p.log_prob(z).exp() * spacing
    torch.testing.assert_close(weight.sum(0), torch.ones(4, dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close((weight * z).sum(0), p.mean[0], rtol=1e-6, atol=1e-6)
    variance = (weight * (z - p.mean) ** 2).sum(0)
    # of w^2: (1/3 + e (1 + 2 e + 2 e^2)) / (1 + e), from the integrals over the middle and both tails
    expected = p.half_width[0] ** 2 * (1 / 3 + edge * (1 + 2 * edge + 2 * edge**2)) / (1 + edge)
    torch.testing.assert_close(variance, expected, rtol=1e-6, atol=0)


def test_soft_uniform_tends_to_the_uniform_law() -> None:
    p = soft_uniform(1e-9)
    law = Uniform((p.mean - p.half_width)[0], (p.mean + p.half_width)[0])
    inside = p.mean + torch.linspace(-0.999, 0.999, 7, dtype=torch.float64)[:, None] * p.half_width
    torch.testing.assert_close(p.log_prob(inside), law.log_prob(inside), rtol=0, atol=1e-8)
    torch.testing.assert_close(law.stddev, p.std[0])
    assert p.log_prob(p.mean + 1.001 * p.half_width).max() < -1e5
    # a Gaussian whose mass is all inside: KL is the logarithm of the width less its entropy
    q = DiagonalGaussian(p.mean, p.logvar - 9.0)
    torch.testing.assert_close(q.kl(p), (2 * p.half_width).log() - Normal(q.mean, q.std).entropy())


def gaussians() -> DiagonalGaussian:
    """Inside, on an edge, outside, and wider than the law, relative to `soft_uniform`."""
    p = soft_uniform()
    centre = torch.tensor([[0.2, 1.0, -4.0, 0.5]], dtype=torch.float64)
    scale = torch.tensor([[0.1, 0.3, 0.5, 2.0]], dtype=torch.float64)
    return DiagonalGaussian(p.mean + centre * p.half_width, 2 * (scale * p.half_width).log())


def test_kl_to_soft_uniform_equals_quadrature() -> None:
    p, q = soft_uniform(), gaussians()
    z, spacing = grid(p)
    law = Normal(q.mean, q.std)
    expected = (law.log_prob(z).exp() * (law.log_prob(z) - p.log_prob(z)) * spacing).sum(0)
    torch.testing.assert_close(q.kl(p)[0], expected, rtol=1e-7, atol=1e-8)
    assert (q.kl(p) > 0).all()


def test_kl_to_soft_uniform_equals_its_monte_carlo_estimate() -> None:
    p, q = soft_uniform(), gaussians()
    noise = torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = q.sample(noise)
    drawn = Normal(q.mean, q.std).log_prob(z) - p.log_prob(z)
    error = drawn.std(0) / math.sqrt(len(z))
    assert ((drawn.mean(0) - q.kl(p)[0]).abs() < 4 * error).all()


def test_gradients_stay_finite_far_outside_and_point_inwards() -> None:
    """In single precision, 10,000 half-widths away and with the extreme variances that the models let through."""
    p = SoftUniform(torch.zeros(1, 4), torch.tensor([[-10.0, 0.0, 0.0, 10.0]]))
    z = torch.tensor([[1e4, -1e4, 1e4, -1e7]], requires_grad=True)
    p.log_prob(z).sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()
    assert torch.equal(z.grad.sign(), -z.detach().sign())
    for logvar in (-10.0, 0.0, 10.0):
        mean, spread = z.detach().clone().requires_grad_(), torch.full((1, 4), logvar, requires_grad=True)
        kl = DiagonalGaussian(mean, spread).kl(p)
        kl.sum().backward()
        assert kl.isfinite().all() and mean.grad is not None and spread.grad is not None
        assert spread.grad.isfinite().all()
        assert torch.equal(mean.grad.sign(), mean.detach().sign())


def test_gradient_of_kl_reaches_the_moments_of_the_soft_uniform() -> None:
    q = gaussians()
    moments = soft_uniform().mean.clone().requires_grad_(), soft_uniform().logvar.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda mean, logvar: q.kl(SoftUniform(mean, logvar)), moments)


def test_soft_uniform_samples_follow_the_distribution_function() -> None:
    p = SoftUniform(torch.tensor([[1.0]]), torch.tensor([[4.0 / 3.0]]).log(), 0.5)
    # P(z < 3) = 1 - (share of one tail) = 5/6; the median is the mean; one tail length further 1 - e^-1 / 6
    probability = torch.tensor([[0.5], [5 / 6], [1 - math.exp(-1) / 6], [1 / 6], [2 / 3]])
    drawn = p.sample(torch.special.ndtri(probability))
    torch.testing.assert_close(
        drawn, torch.tensor([[1.0], [3.0], [4.0], [-1.0], [2.0]]), rtol=1e-4, atol=1e-5
    )
    assert torch.equal(p.mode(), p.mean)
