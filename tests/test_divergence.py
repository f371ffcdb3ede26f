"""The KL term: its values against closed forms, its gradients against the shares that each part is meant to get."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal
from torch.distributions import kl_divergence as reference_kl

from idiff_hf.distributions import (
    DiagonalGaussian,
    LatentDistribution,
    OneHotCategorical,
    PosteriorDistribution,
    SoftReciprocal,
    SoftUniform,
)
from idiff_hf.divergence import kl_divergence

Pair = tuple[PosteriorDistribution, LatentDistribution, list[Tensor], list[Tensor]]


def gaussians() -> Pair:
    """q, p, the parameters of q and those of p, in double precision."""
    generator = torch.Generator().manual_seed(0)
    q, p = (
        [torch.randn(6, 3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)]
        for _ in range(2)
    )
    return DiagonalGaussian(*q), DiagonalGaussian(*p), q, p


def gaussian_and_uniform() -> Pair:
    q, _, of_q, of_p = gaussians()
    return q, SoftUniform(*of_p), of_q, of_p


def gaussian_and_reciprocal() -> Pair:
    q, _, of_q, _ = gaussians()
    generator = torch.Generator().manual_seed(1)
    logvar = -2.0 * torch.rand(6, 3, generator=generator, dtype=torch.float64)
    return q, SoftReciprocal(logvar.requires_grad_()), of_q, [logvar]


def gaussian_and_half_reciprocal() -> Pair:
    q, p, of_q, of_p = gaussian_and_reciprocal()
    return q, replace(p, half=True), of_q, of_p


def categoricals() -> Pair:
    generator = torch.Generator().manual_seed(1)
    q, p = (torch.randn(6, 3, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    return OneHotCategorical(q), OneHotCategorical(p), [q], [p]


PAIRS: list[Callable[[], Pair]] = [
    gaussians,
    gaussian_and_uniform,
    gaussian_and_reciprocal,
    gaussian_and_half_reciprocal,
    categoricals,
]


def gradients(penalty: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(penalty, parameters, retain_graph=True, materialize_grads=True))


def test_kl_is_a_sum_over_latents_and_a_mean_over_the_batch() -> None:
    q, p, (mean, logvar), (prior_mean, prior_logvar) = gaussians()
    laws = Normal(mean, (0.5 * logvar).exp()), Normal(prior_mean, (0.5 * prior_logvar).exp())
    penalty, kl = kl_divergence(q, p)
    torch.testing.assert_close(kl, reference_kl(*laws).sum(1).mean().detach())
    assert torch.equal(penalty.detach(), kl)
    assert penalty.requires_grad and not kl.requires_grad


def test_categorical_kl_is_that_of_torch_distributions() -> None:
    q, p, _, _ = categoricals()
    assert isinstance(q, OneHotCategorical) and isinstance(p, OneHotCategorical)
    expected = reference_kl(Categorical(probs=q.probs), Categorical(probs=p.probs)).sum(1).mean()
    torch.testing.assert_close(kl_divergence(q, p)[0], expected)


def test_temperature_weighs_the_entropy_of_gaussians_in_the_closed_form() -> None:
    q, p, (mean, logvar), (prior_mean, prior_logvar) = gaussians()
    cross = 0.5 * (
        math.log(2 * math.pi) + prior_logvar + ((mean - prior_mean) ** 2 + logvar.exp()) / prior_logvar.exp()
    )
    entropy = Normal(mean, (0.5 * logvar).exp()).entropy()
    penalty, kl = kl_divergence(q, p, temperature=0.1)
    torch.testing.assert_close(penalty, (cross - 0.1 * entropy).sum(dim=1).mean())
    torch.testing.assert_close(kl, (cross - entropy).sum(dim=1).mean().detach())


def test_a_cold_posterior_is_narrower_than_the_prior_by_its_temperature() -> None:
    """E[-log p] - T H[q] of Gaussians is least at the prior's mean and T times its variance."""
    logvar = torch.tensor([[0.4, -1.0]], dtype=torch.float64)
    prior = DiagonalGaussian(torch.zeros_like(logvar), logvar)
    of_q = (logvar + math.log(0.1)).requires_grad_()
    penalty, _ = kl_divergence(DiagonalGaussian(torch.zeros_like(logvar), of_q), prior, temperature=0.1)
    (gradient,) = torch.autograd.grad(penalty, [of_q])
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_without_a_temperature_probable_categories_are_all_that_counts() -> None:
    """T near 0 leaves the cross entropy."""
    q, p, _, _ = categoricals()
    assert isinstance(q, OneHotCategorical) and isinstance(p, OneHotCategorical)
    penalty, _ = kl_divergence(q, p, temperature=1e-12)
    torch.testing.assert_close(penalty, -(q.probs * p.probs.log()).sum(dim=(1, 2)).mean())


