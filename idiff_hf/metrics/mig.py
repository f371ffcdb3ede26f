"""Mutual information gap (Chen et al. 2018, "Isolating Sources of Disentanglement in VAEs", section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .discretize import DEFAULT_NUM_BINS, factor_labels
from .inputs import MetricInputs, Undefined, check_codes_and_factors
from .mutual_information import MutualInformation, mutual_information_from_labels


@dataclass(frozen=True, eq=False)
class MIGResult:
    """Mutual information gap and its parts.

    Attributes:
        mean: Mean gap over factors, in [0, 1].
        per_factor: Gap of each factor, shape (n_factors,), each in [0, 1].
        mi_matrix: Mutual information in nats, shape (n_latents, n_factors).
        factor_entropy: Entropy of each factor in nats, shape (n_factors,).
    """

    mean: float
    per_factor: npt.NDArray[np.float64]
    mi_matrix: npt.NDArray[np.float64]
    factor_entropy: npt.NDArray[np.float64]


def mig_from_mutual_information(information: MutualInformation) -> MIGResult:
    """Mutual information gap of a matrix that is already at hand; see `mig`.

    Args:
        information: Mutual information of each latent with each factor, two latents or more.

    Returns:
        The gap and its parts.

    Raises:
        ValueError: If there is only one latent.
    """
    num_latents = information.matrix.shape[0]
    if num_latents < 2:
        raise ValueError(
            f"MIG is the gap between the two most informative latents, got {num_latents}: leave mig out"
        )
    second, first = np.sort(information.matrix, axis=0)[-2:]
    per_factor = (first - second) / information.factor_entropy
    return MIGResult(float(per_factor.mean()), per_factor, information.matrix, information.factor_entropy)


def mig(codes: npt.ArrayLike, factors: npt.ArrayLike, *, num_bins: int = DEFAULT_NUM_BINS) -> MIGResult:
    r"""Mutual information gap: how much more the best latent tells about a factor than the second best does.

    With the latents sorted by what they tell about factor k, and I in nats between binned codes and factor
    labels,

    .. math:: \mathrm{MIG} = \frac{1}{K} \sum_k \frac{I(z_{(1)}; v_k) - I(z_{(2)}; v_k)}{H(v_k)}.

    1 if every factor is told in full by one latent and not at all by another; 0 if a factor is coded twice,
    or not at all. Unchanged by the order of latents, by the order of factors, by any renaming of a factor's
    classes, and by a shift or positive scale of a latent; by its sign too if no value lies on a bin's edge.
    Not unchanged by a nonlinear map of a latent, since bins have equal width, and below 1 even for a perfect
    code if a factor has more classes than bins (32 even classes in 20 bins: 0.85).

    Args:
        codes: Latent codes, shape (n_samples, n_latents), two latents or more.
        factors: Factors, shape (n_samples, n_factors): integer labels, or floating values, which are cut into
            20 equal-width bins first.
        num_bins: Number of equal-width bins of a code, between its minimum and maximum. Published values have
            20.

    Returns:
        Mean, gap of each factor, and the mutual information and entropies (nats) they come from.

    Raises:
        ValueError: If the arrays are not 2-D, numeric, finite and of the same number of rows (two or more),
            if a factor is constant, if there is only one latent, or if `num_bins` is below 2.

    Examples:
        A latent that merges the ten classes of a factor in pairs keeps 1 - ln 2 / ln 10 of it:

        >>> import numpy as np
        >>> factor = np.arange(10)
        >>> codes = np.stack([factor // 2, np.zeros(10)], axis=1)
        >>> round(mig(codes, factor[:, None]).mean, 6)
        0.69897
    """
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    labels = factor_labels(checked_factors)
    return mig_from_mutual_information(mutual_information_from_labels(checked_codes, labels, num_bins))


def mig_values(inputs: MetricInputs) -> dict[str, object]:
    """MIG and its parts under their keys in an evaluation, as plain Python values."""
    information = inputs.mutual_information
    gaps: dict[str, object]
    try:
        result = mig_from_mutual_information(information)
        gaps = {"mig": result.mean, "mig_per_factor": result.per_factor.tolist()}
    except ValueError as error:
        gaps = dict.fromkeys(("mig", "mig_per_factor"), Undefined(str(error)))
    return {
        **gaps,
        "mi_matrix": information.matrix.tolist(),
        "factor_entropy": information.factor_entropy.tolist(),
    }
