"""What a sweep varies, how, and towards what: the keys of a `SWEEP.yaml`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from .checks import require

SAMPLERS = ("grid", "random", "tpe")
PRUNERS = ("none", "median")
BOOL = {"values": [False, True]}


@dataclass(frozen=True)
class SweepConfig:
    """A sweep.

    Args:
        name: Of the study, by default that of the file.
        config: The config file that every trial starts from.
        parameters: Keys of the configuration, each with what it may be: `{values: [...]}`; `{low: a, high: b}`, both ends included, whole
            numbers where the key takes no others, with `log: true` uniform in the logarithm; or `bool`, which is `{values: [false, true]}`.
        sampler: `grid` is every combination, `random`, or `tpe`, a tree-structured Parzen estimator (Bergstra et al., 2011).
        num_trials: Trials of all workers together; those that were pruned or failed count. A grid has as many as combinations.
        objective: The score that is to be as large as possible, a key of `experiments.records.TrialRecord.scores`.
        pruner: `median` ends a trial whose `pruner_term` lies above the median of the trials before it at the same step.
        pruner_term: A term of the loss as training logs it, lower is better; null is `rec`. It is no score: see `docs/sweeps.md`.
        seed: Trial n of a study is drawn by (seed, n), and with `tpe` by the results that are there.
        storage: The URL of a database; null is a journal in the root of the trials.
    """

    name: str
    config: str
    parameters: Mapping[str, Any]
    sampler: str = "tpe"
    num_trials: int | None = None
    objective: str = "mig"
    pruner: str = "none"
    pruner_term: str | None = None
    seed: int = 0
    storage: str | None = None

    def __post_init__(self) -> None:
        for name in ("name", "config", "objective"):
            value = getattr(self, name)
            require(isinstance(value, str) and value != "", f"{name} must be a text, got {value!r}")
        require(
            self.storage is None or isinstance(self.storage, str),
            "storage must be the URL of a database, or null",
        )
        require(
            _whole(self.seed) and self.seed >= 0,
            f"seed must be a whole number of 0 or more, got {self.seed!r}",
        )
        for name, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            value = getattr(self, name)
            require(value in known, f"{name} must be one of {', '.join(known)}, got {value!r}")
        require(
            self.pruner_term is None or self.pruner != "none",
            f"pruner_term={self.pruner_term} has no effect with pruner=none, which ends no trial early",
        )
        require(
            isinstance(self.term, str) and self.term != "",
            f"pruner_term must be a text, got {self.pruner_term!r}",
        )
        require(
            isinstance(self.parameters, Mapping) and len(self.parameters) > 0,
            "parameters must name one or more keys of the configuration, as in loss.kl: {values: [1.0e-4, 1.0e-3]}",
        )
        for name, choice in self.choices.items():
            _check_choice(name, choice)
        if self.sampler == "grid":
            for name, choice in self.choices.items():
                require(
                    "values" in choice,
                    f"parameters.{name} of a grid must be bool or {{values: [...]}}, got {choice}",
                )
            require(
                self.num_trials is None,
                f"num_trials={self.num_trials} has no effect with sampler=grid, which runs every combination",
            )
        else:
            require(
                _whole(self.num_trials) and self.num_trials >= 1,
                f"num_trials must be a whole number of 1 or more, got {self.num_trials!r}",
            )

    @property
    def choices(self) -> dict[str, Any]:
        """What each parameter may be, `bool` as the values that it is."""
        return {name: BOOL if choice == "bool" else choice for name, choice in self.parameters.items()}

    @property
    def term(self) -> str:
        """The term of the loss that the pruner looks at."""
        return "rec" if self.pruner_term is None else self.pruner_term

    def point(self, rank: int) -> dict[str, Any]:
        """A combination of a grid, whose last parameter changes first; none other is made, for a grid may have any number of them."""
        point = {}
        for name, choice in reversed(self.choices.items()):
            rank, index = divmod(rank, len(choice["values"]))
            point[name] = choice["values"][index]
        return {name: point[name] for name in self.parameters}

    @property
    def size(self) -> int:
        """Trials of the whole sweep."""
        if self.num_trials is not None:
            return self.num_trials
        return math.prod(len(choice["values"]) for choice in self.choices.values())


def _whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number; for Python true and false are."""
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: object) -> bool:
    """Whether it is no number, or one that a float can be."""
    try:
        return not isinstance(value, int | float) or math.isfinite(value)
    except OverflowError:
        return False


def _check_choice(name: str, choice: Any) -> None:
    shapes = ({"values"}, {"low", "high"}, {"low", "high", "log"})
    require(
        isinstance(choice, Mapping) and set(choice) in shapes,
        f"parameters.{name} must be bool, {{values: [...]}} or {{low: a, high: b, log: true}}, got {choice}",
    )
    if "values" in choice:
        values = choice["values"]
        plain = isinstance(values, list) and all(isinstance(v, str | int | float | None) for v in values)
        require(
            plain and len(values) > 0,
            f"parameters.{name}.values must be a list of numbers, texts, true, false or null, got {values}",
        )
        require(
            all(_finite(value) for value in values), f"parameters.{name}.values must be finite, got {values}"
        )
        return
    low, high, log = choice["low"], choice["high"], choice.get("log", False)
    require(
        all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)) and low < high,
        f"parameters.{name}: low and high must be numbers, low the smaller one, got {low} and {high}",
    )
    require(
        _finite(low) and _finite(high),
        f"parameters.{name}: low and high must be finite, got {low} and {high}",
    )
    require(isinstance(log, bool), f"parameters.{name}.log must be true or false, got {log!r}")
    require(not log or low > 0, f"parameters.{name}: log=true needs low above 0, got {low}")
