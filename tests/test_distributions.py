"""Closed forms against torch.distributions, quadrature and paper."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torch.distributions import Categorical, Normal, Uniform, kl_divergence
from torch.distributions import OneHotCategorical as TorchOneHotCategorical

from idiff_hf.data.auxiliary import UniformPosterior
from idiff_hf.distributions import (
    DiagonalGaussian,
    LatentDistribution,
    OneHotCategorical,
    SoftReciprocal,
    SoftUniform,
)


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


def test_kl_from_soft_uniform_equals_quadrature() -> None:
    for edge in (0.02, 0.1, 1.0):
        p, q = soft_uniform(edge), gaussians()
        z, spacing = grid(p)
        difference = p.log_prob(z) - Normal(q.mean, q.std).log_prob(z)
        expected = (p.log_prob(z).exp() * difference * spacing).sum(0)
        torch.testing.assert_close(p.kl(q)[0], expected, rtol=1e-6, atol=1e-8)
        assert (p.kl(q) > 0).all()


def test_kl_from_soft_uniform_equals_its_monte_carlo_estimate() -> None:
    p, q = soft_uniform(), gaussians()
    z = p.sample(torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    drawn = p.log_prob(z) - Normal(q.mean, q.std).log_prob(z)
    error = drawn.std(0) / math.sqrt(len(z))
    assert ((drawn.mean(0) - p.kl(q)[0]).abs() < 4 * error).all()


def test_kl_from_the_uniform_law_that_it_tends_to_is_that_on_paper() -> None:
    """To the Gaussian of its own mean and variance: log(sqrt(2 pi) s) + 1/2 - log(2 sqrt(3) s) = log(pi e / 6) / 2, whatever s."""
    p = soft_uniform(1e-12)
    found = p.kl(DiagonalGaussian(p.mean, p.logvar))
    torch.testing.assert_close(found, torch.full_like(found, 0.5 * math.log(math.pi * math.e / 6)))


def test_gradient_of_kl_from_soft_uniform_is_right_for_all_moments() -> None:
    p, q = soft_uniform(), gaussians()
    moments = [value.clone().requires_grad_() for value in (p.mean, p.logvar, q.mean, q.logvar)]
    assert torch.autograd.gradcheck(
        lambda *m: SoftUniform(m[0], m[1]).kl(DiagonalGaussian(m[2], m[3])), moments
    )


def test_variance_of_soft_uniform_is_that_of_its_samples() -> None:
    p = soft_uniform(0.5)
    z = p.sample(torch.randn(200_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    square = (z - p.mean) ** 2
    error = square.std(0) / math.sqrt(len(z))
    assert ((square.mean(0) - p.variance[0]).abs() < 4 * error).all()


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


def categorical(uniform_mix: float = 0.01, scale: float = 2.0) -> OneHotCategorical:
    """Two samples of three variables with four categories, in double precision."""
    logits = scale * torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return OneHotCategorical(logits.requires_grad_(), uniform_mix)


def noise_for(p: OneHotCategorical, category: Tensor) -> Tensor:
    """Standard normal numbers `(B, D)` that `p.sample` turns to these categories `(B, D)`: the middles of their probabilities."""
    probs = p.probs.detach()
    middle = probs.cumsum(-1) - 0.5 * probs
    return torch.special.ndtri(middle.gather(-1, category[..., None]).squeeze(-1))


def test_probabilities_are_mixed_with_the_uniform_law() -> None:
    p = OneHotCategorical(torch.tensor([[[math.log(3.0), 0.0]]]), 0.2)
    torch.testing.assert_close(p.probs, torch.tensor([[[0.8 * 0.75 + 0.1, 0.8 * 0.25 + 0.1]]]))
    torch.testing.assert_close(p.log_probs, p.probs.log())


logits = hnp.arrays("float32", (1, 2, 5), elements=st.floats(-200, 200, width=32))
mixes = st.floats(0.0, 0.99)


@given(logits=logits, mix=mixes)
def test_every_category_has_its_share_of_the_uniform_law(logits: object, mix: float) -> None:
    p = OneHotCategorical(torch.as_tensor(logits), mix)
    assert (p.probs >= torch.tensor(mix / 5)).all()
    torch.testing.assert_close(p.probs.sum(-1), torch.ones(1, 2))
    assert p.log_probs.isfinite().all()
    torch.testing.assert_close(p.log_probs.exp(), p.probs)


def test_sample_mode_and_codes_agree_with_the_category() -> None:
    p = OneHotCategorical(torch.tensor([[[0.0, 5.0, 1.0], [2.0, 0.0, 0.0]]]))
    assert p.noise_shape == (2,)
    expected = torch.tensor([[0.0, 1.0, 0.0, 1.0, 0.0, 0.0]])
    assert torch.equal(p.mode(), expected)
    assert torch.equal(p.codes(), torch.tensor([[1.0, 0.0]]))
    # at the median either has most of its probability
    assert torch.equal(p.sample(torch.zeros(1, 2)), expected)
    third = p.sample(torch.tensor([[3.0, 3.0]])).reshape(2, 3)
    assert torch.equal(third, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))


@pytest.mark.parametrize("uniform_mix", [0.0, 0.01, 0.5])
def test_categories_are_drawn_as_often_as_they_are_probable(uniform_mix: float) -> None:
    """At evenly spaced probabilities each category comes up as its share, give or take one at either of its ends."""
    count = 4000
    quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    p = OneHotCategorical(categorical(uniform_mix).logits.reshape(1, 6, 4).expand(count, 6, 4), uniform_mix)
    drawn = p.sample(torch.special.ndtri(quantiles)[:, None].expand(count, 6)).reshape(count, 6, 4)
    assert ((drawn.sum(0) - count * p.probs[0]).abs() <= 1.0 + 1e-9).all()


def test_variables_are_drawn_independently_and_by_their_probabilities() -> None:
    probs = categorical().probs[0, :2].detach()
    p = OneHotCategorical(categorical().logits[:1, :2].detach().expand(40_000, 2, 4))
    noise = torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = p.sample(noise).reshape(-1, 2, 4).unbind(1)
    joint = first.T @ second / len(first)
    expected = torch.outer(probs[0], probs[1])
    assert ((joint - expected).abs() < 4 * (expected / len(first)).sqrt()).all()


@pytest.mark.parametrize("uniform_mix", [0.0, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_noise_still_draws_one_possible_category(uniform_mix: float, dtype: torch.dtype) -> None:
    """Where the noise's probability rounds to 0 or 1, and some categories' probabilities to 0 at either end and in the middle."""
    rows = [
        [-300.0, 0.0, -300.0, 0.3, -300.0],
        [0.1, 0.2, 0.3, 0.4, 0.5],
        [0.0, -300.0, -300.0, -300.0, -300.0],
    ]
    p = OneHotCategorical(torch.tensor(rows, dtype=dtype)[None], uniform_mix)
    for far in (-math.inf, -40.0, -9.0, -5.6, 0.0, 5.3, 5.6, 9.0, 40.0, math.inf):
        z = p.sample(torch.full((1, 3), far)).reshape(1, 3, 5)
        assert torch.equal(z.sum(-1), torch.ones(1, 3, dtype=dtype)) and torch.equal(z.amax(-1), z.sum(-1))
        assert (p.probs[z == 1] > 0).all()


@given(logits=logits, mix=mixes, noise=hnp.arrays("float32", (1, 2), elements=st.floats(-10, 10, width=32)))
def test_a_sample_is_one_hot_whatever_the_probabilities(logits: object, mix: float, noise: object) -> None:
    p = OneHotCategorical(torch.as_tensor(logits), mix)
    z = p.sample(torch.as_tensor(noise)).reshape(1, 2, 5)
    assert torch.equal(z.sum(-1), torch.ones(1, 2)) and torch.equal(z.amax(-1), torch.ones(1, 2))
    assert (p.probs[z == 1] > 0).all()


def test_sample_and_gradient_are_those_of_listing_1() -> None:
    """The listing's lines on the same draw, with a loss that is not linear."""
    p, weights = categorical(), torch.linspace(-1, 1, 12, dtype=torch.float64)
    probs = p.probs
    torch.manual_seed(0)
    law = TorchOneHotCategorical(probs=probs)
    sample = law.sample()
    grad = law.probs - law.probs.detach()
    expected = (sample + grad).flatten(1)

    found = p.sample(noise_for(p, sample.argmax(-1)))
    assert torch.equal(found, sample.flatten(1))
    losses = [(z @ weights).square().sum() + z.exp().prod(1).sum() for z in (expected, found)]
    one, two = (torch.autograd.grad(loss, p.logits)[0] for loss in losses)
    torch.testing.assert_close(two, one)
    assert two.abs().min() > 0


