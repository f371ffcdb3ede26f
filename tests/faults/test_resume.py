"""A resumed run is the uninterrupted one, to the last bit; under another config it is refused, or what differs is said."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train_ivae_ddpm
from idiff_hf.config import Config
from idiff_hf.data import Batch
from idiff_hf.training import TrainingRun
from tests.faults.figures import Figure
from tests.faults.runs import assert_same_end, assert_same_weights, in_folder, losses, resume_at, weights
from tests.tiny import joint, tiny_config
from train_ivae_ddpm import train, training_step

STEPS = 13
ROWS = 49
"""Training images: three batches of 16 and one of a single row make an epoch."""


class Interrupted(Exception):
    """What breaks a run off."""


class WatchedRun(TrainingRun):
    """A run that notes which rows it sees, and breaks off when it asks for a micro-batch of a step."""

    seen: list[int]
    breaks_at: tuple[int, int] | None

    def batch(self, step: int, micro: int) -> Batch:
        if (step, micro) == self.breaks_at:
            self.prefetcher.close()
            self.lock.release()
            raise Interrupted
        batch = super().batch(step, micro)
        self.seen += self.dataset.factor_space.index(batch.factors).tolist()  # type: ignore[attr-defined]
        return batch


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[WatchedRun]:
    """The class of the runs of this test."""
    WatchedRun.seen, WatchedRun.breaks_at = [], None
    monkeypatch.setattr(train_ivae_ddpm, "TrainingRun", WatchedRun)
    return WatchedRun


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config, list[int]]:
    """Two stages with accumulation over four epochs, uninterrupted, a checkpoint at each step; and the rows it saw."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny_config(folder, max_train_steps=STEPS, gradient_accumulation_steps=2, train_batch_size=8)
    config = replace(
        config,
        data=replace(config.data, held_out=1 - ROWS / 480_000),
        model=replace(config.model, norm="batch"),
        optim_ivae=replace(config.optim_ivae, stop_step=6),
        optim_unet=replace(config.optim_unet, start_step=6),
    )
    WatchedRun.seen, WatchedRun.breaks_at = [], None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_ivae_ddpm, "TrainingRun", WatchedRun)
        train(config)
    return folder, config, WatchedRun.seen


