"""Equivalences of whole runs: accumulated = whole, 2 processes = 1; those of resumed runs are in `tests/faults`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.arguments import config_to_yaml
from idiff_hf.baselines import supervision_baseline
from idiff_hf.checkpoint import load_checkpoint
from idiff_hf.config import Config
from idiff_hf.folders import verify_folder
from tests.faults.figures import Figure
from tests.faults.runs import in_folder, losses, weights
from tests.tiny import joint, tiny_config
from tests.torchrun import torchrun
from train_ivae_ddpm import train


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """Eight steps of two stages with accumulation, uninterrupted, a checkpoint at each."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny_config(folder, gradient_accumulation_steps=2, train_batch_size=8)
    train(config)
    return folder, config


def test_accumulated_micro_batches_equal_one_batch(whole: tuple[Path, Config], tmp_path: Path) -> None:
    folder, config = whole
    train(
        replace(
            config,
            train=replace(
                config.train,
                output_dir=str(tmp_path / "one"),
                gradient_accumulation_steps=1,
                train_batch_size=16,
            ),
        )
    )
    for one, other in zip(losses(tmp_path / "one"), losses(folder), strict=True):
        # the KL begins at 80 nats, where float32 itself resolves 8e-6
        assert one == pytest.approx(other, abs=1e-6, rel=1e-6)


def test_a_folder_with_a_run_is_refused_and_left_alone(whole: tuple[Path, Config]) -> None:
    folder, config = whole
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    with pytest.raises(
        ValueError, match=r"already holds a run: continue it with --train.resume_from_checkpoint latest"
    ):
        train(config)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before


def test_a_rotation_that_a_kill_cut_short_is_ended_by_the_run_that_goes_on(tmp_path: Path) -> None:
    """As if the kill had come after the last save: more checkpoints than are to be kept, and none left to be written."""
    config = tiny_config(tmp_path / "run", max_train_steps=5)
    train(config)
    again = replace(
        config, train=replace(config.train, checkpoints_total_limit=2, resume_from_checkpoint="latest")
    )
    train(again)
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-00000004", "step-00000005"]


def test_times_of_training_and_of_waiting_go_on_after_a_resume(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run", max_train_steps=5)
    train(config)
    train(replace(config, train=replace(config.train, max_train_steps=6, resume_from_checkpoint="latest")))
    first, last = (
        load_checkpoint(tmp_path / "run" / "checkpoints" / f"step-{step:08d}").state for step in (5, 6)
    )
    assert 0.0 < first["waited"] < last["waited"] and first["seconds"] < last["seconds"]
    facts = json.loads((tmp_path / "run" / "training.json").read_text())
    # no step waits after the last; the seconds of the record are rounded to tenths
    waited = facts["data_wait_fraction"] * facts["seconds"]
    assert waited == pytest.approx(last["waited"], rel=0.05 / facts["seconds"] + 0.01)


def test_exported_pipeline_has_the_averaged_weights(whole: tuple[Path, Config]) -> None:
    folder, _ = whole
    verify_folder(folder / "pipeline")
    ema = {name: tensor for name, tensor in weights(folder, 8).items() if name.startswith("ema/ivae.")}
    exported = IVAEDiffusionPipeline.from_pretrained(folder / "pipeline").ivae.state_dict()
    assert len(ema) == len(exported) > 0
    for name, tensor in exported.items():
        assert torch.equal(tensor, ema[f"ema/ivae.{name}"])


def test_supervision_baseline_has_no_decoder_and_no_unet_and_as_many_steps(tmp_path: Path) -> None:
    baseline = supervision_baseline(tiny_config(tmp_path))
    assert (baseline.model.prior_type, baseline.model.diffusion, baseline.loss.rec) == ("known", False, 0.0)
    assert baseline.train.max_train_steps == 4
    train(baseline)
    assert {tuple(line) for line in losses(tmp_path / "supervision_baseline")} == {("step", "kl", "loss")}


def launch(config: Config, processes: int) -> None:
    """Train by torchrun; the run's own record says how many processes there were."""
    path = Path(config.train.output_dir).with_suffix(".yaml")
    path.write_text(config_to_yaml(config))
    done = torchrun(processes, "train_ivae_ddpm.py", "--config", str(path))
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((Path(config.train.output_dir) / "training.json").read_text())
    assert record["num_processes"] == processes


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_equal_one_and_a_run_may_change_between_them(tmp_path: Path, figure: Figure) -> None:
    """The same global batch of 16 on 1 process, on 2, and 2 -> 2, 2 -> 1 and 1 -> 2 half-way."""
    one = joint(tiny_config(tmp_path / "one", max_train_steps=6))
    # the paper's rate: Adam's first steps are signs of gradients, and at a large one they magnify rounding beyond any comparison
    one = replace(
        one,
        optim_ivae=replace(one.optim_ivae, learning_rate=2e-4),
        optim_unet=replace(one.optim_unet, learning_rate=2e-4),
    )
    train(one)
    two = replace(one, train=replace(one.train, output_dir=str(tmp_path / "two"), train_batch_size=8))
    launch(two, 2)
    half = Path("checkpoints") / "step-00000003"
    train(in_folder(one, tmp_path / "back", tmp_path / "two" / half))
    launch(in_folder(two, tmp_path / "forth", tmp_path / "one" / half), 2)
    launch(in_folder(two, tmp_path / "stayed", tmp_path / "two" / half), 2)
    assert losses(tmp_path / "stayed") == losses(tmp_path / "two")[3:]
    figure("F4", "2 processes resumed on 2: losses equal bit for bit")
    expected = losses(tmp_path / "one")
    for folder, rest in (("two", expected), ("back", expected[3:]), ("forth", expected[3:])):
        got = losses(tmp_path / folder)
        assert [line["step"] for line in got] == [line["step"] for line in rest]
        for line, wanted in zip(got, rest, strict=True):
            # the KL begins at 80 nats, where float32 itself resolves 8e-6
            assert line == pytest.approx(wanted, abs=1e-6, rel=1e-6), folder
    figure("F4", "1 process, 2, 2 -> 1 and 1 -> 2 with one global batch: losses within 1e-6")
