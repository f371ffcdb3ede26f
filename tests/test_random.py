"""Keyed draws: the same whatever the number of processes, different in every key."""

from __future__ import annotations

import torch
from scipy import stats

from idiff_hf.random import BatchRandom, key

CPU = torch.device("cpu")


def test_rows_do_not_depend_on_how_the_global_batch_is_shared() -> None:
    whole = BatchRandom(3, 17, 0, 32, CPU)
    for purpose, shape in (("noise", (3, 4, 4)), ("drop", ())):
        expected = whole.normal(purpose, shape)
        shares = [BatchRandom(3, 17, first, 16, CPU).normal(purpose, shape) for first in (0, 16)]
        assert torch.equal(torch.cat(shares), expected)


def test_every_part_of_the_key_matters() -> None:
    draws = [
        BatchRandom(seed, step, first, 8, CPU).uniform(purpose, (4,))
        for seed in (0, 1)
        for step in (0, 1)
        for first in (0, 8)
        for purpose in ("noise", "aux")
    ]
    for i, one in enumerate(draws):
        assert not any(torch.equal(one, other) for other in draws[i + 1 :])


def test_keys_of_counters_are_not_joined_ambiguously() -> None:
    assert key(1, "noise", 12, 3) != key(1, "noise", 1, 23)
    assert key(11, "noise") != key(1, "1noise")


def test_draws_over_steps_follow_their_law() -> None:
    """Neighbouring keys give independent numbers: pooled over 500 steps the laws hold (p > 1e-3 at fixed seed)."""
    uniform = torch.cat([BatchRandom(0, step, 0, 8, CPU).uniform("t", ()) for step in range(500)])
    normal = torch.cat([BatchRandom(0, step, 0, 8, CPU).normal("n", ()) for step in range(500)])
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.numpy(), "norm").pvalue > 1e-3
