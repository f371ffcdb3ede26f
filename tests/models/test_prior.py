"""p(z|u): moments and probabilities on paper, what depends on what, and which combinations there are."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn import functional

from idiff_hf.data import Interval, UniformPosterior
from idiff_hf.distributions import DiagonalGaussian, OneHotCategorical, SoftReciprocal, SoftUniform
from idiff_hf.models.prior import MIN_STD, PerDimensionLinear, PriorEncoder


def test_known_prior_has_the_moments_that_u_states_and_leaves_spare_dimensions_alone() -> None:
    prior = PriorEncoder("known", 4, 2, "mean_variance", 8)
    u = Interval(2).sample(torch.tensor([[-0.5, 0.25]]), torch.tensor([[0.5, 0.5]]))
    dist = prior(u)
    # cut at 0: z = -0.5 lies in [-0.5, 0], z = 0.25 in [0, 0.5]; in units of sqrt(1/12)
    half = math.sqrt(12) * 0.25
    torch.testing.assert_close(dist.mean, torch.tensor([[-half, half, 0.0, 0.0]]))
    torch.testing.assert_close(dist.logvar.exp(), torch.tensor([[0.25, 0.25, 1.0, 1.0]]))


def test_known_prior_bounds_the_variance_of_a_point() -> None:
    u = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(
        PriorEncoder("known", 2, 2, "mean_variance", 8)(u).std, torch.full((1, 2), MIN_STD)
    )


def test_variance_alone_leaves_the_mean_at_zero() -> None:
    u = UniformPosterior(2).sample(torch.zeros(5, 2), torch.rand(5, 2))
    for prior_type in ("known", "learned"):
        assert torch.equal(PriorEncoder(prior_type, 3, 2, "variance", 8)(u).mean, torch.zeros(5, 3))


def test_released_prior_starts_at_the_known_one_bit_for_bit() -> None:
    u = torch.rand(5, 4)
    known, released = (PriorEncoder(name, 3, 2, "mean_variance", 8)(u) for name in ("known", "released"))
    assert torch.equal(known.mean, released.mean) and torch.equal(known.logvar, released.logvar)


def test_a_half_is_joined_by_the_other_when_it_is_released() -> None:
    u = torch.rand(5, 3)
    make = partial(PriorEncoder, latent_dim=3, num_factors=3, aux_moments="variance", hidden_dim=8)
    known, released = (make(name, family="half_reciprocal") for name in ("known", "released"))
    whole = make("known", family="reciprocal")(u)
    before, after = released(u, released=False), released(u)
    assert isinstance(before, SoftReciprocal) and isinstance(after, SoftReciprocal)
    assert before.half and known(u, released=True).half and not after.half
    for law in (before, after):
        assert torch.equal(law.logvar, whole.logvar)
    z = torch.full((5, 3), -0.5)
    assert (
        torch.equal(after.log_prob(z), whole.log_prob(z)) and (before.log_prob(z) < after.log_prob(z)).all()
    )
    # there is nothing in it that learns
    assert not list(released.parameters())


def test_known_uniform_prior_of_an_interval_is_flat_on_it() -> None:
    u = Interval(1).sample(torch.tensor([[-0.4]]), torch.tensor([[0.6]]))
    dist = PriorEncoder("known", 1, 1, "mean_variance", 8, family="uniform")(u)
    # a cut at 0.1 leaves [-0.5, 0.1]
    ends = math.sqrt(12) * torch.tensor([[-0.5], [0.1]])
    inside = dist.log_prob(torch.cat([ends * 0.999, ends.mean(0, keepdim=True)]))
    torch.testing.assert_close(inside, inside[:1].expand(3, 1))
    assert (dist.log_prob(ends + torch.tensor([[-0.1], [0.1]])) < inside[0] - 0.5).all()


def prior_of(prior_type: str, aux_moments: str = "mean_variance", **options: object) -> PriorEncoder:
    """D = 4 and K = 3."""
    torch.manual_seed(0)
    return PriorEncoder(prior_type, 4, 3, aux_moments, 8, **options)  # type: ignore[arg-type]


def parameters_of(dist: DiagonalGaussian | SoftUniform | OneHotCategorical) -> Tensor:
    """`(B, D, 2)` mean and logvar, or `(B, D, C)` logits."""
    if isinstance(dist, OneHotCategorical):
        return dist.logits
    return torch.stack([dist.mean, dist.logvar], dim=-1)


def test_layers_side_by_side_are_linear_layers_of_their_own() -> None:
    torch.manual_seed(0)
    layer = PerDimensionLinear(3, 5, 2)
    x = torch.randn(3, 7, 5)
    for index in range(3):
        expected = functional.linear(x[index], layer.weight[index].T, layer.bias[index, 0])
        torch.testing.assert_close(layer(x)[index], expected)
    # as nn.Linear(5, 2) draws its own
    bound = 1 / math.sqrt(5)
    for drawn in (layer.weight, layer.bias):
        assert drawn.abs().max() <= bound and drawn.abs().max() > 0.7 * bound


@pytest.mark.parametrize("latent_type", ["gaussian", "categorical"])
@pytest.mark.parametrize(("aux_moments", "width"), [("mean_variance", 2), ("variance", 1)])
def test_per_dimension_prior_of_a_factor_sees_what_u_says_of_it_alone(
    latent_type: str, aux_moments: str, width: int
) -> None:
    prior = prior_of("per_dimension", aux_moments, latent_type=latent_type, num_categories=5)
    u = torch.rand(1, 3 * width)
    slopes = jacobian(lambda aux: parameters_of(prior(aux))[0], u)[:, :, 0].unflatten(-1, (width, 3))
    for dim in range(4):
        for factor in range(3):
            slope = slopes[dim, :, :, factor]
            assert (slope.abs().amax(0) > 0).all() if dim == factor else (slope == 0).all()


def test_learned_prior_of_a_factor_sees_all_of_u() -> None:
    prior = prior_of("learned")
    slopes = jacobian(lambda aux: prior(aux).mean[0], torch.rand(1, 6))[:, 0]
    assert (slopes != 0).all()


def test_per_dimension_prior_is_one_mlp_for_each_factor() -> None:
    """Each rebuilt from layers of its own; u is K means, then K variances."""
    prior = prior_of("per_dimension")
    u = torch.randn(6, 6)
    dist = prior(u)
    assert prior.mlp is not None
    for factor in range(3):
        x = u[:, [factor, 3 + factor]]
        for layer in prior.mlp:
            if isinstance(layer, PerDimensionLinear):
                x = functional.linear(x, layer.weight[factor].T, layer.bias[factor, 0])
            else:
                x = functional.leaky_relu(x, 0.01)
        torch.testing.assert_close(dist.mean[:, factor], x[:, 0])
        torch.testing.assert_close(dist.logvar[:, factor], x[:, 1])


@pytest.mark.parametrize("bounds", [(-10.0, 10.0), (-3.0, -1.0)])
def test_per_dimension_prior_leaves_spare_dimensions_standard(bounds: tuple[float, float]) -> None:
    dist = prior_of("per_dimension", logvar_bounds=bounds)(torch.randn(5, 6))
    assert torch.equal(dist.mean[:, 3], torch.zeros(5)) and torch.equal(dist.logvar[:, 3], torch.zeros(5))
    logits = prior_of("per_dimension", latent_type="categorical")(torch.randn(5, 6)).logits
    assert torch.equal(logits[:, 3], torch.zeros(5, 10))


def test_parameter_counts_are_those_on_paper() -> None:
    def count(prior: PriorEncoder) -> int:
        return sum(p.numel() for p in prior.parameters())

    def mlp(inputs: int, outputs: int) -> int:
        return (inputs * 8 + 8) + (8 * 8 + 8) + (8 * outputs + outputs)

    assert count(prior_of("standard")) == count(prior_of("known")) == 0
    assert count(prior_of("learned")) == count(prior_of("released")) == mlp(6, 2 * 4)
    assert count(prior_of("per_dimension")) == 3 * mlp(2, 2)
    assert count(prior_of("learned", latent_type="categorical", num_categories=5)) == mlp(6, 5 * 4)
    assert count(prior_of("per_dimension", latent_type="categorical", num_categories=5)) == 3 * mlp(2, 5)


@pytest.mark.parametrize("prior_type", ["learned", "per_dimension"])
@pytest.mark.parametrize(
    ("prior_mean", "aux_moments", "is_zero"),
    [
        ("auto", "mean_variance", False),
        ("auto", "variance", True),
        ("zero", "mean_variance", True),
        ("zero", "variance", True),
        ("learned", "mean_variance", False),
        ("learned", "variance", False),
    ],
)
def test_mean_is_zero_when_asked_or_when_u_states_variances_alone(
    prior_type: str, prior_mean: str, aux_moments: str, is_zero: bool
) -> None:
    prior = prior_of(prior_type, aux_moments, prior_mean=prior_mean)
    dist = prior(torch.rand(5, prior.aux_dim))
    assert (dist.mean[:, :3] == 0).all() == is_zero
    assert is_zero or (dist.mean[:, :3] != 0).all()
    # what it says of the variance is the same
    learned = prior_of(prior_type, aux_moments, prior_mean="learned")
    u = torch.rand(5, prior.aux_dim)
    assert torch.equal(prior(u).logvar, learned(u).logvar)


@pytest.mark.parametrize("prior_type", ["learned", "per_dimension", "released"])
def test_log_variance_of_a_prior_that_learns_is_bounded(prior_type: str) -> None:
    prior = prior_of(prior_type, logvar_bounds=(-2.0, 1.5))
    assert prior.mlp is not None
    for far, bound in ((-100.0, -2.0), (100.0, 1.5)):
        nn.init.constant_(prior.mlp[-1].bias, far)
        logvar = prior(torch.rand(5, 6)).logvar[:, :3]
        assert torch.equal(logvar, torch.full((5, 3), bound))


def test_categorical_prior_is_uniform_where_it_is_standard() -> None:
    dist = prior_of("standard", "none", latent_type="categorical", num_categories=5)(torch.zeros(2, 0))
    assert isinstance(dist, OneHotCategorical)
    torch.testing.assert_close(dist.probs, torch.full((2, 4, 5), 0.2))


def test_categorical_prior_has_its_logits_from_u_and_the_share_of_the_uniform_law() -> None:
    prior = prior_of("learned", latent_type="categorical", num_categories=5, uniform_mix=0.25)
    u = torch.rand(2, 6)
    dist = prior(u)
    assert isinstance(dist, OneHotCategorical) and prior.mlp is not None
    assert torch.equal(dist.logits.flatten(1), prior.mlp(u))
    torch.testing.assert_close(dist.probs, 0.75 * dist.logits.softmax(-1) + 0.05)


@pytest.mark.parametrize("latent_type", ["gaussian", "categorical"])
@pytest.mark.parametrize("prior_type", ["learned", "per_dimension"])
def test_kl_teaches_every_weight_of_the_prior(latent_type: str, prior_type: str) -> None:
    prior = prior_of(prior_type, latent_type=latent_type, num_categories=5)
    posterior: DiagonalGaussian | OneHotCategorical
    if latent_type == "gaussian":
        posterior = DiagonalGaussian(torch.randn(9, 4), torch.randn(9, 4))
    else:
        posterior = OneHotCategorical(torch.randn(9, 4, 5))
    posterior.kl(prior(torch.rand(9, 6))).sum().backward()
    for name, weight in prior.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name
        assert (weight.grad != 0).any(dim=-1).all(), name


def test_observed_u_may_inform_classes() -> None:
    prior = PriorEncoder("learned", 2, 0, "observed", 8, aux_dim=3, latent_type="categorical")
    assert prior(torch.rand(5, 3)).logits.shape == (5, 2, 10)


@pytest.mark.parametrize(
    ("prior_type", "aux_moments", "options", "message"),
    [
        (
            "per_dimension",
            "observed",
            {"aux_dim": 3},
            "prior_type='per_dimension' needs a u that states moments, got aux_moments='observed'",
        ),
        (
            "per_dimension",
            "none",
            {},
            "prior_type='per_dimension' needs a u that states moments, got aux_moments='none'",
        ),
        (
            "known",
            "mean_variance",
            {"latent_type": "categorical"},
            "prior_type='known' has moments, which latent_type='categorical' has not: "
            "use standard, learned or per_dimension",
        ),
        (
            "released",
            "mean_variance",
            {"latent_type": "categorical"},
            "prior_type='released' has moments, which latent_type='categorical' has not: "
            "use standard, learned or per_dimension",
        ),
        (
            "learned",
            "mean_variance",
            {"latent_type": "categorical", "family": "uniform"},
            "prior_family='uniform' needs latent_type='gaussian', got 'categorical'",
        ),
        (
            "learned",
            "mean_variance",
            {"latent_type": "categorical", "prior_mean": "zero"},
            "prior_mean='zero' needs latent_type='gaussian' and prior_type='learned' or 'per_dimension', "
            "got 'categorical' and 'learned'",
        ),
        (
            "known",
            "variance",
            {"prior_mean": "learned"},
            "prior_mean='learned' needs latent_type='gaussian' and prior_type='learned' or 'per_dimension', "
            "got 'gaussian' and 'known'",
        ),
        (
            "standard",
            "none",
            {"prior_mean": "zero"},
            "prior_mean='zero' needs latent_type='gaussian' and prior_type='learned' or 'per_dimension', "
            "got 'gaussian' and 'standard'",
        ),
        (
            "known",
            "mean_variance",
            {"family": "reciprocal"},
            "prior_family='reciprocal' needs prior_type='known', aux_moments='variance' and as many latents as factors, "
            "got 'known', 'mean_variance' and 4 latents for 3 factors",
        ),
        (
            "learned",
            "variance",
            {"family": "half_reciprocal"},
            "prior_family='half_reciprocal' needs prior_type='known' or 'released', aux_moments='variance' and as many latents as factors, "
            "got 'learned', 'variance' and 4 latents for 3 factors",
        ),
        (
            "learned",
            "mean_variance",
            {"prior_mean": "none"},
            "prior_mean must be one of auto, zero, learned, got 'none'",
        ),
    ],
)
def test_combinations_that_there_are_not(
    prior_type: str, aux_moments: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError) as refused:
        prior_of(prior_type, aux_moments, **options)
    assert str(refused.value) == message
