"""SIGTERM and SIGUSR1: what was done is committed, the exit code is 143, and the same command goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from idiff_hf.arguments import config_to_yaml
from idiff_hf.config import AuxConfig, Config, DataConfig
from idiff_hf.folders import verify_folder
from idiff_hf.interruption import SIGNALS, Interrupted, answered, at_once, requested
from tests.faults import signalled
from tests.faults.figures import Figure
from tests.faults.processes import start, until, wait
from tests.faults.runs import assert_same_end, assert_same_weights, weights
from tests.tiny import joint, tiny_config
from tests.torchrun import torchrun
from train_ivae_ddpm import train

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
STEPS = 6
LATEST = ("--train.resume_from_checkpoint", "latest")
HOW = "go on with the same command and --train.resume_from_checkpoint latest"


def digits(folder: Path, **settings: object) -> Config:
    """A run on pictures whose evaluation is quick, with both runs that it is compared with."""
    config = joint(tiny_config(folder / "run", max_train_steps=STEPS, **settings))
    return replace(
        config,
        data=DataConfig(
            name="own",
            path=str(DIGITS),
            cache_dir=str(folder.parent / "cache"),
            image_size=16,
            color="grey",
            resize=True,
            bound_columns=("ink_lower:ink_upper",),
            factor_columns=("ink", "slant"),
            num_workers=1,
        ),
        aux=AuxConfig(name="bounds"),
        model=replace(config.model, prior_type="known"),
        eval=replace(config.eval, supervision_baseline=True, supervised_probe=True),
    )


def written(config: Config, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(config_to_yaml(config))
    return folder


def committed(run: Path) -> list[int]:
    folders = sorted((run / "checkpoints").glob("step-*"))
    for folder in folders:
        verify_folder(folder)
    return [int(folder.name[5:]) for folder in folders]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without a signal, a checkpoint at each step."""
    folder = tmp_path_factory.mktemp("digits") / "whole"
    train(digits(folder))
    # the server of the processes imports all it needs, which no time below includes
    wait(start(folder.with_suffix(".log"), os.getpid), 200)
    return folder / "run"


PLACES = {
    "set-up": ([], "nothing was lost"),
    "data": ([2], f"step 2 of {STEPS} is committed"),
    "step": ([3], f"step 3 of {STEPS} is committed"),
    "validation": ([2], f"step 2 of {STEPS} is committed"),
    "saving": ([4], f"step 4 of {STEPS} is committed"),
    "export": ([4, 6], "training is done and saved"),
}
"""In training: the steps that are committed, and what the one line says."""
AFTERWARDS = {
    "probe": f"step 2 of {STEPS} is committed",
    "sampling": "training is done and saved",
    "evaluation": "training is done and saved",
}


def interrupt(place: str, whole: Path, folder: Path) -> tuple[list[int], float]:
    """Run until the signal; the steps that are committed, and seconds."""
    config = digits(folder, checkpointing_steps=4, validation_steps=2 if place == "validation" else 1000)
    config = replace(config, data=replace(config.data, cache_dir=str(whole.parents[1] / "cache")))
    began = time.monotonic()
    code = wait(start(folder.with_suffix(".log"), signalled.program, place, written(config, folder)))
    seconds = time.monotonic() - began
    text = folder.with_suffix(".log").read_text()
    assert code == 143, text
    assert "Traceback" not in text
    state = PLACES[place][1] if place in PLACES else AFTERWARDS[place]
    assert text.splitlines()[-1] == f"stopped by SIGTERM: {state}, {HOW}"
    return committed(folder / "run"), seconds


