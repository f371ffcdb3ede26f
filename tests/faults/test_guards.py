"""Losses and gradients that are not finite, too little memory, and the scale of float16."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

import train_ivae_ddpm
from idiff_hf import builders, training
from idiff_hf.arguments import config_to_yaml
from idiff_hf.checkpoint import load_checkpoint
from idiff_hf.cli import main as idiff
from idiff_hf.config import Config
from idiff_hf.data import Batch, TrainingBatches
from idiff_hf.folders import verify_folder
from idiff_hf.guards import NonFiniteGuard, OutOfMemory, out_of_memory
from idiff_hf.learner import Learner
from idiff_hf.losses import IVAEDiffusionLoss
from idiff_hf.random import BatchRandom
from idiff_hf.replay import replay
from idiff_hf.run_log import RunLog
from idiff_hf.stages import phase
from tests.faults.faulty import NAN, forward_with
from tests.faults.figures import Figure
from tests.faults.runs import assert_same_weights, in_folder, losses, resume_at, weights
from tests.tiny import joint, objective_and_inputs, tiny_config
from tests.torchrun import torchrun
from train_ivae_ddpm import main, train


def skipped(folder: Path) -> list[dict[str, Any]]:
    return RunLog(folder / "nonfinite.jsonl").read()


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return found


def ema_steps(folder: Path, step: int) -> dict[str, int]:
    steps: dict[str, int] = load_checkpoint(folder / "checkpoints" / f"step-{step:08d}").state["ema_steps"]
    return steps


def with_norms_over_the_batch(config: Config) -> Config:
    """What a NaN in the input also spoils: running means."""
    return replace(config, model=replace(config.model, norm="batch"))


# Not finite


@pytest.mark.faults
@pytest.mark.parametrize(
    ("kind", "terms", "norms"),
    [
        ("input", {"kl": "nan", "rec": "nan", "loss": "nan"}, {"ivae": "nan"}),
        ("loss", {"loss": "inf"}, {}),
        ("gradient", None, {"ivae": "nan"}),
    ],
)
def test_a_step_that_is_not_finite_changes_nothing_and_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    figure: Figure,
    kind: str,
    terms: dict[str, str] | None,
    norms: dict[str, str],
) -> None:
    config = with_norms_over_the_batch(
        tiny_config(tmp_path / "run", gradient_accumulation_steps=2, train_batch_size=8)
    )
    with monkeypatch.context() as patch:
        patch.setattr(IVAEDiffusionLoss, "forward", forward_with({kind: [2]}, first_row=8))
        train(config)
    run = tmp_path / "run"
    before, after = weights(run, 2), weights(run, 3)
    assert any("running_mean" in name for name in before)
    assert_same_weights(after, before)
    assert ema_steps(run, 3) == ema_steps(run, 2) == {"ivae": 2, "unet": 0}
    assert all(torch.isfinite(tensor).all() for tensor in weights(run, 8).values())
    assert skipped(run) == [
        {
            "step": 2,
            "seed": 0,
            "global_batch_size": 16,
            "num_processes": 1,
            "train_batch_size": 8,
            "norms": norms,
            "micro_batches": [] if terms is None else [{"first_row": 8, "num_rows": 8, "terms": terms}],
        }
    ]
    assert [line.get("nonfinite_steps") for line in losses(run)] == [None, None, *[1] * 6]
    assert losses(run)[2] == {"step": 3, "nonfinite_steps": 1}
    assert record(run)["nonfinite_steps"] == 1
    # the steps after it draw what they would have drawn, and a resumed run remembers
    resume_at(run, 3, tmp_path / "resumed", config)
    assert_same_weights(weights(tmp_path / "resumed", 8), weights(run, 8))
    assert losses(tmp_path / "resumed") == losses(run)[3:]
    assert record(tmp_path / "resumed")["nonfinite_steps"] == 1
    figure("F13", "step skipped, nothing changed, counted, resumed to the same bits")


def test_a_skipped_step_that_is_a_part_s_last_still_freezes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IVAEDiffusionLoss, "forward", forward_with({"input": [3]}))
    train(tiny_config(tmp_path))
    last = weights(tmp_path, 4)
    for name, tensor in weights(tmp_path, 3).items():
        if name.startswith("ema/ivae."):
            assert torch.equal(tensor, last[name])
            assert torch.equal(last[name], last[name.replace("ema/", "model/")])


@pytest.mark.faults
def test_a_run_stops_after_so_many_in_a_row_and_counts_them_over_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], figure: Figure
) -> None:
    # one alone does not count towards the three
    monkeypatch.setattr(IVAEDiffusionLoss, "forward", forward_with({"input": [0, *range(2, 8)]}))
    config = tiny_config(tmp_path / "run", max_nonfinite_steps=3)
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    argv = ["--config", str(tmp_path / "config.yaml")]
    assert main(argv) == 2
    run = tmp_path / "run"
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == (
        "error: the loss (ddpm, loss) was not finite in 3 steps in a row, the last of them step 4, and none of them was taken: "
        f"the last checkpoint is good; look with idiff replay {run}, lower the learning rate or max_grad_norm, and resume"
    )
    assert [line["step"] for line in skipped(run)] == [0, 2, 3, 4]
    verify_folder(run / "checkpoints" / "step-00000004")
    assert_same_weights(weights(run, 4), weights(run, 2))
    assert not (run / "pipeline").exists()
    # two of them lie before the checkpoint
    assert main([*argv, "--train.resume_from_checkpoint", "latest"]) == 2
    assert "3 steps in a row, the last of them step 4" in capsys.readouterr().err
    assert [line["step"] for line in skipped(run)] == [0, 2, 3, 4]
    monkeypatch.setattr(IVAEDiffusionLoss, "forward", forward_with({}))
    train(in_folder(config, run))
    assert record(run)["nonfinite_steps"] == 3
    figure("F13", "stopped after N in a row with one line and exit code 2, last checkpoint good and resumed")


@pytest.mark.faults
@pytest.mark.slow
def test_two_processes_skip_alike_what_one_of_them_sees(tmp_path: Path, figure: Figure) -> None:
    run = tmp_path / "run"
    config = with_norms_over_the_batch(joint(tiny_config(run, train_batch_size=8, max_train_steps=7)))
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    faults = {"input": [1], "loss": [3], "gradient": [5]}
    done = torchrun(2, "-m", "tests.faults.faulty", str(tmp_path / "config.yaml"), json.dumps(faults), "8")
    assert done.returncode == 0, done.stderr[-3000:]
    assert record(run)["num_processes"] == 2 and record(run)["nonfinite_steps"] == 3
    for step in (1, 3, 5):
        after, before = weights(run, step + 1), weights(run, step)
        assert_same_weights(after, before)
    assert all(torch.isfinite(tensor).all() for tensor in weights(run, 7).values())
    odd = [
        [(micro["first_row"], set(micro["terms"])) for micro in line["micro_batches"]]
        for line in skipped(run)
    ]
    # running means are those of both: what is NaN on one is NaN on the other
    assert odd[0] == [(row, {"kl", "rec", "ddpm", "loss"}) for row in (0, 8)]
    assert odd[1:] == [[(8, {"loss"})], []]
    assert skipped(run)[2]["norms"] == {"ivae": "nan"}
    assert (run / "rank0.txt").read_text() == (run / "rank1.txt").read_text()
    figure(
        "F13",
        "two processes skip the same 3 of 3 steps that one of them found not finite, and hold the same bits",
    )


# Replay


def test_replay_finds_the_batch_the_terms_and_the_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = TrainingBatches.__call__

    def spoiled(self: TrainingBatches, global_batch_size: int, random: BatchRandom) -> Batch:
        batch = draw(self, global_batch_size, random)
        if random.step in (1, 2, 5) and random.first_row == 8:
            batch.image[3] = NAN
        return batch

    monkeypatch.setattr(TrainingBatches, "__call__", spoiled)
    config = tiny_config(
        tmp_path,
        gradient_accumulation_steps=2,
        train_batch_size=8,
        checkpointing_steps=1000,
        max_train_steps=6,
    )
    with pytest.raises(ValueError, match=r"has no nonfinite.jsonl: no step was skipped, name one by --step"):
        replay(tmp_path)
    run = training.TrainingRun(config)
    for step in run.steps():
        train_ivae_ddpm.training_step(run, step)
        if step == 0:
            run.checkpoint(1)
    found = replay(tmp_path, 2)
    # no step was taken between the checkpoint and this one
    assert (found["step"], found["checkpoint"], found["exact"]) == (2, 1, True)
    whole, spoilt = found["micro_batches"]
    assert (whole["first_row"], spoilt["first_row"]) == (0, 8)
    assert whole["images"]["finite"] and -1.0 <= whole["images"]["min"] < whole["images"]["max"] <= 1.0
    assert not spoilt["images"]["finite"]
    assert whole["anomaly"] is None and all(abs(value) < 1e6 for value in whole["terms"].values())
    assert all(value != value for value in spoilt["terms"].values())
    assert "returned nan values" in spoilt["anomaly"] and "idiff_hf/" in spoilt["anomaly"]
    assert any(name.startswith("ivae.encoder.") for name in found["parameters"])
    assert not any(name.startswith("unet.") for name in found["parameters"])

    assert idiff(["replay", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "step 5, seed 0, checkpoint of step 1: not the step's own weights" in text
    assert "rows 8 to 15: images in [nan, nan], not finite" in text
    assert "  ddpm                 nan   not finite" in text
    assert idiff(["replay", str(tmp_path), "--step", "4"]) == 0
    assert "gradients that are not finite: none" in capsys.readouterr().out
    assert idiff(["replay", str(tmp_path), "--step", "2", "--json"]) == 0
    # JSON has no NaN: it is the word
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed["micro_batches"][1]["images"] == {"min": "nan", "max": "nan", "finite": False}
    assert printed["micro_batches"][0] == whole and printed["parameters"] == found["parameters"]
    for step, message in (
        (0, f"error: {tmp_path} has no checkpoint at or before step 0, only of [1]\n"),
        (6, "error: --step must be below train.max_train_steps=6, got 6\n"),
    ):
        assert idiff(["replay", str(tmp_path), "--step", str(step)]) == 2
        assert capsys.readouterr().err.endswith(message)


def test_a_run_that_is_not_there_is_not_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert idiff(["replay", str(tmp_path / "nope")]) == 2
    words = f"error: {tmp_path / 'nope'} is no folder: give a run's train.output_dir\n"
    assert capsys.readouterr().err.endswith(words)


def test_replay_of_a_step_gives_the_very_losses_of_the_run(tmp_path: Path) -> None:
    train(tiny_config(tmp_path, max_train_steps=6))
    for step in (2, 5):
        found = replay(tmp_path, step)
        assert found["exact"] and found["parameters"] == []
        assert found["micro_batches"][0]["terms"] == {
            name: value for name, value in losses(tmp_path)[step].items() if name != "step"
        }


# Memory


@pytest.mark.faults
def test_out_of_memory_names_a_setting_that_gives_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], figure: Figure
) -> None:
    whole = tiny_config(tmp_path / "whole")
    train(whole)
    monkeypatch.setattr(IVAEDiffusionLoss, "forward", forward_with({"memory": [5]}))
    config = in_folder(whole, tmp_path / "run", None)
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    assert main(["--config", str(tmp_path / "config.yaml")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: out of memory, the last checkpoint is good: the same global batch takes less memory with --train.train_batch_size 8 "
        "--train.gradient_accumulation_steps 2, go on with the same command and --train.resume_from_checkpoint latest"
    )
    verify_folder(tmp_path / "run" / "checkpoints" / "step-00000005")
    monkeypatch.setattr(IVAEDiffusionLoss, "forward", forward_with({}))
    smaller = replace(config.train, train_batch_size=8, gradient_accumulation_steps=2)
    train(in_folder(replace(config, train=smaller), tmp_path / "run"))
    for one, other in zip(losses(tmp_path / "run"), losses(tmp_path / "whole"), strict=True):
        assert one == pytest.approx(other, abs=1e-6, rel=1e-6)
    figure(
        "F15", "one line with a batch that fits, exit code 2; resumed with it to the same losses within 1e-6"
    )


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MemoryError()],
    ids=["accelerator", "numpy"],
)
@pytest.mark.parametrize(
    ("train_settings", "advice"),
    [
        ({"train_batch_size": 64}, "--train.train_batch_size 32 --train.gradient_accumulation_steps 2,"),
        (
            {"train_batch_size": 24, "gradient_accumulation_steps": 3},
            "--train.train_batch_size 8 --train.gradient_accumulation_steps 9,",
        ),
        ({"train_batch_size": 32, "global_batch_size": 128}, "--train.train_batch_size 16,"),
        (
            {"train_batch_size": 8},
            "train.train_batch_size=8 is the smallest already, so try --train.mixed_precision bf16, a smaller model, or more processes",
        ),
    ],
)
def test_advice_keeps_the_global_batch(train_settings: dict[str, int], advice: str, error: Exception) -> None:
    config = tiny_config("unused", **train_settings)
    with pytest.raises(OutOfMemory) as caught, out_of_memory(config):
        raise error
    assert str(caught.value).startswith("out of memory, the last checkpoint is good: ")
    assert advice in str(caught.value) and "\n" not in str(caught.value)


def test_another_error_is_left_alone() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"), out_of_memory(tiny_config("unused")):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


# float16


class Scaled(Accelerator):
    """What Accelerate does with float16 on a GPU, but for the casts: a loss that is scaled, at first too much."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=3)


