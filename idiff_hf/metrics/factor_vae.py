"""FactorVAE score (Kim & Mnih 2018, "Disentangling by Factorising", section 4), and what it shares with BetaVAE."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .discretize import factor_labels
from .inputs import MetricInputs, check_codes_and_factors, real_array, varying_columns

# What disentanglement_lib's study uses, and with it most published values.
DEFAULT_BATCH_SIZE = 64
DEFAULT_NUM_TRAIN = 10_000
DEFAULT_NUM_EVAL = 5_000
DEFAULT_PRUNE_THRESHOLD = 0.05

_NUM_VARIANCE_ESTIMATE = 10_000
# As many rows as a processor's cache holds, and an encoder takes at a time.
_ROWS_PER_CALL = 4096

Representation = Callable[[npt.NDArray[np.intp]], npt.ArrayLike]
Lookup = Callable[[npt.NDArray[np.intp]], npt.NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class FactorVAEResult:
    """FactorVAE score and the votes behind it.

    Attributes:
        score: Accuracy of the majority vote on the evaluation votes, in [0, 1]; 0 if no latent is active.
        train_score: The same on the votes that the majority was taken from.
        votes: Training votes, shape (n_latents, n_factors): how often a latent varied least while a factor
            was held fixed. A row of zeros for a latent that is not active.
        active: Latents that vary enough to take part, shape (n_latents,).
    """

    score: float
    train_score: float
    votes: npt.NDArray[np.int64]
    active: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Draws:
    """The factor held fixed in each batch, and each latent's variance in it (n_batches, n_latents)."""

    fixed_factor: npt.NDArray[np.int64]
    variance: npt.NDArray[np.float64]


def check_draws(batch_size: int, num_train: int, num_eval: int) -> None:
    """Refuse sizes of batches and sets that leave a score undefined.

    Raises:
        ValueError: If a batch has fewer than 2 points, or a set no batch.
    """
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 for points to be compared, got {batch_size}")
    if min(num_train, num_eval) < 1:
        raise ValueError(f"num_train and num_eval must be at least 1, got {num_train} and {num_eval}")


def check_factor_sizes(factor_sizes: Sequence[int]) -> npt.NDArray[np.intp]:
    """Number of classes of each factor, once a factor can be held fixed while another varies.

    Raises:
        ValueError: If there is one factor only, or a factor of one class.
    """
    sizes = np.asarray(factor_sizes)
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or sizes.size < 2 or sizes.min() < 2:
        raise ValueError(
            "factor_sizes must be the whole numbers of classes of 2 or more factors, each 2 or more, got "
            f"{sizes.tolist()}"
        )
    return sizes.astype(np.intp)


def grid_representation(
    codes: npt.NDArray[np.float64], labels: npt.NDArray[np.intp]
) -> tuple[Lookup, npt.NDArray[np.intp]]:
    """A function from factor classes to codes, out of codes for every combination of classes.

    Args:
        codes: Checked codes, shape (n_samples, n_latents).
        labels: Class indices from 0, shape (n_samples, n_factors); see `factor_labels`.

    Returns:
        The function, from class indices (n, n_factors) to codes (n, n_latents), and the sizes of the factors.

    Raises:
        ValueError: If there is one factor only, or the rows are not a full grid: each combination once.
    """
    sizes = check_factor_sizes((labels.max(axis=0) + 1).tolist())
    combinations = math.prod(sizes.tolist())
    num_samples = labels.shape[0]
    # A sample can have more combinations than an integer holds; it is told by its number of rows.
    if combinations == num_samples:
        cells = np.ravel_multi_index(tuple(labels.T), tuple(sizes))
        if (np.bincount(cells, minlength=combinations) == 1).all():
            of_cell = np.empty_like(codes)
            of_cell[cells] = codes
            return lambda classes: of_cell[np.ravel_multi_index(tuple(classes.T), tuple(sizes))], sizes
    raise ValueError(
        f"this score needs a code for each of the {combinations} combinations of factor classes, one row each, "
        f"got {num_samples} rows that are no such grid: pass the full grid, or a representation of factors"
    )


