"""Multinomial logistic regression by the faster of scikit-learn's solvers, for the metrics that read a factor from all latents."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

# Newton's method sums n_classes^2 / 2 products of all columns to a Hessian. With more columns of such products L-BFGS takes less time.
_MAX_HESSIAN_COLUMNS = 1500
# Added to the spread within classes, where features have 1 in all: keeps the start away from probabilities of 0 and 1, where second
# derivatives vanish.
_RIDGE = 0.05


def _discriminant(
    features: npt.NDArray[np.float64], labels: npt.NDArray[np.intp], balanced: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Coefficients and intercepts by linear discriminant analysis: near the optimum if classes are alike in spread."""
    counts = np.bincount(labels)
    share = np.full(counts.size, 1 / counts.size) if balanced else counts / labels.size
    means = (labels == np.arange(counts.size)[:, None]) @ features / counts[:, None]
    weighted = features * (share / counts)[labels, None]
    spread = weighted.T @ features - (means.T * share) @ means
    spread[np.diag_indices_from(spread)] += _RIDGE
    slopes = np.linalg.solve(spread, means.T).T
    intercepts = np.log(share) - 0.5 * (slopes * means).sum(axis=1)
    if counts.size == 2:
        # Of two classes scikit-learn fits the difference.
        return np.diff(slopes, axis=0), np.diff(intercepts)
    return slopes, intercepts


def fit_logistic(
    features: npt.NDArray[np.float64],
    labels: npt.NDArray[np.intp],
    *,
    penalised: bool = True,
    balanced: bool = False,
) -> LogisticRegression:
    """scikit-learn's `LogisticRegression` to its default tolerance.

    For few classes and features it is fitted by Newton's method from linear discriminant analysis, which comes nearer to the
    optimum than the default, L-BFGS from 0, in less time. L-BFGS, at most 100 iterations, fits whatever is larger or leaves
    Newton's method without a step: features that are combinations of others, without a penalty.

    Args:
        features: Columns of mean 0 and deviation 1, or constant, shape (n_samples, n_features).
        labels: Class indices from 0 without gaps, two classes or more, shape (n_samples,).
        penalised: Whether C is 1, or infinite.
        balanced: Whether classes weigh the same, or rows.

    Returns:
        The fitted classifier.

    Examples:
        >>> features = np.array([[-1.0], [1.0], [-1.0], [1.0], [1.0]])
        >>> model = fit_logistic(features, np.array([0, 0, 1, 1, 1]), penalised=False)
        >>> model.predict_proba([[-1.0], [1.0]]).round(3).tolist()  # class 1 has one row in two, and two in three
        [[0.5, 0.5], [0.333, 0.667]]
    """
    settings = {"C": 1.0 if penalised else np.inf, "class_weight": "balanced" if balanced else None}
    if (labels.max() + 1) ** 2 * features.shape[1] <= _MAX_HESSIAN_COLUMNS:
        newton = LogisticRegression(solver="newton-cholesky", warm_start=True, **settings)
        newton.coef_, newton.intercept_ = _discriminant(features, labels, balanced)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            warnings.simplefilter("error", LinAlgWarning)
            try:
                return newton.fit(features, labels)
            except (ConvergenceWarning, LinAlgWarning):
                pass
    return LogisticRegression(**settings).fit(features, labels)
