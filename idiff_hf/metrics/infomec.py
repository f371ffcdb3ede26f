"""InfoM, InfoE, InfoC (Hsu et al. 2023, "Disentanglement via Latent Quantization"), for continuous latents."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import digamma, entr
from sklearn.exceptions import ConvergenceWarning

from .discretize import factor_labels
from .inputs import MetricInputs, Undefined, check_codes_and_factors, check_seed, varying_columns
from .logistic import fit_logistic

DEFAULT_NUM_NEIGHBORS = 10
# Enough to order equal values, too little to reorder different ones (Kraskov et al. 2004).
_TIE_BREAKING_NOISE = 1e-10
# A latent whose range is below this part of the widest is taken to have collapsed.
_ACTIVE_RANGE = 1 / 20


@dataclass(frozen=True, eq=False)
class InfoMECResult:
    """InfoM, InfoE and InfoC, with the information they come from.

    Attributes:
        infom: Modularity in [0, 1]: 1 if each active latent tells about one factor only.
        infoe: Explicitness, at most 1: part of what is to be known of the factors that a linear classifier
            reads from all latents. Below 0 if it does worse than even odds.
        infoc: Compactness in [0, 1]: 1 if one active latent alone tells about each factor.
        nmi_matrix: Mutual information over the entropy of the factor, shape (n_latents, n_factors),
            non-negative; an estimate, which can exceed 1 slightly.
        active: Latents that InfoM and InfoC count, shape (n_latents,).
    """

    infom: float
    infoe: float
    infoc: float
    nmi_matrix: npt.NDArray[np.float64]
    active: npt.NDArray[np.bool_]


def _check_nmi(nmi_matrix: npt.ArrayLike) -> npt.NDArray[np.float64]:
    matrix = np.asarray(nmi_matrix, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"nmi_matrix must have shape (n_latents, n_factors), got shape {matrix.shape}")
    if not (np.isfinite(matrix) & (matrix >= 0)).all():
        raise ValueError(
            f"nmi_matrix must be finite and non-negative, got values from {matrix.min()} to {matrix.max()}"
        )
    return matrix


def _largest_share(rows: npt.NDArray[np.float64]) -> float:
    """Mean over rows of the largest entry's share of its row, from 0 for even shares to 1."""
    even = 1.0 / rows.shape[1]
    total = rows.sum(axis=1)
    share = np.full(rows.shape[0], even)
    share[total > 0] = rows[total > 0].max(axis=1) / total[total > 0]
    # Even shares can end below zero by rounding.
    return max(0.0, float((share.mean() - even) / (1.0 - even)))


def infom_from_nmi(nmi_matrix: npt.ArrayLike) -> float:
    r"""InfoM of a matrix of information: whether each latent tells about one factor only.

    .. math:: \mathrm{InfoM} = \left(\frac{1}{D} \sum_j \frac{\max_k I_{jk}}{\sum_k I_{jk}} - \frac{1}{K}\right)
        \Big/ \left(1 - \frac{1}{K}\right).

    A latent that tells nothing counts as one that tells as much about each factor.

    Args:
        nmi_matrix: Non-negative information of each active latent about each factor, shape (n_latents,
            n_factors), two factors or more.

    Returns:
        InfoM in [0, 1].

    Raises:
        ValueError: If the matrix is not 2-D, holds a negative or non-finite value, or has no row or fewer
            than 2 columns.

    Examples:
        >>> round(infom_from_nmi([[0.9, 0.0], [0.0, 0.5], [0.2, 0.2]]), 4)
        0.6667
    """
    matrix = _check_nmi(nmi_matrix)
    num_latents, num_factors = matrix.shape
    if num_latents < 1 or num_factors < 2:
        raise ValueError(
            "InfoM compares what each active latent tells about 2 factors or more, got "
            f"{num_latents} active latents and {num_factors} factors: leave infomec out"
        )
    return _largest_share(matrix)


def infoc_from_nmi(nmi_matrix: npt.ArrayLike) -> float:
    r"""InfoC of a matrix of information: whether one latent alone tells about each factor.

    .. math:: \mathrm{InfoC} = \left(\frac{1}{K} \sum_k \frac{\max_j I_{jk}}{\sum_j I_{jk}} - \frac{1}{D}\right)
        \Big/ \left(1 - \frac{1}{D}\right).

    A factor that no latent tells about counts as one that each tells as much about.

    Args:
        nmi_matrix: Non-negative information of each active latent about each factor, shape (n_latents,
            n_factors), two latents or more.

    Returns:
        InfoC in [0, 1].

    Raises:
        ValueError: If the matrix is not 2-D, holds a negative or non-finite value, or has no column or fewer
            than 2 rows.

    Examples:
        >>> infoc_from_nmi([[0.9, 0.0], [0.0, 0.5]])
        1.0
    """
    matrix = _check_nmi(nmi_matrix)
    num_latents, num_factors = matrix.shape
    if num_latents < 2 or num_factors < 1:
        raise ValueError(
            "InfoC compares what 2 active latents or more tell about each factor, got "
            f"{num_latents} active latents and {num_factors} factors: leave infomec out"
        )
    return _largest_share(matrix.T)