@pytest.mark.faults
def test_each_row_is_seen_once_an_epoch(whole: tuple[Path, Config, list[int]], figure: Figure) -> None:
    rows = whole[2]
    assert len(rows) == 16 * STEPS
    for epoch in range(len(rows) // ROWS):
        assert len(set(rows[epoch * ROWS : (epoch + 1) * ROWS])) == ROWS
    assert len(set(rows)) == ROWS
    assert all(value == value for line in losses(whole[0]) for value in line.values())
    figure("F18", f"epochs of {ROWS} rows in batches of 16, the last of one row: each row once")


@pytest.mark.faults
@pytest.mark.slow
def test_a_run_resumed_at_each_step_is_the_uninterrupted_one(
    whole: tuple[Path, Config, list[int]], watched: type[WatchedRun], tmp_path: Path, figure: Figure
) -> None:
    folder, config, rows = whole
    worst = 0.0
    for step in range(1, STEPS):
        watched.seen = []
        resumed = tmp_path / str(step)
        resume_at(folder, step, resumed, config)
        assert rows[: 16 * step] + watched.seen == rows
        for line, wanted in zip(losses(resumed), losses(folder)[step:], strict=True):
            assert line.keys() == wanted.keys()
            worst = max(worst, *(abs(line[name] - wanted[name]) for name in line))
        assert_same_weights(weights(resumed, STEPS), weights(folder, STEPS))
    assert worst == 0.0
    figure(
        "F3", f"largest difference of a loss {worst} over {STEPS - 1} steps; 0 images seen twice or left out"
    )


@pytest.mark.faults
def test_several_resumes_in_a_row(
    whole: tuple[Path, Config, list[int]], watched: type[WatchedRun], tmp_path: Path, figure: Figure
) -> None:
    """Broken off inside accumulation of steps 2, 2 once more, 6 and 11, each time resumed from what is there."""
    folder, config, rows = whole
    resumed = in_folder(config, tmp_path / "resumed")
    places = (2, 2, 6, 11)
    for step in places:
        watched.breaks_at = (step, 1)
        with pytest.raises(Interrupted):
            train(resumed)
    watched.breaks_at, watched.seen = None, []
    train(resumed)
    assert watched.seen == rows[16 * places[-1] :]
    assert_same_end(tmp_path / "resumed", folder, STEPS)
    figure("F3", "broken off between two micro-batches: 0.0")
    figure("F5", f"{len(places)} resumes in a row: 0.0")


@pytest.mark.faults
def test_a_finished_run_takes_no_step(
    whole: tuple[Path, Config, list[int]], watched: type[WatchedRun], figure: Figure
) -> None:
    folder, config, _ = whole
    before = losses(folder)
    train(in_folder(config, folder))
    assert losses(folder) == before and watched.seen == []
    figure("F5", "a finished run resumed: no step taken")


def test_resume_inside_a_logging_window_keeps_its_mean(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "whole", logging_steps=4)
    train(config)
    resume_at(tmp_path / "whole", 3, tmp_path / "resumed", config)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")


@pytest.mark.faults
def test_the_whole_state_comes_back(tmp_path: Path, figure: Figure) -> None:
    """The run that goes on in memory, and the one that was loaded, side by side."""
    config = joint(tiny_config(tmp_path / "run"))
    config = replace(config, model=replace(config.model, norm="batch"))
    run = TrainingRun(config)
    for step in range(3):
        training_step(run, step)
    other = TrainingRun(in_folder(config, tmp_path / "other", run.checkpoint(3)))
    assert other.first_step == 3
    count = 0
    for step in (3, 4):
        live, loaded = run.learner.tensors(), other.learner.tensors()
        assert live.keys() == loaded.keys() == {"model", "ema", "optimizer_ivae", "optimizer_unet"}
        for group in live:
            assert_same_weights(live[group], loaded[group])
        assert run.learner.state() == other.learner.state()
        names = live["model"].keys()
        assert any(name.endswith("running_var") for name in names)
        assert {name.rpartition("/")[2] for name in live["optimizer_unet"]} == {
            "exp_avg",
            "exp_avg_sq",
            "step",
        }
        count = sum(len(group) for group in live.values())
        for either in (run, other):
            training_step(either, step)
        rates = [
            {name: optimizer.param_groups[0]["lr"] for name, optimizer in either.learner.optimizers.items()}
            for either in (run, other)
        ]
        assert rates[0] == rates[1]
    for either in (run, other):
        either.prefetcher.close()
        either.lock.release()
    figure(
        "F6", f"{count} tensors of weights, buffers, averages and moments, and the rates: equal bit for bit"
    )


@pytest.mark.faults
def test_the_same_seed_and_other_workers_give_the_same_run(
    whole: tuple[Path, Config, list[int]], tmp_path: Path, figure: Figure
) -> None:
    folder, config, _ = whole
    assert config.data.num_workers == 1
    for workers in (1, 2):
        again = in_folder(config, tmp_path / str(workers), None)
        train(replace(again, data=replace(again.data, num_workers=workers)))
        assert_same_end(tmp_path / str(workers), folder, STEPS)
        if workers == 1:
            figure("F29", "the same seed again: bit-equal")
    figure("F29", "2 workers for 1: bit-equal")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("group", "key", "value", "was"),
    [
        ("model", "latent_dim", 7, 6),
        ("data", "name", "dsprites", "shapes3d"),
        ("data", "held_out", 0.25, 1 - ROWS / 480_000),
        ("train", "seed", 1, 0),
        ("unet", "layers_per_block", 2, 1),
    ],
)
def test_another_model_data_or_seed_is_refused(
    whole: tuple[Path, Config, list[int]],
    tmp_path: Path,
    group: str,
    key: str,
    value: object,
    was: object,
    figure: Figure,
) -> None:
    folder, config, _ = whole
    changed = replace(config, **{group: replace(getattr(config, group), **{key: value})})
    with pytest.raises(ValueError) as caught:
        resume_at(folder, STEPS, tmp_path / "other", changed)
    assert f"is another model than this config ({group}.{key}: {was} -> {value})" in str(caught.value)
    assert "\n" not in str(caught.value)
    figure("F17", "another model, dataset or seed refused, the key named")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("group", "key", "value", "was"),
    [
        ("optim_unet", "learning_rate", 5e-4, 0.001),
        ("train", "train_batch_size", 16, 8),
        ("train", "max_train_steps", STEPS + 1, STEPS),
        ("loss", "kl", 0.5, 0.0001),
        ("eval", "num_samples", 32, 64),
    ],
)
def test_what_may_change_is_listed(
    whole: tuple[Path, Config, list[int]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    group: str,
    key: str,
    value: object,
    was: object,
    figure: Figure,
) -> None:
    folder, config, _ = whole
    changed = replace(config, **{group: replace(getattr(config, group), **{key: value})})
    with caplog.at_level(logging.WARNING):
        resume_at(folder, STEPS, tmp_path / "changed", changed)
    listed = [line for line in caplog.messages if line.startswith("resumed with another ")]
    assert listed == [f"resumed with another {group}.{key}: {was} -> {value}"]
    figure("F17", "another learning rate, batch, length, weight or evaluation listed")


def test_an_average_is_not_the_live_weight(whole: tuple[Path, Config, list[int]]) -> None:
    """What is compared above would be equal by itself if nothing had been averaged."""
    saved = weights(whole[0], STEPS)
    averaged = [name.removeprefix("ema/") for name in saved if name.startswith("ema/unet.")]
    assert averaged and not any(torch.equal(saved[f"ema/{n}"], saved[f"model/{n}"]) for n in averaged)
