"""Modularity (Ridgeway & Mozer 2018, "Learning Deep Disentangled Embeddings with the F-Statistic Loss")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .discretize import DEFAULT_NUM_BINS, factor_labels
from .inputs import MetricInputs, check_codes_and_factors
from .mutual_information import MutualInformation, mutual_information_from_labels


@dataclass(frozen=True, eq=False)
class ModularityResult:
    """Modularity over all latents and over the active ones.

    Attributes:
        mean: Mean over all latents, in [0, 1]; a latent that tells nothing counts as 0.
        mean_active: Mean over the latents that are not constant, in [0, 1]; 0 if all are constant.
        per_latent: Modularity of each latent, shape (n_latents,), each in [0, 1].
        active: Which latents are not constant, shape (n_latents,).
    """

    mean: float
    mean_active: float
    per_latent: npt.NDArray[np.float64]
    active: npt.NDArray[np.bool_]


def modularity_from_mutual_information(information: MutualInformation) -> ModularityResult:
    """Modularity of a mutual information matrix that is already at hand; see `modularity`.

    Args:
        information: Mutual information of each latent with each factor, two factors or more.

    Returns:
        Modularity over all latents, over the active ones, and of each.

    Raises:
        ValueError: If there is only one factor.
    """
    squared = information.matrix**2
    num_latents, num_factors = squared.shape
    if num_factors < 2:
        raise ValueError(
            f"modularity compares what a latent tells about 2 factors or more, got {num_factors}: "
            "leave modularity out"
        )
    strongest = squared.max(axis=1)
    informative = strongest > 0
    per_latent = np.zeros(num_latents)
    others = squared[informative].sum(axis=1) - strongest[informative]
    per_latent[informative] = 1.0 - others / (strongest[informative] * (num_factors - 1))
    active = information.active
    mean_active = float(per_latent[active].mean()) if active.any() else 0.0
    return ModularityResult(float(per_latent.mean()), mean_active, per_latent, active)


def modularity(
    codes: npt.ArrayLike, factors: npt.ArrayLike, *, num_bins: int = DEFAULT_NUM_BINS
) -> ModularityResult:
    r"""Modularity: whether each latent tells about one factor only.

    With :math:`m_{jk}` the mutual information of latent j and factor k, and :math:`\theta_j = \max_k m_{jk}`,

    .. math:: \mathrm{Mod}_j = 1 - \frac{\sum_k m_{jk}^2 - \theta_j^2}{\theta_j^2 (K - 1)},

    averaged over latents. 1 if every latent tells about one factor, 0 if it tells as much about each; a
    latent that tells nothing at all counts as 0. Says nothing about whether all factors are coded, and a
    latent of pure noise scores 0.2 to 0.7, because of the bias of the estimate: high modularity alone proves
    nothing. Unchanged by the order of latents and of factors and by whatever leaves the mutual information as
    it is, see `mig`.

    Args:
        codes: Latent codes, shape (n_samples, n_latents).
        factors: Factors, shape (n_samples, n_factors), two factors or more: integer labels, or floating
            values, which are cut into `num_bins` equal-width bins first.
        num_bins: Number of equal-width bins of a code, between its minimum and maximum.

    Returns:
        Mean over all latents, mean over the latents that are not constant, and the modularity of each.

    Raises:
        ValueError: If the arrays are not 2-D, numeric, finite and of the same number of rows (two or more),
            if a factor is constant, if there is only one factor, or if `num_bins` is below 2.

    Examples:
        A latent for each of two factors, and a dead one:

        >>> import numpy as np
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> codes = np.column_stack([factors, np.zeros(4)])
        >>> result = modularity(codes, factors)
        >>> round(result.mean, 4), result.mean_active
        (0.6667, 1.0)
    """
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    labels = factor_labels(checked_factors)
    return modularity_from_mutual_information(mutual_information_from_labels(checked_codes, labels, num_bins))


def modularity_values(inputs: MetricInputs) -> dict[str, object]:
    """Modularity under its keys in an evaluation, as plain Python values."""
    result = modularity_from_mutual_information(inputs.mutual_information)
    return {
        "modularity": result.mean,
        "modularity_active_dims": result.mean_active,
        "modularity_train_rows": modularity_from_mutual_information(inputs.train_mutual_information).mean,
    }
