"""The study of a sweep: opened, asked for trials, and told what they came to.

It is what workers share: any number of processes, on one machine or many, draw trials from it, no two of them the same.
Nothing in it is executed when it is read: a journal is a file of JSON lines, a database has numbers and JSON columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, get_type_hints

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import OptunaError
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ..arguments import with_values
from ..config import Config
from ..config.sweep import SweepConfig
from ..folders import os_errors, waited_for
from ..random import key
from .records import trial_id
from .trials import TrialInUseError, claimed

STARTUP_TRIALS = 5
"""Trials that the median needs before one is pruned."""
JOURNAL = "study.jsonl"
DESCRIBED = ("parameters", "sampler", "objective", "pruner", "term", "seed")
"""What a study keeps of its sweep, with the ID of the config; the number of trials may grow."""
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING)


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
    storage = _journal(root / JOURNAL, mend=create) if sweep.storage is None else sweep.storage
    try:
        if not create and _is_missing(sweep.storage):
            raise KeyError(sweep.name)
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
    except (OSError, OptunaError, SQLAlchemyError, ImportError, ValueError) as error:
        # without its text: it may hold the password of the URL
        raise ValueError(
            f"the storage of {sweep.name} cannot be opened: {type(error).__name__}: give a URL as in sqlite:///study.db or "
            "postgresql://user@host/name, and install its driver"
        ) from None
    before = study.user_attrs.setdefault("sweep", described)
    # the n-th trial of a grid is its n-th combination, in the order of the file
    if before != described or list(before["parameters"]) != list(described["parameters"]):
        raise ValueError(f"the study {sweep.name} is of another sweep: give another name, or another --root")
    if create:
        study.set_user_attr("sweep", described)
    return study


def _is_missing(storage: str | None) -> bool:
    """Whether a URL is of a SQLite file that is not there, which a look would make."""
    url = None if storage is None else make_url(storage)
    if url is None or url.get_backend_name() != "sqlite":
        return False
    # without one it is in memory, and a URI may lead elsewhere
    file = url.database or ":memory:"
    return not file.startswith((":memory:", "file:")) and not Path(file).exists()


def _journal(path: Path, *, mend: bool) -> optuna.storages.JournalStorage:
    """The journal's storage.

    Args:
        path: The file, made where it is missing.
        mend: Drop a last line that a kill or a full disk cut short, for what is appended to it could not be read.

    Raises:
        ValueError: One line that names the file: it cannot be written, or holds something else.
    """
    lock = JournalFileSymlinkLock(str(path))
    with os_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if mend and path.exists():
            lock.acquire()
            try:
                written = path.read_bytes()
                if not written.endswith(b"\n"):
                    os.truncate(path, written.rfind(b"\n") + 1)
            finally:
                lock.release()
    try:
        return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError):
        raise ValueError(
            f"{path} is damaged or no journal of a study: move it elsewhere, and the same command finds the finished trials again"
        ) from None


@contextmanager
def storage_errors(sweep: SweepConfig) -> Iterator[None]:
    """Turn what a study raises when its storage fails into a one-line ValueError, without its text, as in `open_study`."""
    try:
        yield
    except BrokenPipeError:
        raise  # of whoever prints the trials
    except (OptunaError, SQLAlchemyError, OSError) as error:
        raise ValueError(
            f"the storage of {sweep.name} failed: {type(error).__name__}: the same command goes on with the sweep"
        ) from None


def counted(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Those that have begun, without those that were put back, or that another worker was quicker to take."""
    trials = list(trials)
    again = {trial.user_attrs.get("again") for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state in COUNTED and trial.number not in again and "too_many" not in trial.user_attrs
    ]


@contextmanager
def asking(sweep: SweepConfig, root: Path) -> Iterator[None]:
    """Keep others from asking a journal: a trial without an id is then one whose worker was killed before it had drawn it."""
    with nullcontext() if sweep.storage is not None else waited_for(root):
        yield


def ask(sweep: SweepConfig, base: Config, study: optuna.Study) -> tuple[optuna.Trial, Config] | None:
    """The next trial of a study and its config, None where there is none left; one whose config is refused is marked as failed.

    A trial is drawn by its rank, the number of trials that were begun before it, which a storage counts for all workers. One that was put
    back keeps its rank, so that no two workers draw one point of a grid, and none is left out.
    """
    while True:
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if not waiting and len(counted(study.trials)) >= sweep.size:
            return None
        trial = study.ask()
        try:
            if _is_double(study, trial):
                trial.set_user_attr("too_many", True)
                study.tell(trial, state=TrialState.FAIL)
                continue
            rank = _rank(study, trial)
            trial.set_user_attr("rank", rank)
            if rank >= sweep.size:
                trial.set_user_attr("too_many", True)
                study.tell(trial, state=TrialState.FAIL)
                return None
            study.sampler = _sampler(sweep, rank)
            for name, choice in sweep.choices.items():
                _suggest(trial, name, choice)
            try:
                config = with_values(base, trial.params)
            except ValueError as error:
                fail(study, trial, error)
                continue
            trial.set_user_attr("id", trial_id(config))
        except BaseException:
            put_back(study, trial)
            raise
        return trial, config


