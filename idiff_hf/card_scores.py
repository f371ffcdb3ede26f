"""The scores of a model's codes as its card shows them, and how they were computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from .baselines import learns_widths
from .config import Config
from .metrics import evaluate, mcc
from .metrics.discretize import DEFAULT_NUM_BINS, factor_labels
from .metrics.mutual_information import mutual_information_from_labels

POSTERIOR_MEANS = "posterior means"
LOG_VARIANCES = "log-variances of q(z|x)"
_BY_INFORMATION = "mutual information, Hungarian assignment"


def by_name(names: tuple[str, ...], values: Any) -> dict[str, float]:
    """Plain numbers by the names of the factors they belong to."""
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def disentanglement(
    codes: np.ndarray,
    factors: np.ndarray,
    names: tuple[str, ...],
    num_categories: int | None = None,
    *,
    unsigned: bool = False,
) -> dict[str, Any]:
    """MIG, MCC and modularity as the card shows them.

    Args:
        codes: `(N, D)`, see `readback.encode_rows`.
        factors: `(N, K)`, integer labels or continuous values.
        names: Of the K factors.
        num_categories: Where a code is the number of a class: of how many. Then there is a bin for each class, latents are matched to
            factors by mutual information, and MCC, which takes the number for a size, means nothing.
        unsigned: Match latents to factors by mutual information too: u told no side, and a code may have one of its own for each value.

    Returns:
        The scores. None stands for what a single factor or latent leaves undefined, `undefined` says why; `matched_latent` is -1 for a
        factor without a latent.
    """
    num_bins = max(DEFAULT_NUM_BINS, num_categories or 0)
    record = evaluate(codes, factors, metrics=("mig", "modularity", "mcc"), num_bins=num_bins)
    values: dict[str, Any] = record.values
    spearman = mcc(codes, factors, correlation="spearman")
    matched = spearman.assignment
    if num_categories is not None or unsigned:
        told = mutual_information_from_labels(codes, factor_labels(factors), num_bins).matrix
        matched = np.full(len(names), -1)
        latents, columns = linear_sum_assignment(told, maximize=True)
        matched[columns] = latents
    gaps = values["mig_per_factor"]
    return {
        "mig": values["mig"],
        "mig_per_factor": dict.fromkeys(names) if gaps is None else by_name(names, gaps),
        "mcc_pearson": values["mcc_pearson"],
        "mcc_spearman": values["mcc_spearman"],
        "mcc_spearman_per_factor": by_name(names, spearman.per_factor),
        "modularity": values["modularity"],
        "modularity_active_dims": values["modularity_active_dims"],
        "matched_latent": {name: int(latent) for name, latent in zip(names, matched, strict=True)},
        "undefined": record.undefined,
    }


def codes_are(config: Config) -> str:
    """What the numbers are that a model of Gaussian latents is scored by."""
    return LOG_VARIANCES if learns_widths(config) else POSTERIOR_MEANS


def estimator(config: Config, num_categories: int | None) -> dict[str, Any]:
    """How `disentanglement` scored a model, in words; `num_categories` as there."""
    if num_categories is None:
        codes = codes_are(config)
        told: dict[str, Any] = {
            "num_bins": DEFAULT_NUM_BINS,
            "mig": f"equal-width bins of {codes}, mutual information over factor entropy",
            "mcc": f"absolute correlation of {codes}, Hungarian assignment",
        }
        if codes != POSTERIOR_MEANS:
            told["codes"] = codes
        return told | ({"matched_latent": _BY_INFORMATION} if config.aux.unsigned else {})
    return {
        "num_bins": max(DEFAULT_NUM_BINS, num_categories),
        "codes": "the number of the likeliest class of each latent",
        "mig": "a bin for each class, mutual information over factor entropy",
        "mcc": "absolute correlation of class numbers, Hungarian assignment; without meaning, for classes have no order",
        "matched_latent": _BY_INFORMATION,
    }
