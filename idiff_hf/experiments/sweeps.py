"""Sweeps: an Optuna study, each of whose trials is a trial of `trials.run_trial`.

The study is what workers share: any number of processes, on one machine or many, that open it each ask it for a trial, run it, and tell
what it came to. Nothing in it is executed when it is read: a journal is a file of JSON lines, a database has numbers and JSON columns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from tqdm.auto import tqdm

from ..arguments import config_from_yaml, load_yaml
from ..config import Config
from ..config.sweep import SweepConfig
from ..folders import os_errors
from ..random import key
from ..run_log import RunLog
from .trials import (
    WAIT_SECONDS,
    TrialInUseError,
    TrialRecord,
    TrialStoppedError,
    claimed,
    run_trial,
    trial_id,
    workers,
)

STARTUP_TRIALS = 5
"""Trials that the median needs before one is pruned."""
JOURNAL = "study.jsonl"
DESCRIBED = ("parameters", "sampler", "objective", "pruner", "pruner_term", "seed")
"""What a study keeps of its sweep, with the ID of the config; the number of trials may grow."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


def read_sweep(path: Path, *, storage: str | None = None) -> SweepConfig:
    """The sweep that a YAML file describes.

    Args:
        path: The file.
        storage: The URL of a database in the place of the file's.

    Raises:
        ValueError: One line that names the file.
    """
    with os_errors(f"cannot read {path}"):
        text = path.read_text(encoding="utf-8")
    try:
        values = load_yaml(text)
        known = [field.name for field in fields(SweepConfig)]
        if not isinstance(values, dict) or not {"config", "parameters"} <= values.keys() <= set(known):
            raise ValueError(
                f"expected config, parameters and any of {', '.join(known)}, got {_keys(values)}"
            )
        return SweepConfig(
            **{"name": path.stem, **values, **({} if storage is None else {"storage": storage})}
        )
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def _keys(values: object) -> str:
    return ", ".join(map(str, values)) if isinstance(values, dict) else type(values).__name__


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with other values of keys that it has, such as `{"loss.kl": 1e-3}`; raises ValueError as `config_from_yaml` does."""
    tree = config.to_dict()
    for name, value in values.items():
        group, _, field = name.partition(".")
        tree[group][field] = value
    # JSON is YAML
    return config_from_yaml(json.dumps(tree))


def open_study(sweep: SweepConfig, base: Config, root: Path, *, create: bool = True) -> optuna.Study:
    """The study of a sweep.

    Raises:
        ValueError: One line: it cannot be opened, it is of another sweep, or it is not there and not to be created.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if sweep.storage is None and not create and not (root / JOURNAL).exists():
        raise ValueError(f"{root} holds no study: run idiff sweep first, or give --root")
    described = {name: getattr(sweep, name) for name in DESCRIBED} | {"base": trial_id(base)}
    pruner = (
        optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=base.train.max_train_steps // 3)
        if sweep.pruner == "median"
        else optuna.pruners.NopPruner()
    )
    try:
        if sweep.storage is None:
            root.mkdir(parents=True, exist_ok=True)
            backend = JournalFileBackend(str(root / JOURNAL))
            storage: optuna.storages.BaseStorage | str = optuna.storages.JournalStorage(backend)
        else:
            storage = sweep.storage
        if create:
            study = optuna.create_study(
                storage=storage,
                study_name=sweep.name,
                pruner=pruner,
                direction="maximize",
                load_if_exists=True,
            )
        else:
            study = optuna.load_study(storage=storage, study_name=sweep.name)
    except KeyError:
        raise ValueError(f"the storage holds no study {sweep.name}: run idiff sweep first") from None
    except (OSError, SQLAlchemyError, ImportError, ValueError) as error:
        # without its text: that of a database may hold the password of the URL
        raise ValueError(f"the storage of {sweep.name} cannot be opened: {type(error).__name__}") from None
    if study.user_attrs.setdefault("sweep", described) != described:
        raise ValueError(f"the study {sweep.name} is of another sweep: give another name, or another --root")
    if create:
        study.set_user_attr("sweep", described)
    return study


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

    A trial that fails is marked so, with its line, and the sweep goes on. Signals are answered as in `run_trials`; the trials that were
    running, and those of workers that were killed in the same root, are put back and gone on with.

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
        ValueError: One line: a parameter is refused, the study is of another sweep, or every trial failed.
    """
    known = [f"{group}.{name}" for group, keys in base.to_dict().items() for name in keys]
    for name in sweep.parameters:
        if name not in known:
            near = get_close_matches(name, known, 1, 0.0)[0]
            raise ValueError(f"unknown key parameters.{name}, did you mean {near}?")
    study = open_study(sweep, base, root)
    _put_back_abandoned(study, root)
    running: dict[Future[TrialRecord], tuple[optuna.Trial, Config]] = {}
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
                while len(running) < jobs and (asked := ask(sweep, base, study)) is not None:
                    begin(*asked)
                ended = [trial for trial in counted(study.trials) if trial.state != TrialState.RUNNING]
                bar.update(len(ended) - bar.n)
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    trial, config = running.pop(future)
                    if isinstance(future.exception(), TrialInUseError):
                        time.sleep(WAIT_SECONDS)
                        begin(trial, config)
                        continue
                    _tell(sweep, study, trial, future)
                    if done is not None:
                        done(study.trials[trial.number])
    finally:
        for future, (trial, _) in running.items():
            _tell(sweep, study, trial, future)
    failures = [trial for trial in counted(study.trials) if trial.state == TrialState.FAIL]
    if len(failures) == len(counted(study.trials)):
        raise ValueError(f"all {len(failures)} trials failed, the first: {failures[0].user_attrs['error']}")
    return study


def counted(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Those that have begun, without those that were put back, or that another worker was quicker to take."""
    trials = list(trials)
    again = {trial.user_attrs.get("again") for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state in COUNTED and trial.number not in again and "too_many" not in trial.user_attrs
    ]


