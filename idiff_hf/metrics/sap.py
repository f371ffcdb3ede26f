"""Separated attribute predictability (Kumar, Sattigeri & Balakrishnan 2018, "Variational Inference of
Disentangled Latent Concepts from Unlabeled Observations")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.svm import LinearSVC

from .discretize import factor_labels
from .inputs import (
    MetricInputs,
    Undefined,
    check_codes_and_factors,
    refuse_single_class_in_train,
    rows_to_train_on,
)
from .mcc import mcc

Form = Literal["svc", "r2"]
# Beyond the range of float32 liblinear does not come to an end.
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class SAPResult:
    """Separated attribute predictability and the scores behind it.

    Attributes:
        mean: Mean gap over factors, in [0, 1].
        per_factor: Gap between the best and the second best latent, shape (n_factors,), each in [0, 1].
        scores: How well each latent alone predicts each factor, shape (n_latents, n_factors), each in [0, 1].
        form: "svc" if scores are accuracies on the test rows, "r2" if they are squared correlations.
    """

    mean: float
    per_factor: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    form: Form


def _gap(scores: npt.NDArray[np.float64], form: Form) -> SAPResult:
    if len(scores) < 2:
        raise ValueError(
            f"SAP is the gap between the two most predictive latents, got {len(scores)}: leave sap out"
        )
    second, first = np.sort(scores, axis=0)[-2:]
    per_factor = first - second
    return SAPResult(float(per_factor.mean()), per_factor, scores, form)


def _sap_svc(
    codes: npt.NDArray[np.float64], labels: npt.NDArray[np.intp], num_train: int | None
) -> SAPResult:
    train = rows_to_train_on(len(codes), num_train)
    refuse_single_class_in_train(labels, train, "SAP")
    if (largest := np.abs(codes).max()) > _LARGEST:
        raise ValueError(
            f"codes must lie within {_LARGEST:.1e} of 0 for SAP's support vectors, got {largest:.1e}: give them in other units"
        )
    scores = np.empty((codes.shape[1], labels.shape[1]))
    for latent, factor in np.ndindex(*scores.shape):
        code, label = codes[:, [latent]], labels[:, factor]
        # With a single feature the primal problem is solved: no random number is drawn.
        machine = LinearSVC(C=0.01, class_weight="balanced", dual=False).fit(code[:train], label[:train])
        scores[latent, factor] = (machine.predict(code[train:]) == label[train:]).mean()
    return _gap(scores, "svc")


def _sap_r2(codes: npt.NDArray[np.float64], factors: npt.NDArray[np.generic]) -> SAPResult:
    return _gap(mcc(codes, factors).correlation ** 2, "r2")


def sap(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    form: Form | None = None,
    num_train: int | None = None,
) -> SAPResult:
    r"""Separated attribute predictability: how much better the best latent predicts a factor than the next.

    With :math:`S_{jk}` the score of latent j alone as a predictor of factor k, sorted over latents,

    .. math:: \mathrm{SAP} = \frac{1}{K} \sum_k \left(S_{(1)k} - S_{(2)k}\right).

    Form "r2": S is the squared Pearson correlation over all rows, 0 for a constant latent. Unchanged by the
    order of latents and by sign, shift and scale of each. Form "svc": S is the accuracy on the test rows of a
    linear support vector classifier (C = 0.01, balanced class weights) fitted on the first `num_train` rows.
    C and the bias, which is penalised, are in the units of the code: this form depends on the scale of the
    codes (a perfect code of 0.3 scores 0.2 when divided by ten, 0.5 when multiplied), so compare only codes
    of one scale. It takes labels as classes; "r2" takes them as numbers, and reads nothing from a factor
    whose classes have no order. The field's code also calls a code of variance below 1e-12 constant in form
    "r2"; this asks for an exact constant, so that scale does not matter.

    Args:
        codes: Latent codes, shape (n_samples, n_latents), two latents or more.
        factors: Factors, shape (n_samples, n_factors): integer labels or floating values. Form "svc" cuts
            floating values into 20 equal-width bins over all rows first.
        form: "svc" or "r2"; None is "svc" for integer labels and "r2" for floating values.
        num_train: Number of leading rows that form "svc" is fitted on; None is two thirds, rounded up.

    Returns:
        Mean, gap of each factor, the scores they come from and the form.

    Raises:
        ValueError: If the arrays are not 2-D, numeric, finite and of the same number of rows (two or more),
            if a factor is constant, if there is only one latent, if `form` is another word, and for "svc"
            if `num_train` leaves no test row, a factor has a single class in the first `num_train` rows, or
            codes are beyond float32's range.

    Examples:
        Two factors, one of them coded twice:

        >>> import numpy as np
        >>> factors = np.indices((3, 3)).reshape(2, -1).T
        >>> codes = factors[:, [0, 0, 1]]
        >>> sap(codes, factors, form="r2").per_factor.round(6).tolist()
        [0.0, 1.0]
    """
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    if form is None:
        form = "r2" if checked_factors.dtype.kind == "f" else "svc"
    if form == "svc":
        return _sap_svc(checked_codes, factor_labels(checked_factors), num_train)
    if form == "r2":
        return _sap_r2(checked_codes, checked_factors)
    raise ValueError(f"form must be 'svc' or 'r2', got {form!r}")


def sap_values(inputs: MetricInputs) -> dict[str, object]:
    """Both forms, and the one that suits the factors, under their keys in an evaluation."""
    continuous = _sap_r2(inputs.codes, inputs.factors).mean
    discrete: float | Undefined
    try:
        discrete = _sap_svc(inputs.codes, inputs.labels, inputs.num_train).mean
    except ValueError as error:
        discrete = Undefined(str(error))
    return {
        "sap": continuous if inputs.factors.dtype.kind == "f" else discrete,
        "sap_discrete": discrete,
        "sap_continuous": continuous,
    }