@pytest.mark.faults
def test_the_scale_of_float16_is_resumed_and_its_skips_are_no_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    monkeypatch.setattr(builders, "Accelerator", Scaled)
    config = joint(tiny_config(tmp_path / "whole", max_train_steps=12, max_nonfinite_steps=1))
    train(config)
    whole = tmp_path / "whole"
    states = [load_checkpoint(whole / "checkpoints" / f"step-{step:08d}").state for step in range(1, 13)]
    scales = [state["scaler"]["scale"] for state in states]
    overflows = states[-1]["skipped"]["overflows"]
    assert states[-1]["skipped"] == {"total": 0, "in_a_row": 0, "overflows": overflows}
    assert not (whole / "nonfinite.jsonl").exists()
    # halved by each overflow, doubled after three steps without one
    assert scales[0] == 2.0**126 and overflows >= 2 and max(scales[5:]) > min(scales)
    dropped = [step for step in range(2, 13) if scales[step - 1] < scales[step - 2]]
    assert len(dropped) == overflows - 1
    for step in dropped:
        assert_same_weights(weights(whole, step), weights(whole, step - 1))
    assert record(whole)["overflow_steps"] == overflows and losses(whole)[-1]["overflow_steps"] == overflows
    for step in (1, 7):
        resume_at(whole, step, tmp_path / f"at{step}", config)
        assert_same_weights(weights(tmp_path / f"at{step}", 12), weights(whole, 12))
        last = load_checkpoint(tmp_path / f"at{step}" / "checkpoints" / "step-00000012").state
        assert last["scaler"] == states[-1]["scaler"] and last["skipped"] == states[-1]["skipped"]
    figure("F6", "scale of float16 and its growth: bit-equal after a resume")


