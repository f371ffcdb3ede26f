"""Scores of a saved pipeline on a dataset: codes of held-out rows, every metric, figures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from .arguments import config_from_yaml
from .builders import open_dataset
from .config import DataConfig
from .data import ImageDataset
from .figures import latent_histograms, latent_labels
from .metric_figures import (
    factor_latent_scatter,
    importance_heatmap,
    mutual_information_heatmap,
    sensitivity_heatmap,
    tsne_scatter,
)
from .metrics import evaluate, sampling_intervals
from .metrics.discretize import DEFAULT_NUM_BINS
from .metrics.inputs import Regressor
from .pipelines import IVAEDiffusionPipeline
from .provenance import hardware, versions, write_text
from .random import generator
from .readback import encode_rows
from .sensitivity import Method, sensitivity

POSTERIOR_MEANS = "posterior means"
CLASS_NUMBERS = (
    "the number of the likeliest class of each latent: classes have no order, so that only what counts classes (mig, modularity, "
    "mutual_info_score; dci nearly) has a meaning, and mcc has none"
)


def split_seed(folder: Path) -> int:
    """The seed by which the rows of a pipeline's training were held out: that of the `config.yaml` beside its weights, 0 without one."""
    path = folder / "config.yaml"
    return config_from_yaml(path.read_text(encoding="utf-8")).train.seed if path.is_file() else 0