def expected_gradients(p: OneHotCategorical, function: object) -> tuple[Tensor, Tensor]:
    """Of E[f(z)] with respect to the logits by enumeration of all draws, and the expectation of the straight-through estimate of it.

    Args:
        p: One sample of D variables with C categories.
        function: f, of z `(1, D * C)`.
    """
    _, dims, categories = p.logits.shape
    value = torch.zeros((), dtype=torch.float64)
    estimate = torch.zeros_like(p.logits)
    for draw in itertools.product(range(categories), repeat=dims):
        index = torch.tensor([draw])
        probability = p.probs.gather(-1, index[..., None]).prod()
        z = p.sample(noise_for(p, index))
        assert torch.equal(z.reshape(1, dims, categories).argmax(-1), index)
        loss = function(z)  # type: ignore[operator]
        value = value + probability * loss.detach()
        estimate += probability.detach() * torch.autograd.grad(loss, p.logits)[0]
    return torch.autograd.grad(value, p.logits)[0], estimate


def single(dims: int, categories: int, uniform_mix: float) -> OneHotCategorical:
    generator = torch.Generator().manual_seed(10 * dims + categories)
    logits = torch.randn(1, dims, categories, generator=generator, dtype=torch.float64)
    return OneHotCategorical(logits.requires_grad_(), uniform_mix)


