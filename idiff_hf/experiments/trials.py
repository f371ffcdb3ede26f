"""Trials: each is one run of the training program, in a folder named by what decides its result, and its scores.

`ROOT/ID/` is the run's `train.output_dir`. `trial.json` in it comes last, so that a folder that has it is finished and never run again;
one that has not is gone on with from its checkpoint. What the program prints goes to `log.txt`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from tqdm.auto import tqdm

from ..arguments import config_to_yaml
from ..baselines import SUPERVISED_PROBE, SUPERVISION_BASELINE
from ..config import Config, HubConfig
from ..folders import FolderInUseError, RunLock, os_errors
from ..interruption import EXIT_CODE, answered, at_once
from ..provenance import write_text
from .records import RECORD, TrialRecord, load_record, record_to_json, trial_id
from .scoring import held_out_scores

LOG, CLAIM = "log.txt", "trial"
"""In a trial's folder: what its program printed, and the folder that whoever runs it locks."""
REPLACED = ("train.output_dir", "train.resume_from_checkpoint", *(f"hub.{f.name}" for f in fields(HubConfig)))
"""Keys that `run_trial` gives values of its own."""
POLL_SECONDS = 0.2
WAIT_SECONDS = 2.0
"""Between two looks at trials that others are running."""
# one program scores at a time: PyTorch and the classifiers of DCI share this process
_scoring = threading.Lock()


class TrialInUseError(ValueError):
    """Another process is running this trial."""


class TrialSignalledError(ValueError):
    """A signal that was not for this process ended the training program, which has saved what it did."""


class LauncherError(ValueError):
    """The training program cannot be started: no trial can be run."""


class TrialStoppedError(Exception):
    """The event that stops a trial was set; its training program has saved what it did."""


def run_trial(
    config: Config,
    root: Path,
    *,
    launcher: Sequence[str] = (),
    watch: Callable[[Path], None] | None = None,
    stop: threading.Event | None = None,
) -> TrialRecord:
    """Train by a config, from its checkpoint where there is one, and score it, unless that has been done.

    Args:
        config: The experiment; its `train.output_dir` is replaced, and it is not published.
        root: The folder of the trials.
        launcher: What starts the training program in the place of this Python, say `("accelerate", "launch")`.
        watch: Called with the trial's folder again and again while it trains; what it raises ends the training program, which saves first.
        stop: When it is set, likewise.

    Returns:
        Its record.

    Raises:
        ValueError: One line that names the folder and the log, where the program or the scoring fails; `TrialInUseError` where another
            process is running the trial, `TrialSignalledError` where somebody else stopped the program, `LauncherError` where it cannot
            be started.
        TrialStoppedError: `stop` was set.
    """
    found = load_record(root, config)
    if found is not None:
        return found
    folder = root / trial_id(config)
    train = replace(config.train, output_dir=str(folder), resume_from_checkpoint="latest")
    # trials that are published would overwrite each other
    config = replace(config, train=train, hub=HubConfig())
    with claimed(folder):
        # another process may have finished it before it was claimed
        found = load_record(root, config)
        if found is not None:
            return found
        write_text(folder / "config.yaml", config_to_yaml(config))
        arguments = ["-m", "train_ivae_ddpm", "--config", str(folder / "config.yaml")]
        _train(launcher, arguments, folder, watch, stop)
        in_root = [*(launcher or ("python",)), *arguments[:3], f"{folder.name}/config.yaml"]
        try:
            record = _score(config, folder, in_root)
        except (OSError, RuntimeError) as error:
            # a launcher that is wrong may leave nothing to score, and scoring may run out of memory
            reason = " ".join(str(error).split())
            raise ValueError(f"{folder} cannot be scored: {reason} (see {folder / LOG})") from error
        write_text(folder / RECORD, json.dumps(record_to_json(record), indent=1, allow_nan=False) + "\n")
        return record


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a trial, so that no two processes run it.

    Raises:
        TrialInUseError: Another one does, or the training program of one that was killed.
    """
    claim = RunLock(folder / CLAIM)
    try:
        claim.acquire()
        with RunLock(folder):
            pass
    except FolderInUseError:
        claim.release()
        raise TrialInUseError(f"{folder} is being run by another process") from None
    try:
        yield
    finally:
        claim.release()


def _train(
    launcher: Sequence[str],
    arguments: Sequence[str],
    folder: Path,
    watch: Callable[[Path], None] | None,
    stop: threading.Event | None,
) -> None:
    """Run the training program to its end, on the cores of this thread; its output goes to the log."""
    command = [*(launcher or (sys.executable,)), *arguments]
    # a bar that is redrawn ten times a second makes a long log
    environment = {**os.environ, "TQDM_MININTERVAL": "10"}
    if not launcher:
        # the processes of a launcher share the cores out among themselves
        environment.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    path = folder / LOG
    with os_errors(f"cannot write {path}"):
        log = path.open("ab")
    with log:
        begin = log.tell()
        try:
            # in a session of its own: Ctrl-C in a terminal would end it before it has saved
            process = subprocess.Popen(  # noqa: S603  the training program, by this Python or the caller's launcher
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise LauncherError(f"cannot start {command[0]}: {error.strerror}") from None
        try:
            while process.poll() is None:
                if stop is not None and stop.is_set():
                    raise TrialStoppedError
                if watch is not None:
                    watch(folder)
                time.sleep(POLL_SECONDS)
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0 and stop is not None and stop.is_set():
        raise TrialStoppedError  # told by whoever told this process, and quicker; launchers have exit codes of their own
    if process.returncode == EXIT_CODE:
        raise TrialSignalledError(
            f"{folder} was stopped by a signal and saved: the same command goes on with it"
        )
    if process.returncode != 0:
        raise ValueError(f"{folder}: {_last_words(path, begin, process.returncode)} (see {path})")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a program and all that it has started to save and end, and wait for it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _last_words(log: Path, begin: int, code: int) -> str:
    """The error line of a program that failed, or else the last that it printed."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in re.split(r"[\r\n]+", file.read().decode(errors="replace"))]
    errors = [line.partition("error: ")[2] for line in lines if re.match(r"(\S+: )?error: ", line)]
    if errors:
        return errors[-1]
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{ended}, {next((line for line in reversed(lines) if line), 'nothing printed')}"


