"""What a trial is scored by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..baselines import learns_widths
from ..builders import build_auxiliary, build_scheduler
from ..config import Config
from ..data import ImageDataset, TrainingBatches
from ..evaluation import load_run
from ..losses import IVAEDiffusionLoss
from ..metrics import evaluate, mcc
from ..metrics.discretize import DEFAULT_NUM_BINS
from ..models import IVAEModel
from ..pipeline_scores.opening import held_out_rows
from ..pipelines import IVAEDiffusionPipeline
from ..random import BatchRandom
from ..readback import encode_rows
from ..stages import Phase

METRICS = ("mig", "modularity", "mcc", "dci")
"""DCI with `presorted_boosting`."""
NUMBERS = (
    "mig",
    "modularity",
    "modularity_active_dims",
    "modularity_train_rows",
    "mcc_pearson",
    "mcc_spearman",
    "mcc_pearson_active_dims",
    "mcc_spearman_active_dims",
    "dci_disentanglement",
    "dci_completeness",
    "dci_informativeness_train",
    "dci_informativeness_test",
    "mcc_spearman_unsigned",
    "elbo",
)
"""What `held_out_scores` has of a model at most, without lists and what is by factor; the greater, the better."""
ELBO_BATCH = 200
"""Images, of which a held-out set of 1,000 or 10,000 is a multiple."""


def open_run(folder: Path) -> tuple[Config, IVAEDiffusionPipeline, ImageDataset, Tensor]:
    """A finished run's config, its model, its dataset, and the numbers of the held-out rows that it is scored on."""
    config, pipeline = load_run(folder)
    dataset, rows, _ = held_out_rows(folder / "pipeline", pipeline, config.data, config.eval.num_samples)
    return config, pipeline, dataset, rows


def held_out_scores(folder: Path) -> dict[str, Any]:
    """Score a finished run on the rows of `evaluate_pipeline`, without its figures, which take longer than the scores.

    Args:
        folder: Of the run.

    Returns:
        Empty for a model without an iVAE. Else `values`, `num_samples`, `estimators` and `undefined` as `metrics.evaluate` gives them for
        `METRICS`, of which nothing is there where no factor is known. Among the values are `elbo`, where the iVAE was trained by one, and
        `unsigned_scores`, where u tells no sign.
    """
    config, pipeline, dataset, rows = open_run(folder)
    if pipeline.ivae is None:
        return {}
    found: dict[str, Any] = {"values": {}, "num_samples": len(rows), "estimators": {}, "undefined": {}}
    if dataset.factor_names:
        codes, factors = encode_rows(pipeline, dataset, rows, widths=learns_widths(config))
        num_bins = max(DEFAULT_NUM_BINS, pipeline.num_classes or 0)
        found |= evaluate(
            codes, factors, metrics=METRICS, n_jobs=1, dci_regressor="presorted_boosting", num_bins=num_bins
        ).to_dict()
        if config.aux.unsigned and pipeline.num_classes is None:
            z = dataset.z(torch.from_numpy(factors), "centers").numpy()
            found["values"] |= unsigned_scores(codes, z, dataset.factor_names)
    if _has_elbo(config):
        found["values"]["elbo"] = elbo(config, pipeline.ivae, dataset, rows)
    return found


def _has_elbo(config: Config) -> bool:
    """Whether both terms were trained; rows of a stream have no u of their own."""
    return (
        config.model.learns_ivae and config.loss.rec > 0 and config.loss.kl > 0 and not config.data.streaming
    )


@torch.no_grad()
def elbo(config: Config, ivae: IVAEModel, dataset: ImageDataset, rows: Tensor) -> float:
    """The evidence lower bound of log p(x | u) that the weights of Eq. 2 stand for, by which a seed can be chosen without labels.

    Up to a constant it is -(lambda_rec / lambda_KL L_rec + L_KL): a Gaussian decoder whose variance is D lambda_KL / (2 lambda_rec), D the
    number of pixels times channels, has it. So models of one dataset and the same two weights can be compared by it, whatever else
    differs: prior, u, schedule, free bits or seed.

    Args:
        config: The experiment, `loss.rec` and `loss.kl` above 0.
        ivae: The iVAE.
        dataset: The images.
        rows: Those to take the mean over, `(N,)`, up to `ELBO_BATCH - 1` fewer; u and the sample of z are drawn anew, by `train.seed`.

    Returns:
        Nats an image.
    """
    seed, weights = config.train.seed, config.loss
    batches = TrainingBatches(
        dataset, build_auxiliary(config, dataset), rows, seed, config.aux.label_to_z, config.aux.jitter
    )
    objective = IVAEDiffusionLoss(config, ivae, None, None, build_scheduler(config)).eval()
    phase = Phase(ivae=True, unet=False, released=True, kl_weight=weights.kl)
    found = []
    for step in range(max(1, len(rows) // ELBO_BATCH)):
        random = BatchRandom(seed, step, 0, ELBO_BATCH, next(ivae.parameters()).device)
        batch = batches(ELBO_BATCH, random)
        terms = objective(batch.image, batch.aux, random, phase)
        found.append(weights.rec / weights.kl * terms["rec"] + terms["kl"])
    return -float(torch.stack(found).mean())


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