def test_a_gradient_that_overflows_unscaled_is_the_guards(tmp_path: Path) -> None:
    guard = NonFiniteGuard(tiny_config(tmp_path), Accelerator(), RunLog(tmp_path / "nonfinite.jsonl"))
    loss, norms = [{"loss": torch.tensor(1.0)}], {"ivae": torch.tensor(float("inf"))}
    assert guard.judge(0, loss, norms, 2.0, False) == ("overflow", False)
    assert guard.judge(1, loss, norms, 1.0, True) == ("not finite", True)
    assert guard.judge(2, [{"loss": torch.tensor(NAN)}], norms, 2.0, False) == ("not finite", False)
    assert (guard.total, guard.in_a_row, guard.overflows) == (2, 2, 1)
    assert guard.judge(3, loss, {"ivae": torch.tensor(1.0)}, 2.0, False) == ("finite", False)
    assert guard.in_a_row == 0


def test_float16_learns_on_a_cpu_under_autocast(tmp_path: Path) -> None:
    """Weights stay float32, and the loss goes down."""
    config = joint(tiny_config(tmp_path, max_train_steps=30))
    module, inputs = objective_and_inputs(config)
    learner = Learner(config, module, torch.amp.GradScaler("cpu", init_scale=2.0**8))
    assert learner.scaler is not None
    values = []
    for step in range(30):
        with torch.autocast("cpu", torch.float16):
            terms = module(*inputs, phase(config, step))
        learner.scaler.scale(terms["loss"]).backward()
        norms = learner.clip(phase(config, step))
        assert all(torch.isfinite(norm) for norm in norms.values())
        learner.step(step, phase(config, step))
        values.append(float(terms["loss"].detach()))
    assert values[-1] < 0.7 * values[0]
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_float16_is_refused_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    (tmp_path / "config.yaml").write_text(
        config_to_yaml(tiny_config(tmp_path / "run", mixed_precision="fp16"))
    )
    assert main(["--config", str(tmp_path / "config.yaml")]) == 2
    message = "error: train.mixed_precision=fp16 needs a GPU, and there is none here: use bf16 or no\n"
    assert capsys.readouterr().err == message


@pytest.mark.gpu
def test_a_run_in_float16_is_resumed_to_the_last_bit_on_a_gpu(tmp_path: Path) -> None:
    config = joint(tiny_config(tmp_path / "whole", mixed_precision="fp16", deterministic=True))
    train(config)
    resume_at(tmp_path / "whole", 3, tmp_path / "resumed", config)
    assert_same_weights(weights(tmp_path / "resumed", 8), weights(tmp_path / "whole", 8))
