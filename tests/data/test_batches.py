"""Batches as a function of the step: every combination once an epoch, shared out without overlap."""

from __future__ import annotations

import torch

from idiff_hf.data import Interval, Shapes3D, TrainingBatches, to_float
from idiff_hf.random import BatchRandom

CPU = torch.device("cpu")


def batches(rows: torch.Tensor, seed: int = 0) -> TrainingBatches:
    return TrainingBatches(Shapes3D(16), Interval(6), rows, seed, "endpoints", False)


def test_each_epoch_holds_every_row_once_in_another_order() -> None:
    rows = torch.arange(100, 200)
    data = batches(rows)
    first, second = data.rows_at(0, 100), data.rows_at(100, 100)
    assert torch.equal(first.sort().values, rows) and torch.equal(second.sort().values, rows)
    assert not torch.equal(first, second)
    assert torch.equal(data.rows_at(90, 20), torch.cat([first[90:], second[:10]]))
    assert torch.equal(data.rows_at(50, 300)[:50], first[50:])


def test_order_is_keyed_by_the_seed() -> None:
    rows = torch.arange(100)
    assert torch.equal(batches(rows, 1).rows_at(0, 50), batches(rows, 1).rows_at(0, 50))
    assert not torch.equal(batches(rows, 1).rows_at(0, 50), batches(rows, 2).rows_at(0, 50))


def test_two_processes_see_together_what_one_sees() -> None:
    data = batches(torch.arange(480000))
    whole = data(32, BatchRandom(0, 5, 0, 32, CPU))
    halves = [data(32, BatchRandom(0, 5, first, 16, CPU)) for first in (0, 16)]
    for name in ("image", "factors", "aux"):
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name))


def test_image_and_aux_belong_to_the_factors() -> None:
    data = batches(torch.arange(480000))
    batch = data(16, BatchRandom(0, 0, 0, 16, CPU))
    assert torch.equal(batch.image, to_float(data.dataset.render(batch.factors)))
    assert batch.image.min() >= -1 and batch.image.max() <= 1
    # endpoints: the first and the last label lie on the only side that holds them, below or above the interval's middle
    mean = batch.aux[:, :6]
    last = torch.tensor(data.dataset.factor_space.sizes) - 1
    assert (mean[batch.factors == 0] <= 0).all() and (mean[batch.factors == last] >= 0).all()
