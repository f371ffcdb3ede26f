"""Disentanglement metrics: pure functions of codes (n_samples, n_latents), factors (n_samples, n_factors)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy.typing as npt

from .dci import DCIResult, completeness_from_importance, dci, dci_values, disentanglement_from_importance
from .inputs import MetricInputs, check_codes_and_factors
from .mcc import MCCResult, mcc, mcc_values
from .mig import MIGResult, mig, mig_values
from .modularity import ModularityResult, modularity, modularity_values

__all__ = [
    "METRICS",
    "DCIResult",
    "MCCResult",
    "MIGResult",
    "MetricInputs",
    "ModularityResult",
    "check_codes_and_factors",
    "completeness_from_importance",
    "dci",
    "disentanglement_from_importance",
    "evaluate_codes",
    "mcc",
    "mig",
    "modularity",
]

METRICS: dict[str, Callable[[MetricInputs], dict[str, object]]] = {
    "mig": mig_values,
    "modularity": modularity_values,
    "mcc": mcc_values,
    "dci": dci_values,
}

# Minutes where the others take milliseconds.
_ON_REQUEST = {"dci"}


def evaluate_codes(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    metrics: Iterable[str] | None = None,
    num_train: int | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
) -> dict[str, object]:
    """All metrics asked for, as one flat dict that `json.dumps` takes.

    Arrays are checked once, and what metrics share (labels, mutual information) is computed once.

    Args:
        codes: Latent codes, shape (n_samples, n_latents).
        factors: Factors, shape (n_samples, n_factors): integer labels, or floating values, which are cut into
            20 equal-width bins where a metric needs labels.
        metrics: Names out of `METRICS`; None is all but "dci", which takes minutes.
        num_train: Number of leading rows that DCI is fitted on; None is two thirds, rounded up.
        seed: Seed of DCI's trees.
        n_jobs: Worker processes of DCI over factors; None is one. Changes no result.

    Returns:
        "mig": `mig`, `mig_per_factor`, `mi_matrix` (n_latents lists of n_factors, nats), `factor_entropy`
        (nats). "modularity": `modularity`, `modularity_active_dims` (constant latents left out).
        "mcc": `mcc_pearson`, `mcc_spearman`. "dci": `dci_disentanglement`, `dci_completeness`,
        `dci_informativeness_train`, `dci_informativeness_test`, `dci_importance_matrix` (n_latents lists of
        n_factors).

    Raises:
        ValueError: If a name is not in `METRICS`, if the arrays are not 2-D, numeric, finite and of the same
            number of rows (two or more), if a factor is constant, or if a metric is undefined (see each).

    Example:
        >>> import numpy as np
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> evaluate_codes(factors, factors, metrics=["modularity"])
        {'modularity': 1.0, 'modularity_active_dims': 1.0}
    """
    names = [name for name in METRICS if name not in _ON_REQUEST] if metrics is None else list(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"metrics must be among {', '.join(METRICS)}, got {', '.join(map(repr, unknown))}")
    inputs = MetricInputs(
        *check_codes_and_factors(codes, factors), num_train=num_train, seed=seed, n_jobs=n_jobs
    )
    values: dict[str, object] = {}
    for name in names:
        values.update(METRICS[name](inputs))
    return values
