"""What is known of each latent: the range that a slider covers, and the factors that it tells of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics.discretize import DEFAULT_NUM_BINS, factor_labels
from ..metrics.mutual_information import mutual_information_from_labels

PRIOR_RANGE = 2.5
"""Where nothing else is known: within it lie 99 % of a Gaussian of unit variance."""

_QUANTILES = (0.005, 0.995)
_MARGIN = 0.05
_UNUSED = 0.1
_NAMED = 0.1
_MOST_NAMES = 2


@dataclass(frozen=True)
class Latent:
    """One latent as the explorer shows it.

    Attributes:
        number: From 0.
        low: Least value of z on offer; of a categorical latent 0.
        high: Largest one; of a categorical latent its last class.
        classes: Of a categorical latent how many, of a Gaussian one 0.
        factors: Names of the factors that it tells of, and its mutual information with each in nats, the largest first.
        used: False where its posterior means hardly differ between images, so that it carries nothing.
    """

    number: int
    low: float
    high: float
    classes: int = 0
    factors: tuple[tuple[str, float], ...] = ()
    used: bool = True

    @property
    def label(self) -> str:
        """As `z4 floor_hue (MI 2.1 nats)`."""
        name = f"z{self.number}"
        if not self.used:
            return f"{name} (unused)"
        if not self.factors:
            return name
        names, values = zip(*self.factors, strict=True)
        return f"{name} {' + '.join(names)} (MI {', '.join(f'{value:.1f}' for value in values)} nats)"


def unknown_latents(num_latents: int, classes: int) -> tuple[Latent, ...]:
    """Latents of a model of which no images are at hand: the range of the prior, and no factors.

    Args:
        num_latents: D.
        classes: Of categorical latents, of Gaussian ones 0.
    """
    low, high = (0.0, classes - 1.0) if classes else (-PRIOR_RANGE, PRIOR_RANGE)
    return tuple(Latent(number, low, high, classes) for number in range(num_latents))


def describe_latents(
    codes: np.ndarray, factors: np.ndarray, names: Sequence[str], classes: int = 0, shown: int = 0
) -> tuple[Latent, ...]:
    """Latents by the codes of held-out images.

    The range of a Gaussian latent holds 99 % of the codes and all of the first `shown` ones, and a margin of 5 %. A latent whose standard
    deviation is below a tenth of the largest is taken for unused; its range is two of the largest standard deviations to each side.

    A latent tells of a factor, and bears its name, where their mutual information exceeds a tenth of the factor's entropy and what codes
    that know nothing would show by chance: (bins - 1)(values - 1) / 2N nats on average (Miller, 1955). At most two are named.

    Args:
        codes: `(N, D)`, posterior means or the numbers of classes.
        factors: `(N, K)`, as `ImageDataset.factors` gives them; K may be 0.
        names: K names.
        classes: Of categorical latents, of Gaussian ones 0.
        shown: Leading rows that must lie in the range.
    """
    spread = codes.std(axis=0)
    low, high = np.quantile(codes, _QUANTILES, axis=0)
    if shown:
        low, high = np.minimum(low, codes[:shown].min(axis=0)), np.maximum(high, codes[:shown].max(axis=0))
    margin = _MARGIN * (high - low)
    used = (spread >= _UNUSED * spread.max()) & (spread > 0)
    told = _told(codes, factors, names, max(DEFAULT_NUM_BINS, classes)) if names else [()] * len(used)
    latents = []
    for number in range(codes.shape[1]):
        if classes:
            ends = (0.0, classes - 1.0)
        elif used[number]:
            ends = (low[number] - margin[number], high[number] + margin[number])
        else:
            reach = 2.0 * float(spread.max()) or PRIOR_RANGE
            ends = (min(low[number], -reach), max(high[number], reach))
        # two decimals, outward
        ends = (
            (ends[0], ends[1])
            if classes
            else (math.floor(ends[0] * 100) / 100, math.ceil(ends[1] * 100) / 100)
        )
        is_used = bool(used[number])
        latents.append(
            Latent(number, float(ends[0]), float(ends[1]), classes, told[number] if is_used else (), is_used)
        )
    return tuple(latents)


def _told(
    codes: np.ndarray, factors: np.ndarray, names: Sequence[str], num_bins: int
) -> list[tuple[tuple[str, float], ...]]:
    labels = factor_labels(factors)
    found = mutual_information_from_labels(codes, labels, num_bins)
    chance = (num_bins - 1) * labels.max(axis=0) / (2.0 * len(codes))
    least = np.maximum(_NAMED * found.factor_entropy, 2.0 * chance)
    told = []
    for row in found.matrix:
        order = [k for k in np.argsort(-row) if row[k] > least[k]][:_MOST_NAMES]
        told.append(tuple((names[k], float(row[k])) for k in order))
    return told