def _neighbor_distance(
    values: npt.NDArray[np.float64],
    first: npt.NDArray[np.intp],
    last: npt.NDArray[np.intp],
    num_neighbors: npt.NDArray[np.intp],
) -> npt.NDArray[np.float64]:
    """Distance from each value to its `num_neighbors`-th nearest in its class, which ascends from first to last."""
    position = np.arange(values.size)
    distance = np.full(values.size, np.inf)
    # In one dimension a value and its nearest neighbours are consecutive: try each place it can have in them.
    for place in range(num_neighbors.max() + 1):
        low, high = position - place, position - place + num_neighbors
        fits = (low >= first) & (high <= last) & (place <= num_neighbors)
        low, high, value = low[fits], high[fits], values[fits]
        farthest = np.maximum(value - values[low], values[high] - value)
        distance[fits] = np.minimum(distance[fits], farthest)
    return distance


def _count_within(values: npt.NDArray[np.float64], radius: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """How many of all values are at most `radius` from each, itself included."""
    ascending = np.sort(values)
    low = np.searchsorted(ascending, values - radius, side="left")
    high = np.searchsorted(ascending, values + radius, side="right") - 1
    fenced = np.concatenate([[-np.inf], ascending, [np.inf]])
    # The ends of an interval are rounded far more coarsely than the distance between values that differ by the
    # tie-breaking noise only, and a neighbour lies on the end: settle by the distances themselves.
    while (step := (values - fenced[low + 1] > radius) * 1 - (values - fenced[low] <= radius)).any():
        low += step
    while (step := (fenced[high + 2] - values <= radius) * 1 - (fenced[high + 1] - values > radius)).any():
        high += step
    return high - low + 1


def nearest_neighbor_information(
    code: npt.NDArray[np.float64], labels: npt.NDArray[np.intp], num_neighbors: int = DEFAULT_NUM_NEIGHBORS
) -> float:
    r"""Mutual information in nats of one continuous latent with labels (Ross 2014, PLoS ONE 9(2)).

    With :math:`d_i` the distance from value i to its k-th nearest in its own class of :math:`N_i` values, and
    :math:`m_i` the number of all values nearer than that, itself included,

    .. math:: I = \psi(N) + \langle\psi(k)\rangle - \langle\psi(N_i)\rangle - \langle\psi(m_i)\rangle.

    The value is that of scikit-learn's `mutual_info_classif` with a k-d tree, some ten times faster because
    neighbours in one dimension are found by sorting. For classes of fewer than about 2k rows scikit-learn
    takes a method that loses half the digits of a distance, and differs by a few thousandths.

    Args:
        code: One latent without equal values, shape (n_samples,).
        labels: Class indices from 0, shape (n_samples,). Classes of one row are left out.
        num_neighbors: The k above; a smaller class takes all its other values.

    Returns:
        Non-negative information.

    Raises:
        ValueError: If `num_neighbors` is below 1, or no class has two rows.

    Examples:
        >>> import numpy as np
        >>> code = np.random.default_rng(0).uniform(size=2000)
        >>> round(nearest_neighbor_information(code, (code > 0.5) * 1), 2)  # ln 2 = 0.69
        0.69
    """
    if num_neighbors < 1:
        raise ValueError(f"num_neighbors must be at least 1, got {num_neighbors}")
    class_size = np.bincount(labels)[labels]
    repeated = class_size > 1
    if not repeated.any():
        raise ValueError(
            "no class has two rows to compare: pass continuous factors as floats, which are cut into bins, or "
            "more samples"
        )
    code, labels, class_size = code[repeated], labels[repeated], class_size[repeated]
    order = np.lexsort((code, labels))
    values, class_size = code[order], class_size[order]
    first = np.searchsorted(labels[order], labels[order], side="left")
    num_neighbors_of = np.minimum(num_neighbors, class_size - 1)
    distance = _neighbor_distance(values, first, first + class_size - 1, num_neighbors_of)
    nearer = _count_within(values, np.nextafter(distance, 0.0))
    information = (
        digamma(values.size)
        + digamma(num_neighbors_of).mean()
        - digamma(class_size).mean()
        - digamma(nearer).mean()
    )
    return max(0.0, float(information))


def _standardised(codes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Columns of mean 0 and standard deviation 1; a constant column becomes zeros."""
    standard = np.zeros_like(codes)
    varies = varying_columns(codes)
    centred = codes[:, varies] - codes[:, varies].mean(axis=0)
    # Squares of very small codes would vanish.
    centred /= np.abs(centred).max(axis=0)
    standard[:, varies] = centred / centred.std(axis=0)
    return standard


def _normalised_information(
    standard: npt.NDArray[np.float64], labels: npt.NDArray[np.intp], num_neighbors: int, seed: int
) -> npt.NDArray[np.float64]:
    # The generator and the order of its draws are those of the field's code, whose values these can then be
    # checked against to the last digits.
    rng = np.random.RandomState(seed)
    matrix = np.empty((standard.shape[1], labels.shape[1]))
    for factor, classes in enumerate(labels.T):
        entropy = entr(np.bincount(classes) / classes.size).sum()
        for latent, code in enumerate(standard.T):
            distinct = code + _TIE_BREAKING_NOISE * rng.standard_normal(code.size)
            matrix[latent, factor] = nearest_neighbor_information(distinct, classes, num_neighbors) / entropy
    return matrix


def _explicitness(standard: npt.NDArray[np.float64], labels: npt.NDArray[np.intp]) -> float:
    varying = standard[:, varying_columns(standard)]
    if varying.shape[1] == 0:
        # Even odds for every row, relative to which a classifier is scored below.
        return 0.0
    per_factor = []
    for classes in labels.T:
        with warnings.catch_warnings():
            # Without a penalty, classes that a plane separates have no optimum: the limit is part of the value.
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier = fit_logistic(varying, classes, penalised=False, balanced=True)
        probability = classifier.predict_proba(varying)[np.arange(classes.size), classes]
        # One sure mistake would otherwise cost an infinite amount.
        log_probability = np.log(np.maximum(probability, np.finfo(np.float64).eps))
        # A balanced classifier that sees nothing gives even odds, whatever the classes' frequencies.
        per_factor.append(1.0 + log_probability.mean() / np.log(classes.max() + 1))
    return float(np.mean(per_factor))


def _active(codes: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    spread = np.ptp(codes, axis=0)
    return spread > spread.max() * _ACTIVE_RANGE


def infomec(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    num_neighbors: int = DEFAULT_NUM_NEIGHBORS,
    seed: int = 0,
) -> InfoMECResult:
    r"""InfoM, InfoE, InfoC: modularity, explicitness and compactness in terms of information.

    Codes are standardised. InfoM and InfoC (see `infom_from_nmi`, `infoc_from_nmi`) sum up the mutual
    information of each latent with each factor, by nearest neighbours (see `nearest_neighbor_information`),
    over the factor's entropy. They leave out latents whose range is at most 1/20 of the widest range. For
    InfoE an unpenalised, class-balanced logistic regression on all latents is fitted for each of K factors,
    of :math:`C_k` classes, and scored on the same rows:

    .. math:: \mathrm{InfoE} = \frac{1}{K} \sum_k \left(1 + \frac{\langle\ln p(v_k | z)\rangle}{\ln C_k}\right).

    No bins, and so no loss where a factor has more classes than bins. Unchanged by the order of latents, up to
    the noise of 1e-10 standard deviations that tells equal values apart (without noise of their own, codes
    differ by about 0.01 from seed to seed), and by shift and nonzero scale of all latents at once; a scale of
    one latent can make others inactive. InfoM and InfoC of latents that tell nothing are the noise of the
    estimate.

    Args:
        codes: Latent codes, shape (n_samples, n_latents), two active latents or more.
        factors: Factors, shape (n_samples, n_factors), two factors or more: integer labels, or floating
            values, which are cut into 20 equal-width bins first.
        num_neighbors: Neighbours in the estimate of mutual information.
        seed: Seed of the noise that tells equal values apart.

    Returns:
        The three scores, the information, and which latents are active.

    Raises:
        ValueError: If the arrays are not 2-D, numeric, finite and of the same number of rows (two or more),
            if a factor is constant or has no class of two rows, if there is only one factor or one active
            latent, if `num_neighbors` is below 1, or if `seed` is not from 0 to 2**32 - 1.

    Examples:
        >>> import numpy as np
        >>> factors = np.indices((4, 5, 20)).reshape(3, -1).T
        >>> result = infomec(np.column_stack([-factors, np.zeros(400)]), factors)
        >>> round(result.infom, 1), round(result.infoe, 1), round(result.infoc, 1), result.active.tolist()
        (1.0, 1.0, 1.0, [True, True, True, False])
    """
    check_seed(seed)
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    labels = factor_labels(checked_factors)
    active = _active(checked_codes)
    standard = _standardised(checked_codes)
    nmi_matrix = _normalised_information(standard, labels, num_neighbors, seed)
    return InfoMECResult(
        infom=infom_from_nmi(nmi_matrix[active]),
        infoe=_explicitness(standard, labels),
        infoc=infoc_from_nmi(nmi_matrix[active]),
        nmi_matrix=nmi_matrix,
        active=active,
    )


def infomec_values(inputs: MetricInputs) -> dict[str, object]:
    """InfoMEC and its information under their keys in an evaluation, as plain Python values; each by itself `Undefined` or not."""
    active = _active(inputs.codes)
    standard = _standardised(inputs.codes)
    nmi_matrix = _normalised_information(standard, inputs.labels, DEFAULT_NUM_NEIGHBORS, inputs.seed)
    scores: dict[str, object] = {}
    for name, score in (("infom", infom_from_nmi), ("infoc", infoc_from_nmi)):
        try:
            scores[name] = score(nmi_matrix[active])
        except ValueError as error:
            scores[name] = Undefined(str(error))
    return {
        **scores,
        "infoe": _explicitness(standard, inputs.labels),
        "nmi_matrix": nmi_matrix.tolist(),
        "active_latents": active.tolist(),
    }
