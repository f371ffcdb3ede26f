"""What a trial is scored by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..data import ImageDataset
from ..evaluation import load_run
from ..metrics import evaluate, mcc
from ..metrics.discretize import DEFAULT_NUM_BINS
from ..pipeline_scores import held_out_rows
from ..pipelines import IVAEDiffusionPipeline
from ..readback import encode_rows

METRICS = ("mig", "modularity", "mcc", "dci")
"""DCI with `presorted_boosting`."""


def open_run(folder: Path) -> tuple[Config, IVAEDiffusionPipeline, ImageDataset, Tensor]:
    """A finished run's config, its model, its dataset, and the numbers of the held-out rows that it is scored on."""
    config, pipeline = load_run(folder)
    dataset, rows, _ = held_out_rows(folder / "pipeline", pipeline, config.data, config.eval.num_samples)
    return config, pipeline, dataset, rows


def held_out_scores(folder: Path) -> dict[str, Any]:
    """Score a finished run on the rows of `pipeline_scores.evaluate_pipeline`, without its figures, which take longer than the scores.

    Args:
        folder: Of the run.

    Returns:
        What `metrics.evaluate` gives for `METRICS`, and where u tells no sign, `unsigned_scores` among its values.
    """
    config, pipeline, dataset, rows = open_run(folder)
    codes, factors = encode_rows(pipeline, dataset, rows)
    found: dict[str, Any] = evaluate(
        codes,
        factors,
        metrics=METRICS,
        n_jobs=1,
        dci_regressor="presorted_boosting",
        num_bins=max(DEFAULT_NUM_BINS, pipeline.num_classes or 0),
    ).to_dict()
    unsigned = config.aux.name in ("uniform_posterior", "normal") and not config.aux.modulate_mean
    if not unsigned or pipeline.num_classes is not None:
        return found
    z = dataset.z(torch.from_numpy(factors), "centers").numpy()
    return {**found, "values": {**found["values"], **unsigned_scores(codes, z, dataset.factor_names)}}


def unsigned_scores(codes: np.ndarray, z: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """How well the distances of latents from 0 order the distances of factors from 0.

    Where u states variances alone, the sign of a factor is not identified (paper-notes, A6), and a latent that folds at 0, or that is
    right but for the sign of some images, has a low correlation with the factor.

    Args:
        codes: `(N, D)`, of a prior whose mean is 0.
        z: Values of factors in [-0.5, 0.5], `(N, K)`.
        names: Of the K factors.

    Returns:
        `mcc_spearman_unsigned` and `mcc_spearman_unsigned_per_factor`, over the factors whose distance from 0 varies: one of two values
        has none. Nothing where none does.
    """
    # mirrored labels differ in the last digit of float32, and ranks would tell them apart
    distances = np.abs(z).astype(np.float64).round(5)
    varies = np.ptp(distances, axis=0) > 0
    if not varies.any():
        return {}
    matched = mcc(np.abs(codes), distances[:, varies], correlation="spearman")
    kept = [name for name, one in zip(names, varies, strict=True) if one]
    return {
        "mcc_spearman_unsigned": matched.mean,
        "mcc_spearman_unsigned_per_factor": dict(zip(kept, map(float, matched.per_factor), strict=True)),
    }
