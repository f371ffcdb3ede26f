"""Sweeps: an Optuna study, each of whose trials is a trial of `trials.run_trial`.

Each worker asks the study for a trial (`studies`), runs it, and tells what it came to, until there is none left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from tqdm.auto import tqdm

from ..arguments import check_key, read_yaml, with_values
from ..config import Config
from ..config.sweep import SweepConfig
from ..run_log import RunLog
from .records import NOT_DECISIVE, TrialRecord
from .scoring import NUMBERS
from .seeds import ELBO
from .studies import (
    ask,
    asking,
    counted,
    fail,
    open_study,
    put_back,
    put_back_abandoned,
    put_back_failed,
    storage_errors,
    takes_whole_numbers,
    to_retry,
)
from .trials import (
    REPLACED,
    WAIT_SECONDS,
    LauncherError,
    TrialInUseError,
    TrialSignalledError,
    TrialStoppedError,
    refuse_no_jobs,
    run_trial,
    workers,
)

TERMS = ("rec", "kl", "ddpm", "loss", "autoencoder_rec", "autoencoder_kl", "autoencoder_commit")
"""What training may log of the loss."""


def read_sweep(path: Path, *, storage: str | None = None) -> SweepConfig:
    """The sweep that a YAML file describes.

    Args:
        path: The file.
        storage: The URL of a database in the place of the file's.

    Raises:
        ValueError: One line that names the file.
    """
    values = read_yaml(path)
    try:
        known = [field.name for field in fields(SweepConfig)]
        if not isinstance(values, dict) or not {"config", "parameters"} <= values.keys() <= set(known):
            raise ValueError(
                f"expected config, parameters and any of {', '.join(known)}, got {_keys(values)}"
            )
        return SweepConfig(
            **{"name": path.stem, **values, **({} if storage is None else {"storage": storage})}
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _keys(values: object) -> str:
    return ", ".join(map(str, values)) if isinstance(values, dict) else type(values).__name__


def run_sweep(
    sweep: SweepConfig,
    base: Config,
    root: Path,
    *,
    launcher: Sequence[str] = (),
    jobs: int = 1,
    progress: bool = True,
    done: Callable[[FrozenTrial], None] | None = None,
) -> optuna.Study:
    """Ask the study for trials, run them and tell what they came to, until the sweep is complete.

    A trial that fails is marked so, with its line, and the sweep goes on; where its run has failed, and not its config or its score, the
    next call tries it again. Signals are answered as in `run_trials`; the trials that were running, and those of workers that were killed
    in the same root, are put back and gone on with. So is one whose program was stopped by a signal of its own, by the next call.

    Args:
        sweep: The sweep.
        base: Its config, and whatever all trials have in common.
        root: The folder of the trials.
        launcher: As in `run_trial`.
        jobs: Trials at once.
        progress: Show a bar.
        done: Called with each trial that has ended.

    Returns:
        The study.

    Raises:
        ValueError: One line: a parameter is refused, the study is of another sweep, its storage failed, the launcher cannot be started, a
            trial was stopped by a signal of its own, or every trial failed.
    """
    refuse_no_jobs(jobs)
    _check(sweep, base)
    study = open_study(sweep, base, root)
    with storage_errors(sweep):
        put_back_abandoned(sweep, study, root)
        put_back_failed(sweep, study, root)
        signalled = _run_all(sweep, base, study, root, launcher, jobs, progress, done)
        begun, again = counted(study.trials), len(to_retry(study))
    if signalled:
        raise signalled[0]
    if begun and all(trial.state == TrialState.FAIL for trial in begun):
        which = "them" if again == len(begun) else f"{again} of them"
        text = f"all {len(begun)} trials failed, the first: {begun[0].user_attrs['error']}"
        raise ValueError(f"{text}: the same command tries {which} again" if again else text)
    return study


def _check(sweep: SweepConfig, base: Config) -> None:
    """Refuse, before anything is there, what no trial could be told apart by, and values of another type than their key's."""
    for name, choice in sweep.choices.items():
        check_key(str(name))
        group, _, key = name.partition(".")
        if name in REPLACED or key in NOT_DECISIVE.get(group, ()):
            raise ValueError(f"parameters.{name} does not change what a trial comes to: leave it out")
        values = choice.get("values", [])
        if any(value in values[:position] for position, value in enumerate(values)):
            raise ValueError(f"parameters.{name}.values must name each value once, got {values}")
        _check_types(base, name, choice)
    if sweep.objective not in NUMBERS:
        raise ValueError(f"objective must be one of {', '.join(NUMBERS)}, got {sweep.objective!r}")
    weights = {"loss.rec", "loss.kl"} & sweep.parameters.keys()
    images = {name for name in sweep.parameters if name.startswith("data.")}
    for names, what in ((weights, "weights"), (images, "images")):
        if sweep.objective == ELBO and names:
            raise ValueError(
                f"objective=elbo cannot compare trials of different {what}: take {', '.join(sorted(names))} out of parameters"
            )
    if sweep.term not in TERMS:
        raise ValueError(f"pruner_term must be one of {', '.join(TERMS)}, got {sweep.term!r}")


