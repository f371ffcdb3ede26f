"""Dropping the condition per sample; Eq. 10 at its limiting values."""

from __future__ import annotations

import torch

from idiff_hf.guidance import drop_condition, guide


def test_drop_is_per_sample_and_at_the_stated_rate() -> None:
    z = torch.ones(20000, 3)
    dropped = drop_condition(z, torch.rand(20000, generator=torch.Generator().manual_seed(0)), 0.2)
    zeros = (dropped == 0).all(dim=1)
    assert torch.equal(zeros, (dropped == 0).any(dim=1))
    # four standard deviations of a binomial frequency
    assert abs(zeros.float().mean().item() - 0.2) < 4 * (0.2 * 0.8 / 20000) ** 0.5


def test_drop_limits() -> None:
    z, uniform = torch.ones(8, 2), torch.rand(8)
    assert torch.equal(drop_condition(z, uniform, 0.0), z)
    assert torch.equal(drop_condition(z, uniform, 1.0), torch.zeros_like(z))


def test_guide_limits_and_equation_10() -> None:
    u, c = torch.randn(4), torch.randn(4)
    assert torch.equal(guide(u, c, 0.0), u)
    torch.testing.assert_close(guide(u, c, 1.0), c)
    torch.testing.assert_close(guide(u, c, 4.0), -3.0 * u + 4.0 * c)
