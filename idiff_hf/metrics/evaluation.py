"""Several metrics on the same codes: what each declares, and the record of one evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from .inputs import MetricInputs, Undefined

Invariance = Literal[
    "permutation",
    "sign",
    "shift",
    "common_scale",
    "scale",
    "monotone",
    "constant_latent",
    "factor_order",
    "class_names",
]
# What may be done to codes or factors: latents in another order, signs flipped, a constant added to each, one
# positive scale for all, a positive scale for each, a strictly increasing map for each, a constant latent added,
# factors in another order, classes of integer factors renamed. Promises are for codes whose values do not tie and
# do not lie on a bin's edge, and for latents of which two or more vary.
INVARIANCES: frozenset[Invariance] = frozenset(get_args(Invariance))


@dataclass(frozen=True)
class MetricSpec:
    """A metric as an evaluation knows it.

    Attributes:
        values: From checked inputs to its values, as plain Python numbers and lists; `Undefined` in the place
            of one that the data do not allow, or a ValueError if they allow none.
        keys: Its keys, each with what leaves the value unchanged. Whatever is not named is not promised.
        estimator: How it estimates, in one line.
        on_request: Left out unless asked for, because it takes minutes where the others take milliseconds.
        tolerance: How far an optimiser or a Monte Carlo draw lets a promise be off; 1e-9 is rounding.
    """

    values: Callable[[MetricInputs], dict[str, object]]
    keys: Mapping[str, frozenset[Invariance]]
    estimator: str | Callable[[MetricInputs], str]
    on_request: bool = False
    tolerance: float = 1e-9

    def estimator_of(self, inputs: MetricInputs) -> str:
        """How it estimates on these inputs, in one line."""
        return self.estimator if isinstance(self.estimator, str) else self.estimator(inputs)


@dataclass(frozen=True)
class CodesEvaluation:
    """The values of an evaluation, and what one has to know to compare or repeat it.

    Attributes:
        values: Every key of the metrics asked for; None for a value that the data leave undefined.
        undefined: Why, in one line, for each key whose value is None.
        estimators: For each metric, how it estimates.
        num_bins: Number of equal-width bins that codes are cut into.
        num_samples: Number of rows.
        num_train: Number of leading rows that predictors are fitted on.
        num_latents: Number of latents.
        num_factors: Number of factors.
        seed: Seed of whatever draws random numbers.
    """

    values: dict[str, object]
    undefined: dict[str, str]
    estimators: dict[str, str]
    num_bins: int
    num_samples: int
    num_train: int
    num_latents: int
    num_factors: int
    seed: int

    def to_dict(self) -> dict[str, object]:
        """All fields as a dict of its own that `json.dumps` takes, free of NaN."""
        return asdict(self)


def evaluate_specs(specs: Mapping[str, MetricSpec], inputs: MetricInputs) -> CodesEvaluation:
    """Every value of `specs` on the same inputs.

    Args:
        specs: Metrics by name.
        inputs: Checked codes and factors.

    Returns:
        The values, and the record.
    """
    values: dict[str, object] = {}
    undefined: dict[str, str] = {}
    for spec in specs.values():
        try:
            found = spec.values(inputs)
        except ValueError as error:
            # The arrays are checked: what a metric still refuses is data on which it has no value.
            found = dict.fromkeys(spec.keys, Undefined(str(error)))
        for key in spec.keys:
            value = found[key]
            values[key] = None if isinstance(value, Undefined) else value
            if isinstance(value, Undefined):
                undefined[key] = value.reason
    num_samples, num_latents = inputs.codes.shape
    return CodesEvaluation(
        values=values,
        undefined=undefined,
        estimators={name: spec.estimator_of(inputs) for name, spec in specs.items()},
        num_bins=inputs.num_bins,
        num_samples=num_samples,
        num_train=inputs.num_train_rows,
        num_latents=num_latents,
        num_factors=inputs.factors.shape[1],
        seed=inputs.seed,
    )
