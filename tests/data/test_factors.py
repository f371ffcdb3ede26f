"""Row numbering of factor combinations, and the split into train and held-out ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from idiff_hf.data import FactorSpace, Shapes3D

REFERENCE = Path(__file__).parents[1] / "reference" / "shapes3d_reference50.npz"
SPACE = FactorSpace(names=("hue", "shape", "side"), sizes=(3, 4, 2))


def test_rows_are_counted_like_digits() -> None:
    assert len(SPACE) == 24
    factors = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [2, 3, 1]])
    assert SPACE.index(factors).tolist() == [0, 1, 2, 8, 23]


def test_round_trip_over_all_rows() -> None:
    rows = torch.arange(len(SPACE))
    factors = SPACE.factors(rows)
    assert factors.dtype == torch.int64
    assert torch.equal(factors, torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(2)))
    assert torch.equal(SPACE.index(factors), rows)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_small_integer_labels_do_not_overflow(dtype: torch.dtype) -> None:
    last = torch.tensor([[9, 9, 9, 7, 3, 14]], dtype=dtype)
    assert Shapes3D.factor_space.index(last).tolist() == [479_999]
    assert Shapes3D.factor_space.factors(torch.tensor([100], dtype=dtype)).tolist() == [[0, 0, 0, 1, 2, 10]]


def test_empty_batch() -> None:
    assert SPACE.index(torch.zeros(0, 3, dtype=torch.int64)).shape == (0,)
    assert SPACE.factors(torch.zeros(0, dtype=torch.int64)).shape == (0, 3)


def test_shapes3d_rows_are_those_printed_by_the_source() -> None:
    reference = np.load(REFERENCE, allow_pickle=False)
    printed = reference["index_printed_by_source"]
    factors = torch.from_numpy(reference["factors"][printed])
    rows = torch.from_numpy(reference["index"][printed])
    assert len(rows) == 25
    assert torch.equal(Shapes3D.factor_space.index(factors), rows)
    assert torch.equal(Shapes3D.factor_space.factors(rows), factors)


def test_split_is_disjoint_exhaustive_sorted_and_ten_percent() -> None:
    train, held_out = Shapes3D.factor_space.split(0.1, seed=0)
    assert len(held_out) == 48_000
    assert train.dtype == held_out.dtype == torch.int64
    assert torch.equal(torch.cat([train, held_out]).sort().values, torch.arange(480_000))
    assert bool((train.diff() > 0).all()) and bool((held_out.diff() > 0).all())


def test_split_holds_out_every_value_evenly() -> None:
    _, held_out = Shapes3D.factor_space.split(0.1, seed=3)
    factors = Shapes3D.factor_space.factors(held_out)
    for k, size in enumerate(Shapes3D.factor_space.sizes):
        count = torch.bincount(factors[:, k], minlength=size).double()
        mean = 48_000 / size
        # Hypergeometric: five standard deviations of a draw of a tenth without replacement.
        assert (count - mean).abs().max() < 5 * (0.9 * mean) ** 0.5


def test_split_is_a_function_of_the_seed() -> None:
    _, first = Shapes3D.factor_space.split(0.1, seed=1)
    torch.manual_seed(5)
    _, again = Shapes3D.factor_space.split(0.1, seed=1)
    _, other = Shapes3D.factor_space.split(0.1, seed=2)
    assert torch.equal(first, again)
    # Two independent tenths share a hundredth of all rows.
    assert np.intersect1d(first, other).size == pytest.approx(4_800, rel=0.1)


def test_smaller_share_is_part_of_a_larger_one() -> None:
    _, small = SPACE.split(0.25, seed=0)
    _, large = SPACE.split(0.5, seed=0)
    assert (len(small), len(large)) == (6, 12)
    assert set(small.tolist()) < set(large.tolist())


def test_split_always_leaves_both_sides_something() -> None:
    assert [len(part) for part in SPACE.split(0.001, seed=0)] == [23, 1]
    assert [len(part) for part in SPACE.split(0.999, seed=0)] == [1, 23]


def test_split_rows_are_pinned() -> None:
    _, held_out = SPACE.split(0.25, seed=0)
    assert held_out.tolist() == [3, 8, 13, 15, 16, 17]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (torch.zeros(2, 3), "factors are torch.float32; give integer labels"),
        (torch.zeros(2, 3, dtype=torch.bool), "factors are torch.bool; give integer labels"),
        (
            torch.zeros(3, dtype=torch.int64),
            r"factors have shape \(3,\); give \(B, 3\), one column for each of hue, shape",
        ),
        (torch.zeros(2, 4, dtype=torch.int64), r"factors have shape \(2, 4\); give \(B, 3\)"),
        (torch.tensor([[0, 0, 0], [0, 4, 0]]), r"factor 'shape' is 4 in row 1; labels must be in 0\.\.3"),
        (torch.tensor([[0, 0, -1]]), r"factor 'side' is -1 in row 0; labels must be in 0\.\.1"),
    ],
)
def test_bad_labels(factors: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPACE.index(factors)


def test_bad_rows() -> None:
    with pytest.raises(ValueError, match=r"'row number' is 24 in row 1; labels must be in 0\.\.23"):
        SPACE.factors(torch.tensor([0, 24]))
    with pytest.raises(ValueError, match="give integer labels"):
        SPACE.factors(torch.tensor([0.5]))


@pytest.mark.parametrize(
    ("held_out", "seed", "message"),
    [
        (0.0, 0, "held_out is 0.0; give a fraction strictly between 0 and 1"),
        (1.0, 0, "held_out is 1.0; give a fraction strictly between 0 and 1"),
        (0.1, -1, r"seed is -1; give an integer in 0 \.\. 2\*\*64 - 1"),
    ],
)
def test_bad_split(held_out: float, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPACE.split(held_out, seed)


def test_bad_spaces() -> None:
    with pytest.raises(ValueError, match="1 factor names for 2 sizes; give as many"):
        FactorSpace(names=("hue",), sizes=(3, 4))
    with pytest.raises(ValueError, match=r"factor sizes are \(0,\); each must be at least 1"):
        FactorSpace(names=("hue",), sizes=(0,))
    with pytest.raises(ValueError, match="1 row cannot be split"):
        FactorSpace(names=("hue",), sizes=(1,)).split(0.5, 0)
