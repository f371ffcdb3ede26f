"""Equivalences of whole runs: resumed = uninterrupted, accumulated = whole, 2 processes = 1; and runs that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.arguments import config_to_yaml
from idiff_hf.baselines import supervision_baseline
from idiff_hf.checkpoint import latest_checkpoint
from idiff_hf.config import Config
from idiff_hf.folders import verify_folder
from tests.tiny import joint, tiny_config
from train_ivae_ddpm import train

ROOT = Path(__file__).parent.parent


def losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    saved = folder / "checkpoints" / f"step-{step:08d}"
    return {
        f"{path.stem}/{name}": tensor
        for path in sorted(saved.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def resume_at(whole: Path, step: int, folder: Path, config: Config) -> None:
    """Continue in a new folder from a copy of the checkpoint of `step`."""
    train(
        replace(
            config,
            train=replace(
                config.train,
                output_dir=str(folder),
                resume_from_checkpoint=str(whole / "checkpoints" / f"step-{step:08d}"),
            ),
        )
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """Eight steps of two stages with accumulation, uninterrupted, a checkpoint at each."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny_config(folder, gradient_accumulation_steps=2, train_batch_size=8)
    train(config)
    return folder, config


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7])
def test_resumed_run_equals_the_uninterrupted_one_to_the_last_bit(
    whole: tuple[Path, Config], tmp_path: Path, step: int
) -> None:
    folder, config = whole
    resume_at(folder, step, tmp_path / "resumed", config)
    assert losses(tmp_path / "resumed") == losses(folder)[step:]
    assert_same_weights(weights(tmp_path / "resumed", 8), weights(folder, 8))


def test_resume_inside_a_logging_window_keeps_its_mean(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "whole", logging_steps=4)
    train(config)
    resume_at(tmp_path / "whole", 3, tmp_path / "resumed", config)
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")


def test_latest_finishes_a_finished_run_without_a_step(whole: tuple[Path, Config]) -> None:
    folder, config = whole
    before = losses(folder)
    train(replace(config, train=replace(config.train, resume_from_checkpoint="latest")))
    assert losses(folder) == before


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


def test_another_model_is_refused_and_a_changed_run_key_is_listed(
    whole: tuple[Path, Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, config = whole
    other = replace(config, model=replace(config.model, latent_dim=7))
    with pytest.raises(ValueError, match=r"is another model than this config \(model.latent_dim: 6 -> 7\)"):
        resume_at(folder, 8, tmp_path / "other", other)
    changed = replace(config, optim_unet=replace(config.optim_unet, learning_rate=5e-4))
    resume_at(folder, 8, tmp_path / "changed", changed)
    assert "resumed with another optim_unet.learning_rate: 0.001 -> 0.0005" in caplog.text


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command += [
        "--master_addr=127.0.0.1",
        f"--master_port={port}",
        "train_ivae_ddpm.py",
        "--config",
        str(path),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((Path(config.train.output_dir) / "training.json").read_text())
    assert record["num_processes"] == processes


def test_two_processes_equal_one_and_a_run_may_change_between_them(tmp_path: Path) -> None:
    """The same global batch of 16 on 1 process, on 2, and 2 -> 1 and 1 -> 2 half-way: losses within 1e-6."""
    one = joint(tiny_config(tmp_path / "one", max_train_steps=6))
    # the paper's rate: Adam's first steps are signs of gradients, and at a large one they magnify rounding beyond any comparison
    one = replace(
        one,
        optim_ivae=replace(one.optim_ivae, learning_rate=2e-4),
        optim_unet=replace(one.optim_unet, learning_rate=2e-4),
    )
    train(one)
    expected = losses(tmp_path / "one")
    two = replace(one, train=replace(one.train, output_dir=str(tmp_path / "two"), train_batch_size=8))
    launch(two, 2)
    half = "checkpoints/step-00000003"
    back = replace(
        one,
        train=replace(
            one.train, output_dir=str(tmp_path / "back"), resume_from_checkpoint=str(tmp_path / "two" / half)
        ),
    )
    train(back)
    forth = replace(
        two,
        train=replace(
            two.train, output_dir=str(tmp_path / "forth"), resume_from_checkpoint=str(tmp_path / "one" / half)
        ),
    )
    launch(forth, 2)
    for folder, rest in (("two", expected), ("back", expected[3:]), ("forth", expected[3:])):
        got = losses(tmp_path / folder)
        assert [line["step"] for line in got] == [line["step"] for line in rest]
        for line, wanted in zip(got, rest, strict=True):
            # the KL begins at 80 nats, where float32 itself resolves 8e-6
            assert line == pytest.approx(wanted, abs=1e-6, rel=1e-6), folder


ZYGOTE = """
import os, sys
from idiff_hf.arguments import config_from_yaml
from train_ivae_ddpm import train
config = config_from_yaml(open(sys.argv[1]).read())
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        train(config)
        os._exit(0)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print("killed by", os.WTERMSIG(status), flush=True)
"""


def test_twenty_kills_at_random_moments_lose_no_run(tmp_path: Path) -> None:
    """kill -9 twenty times while a run saves at every step; it is resumed each time, and ends as if nothing had happened.

    A process that has everything imported forks a run for each kill, so that the kills fall on training and saving.
    """
    config = tiny_config(tmp_path / "whole", max_train_steps=120, checkpoints_total_limit=2)
    config = replace(
        config,
        optim_ivae=replace(config.optim_ivae, stop_step=60),
        optim_unet=replace(config.optim_unet, start_step=60),
    )
    train(config)
    killed = replace(
        config,
        train=replace(config.train, output_dir=str(tmp_path / "killed"), resume_from_checkpoint="latest"),
    )
    path = tmp_path / "killed.yaml"
    path.write_text(config_to_yaml(killed))
    draw = random.Random(0)
    kills, lost = 0, 0
    checkpoints = tmp_path / "killed" / "checkpoints"
    zygote = subprocess.Popen(
        [sys.executable, "-c", ZYGOTE, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert zygote.stdin is not None and zygote.stdout is not None
    seen = 0
    while kills < 20:
        zygote.stdin.write("go\n")
        zygote.stdin.flush()
        child = int(zygote.stdout.readline())
        # wait until it has gone on by a step, then a random moment more
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if any(int(folder.name[5:]) > seen for folder in checkpoints.glob("step-*[0-9]")):
                break
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
        assert zygote.stdout.readline() == "killed by 9\n"
        kills += 1
        newest = latest_checkpoint(checkpoints)
        step = 0 if newest is None else int(newest.name[5:])
        lost += step < seen
        seen = step
    zygote.stdin.close()
    zygote.wait(timeout=60)
    print(f"{kills} kills, {lost} lost, killed last at step {seen} of 120")
    assert lost == 0
    assert not list(checkpoints.glob("*.corrupt*"))
    train(killed)
    assert_same_weights(weights(tmp_path / "killed", 120), weights(tmp_path / "whole", 120))
    np.testing.assert_equal(losses(tmp_path / "killed"), losses(tmp_path / "whole"))
