"""Which samples lose their condition; Eq. 10 at its limiting values."""

from __future__ import annotations

import torch

from idiff_hf.guidance import dropped, guide


def test_the_drop_is_at_the_stated_rate() -> None:
    mask = dropped(torch.rand(20000, generator=torch.Generator().manual_seed(0)), 0.2)
    # four standard deviations of a binomial frequency
    assert abs(mask.float().mean().item() - 0.2) < 4 * (0.2 * 0.8 / 20000) ** 0.5


def test_drop_limits() -> None:
    uniform = torch.tensor([0.0, 0.5, 1.0 - 2.0**-24])
    assert not dropped(uniform, 0.0).any()
    assert dropped(uniform, 1.0).all()


def test_guide_limits_and_equation_10() -> None:
    u, c = torch.randn(4), torch.randn(4)
    assert torch.equal(guide(u, c, 0.0), u)
    torch.testing.assert_close(guide(u, c, 1.0), c)
    torch.testing.assert_close(guide(u, c, 4.0), -3.0 * u + 4.0 * c)