@pytest.mark.parametrize("uniform_mix", [0.0, 0.01, 0.3])
@pytest.mark.parametrize(("dims", "categories"), [(1, 2), (1, 5), (2, 3), (3, 3), (4, 2)])
def test_straight_through_is_exact_for_a_linear_loss(dims: int, categories: int, uniform_mix: float) -> None:
    p = single(dims, categories, uniform_mix)
    a = torch.randn(dims * categories, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact, estimate = expected_gradients(p, lambda z: (z @ a).sum())
    torch.testing.assert_close(estimate, exact)
    assert exact.abs().max() > 0.01


def test_straight_through_is_exact_for_products_of_different_variables() -> None:
    """Linear in each variable for given others: the sample of one is an unbiased coefficient of the other's gradient."""
    p = single(2, 3, 0.01)
    m = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact, estimate = expected_gradients(p, lambda z: (z[:, :3] @ m * z[:, 3:]).sum())
    torch.testing.assert_close(estimate, exact)
    assert exact.abs().max() > 0.01


def test_bias_of_straight_through_for_a_square_is_that_on_paper() -> None:
    """f = <a, z>^2 equals sum a_c^2 z_c on one-hot z: the gradient to p_c is a_c^2, of which the estimate expects 2 <a, p> a_c."""
    p = single(1, 4, 0.01)
    a = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
    exact, estimate = expected_gradients(p, lambda z: (z @ a).square().sum())
    probs = p.probs
    mean = (probs.detach() @ a).item()
    on_paper = [
        torch.autograd.grad((probs @ c).sum(), p.logits, retain_graph=True)[0] for c in (a * a, 2 * mean * a)
    ]
    torch.testing.assert_close(exact, on_paper[0])
    torch.testing.assert_close(estimate, on_paper[1])
    assert (estimate - exact).abs().max() > 0.1


@pytest.mark.parametrize("uniform_mix", [0.0, 0.01, 0.5])
def test_categorical_kl_equals_torch_distributions_in_both_directions(uniform_mix: float) -> None:
    p = categorical(uniform_mix)
    q = OneHotCategorical(p.logits.detach().flip(-1) * 0.7, uniform_mix)
    for one, other in ((p, q), (q, p)):
        expected = kl_divergence(Categorical(probs=one.probs), Categorical(probs=other.probs))
        torch.testing.assert_close(one.kl(other), expected)
    assert torch.equal(p.kl(p), torch.zeros(2, 3, dtype=torch.float64))


def test_entropies_are_those_of_torch_distributions() -> None:
    p = categorical()
    torch.testing.assert_close(p.entropy(), Categorical(probs=p.probs).entropy())
    mean = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = DiagonalGaussian(mean, 3.0 * mean.flip(0))
    torch.testing.assert_close(q.entropy(), Normal(q.mean, q.std).entropy())


def test_categorical_kl_to_equal_probabilities_is_what_entropy_lacks() -> None:
    p = categorical()
    uniform = OneHotCategorical(torch.zeros_like(p.logits))
    torch.testing.assert_close(p.kl(uniform), math.log(4) - Categorical(probs=p.probs).entropy())


def test_gradient_of_categorical_kl_is_right_for_both_laws() -> None:
    p = categorical()
    other = p.logits.detach().flip(0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda one, two: OneHotCategorical(one).kl(OneHotCategorical(two)), (p.logits, other)
    )


@given(one=logits, other=logits, mix=mixes)
def test_categorical_kl_is_never_negative_and_bounded_by_the_mix(
    one: object, other: object, mix: float
) -> None:
    p, q = (OneHotCategorical(torch.as_tensor(value).double(), mix) for value in (one, other))
    kl = p.kl(q)
    assert kl.isfinite().all() and (kl >= -1e-12).all()
    if mix > 0:
        assert (kl <= math.log(5 / mix) + 1e-12).all()
    # Pinsker: zero only for equal probabilities
    distance = 0.5 * (p.probs - q.probs).abs().sum(-1)
    assert (kl >= 2 * distance**2 - 1e-12).all()
    # logits are known up to a constant
    torch.testing.assert_close(p.kl(OneHotCategorical(p.logits + 3.0, mix)), torch.zeros(1, 2).double())


def test_gradients_of_extreme_logits_stay_finite() -> None:
    for mix in (0.0, 0.01):
        one, other = (torch.tensor([[[300.0, 0.0, -300.0]]]).mul(s).requires_grad_() for s in (1, -1))
        kl = OneHotCategorical(one, mix).kl(OneHotCategorical(other, mix))
        kl.sum().backward()
        assert kl.isfinite().all()
        assert one.grad is not None and one.grad.isfinite().all()
        assert other.grad is not None and other.grad.isfinite().all()


moments = hnp.arrays("float64", (1, 2), elements=st.floats(-8, 8))


@given(mean=moments, logvar=moments, other_mean=moments, other_logvar=moments)
def test_gaussian_and_soft_uniform_kl_are_never_negative(
    mean: object, logvar: object, other_mean: object, other_logvar: object
) -> None:
    q = DiagonalGaussian(torch.as_tensor(mean), torch.as_tensor(logvar))
    other = torch.as_tensor(other_mean), torch.as_tensor(other_logvar)
    p, uniform = DiagonalGaussian(*other), SoftUniform(*other)
    for kl in (q.kl(p), p.kl(q)):
        assert (kl >= 0).all()
    # no Gaussian has these edges
    for kl in (q.kl(uniform), uniform.kl(q)):
        assert (kl > 0).all()


STDS = (math.sqrt(0.12), 0.5, 0.7, 0.9, 1.0)


def soft_reciprocal(edge: float = 0.1, half: bool = False) -> SoftReciprocal:
    """The law for the least variance of the paper's u, for the greatest, and three between, in double precision."""
    return SoftReciprocal(2 * torch.tensor([STDS], dtype=torch.float64).log(), half, edge=edge)


def line(reach: float = 12.0, points: int = 400_001) -> tuple[Tensor, float]:
    """Midpoints `(points, 1)` between -reach and reach, and their spacing."""
    spacing = 2 * reach / points
    return ((torch.arange(points, dtype=torch.float64) + 0.5) * spacing - reach)[:, None], spacing


def test_soft_reciprocal_has_the_density_on_paper() -> None:
    """sigma_min = 1/2 and edge 1/2: pole 1.5 sqrt(3), flat to sqrt(3)/2, and for sigma = 3/4 tails of length w/2 from w = 0.75 sqrt(3)."""
    p = SoftReciprocal(2 * torch.tensor([[0.75]], dtype=torch.float64).log(), min_std=0.5, edge=0.5)
    root = math.sqrt(3)
    z = root * torch.tensor([[0.0], [-0.5], [0.6], [0.75], [-0.75 - 0.375]], dtype=torch.float64)
    density = (
        torch.tensor([[1.0], [1.0], [1 / 0.9], [1 / 0.75], [math.exp(-1) / 0.75]], dtype=torch.float64) / root
    )
    # of one half: 0.5 at 1 / (1.5 - 0.5), the logarithm of (1.5 - 0.5) / (1.5 - 0.75), and a tail of 0.375 at 1 / 0.75
    mass = 2 * (0.5 + math.log(1.0 / 0.75) + 0.5)
    torch.testing.assert_close(p.log_prob(z), torch.log(density / mass))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("edge", [0.02, 0.1, 1.0])
def test_soft_reciprocal_integrates_to_one(edge: float, half: bool) -> None:
    z, spacing = line(60.0)
    mass = (soft_reciprocal(edge, half).log_prob(z).exp() * spacing).sum(0)
    torch.testing.assert_close(mass, torch.ones(len(STDS), dtype=torch.float64), rtol=1e-5, atol=0)


def test_soft_reciprocal_tends_to_the_law_of_z_given_the_papers_u() -> None:
    """Of many z and a u drawn for each, those z whose u is near a given one: their |z| have the mean and the quantiles of the law."""
    torch.manual_seed(0)
    z = torch.rand(2_000_000, 1, dtype=torch.float64) - 0.5
    u = UniformPosterior(1).sample(z, torch.rand_like(z))
    quantiles = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    for std in (0.4, 0.6, 0.9):
        near = z[(u.sqrt() - std).abs() < 0.005].abs() * math.sqrt(12)
        assert len(near) > 10_000
        law = SoftReciprocal(torch.full((3, 1), 2 * math.log(std), dtype=torch.float64), edge=1e-3)
        # P(|z| > a) = 1 - quantile, half of it on each side
        expected = law.sample(torch.special.ndtri(0.5 + 0.5 * quantiles)[:, None])[:, 0]
        torch.testing.assert_close(near.quantile(quantiles), expected, rtol=0.01, atol=0.005)


@pytest.mark.parametrize("half", [False, True])
def test_samples_of_soft_reciprocal_follow_its_density(half: bool) -> None:
    p, (z, spacing) = soft_reciprocal(half=half), line(12.0, 2_000_001)
    above = (p.log_prob(z).exp() * spacing).flip(0).cumsum(0).flip(0)
    for probability in (0.999, 0.95, 0.8, 0.6, 0.4, 0.2, 0.1, 0.01):
        drawn = p.sample(torch.special.ndtri(torch.tensor([[1 - probability]], dtype=torch.float64)))
        row = torch.searchsorted(z[:, 0], drawn[0].contiguous())
        found = above.gather(0, row[None])[0]
        torch.testing.assert_close(found, torch.full_like(found, probability), rtol=1e-4, atol=1e-5)
        if not half:
            opposite = p.sample(torch.special.ndtri(torch.tensor([[probability]], dtype=torch.float64)))
            torch.testing.assert_close(opposite, -drawn)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("std", "tolerance"), [(0.05, 1e-3), (0.2, 3e-3), (0.7, 0.02), (1.4, 0.03)])