@pytest.mark.parametrize("pair", PAIRS)
def test_two_way_adds_the_other_direction_by_its_ratio(pair: Callable[[], Pair]) -> None:
    q, p, of_q, of_p = pair()
    penalty, kl = kl_divergence(q, p, reverse=2.5)
    there, back = q.kl(p).sum(1).mean(), p.kl(q).sum(1).mean()
    torch.testing.assert_close(penalty, there + 2.5 * back)
    torch.testing.assert_close(kl, there.detach())
    for found, one, other in zip(
        *(gradients(term, of_q + of_p) for term in (penalty, there, back)), strict=True
    ):
        torch.testing.assert_close(found, one + 2.5 * other)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("balance", [0.0, 0.3, 0.8, 1.0])
def test_balance_keeps_the_value_and_shares_the_gradient(pair: Callable[[], Pair], balance: float) -> None:
    """alpha of the plain gradient to the prior, 1 - alpha to the posterior."""
    q, p, of_q, of_p = pair()
    plain, _ = kl_divergence(q, p)
    penalty, kl = kl_divergence(q, p, balance=balance)
    torch.testing.assert_close(penalty, plain)
    torch.testing.assert_close(kl, plain.detach())
    for found, full in zip(gradients(penalty, of_q), gradients(plain, of_q), strict=True):
        torch.testing.assert_close(found, (1 - balance) * full)
    for found, full in zip(gradients(penalty, of_p), gradients(plain, of_p), strict=True):
        torch.testing.assert_close(found, balance * full)
    if balance in (0.0, 1.0):
        stopped = of_p if balance == 0.0 else of_q
        assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(penalty, stopped))


def test_half_and_half_is_half_the_plain_gradient_everywhere() -> None:
    q, p, of_q, of_p = gaussians()
    plain, half = kl_divergence(q, p)[0], kl_divergence(q, p, balance=0.5)[0]
    for found, full in zip(gradients(half, of_q + of_p), gradients(plain, of_q + of_p), strict=True):
        torch.testing.assert_close(found, 0.5 * full)


@pytest.mark.parametrize("balance", [None, 0.8])
@pytest.mark.parametrize("pair", PAIRS)
def test_free_bits_hold_up_the_value_and_stop_the_gradient_where_the_kl_is_below(
    pair: Callable[[], Pair], balance: float | None
) -> None:
    q, p, of_q, of_p = pair()
    each = q.kl(p).detach()
    bound = each.median().item()
    below = each < bound
    assert below.any() and not below.all()
    penalty, kl = kl_divergence(q, p, free_bits=bound, balance=balance)
    torch.testing.assert_close(penalty.detach(), each.clamp_min(bound).sum(1).mean())
    torch.testing.assert_close(kl, each.sum(1).mean())
    plain, _ = kl_divergence(q, p, balance=balance)
    for found, full in zip(gradients(penalty, of_q + of_p), gradients(plain, of_q + of_p), strict=True):
        assert (found[below] == 0).all() and (full[below] != 0).any()
        torch.testing.assert_close(found[~below], full[~below])


def test_free_bits_bound_both_directions_of_a_two_way_kl() -> None:
    q, p, of_q, of_p = gaussians()
    there, back = q.kl(p), p.kl(q)
    penalty, _ = kl_divergence(q, p, reverse=0.5, free_bits=1.0)
    expected = there.clamp_min(1.0).sum(1).mean() + 0.5 * back.clamp_min(1.0).sum(1).mean()
    torch.testing.assert_close(penalty, expected)
    # more than any of them: nothing is left to learn from
    free, _ = kl_divergence(q, p, reverse=0.5, free_bits=1e9)
    assert all((g == 0).all() for g in gradients(free, of_q + of_p))


@pytest.mark.parametrize(
    "options",
    [{}, {"reverse": 0.3}, {"balance": 0.8}, {"free_bits": 0.5}, {"balance": 0.2, "free_bits": 1.0}],
)
def test_a_batch_is_the_mean_of_its_halves(options: dict[str, float]) -> None:
    """So that two processes with half a batch each learn what one learns with all of it; a bound on the batch's mean would break this."""
    _, _, of_q, of_p = gaussians()

    def penalty(rows: slice) -> Tensor:
        q = DiagonalGaussian(*(value[rows] for value in of_q))
        return kl_divergence(q, DiagonalGaussian(*(value[rows] for value in of_p)), **options)[0]

    whole, halves = penalty(slice(0, 6)), (penalty(slice(0, 3)) + penalty(slice(3, 6))) / 2
    torch.testing.assert_close(whole, halves)
    for one, two in zip(gradients(whole, of_q), gradients(halves, of_q), strict=True):
        torch.testing.assert_close(one, two)
