"""Closed forms against torch.distributions."""

from __future__ import annotations

import torch
from torch.distributions import Normal, kl_divergence

from idiff_hf.distributions import DiagonalGaussian


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
