"""Disentanglement metrics: pure functions of codes (n_samples, n_latents), factors (n_samples, n_factors)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from .beta_vae import BetaVAEResult, beta_vae, beta_vae_from_representation, beta_vae_values
from .dci import (
    REGRESSORS,
    DCIResult,
    completeness_from_importance,
    dci,
    dci_values,
    disentanglement_from_importance,
)
from .discretize import DEFAULT_NUM_BINS, check_num_bins
from .evaluation import INVARIANCES, CodesEvaluation, Invariance, MetricSpec, evaluate_specs
from .explicitness import ExplicitnessResult, explicitness, explicitness_values
from .factor_vae import FactorVAEResult, factor_vae, factor_vae_from_representation, factor_vae_values
from .infomec import InfoMECResult, infoc_from_nmi, infom_from_nmi, infomec, infomec_values
from .inputs import (
    MetricInputs,
    Regressor,
    check_codes,
    check_codes_and_factors,
    check_seed,
    rows_to_train_on,
)
from .irs import IRSResult, irs, irs_values
from .mcc import MCCResult, mcc, mcc_values
from .mig import MIGResult, mig, mig_values
from .modularity import ModularityResult, modularity, modularity_values
from .sap import SAPResult, sap, sap_values
from .uncertainty import DEFAULT_NUM_RESAMPLES, Interval, SeedSummary, confidence_intervals, over_seeds
from .unsupervised import UnsupervisedResult, unsupervised_scores, unsupervised_values

__all__ = [
    "INVARIANCES",
    "METRICS",
    "BetaVAEResult",
    "CodesEvaluation",
    "DCIResult",
    "ExplicitnessResult",
    "FactorVAEResult",
    "IRSResult",
    "InfoMECResult",
    "Interval",
    "MCCResult",
    "MIGResult",
    "MetricInputs",
    "MetricSpec",
    "ModularityResult",
    "SAPResult",
    "SeedSummary",
    "UnsupervisedResult",
    "beta_vae",
    "beta_vae_from_representation",
    "check_codes",
    "check_codes_and_factors",
    "completeness_from_importance",
    "confidence_intervals",
    "dci",
    "disentanglement_from_importance",
    "evaluate",
    "evaluate_codes",
    "explicitness",
    "factor_vae",
    "factor_vae_from_representation",
    "infoc_from_nmi",
    "infom_from_nmi",
    "infomec",
    "irs",
    "mcc",
    "mig",
    "modularity",
    "over_seeds",
    "rows_to_train_on",
    "sampling_intervals",
    "sap",
    "unsupervised_scores",
]


def _all(*names: Invariance) -> frozenset[Invariance]:
    return frozenset(names)


_SIGN_AND_ORDER = _all("permutation", "sign", "factor_order")
_AFFINE = _SIGN_AND_ORDER | _all("shift", "common_scale", "scale")
_BINNED = _AFFINE | _all("class_names")
_ONE_SCALE = _SIGN_AND_ORDER | _all("shift", "common_scale", "class_names", "constant_latent")
_CODES_ONLY = _all("factor_order", "class_names", "permutation", "shift", "common_scale")

METRICS: dict[str, MetricSpec] = {
    "mig": MetricSpec(
        mig_values,
        {
            "mig": _BINNED | {"constant_latent"},
            "mig_per_factor": _BINNED - {"factor_order"} | {"constant_latent"},
            "mi_matrix": _BINNED - {"factor_order", "permutation"},
            "factor_entropy": INVARIANCES - {"factor_order"},
        },
        lambda inputs: (
            f"plug-in mutual information of codes in {inputs.num_bins} equal-width bins, over the entropy of the factor; all rows"
        ),
    ),
    "modularity": MetricSpec(
        modularity_values,
        {
            "modularity": _BINNED,
            "modularity_active_dims": _BINNED | {"constant_latent"},
            "modularity_train_rows": _BINNED,
        },
        lambda inputs: (
            f"plug-in mutual information of codes in {inputs.num_bins} equal-width bins; all rows, or train rows"
        ),
    ),
    "explicitness": MetricSpec(
        explicitness_values,
        dict.fromkeys(
            (
                "explicitness",
                "explicitness_train",
                "explicitness_all_rows",
                "explicitness_active_dims",
            ),
            _BINNED | {"constant_latent"},
        ),
        "area under the ROC curve of a multinomial LogisticRegression (C=1) on standardised codes, not rescaled; "
        "test rows, train rows, or all rows",
        # The optimiser stops at a gradient of 1e-4: a pair of rows of nearly the same score may change places.
        tolerance=5e-3,
    ),
    "sap": MetricSpec(
        sap_values,
        {
            "sap": _SIGN_AND_ORDER | {"class_names"},
            "sap_discrete": _SIGN_AND_ORDER | {"class_names"},
            "sap_continuous": _AFFINE | {"constant_latent"},
        },
        "sap_discrete: accuracy on the test rows of LinearSVC(C=0.01, balanced) on one code as it is; "
        "sap_continuous: squared Pearson correlation, all rows; sap: the former for integer factors, else the "
        "latter",
    ),
    "mcc": MetricSpec(
        mcc_values,
        {
            "mcc_pearson": _AFFINE | {"constant_latent"},
            "mcc_spearman": _AFFINE | {"constant_latent", "monotone"},
            "mcc_pearson_active_dims": _AFFINE | {"constant_latent"},
            "mcc_spearman_active_dims": _AFFINE | {"constant_latent", "monotone"},
        },
        "absolute correlation over the best one-to-one matching, mean over all factors; all rows",
    ),
    "irs": MetricSpec(
        irs_values,
        {"irs": _ONE_SCALE, "irs_quantile_1": _ONE_SCALE},
        "0.99 quantile (irs) or maximum (irs_quantile_1) of the deviation within a class; all rows",
    ),
    "infomec": MetricSpec(
        infomec_values,
        # A scale of one latent decides which others are active.
        {
            "infom": _ONE_SCALE,
            "infoe": _BINNED | {"constant_latent"},
            "infoc": _ONE_SCALE,
            "nmi_matrix": _BINNED - {"permutation", "factor_order"},
            "active_latents": _ONE_SCALE - {"permutation", "constant_latent"},
        },
        "mutual information by 10 nearest neighbours, ties broken by noise of 1e-10; unpenalised, balanced "
        "LogisticRegression for infoe; all rows",
        # The noise that tells equal values apart is drawn latent by latent; the classifier may not converge.
        tolerance=1e-2,
    ),
    "factor_vae": MetricSpec(
        factor_vae_values,
        {
            "factor_vae": _all("permutation", "sign", "shift", "constant_latent"),
            "factor_vae_default_prune": _all(
                "permutation", "sign", "shift", "common_scale", "scale", "constant_latent"
            ),
        },
        "10,000 training and 5,000 evaluation votes of 64 rows of the full grid; latents of deviation below 0.05 "
        "(factor_vae) or constant ones (factor_vae_default_prune) left out",
        # A vote between two latents that vary alike may go to either.
        tolerance=1e-3,
    ),
    "beta_vae": MetricSpec(
        beta_vae_values,
        {"beta_vae": _all("permutation", "sign", "shift", "constant_latent")},
        "LogisticRegression on 10,000 training and 5,000 evaluation points of 64 pairs of the full grid",
        tolerance=5e-3,
    ),
    "unsupervised": MetricSpec(
        unsupervised_values,
        {
            "gaussian_total_correlation": _CODES_ONLY | {"sign", "scale", "constant_latent"},
            "gaussian_total_correlation_active_dims": _CODES_ONLY | {"sign", "scale", "constant_latent"},
            "gaussian_wasserstein_correlation": _CODES_ONLY - {"common_scale"} | {"sign", "constant_latent"},
            "gaussian_wasserstein_correlation_norm": _CODES_ONLY | {"sign", "constant_latent"},
            "mutual_info_score": _CODES_ONLY | {"sign", "scale"},
        },
        lambda inputs: (
            f"covariance of the codes, plug-in mutual information of two codes in {inputs.num_bins} equal-width bins each; all rows"
        ),
    ),
    "dci": MetricSpec(
        dci_values,
        {
            "dci_disentanglement": _all("factor_order"),
            "dci_completeness": _all("factor_order"),
            "dci_informativeness_train": _all("factor_order"),
            "dci_informativeness_test": _all("factor_order"),
            "dci_importance_matrix": _all(),
        },
        lambda inputs: (
            f"{REGRESSORS[inputs.dci_regressor]}, importances by impurity; train rows, accuracy on both"
        ),
        on_request=True,
    ),
}


def known_metrics(
    metrics: Iterable[str] | None, seed: int, dci_regressor: Regressor, num_bins: int
) -> list[str]:
    """The names that `metrics` stands for, once these arguments of `evaluate` are known to be usable.

    Raises:
        ValueError: As `evaluate`, which needs codes for the rest.
    """
    if metrics is None:
        names = [name for name, spec in METRICS.items() if not spec.on_request]
    else:
        names = list(METRICS) if metrics == "all" else list(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown or (isinstance(metrics, str) and metrics != "all"):
        given = repr(metrics) if isinstance(metrics, str) else ", ".join(map(repr, unknown))
        raise ValueError(f"metrics must be 'all' or names among {', '.join(METRICS)}, got {given}")
    if dci_regressor not in REGRESSORS:
        raise ValueError(f"dci_regressor must be among {', '.join(REGRESSORS)}, got {dci_regressor!r}")
    check_num_bins(num_bins)
    check_seed(seed)
    return names


def evaluate(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    metrics: Iterable[str] | None = None,
    num_train: int | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    dci_regressor: Regressor = "gradient_boosting",
    num_bins: int = DEFAULT_NUM_BINS,
    progress: bool = False,
) -> CodesEvaluation:
    """All metrics asked for, with what one has to know to compare or repeat them.

    Arrays are checked once, and what metrics share (labels, mutual information) is computed once.

    Args:
        codes: Latent codes, shape (n_samples, n_latents).
        factors: Factors, shape (n_samples, n_factors): integer labels, or floating values, which are cut into
            20 equal-width bins where a metric needs labels.
        metrics: Names out of `METRICS`, or "all"; None is all but "dci", which takes minutes.
        num_train: Number of leading rows that predictors are fitted on; None is two thirds, rounded up. Rows
            must be in random order.
        seed: Seed of whatever draws random numbers.
        n_jobs: Worker processes of DCI over factors; None is one. Changes no result.
        dci_regressor: What DCI fits: "gradient_boosting", as the field does, or "presorted_boosting", the same
            trees in a tenth of the time, see `dci`.
        num_bins: Number of equal-width bins that codes are cut into, at least 2; published values have 20. More are for codes that are
            numbers of more than 20 classes.
        progress: Whether to show, on a terminal, how many factors DCI has done.

    Returns:
        Values, None where the data leave one undefined (a class absent from the test rows, rows that are no
        full grid, a single latent) with the reason, and estimators, bins, counts and seed. The keys of each
        metric are those of its entry in `METRICS`; `mi_matrix`, `nmi_matrix` and `dci_importance_matrix` are
        n_latents lists of n_factors.

    Raises:
        ValueError: If a name is not in `METRICS`, if the arrays are not 2-D, numeric, finite and of the same
            number of rows (two or more), if a factor is constant, if `num_train` leaves no row to fit or to
            test on, if `dci_regressor` is another word, if `num_bins` is below 2, or if `seed` is not
            from 0 to 2**32 - 1.

    Examples:
        >>> import numpy as np
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> result = evaluate(factors[:, :1], factors, metrics=["mig", "modularity"])
        >>> result.values["modularity"], result.values["mig"]
        (1.0, None)
        >>> result.undefined["mig"]
        'MIG is the gap between the two most informative latents, got 1: leave mig out'
    """
    names = known_metrics(metrics, seed, dci_regressor, num_bins)
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    if num_train is not None:
        rows_to_train_on(len(checked_codes), num_train)
    inputs = MetricInputs(
        checked_codes, checked_factors, num_train, seed, n_jobs, dci_regressor, num_bins, progress
    )
    return evaluate_specs({name: METRICS[name] for name in names}, inputs)


def evaluate_codes(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    metrics: Iterable[str] | None = None,
    num_train: int | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    dci_regressor: Regressor = "gradient_boosting",
    num_bins: int = DEFAULT_NUM_BINS,
) -> dict[str, object]:
    """The values of `evaluate` alone, as one flat dict that `json.dumps` takes.

    Args:
        codes: Latent codes, shape (n_samples, n_latents).
        factors: Factors, shape (n_samples, n_factors).
        metrics: Names out of `METRICS`, or "all"; None is all but "dci".
        num_train: Number of leading rows that predictors are fitted on; None is two thirds, rounded up.
        seed: Seed of whatever draws random numbers.
        n_jobs: Worker processes of DCI over factors; None is one. Changes no result.
        dci_regressor: What DCI fits, see `dci`.
        num_bins: Number of equal-width bins that codes are cut into, at least 2.

    Returns:
        Every key of the metrics asked for; None for a value that the data leave undefined. `evaluate` says
        why.

    Raises:
        ValueError: As `evaluate`.

    Examples:
        >>> import numpy as np
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> evaluate_codes(factors, factors, metrics=["modularity"])["modularity"]
        1.0
    """
    return evaluate(
        codes,
        factors,
        metrics=metrics,
        num_train=num_train,
        seed=seed,
        n_jobs=n_jobs,
        dci_regressor=dci_regressor,
        num_bins=num_bins,
    ).values


def sampling_intervals(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    num_resamples: int = DEFAULT_NUM_RESAMPLES,
    seed: int = 0,
    num_bins: int = DEFAULT_NUM_BINS,
) -> dict[str, dict[str, float | None]]:
    """95 % intervals over samples of MIG, modularity and MCC, the metrics that take milliseconds.

    Args:
        codes: Latent codes, shape (n_samples, n_latents).
        factors: Factors, shape (n_samples, n_factors).
        num_resamples: Subsamples, see `confidence_intervals`.
        seed: Seed of their draws.
        num_bins: Number of equal-width bins that codes are cut into, at least 2.

    Returns:
        `value`, `low`, `high` and `standard_error` of each number, the last three None where a subsample leaves it undefined.

    Raises:
        ValueError: As `confidence_intervals`.

    Examples:
        >>> import numpy as np
        >>> factors = np.tile(np.indices((2, 2)).reshape(2, -1).T, (20, 1))
        >>> round(sampling_intervals(factors, factors, num_resamples=5)["mcc_pearson"]["value"], 6)
        1.0
    """

    names = ("mig", "modularity", "mcc")
    # what is refused on all rows is refused; what a subsample lacks, as a rare class, leaves numbers undefined there
    evaluate(codes, factors, metrics=names, num_bins=num_bins)

    def metric(codes: npt.NDArray[np.float64], factors: npt.NDArray[Any]) -> dict[str, object]:
        try:
            return evaluate_codes(codes, factors, metrics=names, num_bins=num_bins)
        except ValueError:
            return {}

    found = confidence_intervals(metric, codes, factors, num_resamples=num_resamples, seed=seed)
    return {key: asdict(interval) for key, interval in found.items()}
