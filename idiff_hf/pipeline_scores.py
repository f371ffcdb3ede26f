"""What a saved pipeline is measured by on a dataset: codes of held-out rows, every metric, figures, and the tables of `idiff bench`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arguments import config_from_yaml
from .builders import open_dataset
from .card_scores import POSTERIOR_MEANS
from .config import DataConfig
from .data import ImageDataset
from .figures import latent_histograms, latent_labels, sampler_figure
from .folders import refuse_unwritable
from .hub_folder import hub_name
from .latent_names import named_latents
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
from .processes import process_state
from .provenance import hardware, versions, write_text
from .random import generator
from .readback import encode_rows, every_image, nearest_rendered
from .sampler_curve import (
    INTERVALS,
    REFERENCE_STEPS,
    SCALES,
    SOLVERS,
    STEPS,
    GuidanceRecord,
    SamplerRecord,
    VariantRecord,
    guidance_curve,
    sampler_curve,
    variant_table,
)
from .sensitivity import Method, sensitivity

CLASS_NUMBERS = (
    "the number of the likeliest class of each latent: classes have no order, so that only what counts classes (mig, modularity, "
    "mutual_info_score; dci nearly) has a meaning, and mcc has none"
)


def split_seed(folder: Path) -> int:
    """The seed by which the rows of a pipeline's training were held out: that of the `config.yaml` beside its weights, 0 without one."""
    path = folder / "config.yaml"
    return config_from_yaml(path.read_text(encoding="utf-8")).train.seed if path.is_file() else 0


def held_out_rows(
    folder: Path, pipeline: IVAEDiffusionPipeline, data: DataConfig, num_samples: int
) -> tuple[ImageDataset, Tensor, int]:
    """The dataset, numbers of so many rows that the pipeline of `folder` has not been trained on, at most, and the seed of that split."""
    if num_samples < 1:
        raise ValueError(f"the number of images must be 1 or more, got {num_samples}")
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


def _opened(
    folder: Path, data: DataConfig, num_samples: int, out: Path
) -> tuple[IVAEDiffusionPipeline, ImageDataset, Tensor, dict[str, Any]]:
    """A pipeline without progress bars, the dataset, its rows as in `held_out_rows`, and where what is measured of them comes from.

    Refuses an `out` that what is measured could not be written to.
    """
    refuse_unwritable(out)
    pipeline = IVAEDiffusionPipeline.from_pretrained(folder).to(process_state().device)
    pipeline.set_progress_bar_config(disable=True)
    dataset, rows, seed = held_out_rows(folder, pipeline, data, num_samples)
    origin = {
        "pipeline": hub_name(folder),
        "data": {
            "name": data.name,
            "source": dataset.source,
            "image_size": dataset.image_size,
            "channels": dataset.channels,
            "held_out_fraction": data.held_out,
            "held_out_seed": seed,
        },
        "versions": versions(),
        "hardware": hardware(pipeline.device),
    }
    return pipeline, dataset, rows, origin


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

    Rows are those that the pipeline's own training held out, where its `config.yaml` names the same data, and drawn by seed 0 elsewhere.
    The FactorVAE and BetaVAE scores, which need every combination of the factors, are defined on all rows of a grid only.

    Args:
        folder: A saved pipeline.
        data: The dataset, of which factors must be known.
        out: What is written.
        num_samples: Held-out images that are encoded, at most; None is all images of the dataset, those of training too.
        metrics: As in `metrics.evaluate`.
        seed: Of whatever the metrics draw.
        n_jobs: As in `metrics.evaluate`.
        dci_regressor: As in `metrics.evaluate`.
        intervals: Subsamples of 95 % intervals, see `metrics.sampling_intervals`; 0 is none.

    Returns:
        What was written; None on a process that is not the first.

    Raises:
        ValueError: One line: no pipeline, an `out` that takes no files, a pipeline without latents, images of another size, no factors, or
            as in `metrics.evaluate`.
    """
    pipeline, dataset, rows, origin = _opened(folder, data, 1 if num_samples is None else num_samples, out)
    if num_samples is None:
        # DCI takes them to be in no order
        order = generator(origin["data"]["held_out_seed"], "evaluation")
        rows = torch.randperm(len(dataset), generator=order)
    if pipeline.ivae is None:
        raise ValueError(
            f"{folder} is an unconditional diffusion model: it has no latents, and there is nothing to score"
        )
    num_bins = max(DEFAULT_NUM_BINS, pipeline.num_classes or 0)
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
        ValueError: One line: no pipeline, an `out` that takes no files, images of another size, or as in `sensitivity.sensitivity`.
    """
    pipeline, dataset, rows, origin = _opened(folder, data, num_images, out)
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
    sensitivity_heatmap(found.normalized, found.sigma_over_alpha, found.times, labels, out / f"{method}.png")
    write_text(out / f"{method}.json", json.dumps(results, indent=2) + "\n")
    return results