@pytest.mark.faults
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_in_training_is_answered_where_it_comes(
    whole: Path, tmp_path: Path, figure: Figure, place: str
) -> None:
    steps, seconds = interrupt(place, whole, tmp_path / "it")
    run = tmp_path / "it" / "run"
    assert steps == PLACES[place][0]
    for step in steps:
        assert_same_weights(weights(run, step), weights(whole, step))
    # no thread that waits for data, and no drawing, holds it up
    assert seconds < signalled.FOREVER / 2
    assert not (run / "samples").exists()
    figure("F11", "in training: exit code 143, saved within a step")


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.parametrize("place", [*PLACES, *AFTERWARDS])
def test_the_same_command_goes_on_wherever_it_was(
    whole: Path, tmp_path: Path, figure: Figure, place: str
) -> None:
    folder = tmp_path / "it"
    interrupt(place, whole, folder)
    run = folder / "run"
    if place in AFTERWARDS:
        assert not (run / "results.json").exists()
        assert_same_end(run, whole, STEPS)
    if place == "probe":
        assert committed(run / "supervised_probe") == [2]
    log = tmp_path / "again.log"
    assert wait(start(log, signalled.program, "nowhere", folder, *LATEST)) == 0, log.read_text()
    assert_same_end(run, whole, STEPS)
    for name in ("results.json", "README.md", "supervision_baseline/pipeline", "supervised_probe/pipeline"):
        assert (run / name).exists(), name
    assert committed(run / "supervised_probe")[-1] == STEPS
    figure("F11", "the same command goes on to the end, bit-equal, and measures")


@pytest.mark.faults
def test_a_second_signal_ends_at_once(whole: Path, tmp_path: Path, figure: Figure) -> None:
    config = digits(tmp_path / "it", checkpointing_steps=4)
    folder = written(config, tmp_path / "it")
    process = start(tmp_path / "log", signalled.program, "stuck", folder)
    until((folder / "stuck").exists)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    time.sleep(2.2)  # before that it is the same request
    assert process.is_alive()
    os.kill(process.pid, signal.SIGUSR1)
    assert wait(process, 5) == 143
    assert committed(folder / "run") == []
    figure("F11", "a second signal ends the process at once")


def test_handlers_are_there_only_where_signals_are_answered() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with answered():
        assert all(signal.getsignal(number) not in before for number in SIGNALS)
        assert not requested()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert requested()
        with pytest.raises(Interrupted, match=r"^stopped by SIGUSR1: all is well$"), at_once("all is well"):
            pytest.fail("went on")
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert not requested()
    with (
        answered(),
        pytest.raises(Interrupted, match=r"^stopped by SIGTERM: asleep$"),
        at_once("asleep"),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(signalled.FOREVER)


def test_a_thread_leaves_the_handlers_alone() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    inside = []

    def look() -> None:
        with answered():
            inside.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert inside == before


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_leave_together_and_end_as_if_nothing_had_happened(
    whole: Path, tmp_path: Path, figure: Figure
) -> None:
    """A signal to one of them, then one to `torchrun`, then `kill -9` of one under `--max-restarts 1`; each time it goes on."""
    cache = str(whole.parents[1] / "cache")
    folders = []
    for name in ("unharmed", "harmed"):
        config = digits(tmp_path / name, train_batch_size=8, checkpointing_steps=1)
        alone = replace(config.eval, supervision_baseline=False, supervised_probe=False)
        config = replace(config, data=replace(config.data, cache_dir=cache), eval=alone)
        folders.append(written(config, tmp_path / name))
    unharmed, harmed = folders
    run = harmed / "run"
    program = ("-m", "tests.faults.signalled")
    assert torchrun(2, *program, "nowhere", str(unharmed)).returncode == 0

    def number(name: str) -> float:
        return float((harmed / name).read_text())

    for place, steps, flags in (("one of two", [1, 2], ()), ("launcher", [1, 2, 3, 4], LATEST)):
        done = torchrun(2, *program, place, str(harmed), *flags)
        assert done.returncode != 0 and time.time() - number("signalled") < 60
        assert number("exit-0") == number("exit-1") == 143, done.stderr
        told = [line for line in done.stderr.splitlines() if line.startswith("stopped by ")]
        last = committed(run)[-1]
        # at once, or one step later, when the signal reached the other process after both had asked each other
        assert last - steps[-1] in (0, 1)
        assert told == [told[0]] and told[0].endswith(f": step {last} of {STEPS} is committed, {HOW}")
        for rank in (0, 1):
            (harmed / f"exit-{rank}").unlink()
    done = torchrun(2, "--max-restarts=1", *program, "killed", str(harmed), *LATEST)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0.0 < number("started-0") - number("signalled") < 60.0
    assert_same_end(run, unharmed / "run", STEPS)
    figure("F11", "two processes: a signal to one of them is answered by both at the same step")
    figure("F12", "SIGTERM to torchrun, kill -9 of one process and a restart: no hang, bit-equal end")
