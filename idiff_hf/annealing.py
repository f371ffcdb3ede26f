"""How the weight of the KL term changes in the course of training."""

from __future__ import annotations

import math
from typing import Literal


def anneal(
    progress: float,
    *,
    factor: float,
    hold: float,
    end: float,
    shape: Literal["geometric", "linear", "cosine"],
    cycles: int,
) -> float:
    """The factor on lambda_KL at a point of the iVAE's training.

    In each of `cycles` equal parts of the training (cyclical annealing, Fu et al., arXiv 1903.10145) it is `factor` at first, then moves to
    1 and stays there. Before the training it is `factor`, after it 1.

    Args:
        progress: Fraction of the iVAE's steps that is done.
        factor: Where the weight starts, above 0; with `linear` and `cosine` it may be 0.
        hold: Fraction of a cycle at `factor`.
        end: Fraction of a cycle at which 1 is reached, at least `hold`.
        shape: `geometric` changes by equal ratios, `linear` by equal amounts, `cosine` by half a wave that starts and ends level.
        cycles: How often the schedule is run through, at least 1.
    """
    if progress >= 1.0:
        return 1.0
    # negative before the training, as fmod keeps the sign
    within = math.fmod(progress * cycles, 1.0)
    if within < hold:
        return factor
    if within >= end:
        return 1.0
    remaining = (end - within) / (end - hold)
    if shape == "geometric":
        return factor**remaining
    if shape == "cosine":
        remaining = 0.5 * (1.0 - math.cos(math.pi * remaining))
    return factor * remaining + (1.0 - remaining)