def _check_types(base: Config, name: str, choice: Mapping[str, Any]) -> None:
    """Refuse a value that no trial could have; one that only some of the others don't go with fails the trials that have both."""
    values = choice.get("values", [choice.get("low"), choice.get("high")])
    if "values" not in choice and takes_whole_numbers(name):
        if any(value != int(value) for value in values):
            raise ValueError(
                f"parameters.{name}: low and high must be whole numbers, got {values[0]} and {values[1]}"
            )
        values = [int(value) for value in values]
    kind = _refusal(base, name, [[]]).partition(", got ")[0]  # of what no key takes
    for value in values:
        if (error := _refusal(base, name, value)).startswith(f"{kind}, got "):
            raise ValueError(error)


def _refusal(base: Config, name: str, value: Any) -> str:
    """Why a key cannot have a value, empty where it can."""
    try:
        with_values(base, {name: value})
    except ValueError as error:
        return str(error)
    return ""


def _run_all(
    sweep: SweepConfig,
    base: Config,
    study: optuna.Study,
    root: Path,
    launcher: Sequence[str],
    jobs: int,
    progress: bool,
    done: Callable[[FrozenTrial], None] | None,
) -> list[TrialSignalledError]:
    """Run trials until the study has none left; returns the errors of those that signals of their own stopped, which are put back."""
    running: dict[Future[TrialRecord], tuple[optuna.Trial, Config]] = {}
    signalled: dict[Future[TrialRecord], tuple[optuna.Trial, Config]] = {}
    errors: list[TrialSignalledError] = []
    try:
        with (
            workers(jobs) as (pool, stop),
            tqdm(total=sweep.size, desc=sweep.name, disable=not progress) as bar,
        ):

            def begin(trial: optuna.Trial, config: Config) -> None:
                watch = _watch(sweep, trial) if sweep.pruner == "median" else None
                future = pool.submit(run_trial, config, root, launcher=launcher, watch=watch, stop=stop)
                running[future] = trial, config

            while True:
                while len(running) < jobs:
                    with asking(sweep, root):
                        asked = ask(sweep, base, study)
                    if asked is None:
                        break
                    begin(*asked)
                bar.update(sum(t.state != TrialState.RUNNING for t in counted(study.trials)) - bar.n)
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    trial, config = running.pop(future)
                    error = future.exception()
                    if isinstance(error, TrialInUseError):
                        time.sleep(WAIT_SECONDS)
                        begin(trial, config)
                    elif isinstance(error, TrialSignalledError):
                        # put back only at the end: whoever stopped it did not want it to go on at once
                        signalled[future] = trial, config
                        errors.append(error)
                    elif isinstance(error, LauncherError):
                        # no other one could be run either
                        running[future] = trial, config
                        raise error
                    elif _tell(sweep, study, trial, future) and done is not None:
                        done(study.trials[trial.number])
    finally:
        for future, (trial, _) in (running | signalled).items():
            _tell(sweep, study, trial, future)
    return errors


def _watch(sweep: SweepConfig, trial: optuna.Trial) -> Callable[[Path], None]:
    """What reports the term that training logs, and raises where the trial is to be pruned."""
    told = size = 0

    def watch(folder: Path) -> None:
        nonlocal told, size
        path = folder / "metrics.jsonl"
        before, size = size, path.stat().st_size if path.exists() else 0
        if size == before:
            return
        try:
            lines = RunLog(path).read()
        except json.JSONDecodeError:
            return  # a line that is being written, or that a kill cut short and the program is about to drop
        for line in lines:
            if line["step"] > told and sweep.term in line:
                told = line["step"]
                # the study is of something that is to be large
                trial.report(-line[sweep.term], told)
                if trial.should_prune():
                    raise optuna.TrialPruned

    return watch


def _tell(sweep: SweepConfig, study: optuna.Study, trial: optuna.Trial, future: Future[TrialRecord]) -> bool:
    """Tell the study how a trial ended, and return whether it has; one that was stopped waits to be gone on with.

    Another worker may have put it back, where nobody held its folder for a moment: it is then that worker's, with the record.
    """
    if study.get_trials(deepcopy=False)[trial.number].state.is_finished():
        return False
    with suppress(UpdateFinishedTrialError):
        try:
            record = future.result()
        except (TrialStoppedError, TrialSignalledError, CancelledError, TrialInUseError, LauncherError):
            put_back(study, trial)
            return False
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
            return True
        except ValueError as error:
            fail(study, trial, error, retry=True)
            return True
        value = record.scores.get(sweep.objective)
        if value is None:
            reason = record.facts["undefined"].get(sweep.objective, "there is no such score")
            fail(study, trial, ValueError(f"{sweep.objective} is undefined: {reason}"))
            return True
        trial.set_user_attr("scores", {k: v for k, v in record.scores.items() if not isinstance(v, dict)})
        trial.set_user_attr("seconds", record.facts["seconds"])
        study.tell(trial, value)
        return True
    return False


def sweep_rows(sweep: SweepConfig, trials: Iterable[FrozenTrial]) -> list[dict[str, Any]]:
    """What `idiff sweep status` shows of each trial, the best first."""
    rows = [
        {
            "trial": trial.number,
            "id": trial.user_attrs.get("id"),
            "state": trial.state.name.lower(),
            sweep.objective: trial.value if trial.state == TrialState.COMPLETE else None,
            **{name: trial.params.get(name) for name in sweep.parameters},
            "seconds": trial.user_attrs.get("seconds"),
            "error": trial.user_attrs.get("error"),
        }
        for trial in counted(trials)
    ]
    return sorted(rows, key=lambda row: (row[sweep.objective] is None, -(row[sweep.objective] or 0.0)))
