"""The prototyping data of Section 3.1: x = sqrt(12) R z."""

from __future__ import annotations

import math

import pytest
import torch

from idiff_hf.data.dataset import FactorDataset, GridDataset
from idiff_hf.data.rotation import Rotation


@pytest.fixture(scope="module")
def vectors() -> Rotation:
    return Rotation(3, seed=5)


@pytest.mark.parametrize("dim", [2, 3, 6, 10])
def test_matrix_is_a_rotation(dim: int) -> None:
    rotation = Rotation(dim, seed=1, num_rows=2).rotation.double()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(dim).double(), rtol=0, atol=1e-6)
    assert float(torch.linalg.det(rotation)) == pytest.approx(1.0, abs=1e-6)


def test_matrices_are_spread_evenly_over_so3() -> None:
    """Under the Haar measure E[R_ij] = 0, E[R_ij^2] = 1/3 and E[trace R] = 0 (the angle's density is (1 - cos) / pi)."""
    rotations = torch.stack([Rotation(3, seed, num_rows=2).rotation for seed in range(600)]).double()
    error = 4 / math.sqrt(len(rotations))
    assert rotations.mean(0).abs().max() < error * math.sqrt(1 / 3)
    assert (rotations.square().mean(0) - 1 / 3).abs().max() < error * math.sqrt(4 / 45)
    trace = rotations.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(float(trace.mean())) < error  # of variance 1


def test_shapes_names_and_range(vectors: Rotation) -> None:
    assert isinstance(vectors, FactorDataset) and not isinstance(vectors, GridDataset)
    assert (vectors.channels, vectors.image_size, len(vectors)) == (3, 1, 100_000)
    assert vectors.factor_names == ("z0", "z1", "z2")
    factors = vectors.factors(torch.tensor([0, 99_999, 7]))
    assert factors.shape == (3, 3) and factors.dtype == torch.float32
    x = vectors.images(torch.tensor([0, 99_999, 7]))
    assert x.shape == (3, 3, 1, 1) and x.dtype == torch.float32
    assert torch.equal(x, vectors.render(factors))


def test_factors_are_uniform_and_independent_and_x_has_unit_variance(vectors: Rotation) -> None:
    rows = torch.arange(len(vectors))
    factors = vectors.factors(rows).double()
    assert factors.min() >= -0.5 and factors.max() < 0.5
    counts = torch.stack([torch.histc(column, 20, -0.5, 0.5) for column in factors.T])
    assert (counts - 5000).abs().max() < 5 * math.sqrt(5000)
    for values in (math.sqrt(12) * factors, vectors.images(rows).flatten(1).double()):
        covariance = torch.cov(values.T)
        torch.testing.assert_close(covariance, torch.eye(3).double(), rtol=0, atol=0.02)


def test_a_rotation_keeps_lengths_and_is_undone_by_its_transpose(vectors: Rotation) -> None:
    z = vectors.factors(torch.arange(50))
    x = vectors.render(z).flatten(1)
    torch.testing.assert_close(x.norm(dim=1), math.sqrt(12) * z.norm(dim=1))
    torch.testing.assert_close(x @ vectors.rotation / math.sqrt(12), z, rtol=0, atol=1e-6)


def test_z_and_nearest_leave_continuous_factors_as_they_are(vectors: Rotation) -> None:
    z = torch.rand(4, 3) - 0.5
    assert torch.equal(vectors.z(z, "endpoints"), z)
    assert torch.equal(vectors.nearest(z), z)


def test_rows_and_rotation_belong_to_the_seed(vectors: Rotation) -> None:
    rows = torch.arange(9)
    again, other = Rotation(3, seed=5), Rotation(3, seed=6)
    assert torch.equal(vectors.images(rows), again.images(rows))
    assert not torch.equal(vectors.factors(rows), other.factors(rows))
    assert not torch.allclose(vectors.rotation, other.rotation, atol=0.01)
    # fewer rows are the first ones
    assert torch.equal(Rotation(3, seed=5, num_rows=9).factors(rows), vectors.factors(rows))


def test_rows_are_pinned() -> None:
    """Raw Philox words, the upper 24 bits of each over 2^24: any version of NumPy draws them."""
    expected = torch.tensor([[429728.0, 4952962.0], [4518384.0, 1691206.0]]) * 2.0**-24 - 0.5
    assert torch.equal(Rotation(2, seed=0, num_rows=2).factors(torch.arange(2)), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 1}, "dim is 1; give at least 2"),
        ({"seed": -1}, "seed is -1; give an integer in 0"),
        ({"num_rows": 1}, "num_rows is 1; give at least 2 rows"),
    ],
)
def test_bad_arguments(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rotation(**{"dim": 3, "seed": 0, **arguments})
