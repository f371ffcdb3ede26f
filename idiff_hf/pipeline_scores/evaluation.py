"""Scores of a saved pipeline: codes of a dataset's rows, every metric, figures, and how its U-Net depends on each latent."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..card_scores import POSTERIOR_MEANS
from ..config import DataConfig
from ..figures import latent_histograms, latent_labels
from ..latent_names import named_latents
from ..metric_figures import (
    factor_latent_scatter,
    importance_heatmap,
    mutual_information_heatmap,
    sensitivity_heatmap,
    tsne_scatter,
)
from ..metrics import evaluate, known_metrics, sampling_intervals
from ..metrics.discretize import DEFAULT_NUM_BINS
from ..metrics.inputs import Regressor
from ..processes import process_state
from ..provenance import write_text
from ..random import generator
from ..readback import encode_rows
from ..sensitivity import Method, sensitivity
from .opening import opened

CLASS_NUMBERS = (
    "the number of the likeliest class of each latent: classes have no order, so that only what counts classes (mig, modularity, "
    "mutual_info_score; dci nearly) has a meaning, and mcc has none"
)


def evaluate_pipeline(
    folder: Path,
    data: DataConfig,
    out: Path,
    *,
    num_samples: int | None = 10000,
    metrics: Iterable[str] | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    dci_regressor: Regressor = "gradient_boosting",
    intervals: int = 0,
) -> dict[str, Any] | None:
    """Score a pipeline on held-out rows of a dataset, or on all; write `results.json` and `figures/`.

    Rows are those that the pipeline's own training held out, where its `config.yaml` names the same data. Of other data, of which it has
    seen none, they are drawn by the same seed, and by seed 0 where there is no `config.yaml`.
    The FactorVAE and BetaVAE scores, which need every combination of the factors, are defined on all rows of a grid only.

    Args:
        folder: A saved pipeline.
        data: The dataset, of which factors must be known.
        out: What is written.
        num_samples: Held-out images that are encoded, at most; None is all images of the dataset, those of training too, which a stream
            cannot give.
        metrics: As in `metrics.evaluate`.
        seed: Of whatever the metrics draw.
        n_jobs: As in `metrics.evaluate`.
        dci_regressor: As in `metrics.evaluate`.
        intervals: Subsamples of 95 % intervals, 2 or more, see `metrics.sampling_intervals`; 0 is none.

    Returns:
        What was written; None on a process that is not the first.

    Raises:
        ValueError: One line: no pipeline, an unwritable `out`, a pipeline without latents, images of another size, all images of
            a stream, no factors, or as in `metrics.evaluate`; before images are encoded, but for what the codes themselves leave undefined.
    """
    if num_samples is None and data.streaming:
        raise ValueError(
            "all images of a stream cannot be encoded: give num_samples, a number of held-out ones, or data.streaming=false"
        )
    path, num_opened = out / "results.json", 1 if num_samples is None else num_samples
    pipeline, dataset, rows, origin = opened(folder, data, num_opened, path)
    if num_samples is None:
        # DCI takes them to be in no order
        order = generator(origin["data"]["held_out_seed"], "evaluation")
        rows = torch.randperm(len(dataset), generator=order)
    if pipeline.ivae is None:
        raise ValueError(
            f"{folder} is an unconditional diffusion model: it has no latents, and there is nothing to score"
        )
    num_bins = max(DEFAULT_NUM_BINS, pipeline.num_classes or 0)
    metrics = known_metrics(metrics, seed, dci_regressor, num_bins)
    names = dataset.factor_names
    if not names:
        raise ValueError("no factor is known of these images: give data.factor_columns to score codes by")
    codes, factors = encode_rows(pipeline, dataset, rows, shared=True, progress=True)
    if not process_state().is_main_process:
        return None
    scores = evaluate(
        codes,
        factors,
        metrics=metrics,
        seed=seed,
        n_jobs=n_jobs,
        dci_regressor=dci_regressor,
        num_bins=num_bins,
        progress=True,
    ).to_dict()
    if intervals:
        scores["intervals"] = sampling_intervals(codes, factors, intervals, seed, num_bins)
    results = {
        **origin,
        "data": {
            **origin["data"],
            "factors": list(names),
            "rows": "all" if num_samples is None else "held out",
        },
        "codes": POSTERIOR_MEANS if pipeline.num_classes is None else CLASS_NUMBERS,
        **scores,
    }
    # first, so that figures that fail lose no score
    write_text(path, json.dumps(results, indent=2) + "\n")
    figures = out / "figures"
    latent_histograms(codes, [f"z{dim}" for dim in range(codes.shape[1])], figures / "latents.png")
    factor_latent_scatter(codes, factors, names, figures / "scatter.png")
    tsne_scatter(codes, factors, names, figures / "tsne.png")
    values: Any = scores["values"]
    if values.get("mi_matrix") is not None:
        mutual_information_heatmap(values["mi_matrix"], names, figures / "mutual_information.png")
    if values.get("dci_importance_matrix") is not None:
        importance_heatmap(values["dci_importance_matrix"], names, figures / "importance.png")
    return results


def pipeline_sensitivity(
    folder: Path,
    data: DataConfig,
    out: Path,
    *,
    num_images: int = 200,
    num_times: int = 11,
    method: Method = "jacobian",
) -> dict[str, Any]:
    """The sensitivity of a pipeline's U-Net to each latent at each time; write `METHOD.json` and its heat map `METHOD.png`.

    Latents are named after their factors, where `latent_names.named_latents` knows them.

    Args:
        folder: A saved pipeline.
        data: The dataset, of which rows are taken as in `evaluate_pipeline`.
        out: The folder of what is written.
        num_images: Held-out images, of which means are taken.
        num_times: Points in time, see `sensitivity.sensitivity`.
        method: As there.

    Returns:
        What was written.

    Raises:
        ValueError: One line: no pipeline, an unwritable `out`, images of another size, or as in `sensitivity.sensitivity`.
    """
    path, figure = out / f"{method}.json", out / f"{method}.png"
    pipeline, dataset, rows, origin = opened(folder, data, num_images, path, figure)
    found = sensitivity(
        pipeline,
        dataset.images(rows),
        num_times=num_times,
        method=method,
        seed=origin["data"]["held_out_seed"],
        progress=True,
    )
    assert pipeline.ivae is not None  # or it has been refused
    labels = latent_labels(found.sensitivity.shape[1], named_latents(folder, pipeline.ivae.config))
    results = {
        **origin,
        "latents": labels,
        **found.to_dict(),
    }
    write_text(path, json.dumps(results, indent=2) + "\n")
    sensitivity_heatmap(found.normalized, found.sigma_over_alpha, found.times, labels, figure)
    return results