def encode_shared(
    pipeline: IVAEDiffusionPipeline, dataset: ImageDataset, rows: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """As `encode_rows`, each process encoding its share; every process gets all codes in the order of `rows`, none twice."""
    state = PartialState()
    share = rows.tensor_split(state.num_processes)[state.process_index]
    part = encode_rows(pipeline, dataset, share, progress=state.is_main_process)
    codes, factors = zip(*gather_object([part]), strict=True)
    return np.concatenate(codes), np.concatenate(factors)


def _held_out(
    folder: Path, pipeline: IVAEDiffusionPipeline, data: DataConfig, num_samples: int
) -> tuple[ImageDataset, Tensor, int]:
    """The dataset, numbers of so many rows that the pipeline of `folder` has not been trained on, at most, and the seed of that split."""
    seed = split_seed(folder)
    dataset = open_dataset(data, seed, pipeline.device)
    wanted = (pipeline.channels, pipeline.image_size)
    if (dataset.channels, dataset.image_size) != wanted:
        raise ValueError(
            f"{folder} is of images {wanted[0]} x {wanted[1]} x {wanted[1]}, data.name={data.name} gives "
            f"{dataset.channels} x {dataset.image_size} x {dataset.image_size}: set data.image_size={wanted[1]}, or another dataset"
        )
    _, held_out = dataset.split(data.held_out, seed)
    order = torch.randperm(len(held_out), generator=generator(seed, "evaluation"))
    return dataset, held_out[order[:num_samples]], seed


def evaluate_pipeline(
    folder: Path,
    data: DataConfig,
    out: Path,
    *,
    num_samples: int = 10000,
    metrics: Iterable[str] | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    dci_regressor: Regressor = "gradient_boosting",
    intervals: int = 0,
) -> dict[str, Any] | None:
    """Score a pipeline on held-out rows of a dataset; write `results.json` and `figures/`.

    Rows are those that the pipeline's own training held out, where its `config.yaml` names the same data, and drawn by seed 0 elsewhere.

    Args:
        folder: A saved pipeline.
        data: The dataset, of which factors must be known.
        out: What is written.
        num_samples: Held-out images that are encoded, at most.
        metrics: As in `metrics.evaluate`.
        seed: Of whatever the metrics draw.
        n_jobs: As in `metrics.evaluate`.
        dci_regressor: As in `metrics.evaluate`.
        intervals: Subsamples of 95 % intervals, see `metrics.sampling_intervals`; 0 is none.

    Returns:
        What was written; None on a process that is not the first.

    Raises:
        ValueError: One line: no pipeline, one without latents, images of another size, no factors, or as in `metrics.evaluate`.
    """
    state = PartialState()
    pipeline = IVAEDiffusionPipeline.from_pretrained(folder).to(state.device)
    if pipeline.ivae is None:
        raise ValueError(
            f"{folder} is an unconditional diffusion model: it has no latents, and there is nothing to score"
        )
    categorical = pipeline.ivae.config["latent_type"] == "categorical"
    num_bins = max(DEFAULT_NUM_BINS, pipeline.ivae.config["num_categories"] if categorical else 0)
    dataset, rows, held_out_by = _held_out(folder, pipeline, data, num_samples)
    names = dataset.factor_names
    if not names:
        raise ValueError("no factor is known of these images: give data.factor_columns to score codes by")
    codes, factors = encode_shared(pipeline, dataset, rows)
    if not state.is_main_process:
        return None
    scores = evaluate(
        codes,
        factors,
        metrics=metrics,
        seed=seed,
        n_jobs=n_jobs,
        dci_regressor=dci_regressor,
        num_bins=num_bins,
    ).to_dict()
    if intervals:
        scores["intervals"] = sampling_intervals(codes, factors, intervals, seed, num_bins)
    results = {
        "pipeline": str(folder),
        "codes": CLASS_NUMBERS if categorical else POSTERIOR_MEANS,
        "data": {
            "name": data.name,
            "source": dataset.source,
            "image_size": dataset.image_size,
            "factors": list(names),
            "held_out_fraction": data.held_out,
            "held_out_seed": held_out_by,
        },
        **scores,
        "versions": versions(),
        "hardware": hardware(state.device),
    }
    figures = out / "figures"
    latent_histograms(codes, [f"z{dim}" for dim in range(codes.shape[1])], figures / "latents.png")
    factor_latent_scatter(codes, factors, names, figures / "scatter.png")
    tsne_scatter(codes, factors, names, figures / "tsne.png")
    values: Any = scores["values"]
    if values.get("mi_matrix") is not None:
        mutual_information_heatmap(values["mi_matrix"], names, figures / "mutual_information.png")
    if values.get("dci_importance_matrix") is not None:
        importance_heatmap(values["dci_importance_matrix"], names, figures / "importance.png")
    write_text(out / "results.json", json.dumps(results, indent=2) + "\n")
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

    Latents are named after the factors that they are matched to, where the folder lies in a run that has been evaluated.

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
        ValueError: One line: no pipeline, images of another size, or as in `sensitivity.sensitivity`.
    """
    pipeline = IVAEDiffusionPipeline.from_pretrained(folder).to(PartialState().device)
    dataset, rows, seed = _held_out(folder, pipeline, data, num_images)
    found = sensitivity(
        pipeline, dataset.images(rows), num_times=num_times, method=method, seed=seed, progress=True
    )
    labels = latent_labels(found.sensitivity.shape[1], _matched_latents(folder.resolve()))
    results = {
        "pipeline": str(folder),
        "data": {
            "name": data.name,
            "source": dataset.source,
            "image_size": dataset.image_size,
            "channels": dataset.channels,
            "held_out_fraction": data.held_out,
            "held_out_seed": seed,
        },
        "latents": labels,
        **found.to_dict(),
        "versions": versions(),
        "hardware": hardware(pipeline.device),
    }
    sensitivity_heatmap(found.normalized, found.sigma_over_alpha, found.times, labels, out / f"{method}.png")
    write_text(out / f"{method}.json", json.dumps(results, indent=2) + "\n")
    return results


def _matched_latents(folder: Path) -> dict[str, int]:
    """The latent of each factor by the `results.json` of the run that `folder` is the pipeline of; none without one."""
    path = folder.parent / "results.json"
    if folder.name != "pipeline" or not path.is_file():
        return {}
    metrics = json.loads(path.read_text(encoding="utf-8"))["model"]["metrics"]
    return {} if metrics is None else metrics["matched_latent"]