def test_kl_with_soft_reciprocal_is_the_integral_in_both_directions(
    std: float, tolerance: float, half: bool
) -> None:
    """`tolerance` in nats, for wide laws the error of the quadrature; from the reciprocal law it is relative."""
    p, (z, spacing) = soft_reciprocal(half=half), line(40.0)
    for mean in (-1.5, 0.0, 0.7, 1.8):
        moments = (
            torch.full((1, len(STDS)), mean, dtype=torch.float64),
            torch.full((1, len(STDS)), 2 * math.log(std)),
        )
        q = DiagonalGaussian(moments[0], moments[1].double())
        log_q = Normal(q.mean, q.std).log_prob(z)
        there = (log_q.exp() * (log_q - p.log_prob(z))).sum(0) * spacing
        back = (p.log_prob(z).exp() * (p.log_prob(z) - log_q)).sum(0) * spacing
        torch.testing.assert_close(q.kl(p)[0], there, rtol=0, atol=tolerance)
        torch.testing.assert_close(p.kl(q)[0], back, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("label", [0.25, 0.35, 0.45])
def test_all_variances_of_a_factor_together_put_a_latent_where_the_factor_is(label: float) -> None:
    """A sharp q(z|x) has the least expected KL at +-z, not at 0 as with a uniform law: so u alone teaches |z|."""
    std = torch.linspace(2 * label, 1.0, 2001, dtype=torch.float64)[:, None]
    p = SoftReciprocal(2 * std.log(), edge=0.02)
    means = torch.linspace(-2.0, 2.0, 201, dtype=torch.float64)
    kl = torch.stack(
        [
            DiagonalGaussian(torch.full_like(std, m), torch.full_like(std, -8.0)).kl(p).mean()
            for m in means.tolist()
        ]
    )
    assert abs(abs(means[kl.argmin()].item()) - math.sqrt(12) * label) < 0.06
    # what z = 0 loses: the ratio of the density there to that at the label, but for what a q of some width loses at the edges
    gain = math.log((1.02 - math.sqrt(0.12)) / (1.02 - 2 * label))
    assert abs(kl[100] - kl.min() - gain) < 0.12


@pytest.mark.parametrize("half", [False, True])
def test_gradient_of_kl_with_soft_reciprocal_is_right_for_all_moments(half: bool) -> None:
    logvar, q = soft_reciprocal().logvar[:, 1:], gaussians()
    moments = [value.clone().requires_grad_() for value in (logvar, q.mean, q.logvar)]

    def of(m: tuple[Tensor, ...]) -> tuple[DiagonalGaussian, SoftReciprocal]:
        return DiagonalGaussian(m[1], m[2]), SoftReciprocal(m[0], half)

    def there(*m: Tensor) -> Tensor:
        q, p = of(m)
        return q.kl(p)

    def back(*m: Tensor) -> Tensor:
        q, p = of(m)
        return p.kl(q)

    assert torch.autograd.gradcheck(there, moments)
    assert torch.autograd.gradcheck(back, moments)


def test_the_half_law_is_that_of_distances() -> None:
    """Twice the density of z, but for the tail that lies below 0: a density of 1 / (pole - flat) there, falling by e in each edge w."""
    whole, half = soft_reciprocal(), soft_reciprocal(half=True)
    z = torch.full((1, len(STDS)), 0.3, dtype=torch.float64)
    ratio = (half.log_prob(z) - whole.log_prob(z)).exp()[0]
    tail = half.log_prob(torch.zeros_like(z)).exp()[0] * half.edge * half.half_width[0]
    torch.testing.assert_close(ratio, 2 * (1 - tail))
    below = half.log_prob(-0.1 * half.half_width) - half.log_prob(torch.zeros_like(z))
    torch.testing.assert_close(below, torch.full_like(below, -1.0))
    # its most probable value is its edge, beyond which it falls
    assert torch.equal(half.mode(), half.half_width)
    assert (half.log_prob(half.mode()) >= half.log_prob(half.mode() - 0.01)).all()


def test_u_alone_teaches_a_distance_to_the_half_law_and_a_width_to_the_whole() -> None:
    """The Gaussian with the least KL in the mean over all u of a factor: with the half its mean grows with the distance, else it is 0."""
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for half, label in itertools.product(found, (0.1, 0.25, 0.35, 0.45)):
        std = torch.linspace(max(2 * label, math.sqrt(0.12)), 1.0, 101, dtype=torch.float64)[:, None]
        prior = SoftReciprocal(2 * std.log(), half=half)
        mean = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
        logvar = torch.tensor([[-2.0]], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([mean, logvar], lr=0.03)
        for _ in range(400):
            optimizer.zero_grad()
            DiagonalGaussian(mean.expand_as(std), logvar.expand_as(std)).kl(prior).mean().backward()
            optimizer.step()
        found[half].append((mean.item(), logvar.item()))
    distances = [mean for mean, _ in found[True]]
    assert all(after > before + 0.1 for before, after in itertools.pairwise(distances[1:])), distances
    assert max(abs(mean) for mean, _ in found[False]) < 0.05
    widths = [logvar for _, logvar in found[False]]
    assert all(after > before + 0.1 for before, after in itertools.pairwise(widths[1:])), widths


LAWS: list[LatentDistribution] = [gaussians(), soft_uniform(), soft_reciprocal(), categorical()]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_what_all_laws_share(law: LatentDistribution) -> None:
    noise = torch.zeros(len(law.codes()), *law.noise_shape, dtype=torch.float64)
    z = law.sample(noise)
    assert z.shape == law.mode().shape
    assert law.codes().shape == noise.shape[:2]
    if not isinstance(law, OneHotCategorical):
        assert torch.equal(law.codes(), law.mode()) and torch.equal(law.mode(), z)


@pytest.mark.parametrize("kind", [DiagonalGaussian, SoftUniform, SoftReciprocal, OneHotCategorical])
def test_a_detached_law_is_the_same_without_gradient(kind: type) -> None:
    law: LatentDistribution
    if kind is OneHotCategorical:
        law = categorical(0.3)
    elif kind is SoftReciprocal:
        law = SoftReciprocal(-torch.rand(2, 3).requires_grad_(), True, 0.3, 0.2)
    else:
        moments = [torch.randn(2, 3, requires_grad=True) for _ in range(2)]
        law = kind(*moments, 0.7) if kind is SoftUniform else kind(*moments)
    noise = torch.full((2, *law.noise_shape), 0.4)
    stopped = law.detach()
    assert type(stopped) is kind
    for name, value in vars(law).items():
        kept = getattr(stopped, name)
        assert torch.equal(value, kept) if isinstance(value, Tensor) else value == kept
    assert torch.equal(law.sample(noise), stopped.sample(noise))
    assert law.sample(noise).requires_grad and not stopped.sample(noise).requires_grad