def pipeline_sampler_curve(
    folder: Path,
    data: DataConfig,
    out: Path,
    *,
    num_images: int = 96,
    solvers: Sequence[str] = tuple(SOLVERS),
    steps: Sequence[int] = STEPS,
    reference_steps: int = REFERENCE_STEPS,
    guidance_scale: float = 1.0,
    seed: int = 0,
) -> list[SamplerRecord]:
    """What each solver reaches with so many calls of a pipeline's U-Net; write `samplers.json` and its plot `samplers.png`.

    Factors are read back, where the dataset has an image of every combination, as those of the nearest one.

    Args:
        folder: A saved pipeline.
        data: The dataset, of which rows are taken as in `evaluate_pipeline`.
        out: The folder of what is written.
        num_images: Held-out images that are encoded and drawn.
        solvers: See `sampler_curve.sampler_curve`, as for the rest.
        steps: As there.
        reference_steps: As there.
        guidance_scale: As there.
        seed: As there.

    Raises:
        ValueError: One line: no pipeline, an `out` that takes no files, images of another size, or as in `sampler_curve.sampler_curve`.
    """
    pipeline, dataset, rows, origin = _opened(folder, data, num_images, out)
    records = sampler_curve(
        pipeline,
        **_drawn_anew(dataset, rows),
        solvers=solvers,
        steps=steps,
        reference_steps=reference_steps,
        guidance_scale=guidance_scale,
        seed=seed,
    )
    *curve, reference = records
    by_solver = {name: [record for record in curve if record.solver == name] for name in solvers}
    sampler_figure(
        {name: np.array([_point(record) for record in found]) for name, found in by_solver.items()},
        _point(reference)[1:],
        out / "samplers.png",
    )
    about = {**origin, "num_images": len(rows), "guidance_scale": guidance_scale, "seed": seed}
    _write_records(out / "samplers.json", about, records)
    return records


def _drawn_anew(dataset: ImageDataset, rows: Tensor) -> dict[str, Any]:
    """Images, their factors, and how to read these: from the nearest image, where there is one of each combination."""
    grid = every_image(dataset)
    read = None if grid is None else lambda images: grid.factors(nearest_rendered(grid, images))
    return {"images": dataset.images(rows), "factors": dataset.factors(rows), "read": read}


def _write_records(path: Path, about: Mapping[str, Any], records: Sequence[Any]) -> None:
    results = {**about, "records": [asdict(record) for record in records]}
    write_text(path, json.dumps(results, indent=2) + "\n")


def _point(record: SamplerRecord) -> tuple[float, float, float]:
    return record.calls, record.mse, float("nan") if record.readback is None else record.readback


def pipeline_guidance_curve(
    folder: Path,
    data: DataConfig,
    out: Path,
    *,
    num_images: int = 96,
    scales: Sequence[float] = SCALES,
    intervals: Sequence[tuple[float, float]] = INTERVALS,
    steps: int = 20,
    seed: int = 0,
) -> tuple[list[GuidanceRecord], tuple[str, ...]]:
    """What scales and intervals of guidance do to a pipeline's images; write `guidance.json`.

    Factors are read back, where the dataset has an image of every combination, as those of the nearest one.

    Args:
        folder: A saved pipeline.
        data: The dataset, of which rows are taken as in `evaluate_pipeline`.
        out: The folder of what is written.
        num_images: Held-out images that are encoded and drawn.
        scales: See `sampler_curve.guidance_curve`, as for the rest.
        intervals: As there.
        steps: As there.
        seed: As there.

    Returns:
        The records, and the names of the factors.

    Raises:
        ValueError: One line: no pipeline, an `out` that takes no files, images of another size, or as in `sampler_curve.guidance_curve`.
    """
    pipeline, dataset, rows, origin = _opened(folder, data, num_images, out)
    records = guidance_curve(
        pipeline,
        **_drawn_anew(dataset, rows),
        scales=scales,
        intervals=intervals,
        steps=steps,
        seed=seed,
    )
    about = {
        **origin,
        "num_images": len(rows),
        "num_inference_steps": steps,
        "seed": seed,
        "factors": dataset.factor_names,
    }
    _write_records(out / "guidance.json", about, records)
    return records, dataset.factor_names


def pipeline_variants(
    folder: Path,
    data: DataConfig,
    out: Path,
    *,
    num_images: int = 96,
    variants: Sequence[str],
    guidance_scale: float = 1.0,
    seed: int = 0,
) -> list[VariantRecord]:
    """How far images in other precisions lie from those in float32, and what each takes; write `precision.json`.

    Args:
        folder: A saved pipeline.
        data: The dataset, of which rows are taken as in `evaluate_pipeline`.
        out: The folder of what is written.
        num_images: Held-out images that are encoded and drawn.
        variants: See `sampler_curve.variant_table`, as for the rest.
        guidance_scale: As there.
        seed: As there.

    Raises:
        ValueError: One line: no pipeline, an `out` that takes no files, images of another size, or as in `sampler_curve.variant_table`.
    """
    pipeline, dataset, rows, origin = _opened(folder, data, num_images, out)
    records = variant_table(
        pipeline, dataset.images(rows), variants=variants, guidance_scale=guidance_scale, seed=seed
    )
    about = {**origin, "num_images": len(rows), "guidance_scale": guidance_scale, "seed": seed}
    _write_records(out / "precision.json", about, records)
    return records
