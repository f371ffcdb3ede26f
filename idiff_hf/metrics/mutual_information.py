"""Mutual information of every latent with every factor: the common ground of MIG and modularity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import entr, xlogy

from .discretize import DEFAULT_NUM_BINS, equal_width_bins


@dataclass(frozen=True, eq=False)
class MutualInformation:
    """Mutual information between binned codes and factor labels.

    Attributes:
        matrix: Mutual information in nats, shape (n_latents, n_factors), each in [0, H(factor)].
        factor_entropy: Empirical entropy H of each factor in nats, shape (n_factors,).
        active: Which latents are not constant, shape (n_latents,). A constant latent has a row of zeros.
    """

    matrix: npt.NDArray[np.float64]
    factor_entropy: npt.NDArray[np.float64]
    active: npt.NDArray[np.bool_]


def mutual_information_from_labels(
    codes: npt.NDArray[np.float64], labels: npt.NDArray[np.intp], num_bins: int = DEFAULT_NUM_BINS
) -> MutualInformation:
    r"""Mutual information in nats of every binned code with every factor.

    A code is cut into `num_bins` equal-width bins between its minimum and maximum. With :math:`n_{ab}` rows
    in bin a and class b of N rows,

    .. math:: I = \sum_{ab} \frac{n_{ab}}{N} \ln \frac{N n_{ab}}{n_a n_b}.

    Unchanged by any one-to-one renaming of a factor's classes, and by a shift or positive scale of a code (up
    to values on a bin's edge). Estimated from finitely many rows, it lies above 0 even for a code that is
    pure noise.

    Args:
        codes: Checked codes, shape (n_samples, n_latents).
        labels: Class indices from 0, shape (n_samples, n_factors); see `factor_labels`.
        num_bins: Number of bins a code is cut into, at least 2.

    Returns:
        The matrix in nats, the entropies of the factors, and which latents are not constant.

    Raises:
        ValueError: If `num_bins` is below 2.

    Examples:
        >>> import numpy as np
        >>> labels = np.array([[0], [0], [1], [1]])
        >>> codes = np.array([[-1.0, 3.0], [-2.0, 3.0], [5.0, 3.0], [4.0, 3.0]])
        >>> mi = mutual_information_from_labels(codes, labels)
        >>> mi.matrix.round(4).tolist()  # ln 2 = 0.6931, and a dead latent
        [[0.6931], [0.0]]
    """
    num_samples = codes.shape[0]
    bins = equal_width_bins(codes, num_bins)
    num_classes = labels.max(axis=0) + 1
    matrix = np.empty((codes.shape[1], labels.shape[1]))
    for factor, classes in enumerate(num_classes):
        class_counts = np.bincount(labels[:, factor], minlength=classes)
        for latent in range(codes.shape[1]):
            joint = np.bincount(bins[:, latent] * classes + labels[:, factor], minlength=num_bins * classes)
            joint = joint.reshape(num_bins, classes)
            expected = joint.sum(axis=1, keepdims=True) * class_counts
            # Whole numbers up to the division: independent variables then give a ratio of 1 and an
            # information of 0, exactly. An empty cell contributes 0, whatever its ratio.
            ratio = np.where(joint > 0, joint * num_samples / np.maximum(expected, 1), 1.0)
            matrix[latent, factor] = xlogy(joint, ratio).sum() / num_samples
    entropy = np.array([entr(np.bincount(column) / num_samples).sum() for column in labels.T])
    # The sum of logarithms of a code that tells nothing can fall below zero by rounding.
    return MutualInformation(np.maximum(matrix, 0.0), entropy, (codes != codes[0]).any(axis=0))
