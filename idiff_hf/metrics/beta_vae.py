"""BetaVAE score (Higgins et al. 2017, "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational
Framework", section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from .discretize import factor_labels
from .factor_vae import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_NUM_EVAL,
    DEFAULT_NUM_TRAIN,
    Lookup,
    Representation,
    batches_per_call,
    check_draws,
    check_factor_sizes,
    checked_representation,
    grid_representation,
)
from .inputs import MetricInputs, check_codes_and_factors


@dataclass(frozen=True)
class BetaVAEResult:
    """BetaVAE score.

    Attributes:
        score: Accuracy of the classifier on the evaluation points, in [0, 1].
        train_score: The same on the points it was fitted on.
    """

    score: float
    train_score: float


def _draw(
    look_up: Lookup,
    sizes: npt.NDArray[np.intp],
    batch_size: int,
    num_points: int,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Mean absolute differences of codes (num_points, n_latents), and the factor that the pairs shared."""
    differences, shared_factor = [], []
    for count in batches_per_call(num_points, batch_size):
        shared = rng.integers(sizes.size, size=count)
        first, second = rng.integers(sizes, size=(2, count, batch_size, sizes.size))
        batch = np.arange(count)
        second[batch, :, shared] = first[batch, :, shared]
        first_codes, second_codes = (
            look_up(classes.reshape(-1, sizes.size)).reshape(count, batch_size, -1)
            for classes in (first, second)
        )
        differences.append(np.abs(first_codes - second_codes).mean(axis=1))
        shared_factor.append(shared)
    return np.concatenate(differences), np.concatenate(shared_factor)


def _classify(
    look_up: Lookup,
    sizes: npt.NDArray[np.intp],
    batch_size: int,
    num_train: int,
    num_eval: int,
    seed: int,
) -> BetaVAEResult:
    check_draws(batch_size, num_train, num_eval)
    train_rng, eval_rng = np.random.default_rng(seed).spawn(2)
    train_points, train_factors = _draw(look_up, sizes, batch_size, num_train, train_rng)
    if (train_factors == train_factors[0]).all():
        raise ValueError(
            f"num_train must be larger: the {num_train} training points drawn all share factor {train_factors[0]}"
        )
    eval_points, eval_factors = _draw(look_up, sizes, batch_size, num_eval, eval_rng)
    classifier = LogisticRegression().fit(train_points, train_factors)
    return BetaVAEResult(
        float(classifier.score(eval_points, eval_factors)),
        float(classifier.score(train_points, train_factors)),
    )


def beta_vae(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    num_train: int = DEFAULT_NUM_TRAIN,
    num_eval: int = DEFAULT_NUM_EVAL,
    seed: int = 0,
) -> BetaVAEResult:
    r"""BetaVAE score from codes of a full grid: whether a linear classifier tells which factor pairs of codes share.

    A point: draw a factor k and `batch_size` pairs of samples that agree in it, and take
    :math:`\frac{1}{B} \sum_b |z_b - z'_b|`. The classifier, scikit-learn's `LogisticRegression` with its
    defaults, is fitted on `num_train` points to tell k; the score is its accuracy on `num_eval` others.
    About 1/n_factors if the codes tell nothing. 1 does not prove that all factors are coded: a factor that
    the codes miss is told by all latents varying. A Monte Carlo estimate: seeds differ by about 0.01.

    Unchanged by the order, sign and shift of latents. Their scale matters somewhat, because the classifier's
    penalty does not know it.

    Args:
        codes: Latent codes, shape (n_samples, n_latents).
        factors: Factors, shape (n_samples, n_factors), two factors or more. Every combination of the classes
            that occur must be exactly one row; see `beta_vae_from_representation` where it is not.
        batch_size: Pairs averaged for a point.
        num_train: Points the classifier is fitted on.
        num_eval: Points that are scored.
        seed: Seed of the draws.

    Returns:
        The score, and the same on the training points.

    Raises:
        ValueError: If the arrays are not 2-D, numeric, finite and of the same number of rows (two or more),
            if a factor is constant, if there is only one factor, if the rows are not a full grid, if
            `batch_size` is below 2 or a number of points below 1, or if so few training points are drawn that
            they share one factor.

    Examples:
        >>> import numpy as np
        >>> factors = np.indices((3, 4)).reshape(2, -1).T
        >>> beta_vae(-factors[:, ::-1], factors).score
        1.0
    """
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    look_up, sizes = grid_representation(checked_codes, factor_labels(checked_factors))
    return _classify(look_up, sizes, batch_size, num_train, num_eval, seed)


def beta_vae_from_representation(
    representation: Representation,
    factor_sizes: Sequence[int],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    num_train: int = DEFAULT_NUM_TRAIN,
    num_eval: int = DEFAULT_NUM_EVAL,
    seed: int = 0,
) -> BetaVAEResult:
    """BetaVAE score of a function from factors to codes, such as rendering and encoding; see `beta_vae`.

    It is asked for the codes of 1,920,000 combinations by default, about 4096 at a time.

    Args:
        representation: From class indices, int array (n, n_factors), to finite codes (n, n_latents).
        factor_sizes: Number of classes of each factor: two factors or more, two classes or more.
        batch_size: Pairs averaged for a point.
        num_train: Points the classifier is fitted on.
        num_eval: Points that are scored.
        seed: Seed of the draws; a representation with noise of its own must be seeded too.

    Returns:
        As `beta_vae`.

    Raises:
        ValueError: If a size is below 2 or there is one only, if the codes are not finite and 2-D with a row
            for each row of factors, if `batch_size` is below 2 or a number of points below 1, or if so few
            training points are drawn that they share one factor.

    Examples:
        >>> beta_vae_from_representation(lambda factors: -factors, [3, 4, 5]).score
        1.0
    """
    sizes = check_factor_sizes(factor_sizes)
    return _classify(checked_representation(representation), sizes, batch_size, num_train, num_eval, seed)


def beta_vae_values(inputs: MetricInputs) -> dict[str, object]:
    """BetaVAE score under its key in an evaluation, as a plain Python value."""
    look_up, sizes = grid_representation(inputs.codes, inputs.labels)
    result = _classify(look_up, sizes, DEFAULT_BATCH_SIZE, DEFAULT_NUM_TRAIN, DEFAULT_NUM_EVAL, inputs.seed)
    return {"beta_vae": result.score}
