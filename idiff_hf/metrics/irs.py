"""Interventional robustness score (Suter, Miladinovic, Schoelkopf & Bauer 2019, "Robustly Disentangled Causal
Mechanisms")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .discretize import equal_width_bins, factor_labels
from .inputs import MetricInputs, check_codes_and_factors, varying_columns

# The default of the field's code; the paper takes 1, the maximum.
DEFAULT_QUANTILE = 0.99


@dataclass(frozen=True, eq=False)
class IRSResult:
    """Interventional robustness and its parts.

    Attributes:
        mean: Robustness of the latents, weighted by `max_deviation`, in [0, 1]; 0 if all are constant.
        per_latent: Robustness of each latent, shape (n_latents,), each in [0, 1]; 0 for a constant latent.
        robustness: Robustness of each latent given each factor, shape (n_latents, n_factors).
        max_deviation: Largest distance of each latent from its mean, shape (n_latents,); its weight.
    """

    mean: float
    per_latent: npt.NDArray[np.float64]
    robustness: npt.NDArray[np.float64]
    max_deviation: npt.NDArray[np.float64]


def _irs_from_labels(
    codes: npt.NDArray[np.float64], labels: npt.NDArray[np.intp], quantile: float
) -> IRSResult:
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must be in (0, 1], got {quantile}")
    # More classes than bins are merged, as in the field's code, so that a class has rows enough.
    classes = equal_width_bins(labels.astype(np.float64))
    active = varying_columns(codes)
    varying = codes[:, active]
    max_deviation = np.zeros(codes.shape[1])
    max_deviation[active] = np.abs(varying - varying.mean(axis=0)).max(axis=0)
    robustness = np.zeros((codes.shape[1], labels.shape[1]))
    for factor, column in enumerate(classes.T):
        spread = np.zeros(varying.shape[1])
        present = np.unique(column)
        for value in present:
            rows = varying[column == value]
            spread += np.quantile(np.abs(rows - rows.mean(axis=0)), quantile, axis=0)
        robustness[active, factor] = 1.0 - spread / len(present) / max_deviation[active]
    per_latent = robustness.max(axis=1)
    # A skewed class can lie further from its own mean than any row from the mean of all.
    np.clip(per_latent, 0.0, 1.0, out=per_latent)
    mean = float(np.average(per_latent, weights=max_deviation)) if active.any() else 0.0
    return IRSResult(mean, per_latent, robustness, max_deviation)


def irs(codes: npt.ArrayLike, factors: npt.ArrayLike, *, quantile: float = DEFAULT_QUANTILE) -> IRSResult:
    r"""Interventional robustness: how little a latent moves while one factor is held and all others change.

    With :math:`Q` the quantile over the rows of one class of factor k, and the mean over the classes,

    .. math:: R_{jk} = 1 - \frac{\mathrm{mean}_c\, Q\left(|z_j - \bar z_{j|v_k=c}|\right)}{\max|z_j - \bar z_j|},
        \qquad \mathrm{IRS} = \frac{\sum_j w_j \max_k R_{jk}}{\sum_j w_j}, \quad w_j = \max|z_j - \bar z_j|.

    1 if each latent is a function of one factor. Constant latents have weight 0. Unchanged by the order of
    latents and factors, by renaming classes (if a factor has 20 or fewer), by sign and shift of each latent
    and by one scale common to all; not by a scale of one latent, which is its weight. A factor of more than
    20 classes is cut into 20 equal-width bins of the class index.

    Args:
        codes: Latent codes, shape (n_samples, n_latents).
        factors: Factors, shape (n_samples, n_factors): integer labels, or floating values, which are cut into
            20 equal-width bins first.
        quantile: Quantile of the deviations within a class, in (0, 1]; the paper takes 1, the field's code
            0.99.

    Returns:
        Weighted mean, robustness of each latent, of each latent given each factor, and the weights.

    Raises:
        ValueError: If the arrays are not 2-D, numeric, finite and of the same number of rows (two or more),
            if a factor is constant, or if `quantile` is outside (0, 1].

    Examples:
        A latent for the first factor, and one that sums both:

        >>> import numpy as np
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> codes = np.column_stack([factors[:, 0], factors.sum(axis=1)])
        >>> irs(codes, factors, quantile=1.0).per_latent.tolist()
        [1.0, 0.5]
    """
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    return _irs_from_labels(checked_codes, factor_labels(checked_factors), quantile)


def irs_values(inputs: MetricInputs) -> dict[str, object]:
    """Both quantiles under their keys in an evaluation, as plain Python values."""
    return {
        "irs": _irs_from_labels(inputs.codes, inputs.labels, DEFAULT_QUANTILE).mean,
        "irs_quantile_1": _irs_from_labels(inputs.codes, inputs.labels, 1.0).mean,
    }
