"""Batches as a function of the step: every combination once an epoch, shared out without overlap."""

from __future__ import annotations

import threading

import pytest
import torch

from idiff_hf.data import Interval, NormalFirst, Observed, Prefetcher, Shapes3D, TrainingBatches, to_float
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


def test_observed_u_follows_its_row() -> None:
    dataset = Shapes3D(16)
    values = torch.arange(len(dataset), dtype=torch.float32)[:, None] * torch.tensor([1.0, -1.0])
    data = TrainingBatches(
        dataset, Observed(values, "observed", (), {}), torch.arange(500), 0, "endpoints", False
    )
    batch = data(16, BatchRandom(0, 3, 0, 16, CPU))
    rows = dataset.factor_space.index(batch.factors)
    assert torch.equal(batch.aux, values[rows]) and torch.equal(batch.image, to_float(dataset.images(rows)))


def test_factors_drawn_after_u_are_training_combinations_only() -> None:
    """With nine tenths held out most draws fall on a held-out combination, and every one is drawn anew."""
    dataset = Shapes3D(16)
    train, held_out = dataset.split(0.9, seed=0)
    data = TrainingBatches(dataset, NormalFirst(6), train, 0, "endpoints", False)
    batches_ = [data(64, BatchRandom(0, step, 0, 64, CPU)) for step in range(5)]
    rows = torch.cat([dataset.factor_space.index(batch.factors) for batch in batches_])
    assert not torch.isin(rows, held_out).any() and len(rows.unique()) > 300
    for batch in batches_:
        assert torch.equal(batch.image, to_float(dataset.render(batch.factors)))


def test_two_processes_draw_u_first_as_one_does() -> None:
    dataset = Shapes3D(16)
    train, _ = dataset.split(0.9, seed=0)
    data = TrainingBatches(dataset, NormalFirst(6, modulate_mean=True), train, 0, "endpoints", False)
    whole = data(32, BatchRandom(0, 5, 0, 32, CPU))
    halves = [data(32, BatchRandom(0, 5, first, 16, CPU)) for first in (0, 16)]
    assert torch.equal(torch.cat([half.factors for half in halves]), whole.factors)
    assert torch.equal(torch.cat([half.aux for half in halves]), whole.aux)


def test_mean_of_z_given_u_is_the_stated_one_where_nothing_is_clipped() -> None:
    dataset = Shapes3D(16)
    data = TrainingBatches(
        dataset, NormalFirst(6, modulate_mean=True), torch.arange(len(dataset)), 0, "endpoints", False
    )
    batch = data(4096, BatchRandom(0, 0, 0, 4096, CPU))
    mean = batch.aux[:, :6] / 12**0.5
    z = dataset.z(batch.factors, "endpoints")
    middle = mean.abs() < 0.1
    slope = (z[middle] * mean[middle]).sum() / (mean[middle] ** 2).sum()
    assert float(slope) == pytest.approx(1.0, abs=0.15)


# Prepared ahead


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_prefetched_batches_are_those_asked_for(num_workers: int) -> None:
    data = batches(torch.arange(1000))

    def make(step: int, micro: int):  # type: ignore[no-untyped-def]
        return data(32, BatchRandom(0, step, 16 * micro, 16, CPU))

    prefetcher = Prefetcher(make, last_step=5, accumulation=2, num_workers=num_workers)
    for step in range(5):
        for micro in range(2):
            given, wanted = prefetcher(step, micro), make(step, micro)
            assert torch.equal(given.image, wanted.image) and torch.equal(given.aux, wanted.aux)
    assert prefetcher.waited > 0
    prefetcher.close()


def test_a_worker_runs_ahead_and_not_past_the_end() -> None:
    made: list[tuple[int, int]] = []
    ahead = threading.Event()

    def make(step: int, micro: int):  # type: ignore[no-untyped-def]
        made.append((step, micro))
        if (step, micro) == (2, 1):
            ahead.set()
        return None

    prefetcher = Prefetcher(make, last_step=3, accumulation=2, num_workers=1)
    prefetcher(2, 0)
    assert ahead.wait(timeout=30)
    prefetcher(2, 1)
    prefetcher.close()
    assert made == [(2, 0), (2, 1)]


def test_an_error_in_a_worker_reaches_the_training_step() -> None:
    def make(step: int, micro: int):  # type: ignore[no-untyped-def]
        raise ValueError("picture 7 is corrupt")

    prefetcher = Prefetcher(make, last_step=3, accumulation=1, num_workers=1)
    with pytest.raises(ValueError, match="picture 7 is corrupt"):
        prefetcher(0, 0)
    prefetcher.close()