def ask(sweep: SweepConfig, base: Config, study: optuna.Study) -> tuple[optuna.Trial, Config] | None:
    """The next trial of a study and its config, None where there is none left; one whose config is refused is marked as failed."""
    while True:
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        begun = counted(study.trials)
        if not waiting and sweep.sampler == "grid":
            taken = [trial.params for trial in begun]
            free = [point for point in sweep.points if point not in taken]
            if not free:
                return None
            study.enqueue_trial(free[0])
        elif not waiting and len(begun) >= sweep.size:
            return None
        trial = study.ask()
        rank = sum(other.number < trial.number for other in counted(study.trials))
        study.sampler = _sampler(sweep, rank)
        for name, choice in sweep.choices.items():
            _suggest(trial, name, choice)
        if sweep.sampler != "grid" and rank >= sweep.size:
            trial.set_user_attr("too_many", True)
            study.tell(trial, state=TrialState.FAIL)
            return None
        try:
            config = with_values(base, trial.params)
        except ValueError as error:
            _fail(study, trial, error)
        else:
            trial.set_user_attr("id", trial_id(config))
            return trial, config


def _suggest(trial: optuna.Trial, name: str, choice: Mapping[str, Any]) -> None:
    if "values" in choice:
        trial.suggest_categorical(name, choice["values"])
        return
    low, high, log = choice["low"], choice["high"], choice.get("log", False)
    if isinstance(low, int) and isinstance(high, int):
        trial.suggest_int(name, low, high, log=log)
    else:
        trial.suggest_float(name, low, high, log=log)


def _sampler(sweep: SweepConfig, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of trial `number`: a worker that comes later, or once more, draws no trial twice."""
    seed = key(sweep.seed, "sweep", number) % 2**32
    if sweep.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=False)
    return optuna.samplers.RandomSampler(seed=seed)


def _watch(sweep: SweepConfig, trial: optuna.Trial) -> Callable[[Path], None]:
    """What reports the term that training logs, and raises where the trial is to be pruned."""
    told = 0

    def watch(folder: Path) -> None:
        nonlocal told
        try:
            lines = RunLog(folder / "metrics.jsonl").read()
        except json.JSONDecodeError:
            return  # a line that is being written, or that a kill cut short and the program is about to drop
        for line in lines:
            if line["step"] > told and sweep.pruner_term in line:
                told = line["step"]
                # the study is of something that is to be large
                trial.report(-line[sweep.pruner_term], told)
                if trial.should_prune():
                    raise optuna.TrialPruned

    return watch


def _tell(sweep: SweepConfig, study: optuna.Study, trial: optuna.Trial, future: Future[TrialRecord]) -> None:
    """Tell the study how a trial ended; one that was stopped waits to be gone on with."""
    try:
        record = future.result()
        value = record.scores.get(sweep.objective)
        if value is None:
            reason = record.facts["undefined"].get(sweep.objective, "there is no such score")
            raise ValueError(f"{sweep.objective} is undefined: {reason}")
    except (TrialStoppedError, CancelledError, TrialInUseError):
        _put_back(study, trial.number, trial.params)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except ValueError as error:
        _fail(study, trial, error)
    else:
        trial.set_user_attr("scores", {k: v for k, v in record.scores.items() if not isinstance(v, dict)})
        trial.set_user_attr("seconds", record.facts["seconds"])
        study.tell(trial, value)


def _fail(study: optuna.Study, trial: optuna.Trial, error: ValueError) -> None:
    trial.set_user_attr("error", str(error))
    study.tell(trial, state=TrialState.FAIL)


def _put_back(study: optuna.Study, number: int, params: dict[str, Any]) -> None:
    study.enqueue_trial(params, user_attrs={"again": number})
    study.tell(number, state=TrialState.FAIL)


def _put_back_abandoned(study: optuna.Study, root: Path) -> None:
    """Put back the trials of workers that were killed: those that nobody runs, and whose folder is here."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        folder = root / str(trial.user_attrs.get("id"))
        if not folder.is_dir():
            continue
        try:
            with claimed(folder):
                _put_back(study, trial.number, trial.params)
        except TrialInUseError:
            continue


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
