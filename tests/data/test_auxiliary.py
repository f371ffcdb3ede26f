"""Values of factors and the auxiliary variable u, against their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from idiff_hf.data import (
    AUXILIARY,
    ExactFactors,
    Interval,
    NoAuxiliary,
    NormalFirst,
    UniformPosterior,
    label_to_z,
)

SIGMA_MAX = math.sqrt(1 / 12)


def uniform(count: int, *shape: int, seed: int) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def constant(z: float, count: int) -> Tensor:
    return torch.full((count, 1), z)


# Labels to values


def test_endpoints_reach_both_ends() -> None:
    factors = torch.tensor([[0, 0], [1, 1], [2, 4]])
    z = label_to_z(factors, (3, 5), "endpoints")
    assert z.dtype == torch.float32
    assert z.tolist() == [[-0.5, -0.5], [0.0, -0.25], [0.5, 0.5]]


def test_centers_are_the_middles_of_equal_bins() -> None:
    factors = torch.tensor([[0, 0], [1, 1], [1, 3]])
    assert label_to_z(factors, (2, 4), "centers").tolist() == [[-0.25, -0.375], [0.25, -0.125], [0.25, 0.375]]


def test_centers_with_jitter_are_exactly_uniform() -> None:
    # 8 labels x 16 jitters, binary fractions: the 128 values must be the equally spaced ones, to the bit.
    factors = torch.arange(8).repeat_interleave(16)[:, None]
    jitter = (torch.arange(16) / 16).repeat(8)[:, None]
    z = label_to_z(factors, (8,), "centers", jitter)
    assert torch.equal(z.flatten(), torch.arange(128) / 128 - 0.5)


def test_centers_with_jitter_pass_a_test_of_uniformity() -> None:
    source = torch.Generator().manual_seed(0)
    factors = torch.randint(10, (20_000, 1), generator=source)
    z = label_to_z(factors, (10,), "centers", torch.rand(20_000, 1, generator=source))
    assert stats.kstest(z.flatten().numpy(), stats.uniform(-0.5, 1).cdf).pvalue > 0.01


def test_jitter_stays_in_range() -> None:
    largest = torch.tensor([[1 - 2**-24]])
    assert label_to_z(torch.tensor([[9]]), (10,), "centers", largest).item() <= 0.5


@pytest.mark.parametrize(
    ("sizes", "mode", "jitter", "message"),
    [
        ((3, 4), "middle", None, "mode is 'middle'; give 'endpoints' or 'centers'"),
        ((3, 4), "endpoints", torch.zeros(2, 2), "jitter was given with mode 'endpoints'"),
        (
            (1, 4),
            "endpoints",
            None,
            r"sizes are \(1, 4\); mode 'endpoints' needs at least two values a factor",
        ),
        ((3, 4, 5), "centers", None, r"factors have shape \(2, 2\); give \(B, 3\)"),
        ((3, 4), "centers", torch.zeros(1, 2), r"uniform numbers \(1, 2\); give \(B, 2\) and \(B, 2\)"),
    ],
)
def test_bad_values(sizes: tuple[int, ...], mode: str, jitter: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        label_to_z(torch.zeros(2, 2, dtype=torch.int64), sizes, mode, jitter)


def test_labels_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"factor '1' is 4 in row 0; labels must be in 0\.\.3"):
        label_to_z(torch.tensor([[0, 4]]), (3, 4), "centers")


# The paper's posterior


@pytest.mark.parametrize("z", [-0.5, -0.45, -0.3, -0.1, 0.0, 0.1, 0.173, 0.174, 0.25, 0.4, 0.49])
def test_sigma_given_z_is_uniform(z: float) -> None:
    count = 5_000
    u = UniformPosterior(1).sample(constant(z, count), uniform(count, 1, seed=1)).double()
    low = math.sqrt(max(0.01, z * z / 3))
    sigma = (u / 12).sqrt().flatten().numpy()
    if abs(z) == 0.5:
        assert np.allclose(sigma, SIGMA_MAX, atol=1e-7)
    else:
        assert stats.kstest(sigma, stats.uniform(low, SIGMA_MAX - low).cdf).pvalue > 0.01


def test_posterior_is_the_one_of_bayes_theorem() -> None:
    """Simulate the model of Eq. 7 forwards: draw sigma^2, then z; keep the draws where z is near a value."""
    source = np.random.Generator(np.random.Philox(key=0))
    variance = source.uniform(0.01, 1 / 12, 1_000_000)
    z = source.uniform(-1, 1, variance.size) * np.sqrt(3 * variance)
    for value in (0.05, 0.3):
        kept = 12 * variance[np.abs(z - value) < 0.002]
        drawn = UniformPosterior(1).sample(constant(value, len(kept)), uniform(len(kept), 1, seed=2))
        assert stats.ks_2samp(kept, drawn.flatten().numpy()).pvalue > 0.01


def test_eps_bounds_the_variance_from_below() -> None:
    u = UniformPosterior(1, eps=0.05).sample(torch.zeros(2, 1), torch.tensor([[0.0], [1 - 2**-24]]))
    assert u.flatten().tolist() == pytest.approx([0.6, 1.0], abs=1e-6)


def test_posterior_ignores_the_sign_of_z() -> None:
    z, numbers = uniform(100, 3, seed=3) - 0.5, uniform(100, 3, seed=4)
    for num_bins in (0, 100):
        posterior = UniformPosterior(3, num_bins=num_bins)
        assert torch.equal(posterior.sample(z, numbers), posterior.sample(-z, numbers))


@pytest.mark.parametrize("z", [0.0, 0.2, 0.35, 0.48])
def test_hundred_bins_are_within_a_hundredth_of_the_exact_law(z: float) -> None:
    # Midpoints of a fine grid of [0, 1) in place of random numbers: the law drawn, to 2.5e-5.
    count = 20_000
    numbers = ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]
    u = UniformPosterior(1, num_bins=100).sample(constant(z, count).double(), numbers)
    low = math.sqrt(max(0.01, z * z / 3))
    distance = stats.kstest(
        (u / 12).sqrt().flatten().numpy(), stats.uniform(low, SIGMA_MAX - low).cdf
    ).statistic
    assert distance < 0.01


def test_hundred_bins_are_a_hundred_equal_steps_of_the_support() -> None:
    u = UniformPosterior(1, num_bins=100).sample(constant(0.4, 20_000), uniform(20_000, 1, seed=5))
    assert np.allclose(np.unique(u.numpy()), 0.64 + 0.36 * (np.arange(100) + 0.5) / 100, atol=1e-6)


def test_one_bin_is_the_middle() -> None:
    assert UniformPosterior(1, num_bins=1).sample(
        torch.zeros(1, 1), torch.tensor([[0.7]])
    ).item() == pytest.approx(0.56)


@pytest.mark.parametrize("num_bins", [0, 100])
def test_columns_are_independent_of_each_other(num_bins: int) -> None:
    z, numbers = uniform(50, 4, seed=6) - 0.5, uniform(50, 4, seed=7)
    together = UniformPosterior(4, num_bins=num_bins).sample(z, numbers)
    one = UniformPosterior(1, num_bins=num_bins)
    alone = [one.sample(z[:, k : k + 1], numbers[:, k : k + 1]) for k in range(4)]
    assert torch.equal(together, torch.cat(alone, dim=1))


# Intervals


def test_interval_by_hand() -> None:
    # Cuts at 0.1 and -0.25; z on the left of the first, on the right of the second.
    z, numbers = torch.tensor([[0.0, 0.25]]), torch.tensor([[0.6, 0.25]])
    middle, length = (-0.2, 0.125), (0.6, 0.75)
    expected = [math.sqrt(12) * m for m in middle] + [a * a for a in length]
    assert Interval(2).sample(z, numbers).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def bounds(u: Tensor) -> tuple[Tensor, Tensor]:
    middle, length = u[:, :1] / math.sqrt(12), u[:, 1:].sqrt()
    return middle - length / 2, middle + length / 2


def test_interval_keeps_z_exactly_uniform_on_it() -> None:
    """On a grid of all (z, cut), each side of a cut is drawn for exactly the grid points that it holds."""
    points, cuts = torch.arange(64) / 64 - 0.5 + 1 / 128, torch.arange(64) / 64
    z, numbers = (part.reshape(-1, 1) for part in torch.meshgrid(points, cuts, indexing="ij"))
    low, high = bounds(Interval(1).sample(z, numbers).double())
    assert bool(((low < z) & (z < high)).all())
    for cut in cuts:
        low_of_cut, high_of_cut = low[numbers == cut], high[numbers == cut]
        right = torch.isclose(high_of_cut, torch.tensor(0.5, dtype=torch.float64))
        assert torch.equal(z[numbers == cut][right], points[points > cut - 0.5])
        assert torch.allclose(low_of_cut[right], cut.double() - 0.5, atol=1e-6)
        assert torch.allclose(high_of_cut[~right], cut.double() - 0.5, atol=1e-6)


def test_z_given_u_is_uniform_on_the_interval() -> None:
    z = uniform(20_000, 1, seed=8) - 0.5
    u = Interval(1).sample(z, uniform(20_000, 1, seed=9)).double()
    low, high = bounds(u)
    place = (z - low) / (high - low)
    for chosen in (u[:, 1] >= 0, u[:, 1] < 0.2, u[:, 1] > 0.6, u[:, 0] < 0, (u[:, 0] > 0) & (u[:, 1] < 0.5)):
        assert stats.kstest(place[chosen].flatten().numpy(), "uniform").pvalue > 0.01


def test_moments_of_u_are_those_of_z_given_u() -> None:
    count = 400_000
    z = uniform(count, 1, seed=10) - 0.5
    mean, variance = Interval(1).sample(z, uniform(count, 1, seed=11)).double().unbind(dim=1)
    standardised = math.sqrt(12) * z[:, 0].double()
    # E[z | u] = mean and E[(z - mean)^2 | u] = variance, in eight slices of u; at five standard errors.
    for chosen in torch.chunk(variance.argsort(), 8):
        residual = standardised[chosen] - mean[chosen]
        assert abs(residual.mean()) < 5 * residual.std() / len(chosen) ** 0.5
        excess = residual**2 - variance[chosen]
        assert abs(excess.mean()) < 5 * excess.std() / len(chosen) ** 0.5
    # The side that holds a uniform z has a length of density 2 a: E[12 variance] = E[a^2] = 1/2.
    assert variance.mean() == pytest.approx(0.5, abs=0.003)
    assert (mean**2).mean() == pytest.approx(0.5, abs=0.01)


def test_interval_never_has_length_zero() -> None:
    largest = 1 - 2**-24
    z, numbers = (
        torch.tensor([[-0.5], [-0.5], [0.5], [0.5]]),
        torch.tensor([[0.0], [largest], [0.0], [largest]]),
    )
    assert Interval(1).sample(z, numbers)[:, 1].min() > 0


@given(
    z=st.floats(-0.5, 0.5, width=32),
    cuts=st.lists(st.floats(0, 1 - 2**-24, width=32), min_size=1, max_size=6),
)
def test_several_cuts_leave_the_tightest_interval_around_z(z: float, cuts: list[float]) -> None:
    u = Interval(1, num_cuts=len(cuts)).sample(
        torch.tensor([[z]]), torch.tensor(cuts).reshape((1, 1, -1) if len(cuts) > 1 else (1, 1))
    )
    low, high = bounds(u.double())
    # z is compared as the float32 that it is given as, against cuts moved by a half
    place = float(torch.tensor(z) + 0.5)
    assert low.item() == pytest.approx(max([c for c in cuts if c <= place], default=0.0) - 0.5, abs=2e-6)
    assert high.item() == pytest.approx(min([c for c in cuts if c > place], default=1.0) - 0.5, abs=2e-6)


@pytest.mark.parametrize("num_cuts", [1, 2, 5])
def test_mean_length_around_a_uniform_z_is_two_over_cuts_plus_two(num_cuts: int) -> None:
    """m cuts and z are m + 1 uniform points on a line: m + 2 gaps of equal mean length, and two of them touch z."""
    count = 100_000
    auxiliary = Interval(1, num_cuts)
    z = uniform(count, 1, seed=20) - 0.5
    length = auxiliary.sample(z, uniform(count, *auxiliary.draws, seed=21))[:, 1].sqrt()
    assert length.mean() == pytest.approx(2 / (num_cuts + 2), abs=0.003)


def test_one_cut_is_the_same_in_both_shapes_of_its_numbers() -> None:
    z, numbers = uniform(50, 3, seed=22) - 0.5, uniform(50, 3, seed=23)
    by_hand = torch.where(z + 0.5 >= numbers, numbers, numbers - 1) / 2
    assert torch.equal(Interval(3).sample(z, numbers)[:, :3], math.sqrt(12) * by_hand)


def test_no_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="num_cuts is 0; give at least 1, or use NoAuxiliary"):
        Interval(1, num_cuts=0)


# The first stage: u before z


@pytest.mark.parametrize("modulate_mean", [False, True])
def test_normal_first_draws_z_from_the_moments_that_it_states(modulate_mean: bool) -> None:
    count, auxiliary = 200_000, NormalFirst(1, modulate_mean=modulate_mean)
    numbers = uniform(count, *auxiliary.draws, seed=24)
    normal = torch.randn(count, 1, generator=torch.Generator().manual_seed(25))
    u, z = auxiliary.sample_first(numbers, normal)
    assert u.shape == (count, 2 if modulate_mean else 1)
    assert auxiliary.moments == ("mean_variance" if modulate_mean else "variance")
    variance = u[:, -1] / 12
    assert stats.kstest(variance.numpy(), stats.uniform(0.01, 1 / 12 - 0.01).cdf).pvalue > 0.01
    mean = u[:, 0] / math.sqrt(12) if modulate_mean else torch.zeros(count)
    inside = z[:, 0].abs() < 0.5
    assert torch.allclose(((z[:, 0] - mean) / variance.sqrt())[inside], normal[inside, 0], atol=1e-4)
    # clipped: what the normal law has outside is piled up on both ends
    outside = mean + variance.sqrt() * normal[:, 0]
    assert torch.equal(z[outside > 0.5], torch.full_like(z[outside > 0.5], 0.5))


def test_normal_first_draws_the_middle_too_often_and_piles_up_the_ends() -> None:
    """Ten labels of a uniform factor come a tenth of the time; here the law of each end is the normal tail beyond 0.5 - 1/18, averaged."""
    count, auxiliary = 200_000, NormalFirst(1)
    normal = torch.randn(count, 1, generator=torch.Generator().manual_seed(26))
    _, z = auxiliary.sample_first(uniform(count, 1, seed=27), normal)
    labels = ((z + 0.5) * 9).round()
    sd = np.sqrt(np.linspace(0.01, 1 / 12, 20001))
    end = stats.norm.sf((0.5 - 1 / 18) / sd).mean()
    for label in (0, 9):
        assert (labels == label).float().mean() == pytest.approx(end, abs=0.002)
    assert (labels == 4).float().mean() > 0.15


def test_normal_first_refuses() -> None:
    with pytest.raises(ValueError, match=r"eps is 0\.0; give a variance in \(0, 1/12\]"):
        NormalFirst(2, eps=0.0)
    with pytest.raises(ValueError, match=r"uniform numbers \(4, 2\); give \(B, 2\) and \(B, 4\)"):
        NormalFirst(2, modulate_mean=True).sample_first(torch.zeros(4, 2), torch.zeros(4, 2))


# All of them


@pytest.mark.parametrize(
    ("name", "size", "moments"),
    [("interval", 12, "mean_variance"), ("uniform_posterior", 6, "variance"), ("none", 0, "none")],
)
def test_shared_members(name: str, size: int, moments: str) -> None:
    auxiliary = AUXILIARY[name](6)
    z, numbers = uniform(5, 6, seed=12) - 0.5, uniform(5, 6, seed=13)
    u = auxiliary.sample(z, numbers)
    assert (auxiliary.num_factors, auxiliary.size, auxiliary.moments) == (6, size, moments)
    assert u.shape == (5, size)
    assert u.dtype == torch.float32
    assert torch.equal(u, auxiliary.sample(z, numbers))


def test_none_is_empty() -> None:
    assert NoAuxiliary(3).sample(torch.zeros(4, 3), torch.zeros(4, 3)).shape == (4, 0)


def test_exact_factors_state_z_in_its_own_deviations_and_no_spread() -> None:
    u = ExactFactors(2).sample(torch.tensor([[-0.5, 0.25]]), torch.zeros(1, 2))
    torch.testing.assert_close(u, torch.tensor([[-math.sqrt(3), math.sqrt(3) / 2, 0.0, 0.0]]))


@pytest.mark.parametrize("name", sorted(AUXILIARY))
def test_wrong_shapes(name: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"values have shape \(4, 2\) and uniform numbers \(4, 2\); give \(B, 3\) and \(B, 3\)",
    ):
        AUXILIARY[name](3).sample(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"uniform numbers \(1, 3\); give \(B, 3\) and \(B, 3\)"):
        AUXILIARY[name](3).sample(torch.zeros(4, 3), torch.zeros(1, 3))


def test_bad_posteriors() -> None:
    with pytest.raises(ValueError, match=r"eps is 0\.1; give a variance in \(0, 1/12\]"):
        UniformPosterior(1, eps=0.1)
    with pytest.raises(ValueError, match="num_bins is -1; give a number of bins, or 0 for the exact law"):
        UniformPosterior(1, num_bins=-1)
