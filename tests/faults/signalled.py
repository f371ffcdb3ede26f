"""The training program, which gets a signal in a place that is named; for `processes.start`, and a program of its own for `torchrun`.

torchrun -m tests.faults.signalled PLACE FOLDER [FLAG ...]
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from diffusers import DPMSolverMultistepScheduler

from idiff_hf import checkpoint, evaluation, training, validation
from idiff_hf.data import TrainingBatches
from idiff_hf.interruption import exit_with
from idiff_hf.random import BatchRandom
from idiff_hf.training import TrainingRun
from train_ivae_ddpm import main

FOREVER = 60.0
"""Seconds that a test does not wait for."""


def _before(owner: Any, name: str, action: Callable[..., bool]) -> None:
    """Have `action` called before a function, with its arguments, until it says that it was done."""
    function, done = getattr(owner, name), []

    def call(*arguments: Any, **options: Any) -> Any:
        if not done and action(*arguments, **options):
            done.append(True)
        return function(*arguments, **options)

    setattr(owner, name, call)


def _terminate(*_: Any, **__: Any) -> bool:
    os.kill(os.getpid(), signal.SIGTERM)
    return True


def _terminate_and_wait(*_: Any, **__: Any) -> bool:
    _terminate()
    time.sleep(FOREVER)
    return True


def _step(folder: Path) -> None:
    """In the third step: two signals at once, as a scheduler and `torchrun` give them."""

    def act(run: TrainingRun, step: int, *_: Any) -> bool:
        return step == 2 and _terminate() and _signal_me(signal.SIGUSR1)

    _before(TrainingRun, "optimizer_step", act)


def _signal_me(number: signal.Signals) -> bool:
    os.kill(os.getpid(), number)
    return True


def _data(folder: Path) -> None:
    """While the third batch is waited for, which never comes."""

    def act(batches: TrainingBatches, size: int, random: BatchRandom) -> bool:
        return random.step == 2 and _terminate_and_wait()

    _before(TrainingBatches, "__call__", act)


def _validation(folder: Path) -> None:
    """After the first of the solver's steps."""

    def act(pipeline: Any, step: int, *_: Any) -> bool:
        assert step == 0, "went on drawing after the signal"
        return _terminate() and False

    _before(validation, "_stop_when_requested", act)


def _saving(folder: Path) -> None:
    """While the first file of a checkpoint is written."""
    _before(checkpoint, "save", _terminate)


def _set_up(folder: Path) -> None:
    """While the dataset is opened."""
    _before(training, "build_dataset", _terminate_and_wait)


def _export(folder: Path) -> None:
    """While `pipeline/` is written."""
    _before(training, "build_pipeline", _terminate)


def _probe(folder: Path) -> None:
    """In the second step of what the model is compared with."""

    def act(run: TrainingRun, step: int, *_: Any) -> bool:
        return run.output_dir.name == "supervised_probe" and step == 1 and _terminate()

    _before(TrainingRun, "optimizer_step", act)


def _evaluation(folder: Path) -> None:
    """While scores are computed."""
    _before(evaluation, "disentanglement", _terminate_and_wait)


def _sampling(folder: Path) -> None:
    """While images are drawn for the evaluation."""

    def act(*_: Any, **__: Any) -> bool:
        assert not (folder / "signalled").exists(), "went on drawing after the signal"
        (folder / "signalled").touch()
        return _terminate() and False

    _before(DPMSolverMultistepScheduler, "step", act)


def _stuck(folder: Path) -> None:
    """In a step that takes for ever, without a signal of its own."""

    def act(*_: Any) -> bool:
        (folder / "stuck").touch()
        time.sleep(FOREVER)
        return True

    _before(TrainingRun, "optimizer_step", act)


def note_time(folder: Path) -> None:
    """When the signal was given, seconds since the epoch."""
    (folder / "signalled").write_text(str(time.time()))


def started() -> float:
    """When this process was started, before it imported anything, likewise."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    since_boot = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - since_boot + ticks / os.sysconf("SC_CLK_TCK")


def _one_of_two(folder: Path) -> None:
    """In the second step, and on the second process only."""

    def act(run: TrainingRun, step: int, *_: Any) -> bool:
        if run.accelerator.process_index == 1 and step == 1:
            note_time(folder)
            return _signal_me(signal.SIGUSR1)
        return False

    _before(TrainingRun, "optimizer_step", act)


def _launcher(folder: Path) -> None:
    """The launcher, from the second process and in the fourth step."""

    def act(run: TrainingRun, step: int, *_: Any) -> bool:
        if run.accelerator.process_index == 1 and step == 3:
            note_time(folder)
            os.kill(os.getppid(), signal.SIGTERM)
            return True
        return False

    _before(TrainingRun, "optimizer_step", act)


def _killed(folder: Path) -> None:
    """`kill -9`, the second process, in the fifth step and once only."""

    def act(run: TrainingRun, step: int, *_: Any) -> bool:
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if run.accelerator.process_index == 1 and step == 4 and first:
            note_time(folder)
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    _before(TrainingRun, "optimizer_step", act)


PLACES: dict[str, Callable[[Path], None]] = {
    "nowhere": lambda folder: None,
    "step": _step,
    "data": _data,
    "validation": _validation,
    "saving": _saving,
    "set-up": _set_up,
    "export": _export,
    "probe": _probe,
    "evaluation": _evaluation,
    "sampling": _sampling,
    "stuck": _stuck,
    "one of two": _one_of_two,
    "launcher": _launcher,
    "killed": _killed,
}


def program(place: str, folder: Path, *flags: str) -> NoReturn:
    """Train as `folder`/config.yaml says; `folder`/started-RANK and exit-RANK say when each process began, and how it ended."""
    rank = os.environ.get("RANK", "0")
    (folder / f"started-{rank}").write_text(str(started()))
    PLACES[place](folder)
    code = main(["--config", str(folder / "config.yaml"), *flags])
    (folder / f"exit-{rank}").write_text(str(code))
    exit_with(code)


if __name__ == "__main__":
    program(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
