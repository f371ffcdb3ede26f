"""Mean correlation coefficient (Hyvarinen & Morioka 2016; Khemakhem et al. 2020, the iVAE paper)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

from .inputs import MetricInputs, check_codes_and_factors, varying_columns

Correlation = Literal["pearson", "spearman"]


@dataclass(frozen=True, eq=False)
class MCCResult:
    """Mean correlation coefficient and the matching behind it.

    Attributes:
        mean: Mean of `per_factor`, in [0, 1].
        per_factor: Absolute correlation of each factor with its latent, shape (n_factors,); 0 for a factor
            without one.
        assignment: Latent matched to each factor, shape (n_factors,); -1 for a factor without one.
        correlation: Signed correlation, shape (n_latents, n_factors), each in [-1, 1]; 0 for a constant
            latent.
    """

    mean: float
    per_factor: npt.NDArray[np.float64]
    assignment: npt.NDArray[np.intp]
    correlation: npt.NDArray[np.float64]


def _unit_columns(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Columns centred and scaled to norm 1; a constant column becomes zeros."""
    unit = np.zeros_like(table)
    varies = varying_columns(table)
    centred = table[:, varies] - table[:, varies].mean(axis=0)
    # Squares of very small codes would vanish.
    centred /= np.abs(centred).max(axis=0)
    unit[:, varies] = centred / np.linalg.norm(centred, axis=0)
    return unit


def _match(
    codes: npt.NDArray[np.float64], factors: npt.NDArray[np.float64], correlation: Correlation
) -> MCCResult:
    if correlation == "spearman":
        codes, factors = rankdata(codes, axis=0), rankdata(factors, axis=0)
    elif correlation != "pearson":
        raise ValueError(f"correlation must be 'pearson' or 'spearman', got {correlation!r}")
    signed = np.clip(_unit_columns(codes).T @ _unit_columns(factors), -1.0, 1.0)
    strength = np.abs(signed)
    matched_latents, matched_factors = linear_sum_assignment(strength, maximize=True)
    per_factor = np.zeros(signed.shape[1])
    assignment = np.full(signed.shape[1], -1, dtype=np.intp)
    per_factor[matched_factors] = strength[matched_latents, matched_factors]
    assignment[matched_factors] = matched_latents
    return MCCResult(float(per_factor.mean()), per_factor, assignment, signed)


def mcc(codes: npt.ArrayLike, factors: npt.ArrayLike, *, correlation: Correlation = "pearson") -> MCCResult:
    r"""Mean correlation coefficient: correlation of each factor with a latent of its own, best matching.

    Over all one-to-one assignments :math:`\pi` of latents to factors (Hungarian algorithm),

    .. math:: \mathrm{MCC} = \max_\pi \frac{1}{K} \sum_k |\rho(z_{\pi(k)}, v_k)|.

    The mean is over all K factors: with fewer latents than factors the factors left without a latent count as
    0, and a constant latent has correlation 0 with everything. Unchanged by the order of latents and factors
    and by sign, shift and scale of a latent; Spearman (average ranks where values tie) by any strictly
    monotone map of a latent. A factor whose classes have no order (a shape, a permuted hue) can be coded in
    full at a correlation near 0: then MCC means nothing, and mutual information or DCI has to be read
    instead.

    Args:
        codes: Latent codes, shape (n_samples, n_latents).
        factors: Factors, shape (n_samples, n_factors); labels are taken as the numbers they are.
        correlation: "pearson" or "spearman".

    Returns:
        Mean, absolute correlation of each factor with the latent matched to it, that latent's index, and the
        signed correlation of every latent with every factor.

    Raises:
        ValueError: If the arrays are not 2-D, numeric, finite and of the same number of rows (two or more),
            if a factor is constant, or if `correlation` is another word.

    Examples:
        Two factors, coded in the other order, one with its sign flipped and one distorted:

        >>> import numpy as np
        >>> factors = np.array([[0, 5], [1, 3], [2, 4], [3, 9]])
        >>> codes = np.column_stack([-factors[:, 1], np.exp(factors[:, 0])])
        >>> result = mcc(codes, factors, correlation="spearman")
        >>> round(result.mean, 6), result.assignment.tolist()
        (1.0, [1, 0])
        >>> mcc(codes[:, :1], factors, correlation="spearman").assignment.tolist()
        [-1, 0]
    """
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    return _match(checked_codes, checked_factors.astype(np.float64), correlation)


def mcc_values(inputs: MetricInputs) -> dict[str, object]:
    """Both correlations under their keys in an evaluation, as plain Python values."""
    factors = inputs.factors.astype(np.float64)
    pearson = _match(inputs.codes, factors, "pearson").mean
    spearman = _match(inputs.codes, factors, "spearman").mean
    # A constant latent correlates with nothing, and a factor without a latent counts as 0 too: leaving
    # constant latents out changes nothing.
    return {
        "mcc_pearson": pearson,
        "mcc_spearman": spearman,
        "mcc_pearson_active_dims": pearson,
        "mcc_spearman_active_dims": spearman,
    }