def _score(config: Config, folder: Path, command: Sequence[str]) -> TrialRecord:
    """The record of a run that has been trained and measured by its own program."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    metrics = results["model"]["metrics"]
    with _scoring:
        found = held_out_scores(folder)
    by_factor = ("mig_per_factor", "mcc_spearman_per_factor", "matched_latent") if metrics is not None else ()
    numbers = {k: v for k, v in found.get("values", {}).items() if not isinstance(v, list)}
    training = results["training"]
    return TrialRecord(
        id=folder.name,
        seed=config.train.seed,
        config=replace(config, train=replace(config.train, output_dir=folder.name)).to_dict(),
        scores={**numbers, **{name: metrics[name] for name in by_factor}},
        generation=results["generation"],
        facts={
            "num_samples": found.get("num_samples", 0),
            "estimators": found.get("estimators", {}),
            "undefined": found.get("undefined", {}),
            "supervision": results["supervision"]["statement"],
            **{
                name: training[name]
                for name in ("seconds", "images_per_second", "num_processes", "global_batch_size")
            },
            "hardware": results["hardware"],
            "versions": results["versions"],
            "command": shlex.join(command),
            **{
                name: results[name] and results[name]["metrics"]
                for name in (SUPERVISION_BASELINE, SUPERVISED_PROBE)
            },
        },
    )


def run_trials(
    configs: Sequence[Config],
    root: Path,
    *,
    launcher: Sequence[str] = (),
    jobs: int = 1,
    progress: bool = True,
    done: Callable[[TrialRecord], None] | None = None,
) -> list[TrialRecord]:
    """Run the trials of configs that are not finished, equal ones once; those that another process is running are waited for.

    Ctrl-C, SIGTERM and SIGUSR1 make the training programs save and end; the same call goes on with them. A trial that fails does not keep
    the others from being run.

    Args:
        configs: One for each trial.
        root: The folder of the trials.
        launcher: As in `run_trial`.
        jobs: Trials at once; they share out the cores of this process.
        progress: Show a bar.
        done: Called with each record as it is there, the first time the config comes.

    Returns:
        Their records, in the order of `configs`.

    Raises:
        ValueError: One line of the first trial that failed, when the others are done.
    """
    # once: the user's pictures, which it is a hash of, may change while others train
    ids = [trial_id(config) for config in configs]
    distinct = dict(zip(ids, configs, strict=True))
    records: dict[str, TrialRecord] = {}
    failed: list[ValueError] = []
    with tqdm(total=len(distinct), desc="trials", disable=not progress) as bar, workers(jobs) as (pool, stop):

        def begin(name: str) -> Future[TrialRecord]:
            return pool.submit(run_trial, distinct[name], root, launcher=launcher, stop=stop)

        running = {begin(name): name for name in distinct}
        while running:
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                name = running.pop(future)
                try:
                    records[name] = future.result()
                except TrialInUseError:
                    time.sleep(WAIT_SECONDS)
                    running[begin(name)] = name
                    continue
                except ValueError as error:
                    failed.append(error)
                else:
                    if done is not None:
                        done(records[name])
                bar.update()
    if failed:
        others = f" ({len(failed)} of {len(distinct)} trials failed)" if len(failed) > 1 else ""
        raise ValueError(f"{failed[0]}{others}")
    return [records[id] for id in ids]


def refuse_taken(flags: Sequence[str], names: Collection[str], why: str) -> None:
    """Refuse flags of training that would do nothing, because the trials differ in their keys or `run_trial` replaces them.

    Args:
        flags: Flags such as `--loss.kl 1e-3`.
        names: The keys that the trials differ in.
        why: What the line says of one of these, as in "is what the trials differ in".

    Raises:
        ValueError: One line that names the first.
    """
    for name in (flag[2:].partition("=")[0] for flag in flags if flag.startswith("--")):
        if name in names:
            raise ValueError(f"--{name} {why}: leave it out")
        if name in REPLACED:
            raise ValueError(
                f"--{name} does nothing here: trials lie in the root, go on by themselves and are not published"
            )


def refuse_no_jobs(jobs: int) -> None:
    """Refuse less than one trial at a time, before anything is made for them; raises ValueError in one line."""
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, got {jobs}")


@contextmanager
def workers(jobs: int) -> Iterator[tuple[ThreadPoolExecutor, threading.Event]]:
    """So many threads, each on its share of the cores, and an event that is set when this process is asked to stop, for `run_trial`."""
    refuse_no_jobs(jobs)
    stop = threading.Event()
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[worker::jobs] or [cores[worker % len(cores)]] for worker in range(jobs)]
    # of the thread that calls it alone, and of what that thread starts
    pool = ThreadPoolExecutor(jobs, initializer=lambda: os.sched_setaffinity(0, shares.pop()))
    with answered():
        try:
            with at_once("the trials that were running are saved, go on with the same command"):
                yield pool, stop
        except BaseException:
            stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