def checked_representation(representation: Representation) -> Lookup:
    """`representation`, whose answers are refused unless they are finite codes, a row for each row asked for.

    Raises:
        ValueError: By the function returned: if the codes are not finite and 2-D, with a row for each row of
            factors.
    """

    def look_up(classes: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        codes = real_array(representation(classes), "codes of representation").astype(np.float64)
        if codes.ndim != 2 or codes.shape[0] != classes.shape[0] or codes.shape[1] == 0:
            raise ValueError(
                f"representation must return codes of shape ({classes.shape[0]}, n_latents) for as many rows of "
                f"factors, got shape {codes.shape}"
            )
        if not np.isfinite(codes).all():
            raise ValueError(
                f"representation must return finite codes, got {np.isfinite(codes).mean():.1%} finite"
            )
        return codes

    return look_up


def batches_per_call(num_batches: int, batch_size: int) -> Iterator[int]:
    """Numbers of batches that add up to `num_batches`, each small enough to be represented at once."""
    step = max(1, _ROWS_PER_CALL // batch_size)
    for start in range(0, num_batches, step):
        yield min(step, num_batches - start)


def _draw(
    look_up: Lookup, sizes: npt.NDArray[np.intp], batch_size: int, num_batches: int, rng: np.random.Generator
) -> _Draws:
    fixed_factor, variance = [], []
    for count in batches_per_call(num_batches, batch_size):
        fixed = rng.integers(sizes.size, size=count)
        classes = rng.integers(sizes, size=(count, batch_size, sizes.size))
        batch = np.arange(count)
        classes[batch, :, fixed] = classes[batch, 0, fixed][:, None]
        codes = look_up(classes.reshape(-1, sizes.size)).reshape(count, batch_size, -1)
        fixed_factor.append(fixed)
        variance.append(codes.var(axis=1, ddof=1))
    return _Draws(np.concatenate(fixed_factor), np.concatenate(variance))


def _draw_train_and_eval(
    look_up: Lookup,
    sizes: npt.NDArray[np.intp],
    batch_size: int,
    num_train: int,
    num_eval: int,
    rngs: Sequence[np.random.Generator],
) -> tuple[_Draws, _Draws]:
    check_draws(batch_size, num_train, num_eval)
    return (
        _draw(look_up, sizes, batch_size, num_train, rngs[0]),
        _draw(look_up, sizes, batch_size, num_eval, rngs[1]),
    )


def _vote(
    train: _Draws,
    evaluation: _Draws,
    codes: npt.NDArray[np.float64],
    num_factors: int,
    prune_threshold: float,
) -> FactorVAEResult:
    """Score of draws whose variances are relative to those of `codes`."""
    variance = codes.var(axis=0, ddof=1)
    # A constant latent has relative variance 0/0.
    active = varying_columns(codes) & (variance > 0) & (np.sqrt(variance) >= prune_threshold)
    votes = np.zeros((codes.shape[1], num_factors), dtype=np.int64)
    if not active.any():
        return FactorVAEResult(0.0, 0.0, votes, active)
    latents = np.flatnonzero(active)
    train_latent, eval_latent = (
        latents[(draws.variance[:, active] / variance[active]).argmin(axis=1)]
        for draws in (train, evaluation)
    )
    np.add.at(votes, (train_latent, train.fixed_factor), 1)
    factor_of_latent = votes.argmax(axis=1)
    return FactorVAEResult(
        float((factor_of_latent[eval_latent] == evaluation.fixed_factor).mean()),
        float((factor_of_latent[train_latent] == train.fixed_factor).mean()),
        votes,
        active,
    )


def factor_vae(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    num_train: int = DEFAULT_NUM_TRAIN,
    num_eval: int = DEFAULT_NUM_EVAL,
    prune_threshold: float = DEFAULT_PRUNE_THRESHOLD,
    seed: int = 0,
) -> FactorVAEResult:
    r"""FactorVAE score from codes of a full grid: whether the factor held fixed shows in the latent that varies least.

    A vote: draw a factor k and `batch_size` points that agree in it and are uniform in the others; it goes to
    the latent :math:`d = \arg\min_j \mathrm{Var}_\mathrm{batch}(z_j) / \mathrm{Var}(z_j)`. A latent predicts
    the factor that it got most training votes for, and the score is the accuracy on the evaluation votes.
    1 if each factor has a latent that follows it alone, whatever else the other latents hold; about
    1/n_factors if the codes tell nothing. A Monte Carlo estimate: seeds differ by about 0.01.

    Unchanged by the order, sign and shift of latents, and by their scales except for the threshold, which is
    in the units of the codes. Constant latents are left out whatever the threshold.

    Args:
        codes: Latent codes, shape (n_samples, n_latents).
        factors: Factors, shape (n_samples, n_factors), two factors or more. Every combination of the classes
            that occur must be exactly one row; see `factor_vae_from_representation` where it is not.
        batch_size: Points in a vote.
        num_train: Votes that decide which factor a latent stands for.
        num_eval: Votes that are scored.
        prune_threshold: Latents whose standard deviation over all rows is below this are left out. Absolute;
            0.05 suits codes of about unit variance, as a VAE's.
        seed: Seed of the draws.

    Returns:
        The score, the same on the training votes, the votes, and which latents took part.

    Raises:
        ValueError: If the arrays are not 2-D, numeric, finite and of the same number of rows (two or more),
            if a factor is constant, if there is only one factor, if the rows are not a full grid, or if
            `batch_size` is below 2 or a number of votes below 1.

    Examples:
        A grid of two factors, coded in the other order, with a dead latent:

        >>> import numpy as np
        >>> factors = np.indices((3, 4)).reshape(2, -1).T
        >>> result = factor_vae(np.column_stack([factors[:, ::-1], np.full(12, 0.3)]), factors)
        >>> result.score, result.active.tolist(), result.votes.argmax(axis=1)[:2].tolist()
        (1.0, [True, True, False], [1, 0])
    """
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    look_up, sizes = grid_representation(checked_codes, factor_labels(checked_factors))
    rngs = np.random.default_rng(seed).spawn(2)
    train, evaluation = _draw_train_and_eval(look_up, sizes, batch_size, num_train, num_eval, rngs)
    return _vote(train, evaluation, checked_codes, sizes.size, prune_threshold)


def factor_vae_from_representation(
    representation: Representation,
    factor_sizes: Sequence[int],
    *,
    batch_size: int = DEFAULT_BATCH_SIZE,
    num_train: int = DEFAULT_NUM_TRAIN,
    num_eval: int = DEFAULT_NUM_EVAL,
    prune_threshold: float = DEFAULT_PRUNE_THRESHOLD,
    seed: int = 0,
) -> FactorVAEResult:
    """FactorVAE score of a function from factors to codes, such as rendering and encoding; see `factor_vae`.

    It is asked for the codes of 970,000 combinations by default, about 4096 at a time. The variances over all
    data, which `factor_vae` takes from all rows, are those of 10,000 of them, uniform over combinations.

    Args:
        representation: From class indices, int array (n, n_factors), to finite codes (n, n_latents).
        factor_sizes: Number of classes of each factor: two factors or more, two classes or more.
        batch_size: Points in a vote.
        num_train: Votes that decide which factor a latent stands for.
        num_eval: Votes that are scored.
        prune_threshold: Latents whose standard deviation is below this are left out.
        seed: Seed of the draws; a representation with noise of its own must be seeded too.

    Returns:
        As `factor_vae`.

    Raises:
        ValueError: If a size is below 2 or there is one only, if the codes are not finite and 2-D with a row
            for each row of factors, or if `batch_size` is below 2 or a number of votes below 1.

    Examples:
        >>> factor_vae_from_representation(lambda factors: -factors, [3, 4, 5]).score
        1.0
    """
    sizes, look_up = check_factor_sizes(factor_sizes), checked_representation(representation)
    *rngs, variance_rng = np.random.default_rng(seed).spawn(3)
    train, evaluation = _draw_train_and_eval(look_up, sizes, batch_size, num_train, num_eval, rngs)
    counts = batches_per_call(_NUM_VARIANCE_ESTIMATE, 1)
    codes = np.concatenate([look_up(variance_rng.integers(sizes, size=(n, sizes.size))) for n in counts])
    return _vote(train, evaluation, codes, sizes.size, prune_threshold)


def factor_vae_values(inputs: MetricInputs) -> dict[str, object]:
    """FactorVAE scores, with the study's threshold and without one, under their keys in an evaluation."""
    look_up, sizes = grid_representation(inputs.codes, inputs.labels)
    rngs = np.random.default_rng(inputs.seed).spawn(2)
    train, evaluation = _draw_train_and_eval(
        look_up, sizes, DEFAULT_BATCH_SIZE, DEFAULT_NUM_TRAIN, DEFAULT_NUM_EVAL, rngs
    )
    return {
        "factor_vae": _vote(train, evaluation, inputs.codes, sizes.size, DEFAULT_PRUNE_THRESHOLD).score,
        "factor_vae_default_prune": _vote(train, evaluation, inputs.codes, sizes.size, 0.0).score,
    }
