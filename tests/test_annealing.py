"""The factor on lambda_KL, each shape against its closed form."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiff_hf.annealing import anneal

SHAPES: tuple[Literal["geometric", "linear", "cosine"], ...] = ("geometric", "linear", "cosine")
shapes = st.sampled_from(SHAPES)
fractions = st.floats(0.0, 1.0)


@pytest.mark.parametrize(
    ("shape", "quarter", "half", "three_quarters"),
    [
        ("geometric", 16.0 ** (3 / 4), 4.0, 2.0),
        ("linear", 12.25, 8.5, 4.75),
        ("cosine", 1 + 15 * (1 + math.sqrt(0.5)) / 2, 8.5, 1 + 15 * (1 - math.sqrt(0.5)) / 2),
    ],
)
def test_a_fall_from_16_to_1_between_a_fifth_and_three_fifths(
    shape: Literal["geometric", "linear", "cosine"], quarter: float, half: float, three_quarters: float
) -> None:
    values = [
        anneal(progress, factor=16.0, hold=0.2, end=0.6, shape=shape, cycles=1)
        for progress in (0.0, 0.199, 0.2, 0.3, 0.4, 0.5, 0.6, 0.99)
    ]
    assert values == pytest.approx([16, 16, 16, quarter, half, three_quarters, 1, 1])


def test_a_linear_rise_from_nothing_is_progress_itself() -> None:
    """The monotonic schedule that cyclical annealing repeats (arXiv 1903.10145)."""
    for progress in (0.0, 0.25, 0.5, 0.9):
        assert anneal(progress, factor=0.0, hold=0.0, end=1.0, shape="linear", cycles=1) == pytest.approx(
            progress
        )


def test_cycles_repeat_the_schedule_in_equal_parts() -> None:
    """Four cycles, each a rise in its first half and then 1: the schedule of arXiv 1903.10145 with M = 4 and R = 0.5."""
    progress = [0.0, 1 / 16, 1 / 8, 3 / 16, 1 / 4, 5 / 16, 1 / 2, 15 / 16]
    values = [anneal(p, factor=0.0, hold=0.0, end=0.5, shape="linear", cycles=4) for p in progress]
    assert values == [0.0, 0.5, 1.0, 1.0, 0.0, 0.5, 0.0, 1.0]


@given(
    progress=fractions,
    factor=st.floats(0.01, 100.0),
    bounds=st.tuples(fractions, fractions),
    shape=shapes,
    cycles=st.integers(1, 5),
)
def test_it_lies_between_the_factor_and_1(
    progress: float,
    factor: float,
    bounds: tuple[float, float],
    shape: Literal["geometric", "linear", "cosine"],
    cycles: int,
) -> None:
    value = anneal(progress, factor=factor, hold=min(bounds), end=max(bounds), shape=shape, cycles=cycles)
    slack = 1e-12 * max(factor, 1.0)
    assert min(factor, 1.0) - slack <= value <= max(factor, 1.0) + slack
    if progress == 1.0:
        assert value == 1.0


@pytest.mark.parametrize(
    ("shape", "steepest"), [("geometric", 9 * math.log(9)), ("linear", 8.0), ("cosine", 8 * math.pi / 2)]
)
def test_it_moves_one_way_only_and_without_a_jump(
    shape: Literal["geometric", "linear", "cosine"], steepest: float
) -> None:
    values = [
        anneal(step / 1000, factor=9.0, hold=0.17, end=0.5, shape=shape, cycles=1) for step in range(1000)
    ]
    falls = [before - after for before, after in pairwise(values)]
    assert min(falls) >= 0
    assert max(falls) == pytest.approx(steepest / 330, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_before_the_training_it_is_the_factor_and_after_it_1(
    shape: Literal["geometric", "linear", "cosine"],
) -> None:
    for cycles in (1, 3):
        assert anneal(-0.4, factor=9.0, hold=0.17, end=0.5, shape=shape, cycles=cycles) == 9.0
        assert anneal(1.7, factor=9.0, hold=0.17, end=0.5, shape=shape, cycles=cycles) == 1.0


@pytest.mark.parametrize("shape", SHAPES)
def test_no_time_between_hold_and_end_is_a_step(shape: Literal["geometric", "linear", "cosine"]) -> None:
    assert anneal(0.29, factor=9.0, hold=0.3, end=0.3, shape=shape, cycles=1) == 9.0
    assert anneal(0.3, factor=9.0, hold=0.3, end=0.3, shape=shape, cycles=1) == 1.0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_factor_of_1_changes_nothing(shape: Literal["geometric", "linear", "cosine"]) -> None:
    values = {anneal(p, factor=1.0, hold=0.1, end=0.9, shape=shape, cycles=2) for p in (0.0, 0.3, 0.37, 0.8)}
    assert values == {1.0}
