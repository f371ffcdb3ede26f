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
from .figures import latent_histograms
from .metric_figures import (
    factor_latent_scatter,
    importance_heatmap,
    mutual_information_heatmap,
    tsne_scatter,
)
from .metrics import evaluate, sampling_intervals
from .metrics.inputs import Regressor
from .pipelines import IVAEDiffusionPipeline
from .provenance import hardware, versions, write_text
from .random import generator
from .readback import encode_rows


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
        ValueError: One line: no pipeline, images of another size, no factors, or as in `metrics.evaluate`.
    """
    state = PartialState()
    pipeline = IVAEDiffusionPipeline.from_pretrained(folder).to(state.device)
    held_out_by = split_seed(folder)
    dataset = open_dataset(data, held_out_by, state.device)
    names = dataset.factor_names
    wanted = (int(pipeline.ivae.config.in_channels), int(pipeline.ivae.config.image_size))
    if (dataset.channels, dataset.image_size) != wanted:
        raise ValueError(
            f"{folder} is of images {wanted[0]} x {wanted[1]} x {wanted[1]}, data.name={data.name} gives "
            f"{dataset.channels} x {dataset.image_size} x {dataset.image_size}: set data.image_size={wanted[1]}, or another dataset"
        )
    if not names:
        raise ValueError("no factor is known of these images: give data.factor_columns to score codes by")
    _, held_out = dataset.split(data.held_out, held_out_by)
    order = torch.randperm(len(held_out), generator=generator(held_out_by, "evaluation"))
    codes, factors = encode_shared(pipeline, dataset, held_out[order[:num_samples]])
    if not state.is_main_process:
        return None
    scores = evaluate(
        codes, factors, metrics=metrics, seed=seed, n_jobs=n_jobs, dci_regressor=dci_regressor
    ).to_dict()
    if intervals:
        scores["intervals"] = sampling_intervals(codes, factors, intervals, seed)
    results = {
        "pipeline": str(folder),
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
