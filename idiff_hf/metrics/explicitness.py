"""Explicitness (Ridgeway & Mozer 2018, "Learning Deep Disentangled Embeddings with the F-Statistic Loss")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from .discretize import factor_labels
from .inputs import (
    MetricInputs,
    Undefined,
    check_codes_and_factors,
    refuse_single_class_in_train,
    rows_to_train_on,
    varying_columns,
)
from .logistic import fit_logistic


@dataclass(frozen=True, eq=False)
class ExplicitnessResult:
    """Explicitness on the rows scored and on the rows fitted on.

    Attributes:
        mean: Mean over factors of the area under the ROC curve on the test rows, in [0, 1]; 0.5 is chance.
        mean_train: The same on the rows fitted on.
        per_factor: Area of each factor on the test rows, shape (n_factors,), averaged over classes.
        per_factor_train: The same on the rows fitted on.
    """

    mean: float
    mean_train: float
    per_factor: npt.NDArray[np.float64]
    per_factor_train: npt.NDArray[np.float64]


def _standardised(codes: npt.NDArray[np.float64], num_train: int) -> npt.NDArray[np.float64]:
    """Codes with mean 0 and deviation 1 on the train rows; zeros for a latent that is constant there."""
    standardised = np.zeros_like(codes)
    varies = varying_columns(codes[:num_train])
    train = codes[:num_train, varies]
    standardised[:, varies] = (codes[:, varies] - train.mean(axis=0)) / train.std(axis=0)
    return standardised


def _area_under_curve(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.intp]) -> float:
    """Area under the ROC curve of each column against its class, averaged; 1 if all are in the right order."""
    counts = np.bincount(labels, minlength=scores.shape[1])
    ranks = rankdata(scores, axis=0)
    rank_sums = np.bincount(labels, ranks[np.arange(len(labels)), labels], minlength=scores.shape[1])
    wins = rank_sums - counts * (counts + 1) / 2
    return float((wins / (counts * (len(labels) - counts))).mean())


def _fit(
    codes: npt.NDArray[np.float64], labels: npt.NDArray[np.intp], num_train: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], str | None]:
    """Area of each factor on the train rows and on the test rows, or why the latter is undefined."""
    refuse_single_class_in_train(labels, num_train, "explicitness")
    standardised = _standardised(codes, num_train)
    areas_train, areas_test = np.empty(labels.shape[1]), np.full(labels.shape[1], np.nan)
    why_not = None
    for factor, column in enumerate(labels.T):
        classes, train_labels = np.unique(column[:num_train], return_inverse=True)
        scores = fit_logistic(standardised[:num_train], train_labels).predict_proba(standardised)
        areas_train[factor] = _area_under_curve(scores[:num_train], train_labels)
        if num_train == len(codes):
            continue
        test_classes = np.unique(column[num_train:])
        if np.array_equal(classes, test_classes):
            test_labels = np.searchsorted(classes, column[num_train:])
            areas_test[factor] = _area_under_curve(scores[num_train:], test_labels)
        elif why_not is None:
            lacking = np.setxor1d(classes, test_classes)[0]
            rows = "test" if lacking in classes else "train"
            why_not = (
                f"factors column {factor} has no row of class {lacking} (counted from 0 in order of value) among "
                f"the {rows} rows, so its ROC curve is undefined: pass more samples or move num_train"
            )
    return areas_train, areas_test, why_not


def explicitness(
    codes: npt.ArrayLike, factors: npt.ArrayLike, *, num_train: int | None = None, all_rows: bool = False
) -> ExplicitnessResult:
    r"""Explicitness: whether a linear classifier on all latents can tell each factor's classes apart.

    Codes are standardised by the train rows. For each factor a multinomial logistic regression
    (scikit-learn's defaults: L2 penalty, C = 1) is fitted on the first `num_train` rows, and with
    :math:`p_{ic}` its probability of class c at row i,

    .. math:: \mathrm{Expl} = \frac{1}{K} \sum_k \frac{1}{C_k} \sum_c P\left(p_{ic} > p_{i'c}
        \mid v_{ik} = c,\; v_{i'k} \ne c\right),

    the area under each class's ROC curve on the test rows, ties counting one half. 0.5 is chance: the value
    is not rescaled. Constant latents add nothing; if all are constant, the value is 0.5. Says nothing about
    how factors are spread over latents: a rotation of a perfect code stays near 1. Unchanged by the order of
    latents and of factors, by renaming classes and by sign, shift and scale of a latent, all up to the
    tolerance of the optimiser.

    Args:
        codes: Latent codes, shape (n_samples, n_latents).
        factors: Factors, shape (n_samples, n_factors): integer labels, or floating values, which are cut into
            20 equal-width bins over all rows first.
        num_train: Number of leading rows to fit on; the others are the test rows. None is two thirds, rounded
            up.
        all_rows: Fit and score on all rows instead. `num_train` must then be None.

    Returns:
        Mean and area of each factor, on test rows and on the rows fitted on (the same if `all_rows`).

    Raises:
        ValueError: If the arrays are not 2-D, numeric, finite and of the same number of rows (two or more),
            if a factor is constant in all rows or in those fitted on, if a class is absent from the train or
            the test rows, if `num_train` leaves no test row, or if both `num_train` and `all_rows` are given.

    Examples:
        >>> import numpy as np
        >>> factors = np.tile(np.indices((2, 2)).reshape(2, -1).T, (9, 1))
        >>> explicitness(factors @ [[2, 1], [-1, 2]], factors).mean
        1.0
    """
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    labels = factor_labels(checked_factors)
    if all_rows:
        if num_train is not None:
            raise ValueError(f"num_train must be None with all_rows, got {num_train}")
        areas, _, _ = _fit(checked_codes, labels, len(labels))
        return ExplicitnessResult(float(areas.mean()), float(areas.mean()), areas, areas)
    train, test, why_not = _fit(checked_codes, labels, rows_to_train_on(len(labels), num_train))
    if why_not is not None:
        raise ValueError(why_not)
    return ExplicitnessResult(float(test.mean()), float(train.mean()), test, train)


def explicitness_values(inputs: MetricInputs) -> dict[str, object]:
    """Explicitness on test rows, train rows and all rows under its keys in an evaluation."""
    test: float | Undefined
    train: float | Undefined
    try:
        num_train = rows_to_train_on(len(inputs.labels), inputs.num_train)
        areas_train, areas_test, why_not = _fit(inputs.codes, inputs.labels, num_train)
        train = float(areas_train.mean())
        test = float(areas_test.mean()) if why_not is None else Undefined(why_not)
    except ValueError as error:
        train = test = Undefined(str(error))
    areas_all, _, _ = _fit(inputs.codes, inputs.labels, len(inputs.labels))
    # Constant latents add nothing: leaving them out gives the same.
    return {
        "explicitness": test,
        "explicitness_train": train,
        "explicitness_all_rows": float(areas_all.mean()),
        "explicitness_active_dims": test,
    }