def _is_double(study: optuna.Study, trial: optuna.Trial) -> bool:
    """Whether another worker has put the same trial back, too, and was quicker."""
    before = trial.user_attrs.get("again")
    return before is not None and any(
        other.number < trial.number and other.user_attrs.get("again") == before
        for other in study.get_trials(deepcopy=False)
    )


def _rank(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> int:
    if "rank" in trial.user_attrs:
        return int(trial.user_attrs["rank"])
    return sum(
        other.number < trial.number and not {"again", "too_many"} & other.user_attrs.keys()
        for other in study.get_trials(deepcopy=False)
    )


def _suggest(trial: optuna.Trial, name: str, choice: Mapping[str, Any]) -> None:
    if "values" in choice:
        trial.suggest_categorical(name, choice["values"])
        return
    low, high, log = choice["low"], choice["high"], choice.get("log", False)
    if takes_whole_numbers(name):
        trial.suggest_int(name, int(low), int(high), log=log)
    else:
        trial.suggest_float(name, float(low), float(high), log=log)


def takes_whole_numbers(name: str) -> bool:
    """Whether the values of a key of the configuration are whole numbers, or null."""
    group, _, key = name.partition(".")
    hint = get_type_hints(get_type_hints(Config)[group])[key]
    return hint in (int, int | None)


class _PointSampler(optuna.samplers.RandomSampler):
    """Draws one point of a grid."""

    def __init__(self, point: Mapping[str, Any]) -> None:
        super().__init__()
        self._point = point

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._point[param_name]


def _sampler(sweep: SweepConfig, rank: int) -> optuna.samplers.BaseSampler:
    """The sampler of a trial: a worker that comes later, or once more, draws no trial twice."""
    if sweep.sampler == "grid":
        return _PointSampler(sweep.point(rank))
    seed = key(sweep.seed, "sweep", rank) % 2**32
    if sweep.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=False)
    return optuna.samplers.RandomSampler(seed=seed)


def fail(study: optuna.Study, trial: optuna.Trial, error: ValueError, *, retry: bool = False) -> None:
    """Mark a trial as failed, with the line; with `retry`, until the sweep is begun once more."""
    trial.set_user_attr("error", str(error))
    if retry:
        trial.set_user_attr("retry", True)
    study.tell(trial, state=TrialState.FAIL)


def to_retry(study: optuna.Study) -> list[FrozenTrial]:
    """The trials whose run has failed, and which nobody has put back yet."""
    return [trial for trial in counted(study.trials) if "retry" in trial.user_attrs]


def put_back_failed(sweep: SweepConfig, study: optuna.Study, root: Path) -> None:
    """Put back the trials whose run has failed; of two workers of a database that do so at once, `ask` passes over what the second did."""
    with asking(sweep, root):
        for trial in to_retry(study):
            put_back(study, trial)


def put_back(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> None:
    """Let a trial wait to be begun once more, with its rank, and its parameters if all were drawn."""
    drawn = trial.params if "id" in trial.user_attrs else {}
    study.enqueue_trial(drawn, user_attrs={"again": trial.number, "rank": _rank(study, trial)})
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def put_back_abandoned(sweep: SweepConfig, study: optuna.Study, root: Path) -> None:
    """Put back the trials of workers that were killed: those that nobody runs.

    All workers of a journal have its root in common. Those of a database may not: there, one whose folder is not here may be run elsewhere.
    """

    def abandoned() -> list[FrozenTrial]:
        return [trial for trial in counted(study.trials) if trial.state == TrialState.RUNNING]

    if sweep.storage is None:
        with asking(sweep, root):
            for trial in abandoned():
                if "id" not in trial.user_attrs:
                    put_back(study, trial)
    for trial in abandoned():
        folder = root / str(trial.user_attrs.get("id"))
        if sweep.storage is not None and not folder.is_dir():
            continue
        try:
            with claimed(folder):
                # another worker may have been quicker
                if trial.number in [other.number for other in abandoned()]:
                    put_back(study, trial)
        except TrialInUseError:
            continue
