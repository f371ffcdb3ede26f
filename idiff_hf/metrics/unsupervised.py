"""Scores of the codes alone (Locatello et al. 2019, "Challenging Common Assumptions in the Unsupervised Learning
of Disentangled Representations"): how dependent the latents are on each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .discretize import DEFAULT_NUM_BINS, equal_width_bins
from .inputs import MetricInputs, Undefined, check_codes, varying_columns
from .mutual_information import mutual_information_from_labels


@dataclass(frozen=True)
class UnsupervisedResult:
    """Dependence between the latents; 0 if they are independent.

    Attributes:
        total_correlation: Total correlation of a Gaussian of the codes' covariance, nats, 0 or more; infinite
            if a latent is a linear function of others.
        wasserstein_correlation: Squared 2-Wasserstein distance between that Gaussian and the one without
            correlations, in squared units of the codes.
        wasserstein_correlation_norm: The same over the total variance, in [0, 2]; 0 for constant codes.
        mutual_information: Mean over pairs of the mutual information of two binned latents, nats, 0 or more.
    """

    total_correlation: float
    wasserstein_correlation: float
    wasserstein_correlation_norm: float
    mutual_information: float


def _gaussian_scores(codes: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Total correlation, Wasserstein correlation and its normalised form."""
    varying = codes[:, varying_columns(codes)]
    if varying.shape[1] < 2:
        return 0.0, 0.0, 0.0
    # In units of the largest latent: squares of very small or large codes would leave the floating range.
    unit = np.abs(varying - varying.mean(axis=0)).max()
    covariance = np.cov(varying / unit, rowvar=False)
    variance = np.diag(covariance)
    deviation = np.sqrt(variance)
    eigenvalues = np.linalg.eigvalsh(covariance / np.outer(deviation, deviation))
    # Rounding, which grows with the rows that are summed, makes an eigenvalue of 0 as large as this.
    rounding = eigenvalues[-1] * len(eigenvalues) * math.sqrt(len(codes)) * np.finfo(np.float64).eps
    singular = eigenvalues[0] <= rounding
    total_correlation = math.inf if singular else max(0.0, -0.5 * float(np.log(eigenvalues).sum()))
    # The root of D^1/2 C D^1/2 has the trace of the root of C D, which is not symmetric.
    cross = np.linalg.eigvalsh(covariance * np.outer(deviation, deviation))
    overlap = np.sqrt(np.maximum(cross, 0.0)).sum()
    distance = max(0.0, 2.0 * float(variance.sum() - overlap))
    return total_correlation, distance * unit**2, distance / float(variance.sum())


def _scores(codes: npt.NDArray[np.float64], num_bins: int = DEFAULT_NUM_BINS) -> UnsupervisedResult:
    num_latents = codes.shape[1]
    if num_latents < 2:
        raise ValueError(
            f"the unsupervised scores compare 2 latents or more, got {num_latents}: leave unsupervised out"
        )
    bins = equal_width_bins(codes, num_bins)
    matrix = mutual_information_from_labels(codes, bins, num_bins).matrix
    np.fill_diagonal(matrix, 0.0)
    mutual_information = float(matrix.sum()) / (num_latents * (num_latents - 1))
    return UnsupervisedResult(*_gaussian_scores(codes), mutual_information)


def unsupervised_scores(codes: npt.ArrayLike) -> UnsupervisedResult:
    r"""How dependent the latents are on each other, by a Gaussian with their covariance and by binned codes.

    With C the covariance of the codes and D its diagonal,

    .. math:: \mathrm{TC} = \tfrac12 \left(\ln\det D - \ln\det C\right), \qquad
        W = 2\,\mathrm{tr}\, C - 2\,\mathrm{tr}\left(D^{1/2} C D^{1/2}\right)^{1/2},

    and W / tr C its normalised form. The mutual information is that of two codes in 20 equal-width bins each,
    averaged over pairs; it lies above 0 even for independent codes, because of the bias of the estimate. Low
    scores do not make a disentangled code: no factor is looked at. A constant latent counts as independent
    (the field's code has no Gaussian total correlation then). Unchanged by the order and the shift of
    latents; the two Gaussian scores by signs; total correlation and mutual information by scales (the latter
    by signs too, if no value lies on a bin's edge); the normalised W by one scale common to all.

    Args:
        codes: Latent codes, shape (n_samples, n_latents), two latents or more.

    Returns:
        Total correlation, Wasserstein correlation plain and normalised, mean mutual information.

    Raises:
        ValueError: If codes are not 2-D, numeric and finite, if there are fewer than two rows, or if there is
            only one latent.

    Examples:
        A grid has independent columns, and a column doubled determines its copy:

        >>> import numpy as np
        >>> grid = np.indices((4, 4)).reshape(2, -1).T
        >>> unsupervised_scores(grid).total_correlation
        0.0
        >>> doubled = unsupervised_scores(grid[:, [0, 0]])
        >>> doubled.total_correlation, round(doubled.mutual_information, 4)  # ln 4 = 1.3863
        (inf, 1.3863)
    """
    return _scores(check_codes(codes))


def unsupervised_values(inputs: MetricInputs) -> dict[str, object]:
    """The scores under their keys in an evaluation, as plain Python values."""
    result = _scores(inputs.codes, inputs.num_bins)
    total_correlation: float | Undefined = result.total_correlation
    if math.isinf(result.total_correlation):
        total_correlation = Undefined(
            "the Gaussian total correlation is infinite: a latent is a linear function of others, or there are "
            "as many latents as rows"
        )
    return {
        "gaussian_total_correlation": total_correlation,
        "gaussian_total_correlation_active_dims": total_correlation,
        "gaussian_wasserstein_correlation": result.wasserstein_correlation,
        "gaussian_wasserstein_correlation_norm": result.wasserstein_correlation_norm,
        "mutual_info_score": result.mutual_information,
    }
