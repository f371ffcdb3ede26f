"""The tables of `idiff bench`: what a saved pipeline draws, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..config import DataConfig
from ..data import ImageDataset
from ..figures import sampler_figure
from ..provenance import write_text
from ..readback import every_image, nearest_rendered, reader_of_rows
from ..sampler_curve import (
    INTERVALS,
    REFERENCE_STEPS,
    SCALES,
    SOLVERS,
    STEPS,
    GuidanceRecord,
    Read,
    SamplerRecord,
    VariantRecord,
    guidance_curve,
    sampler_curve,
    variant_table,
)
from .interventions import InterventionRecord, interventions
from .opening import opened, trained_decoders


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
        ValueError: One line: no pipeline, an unwritable `out`, images of another size, or as in `sampler_curve.sampler_curve`.
    """
    path, figure = out / "samplers.json", out / "samplers.png"
    pipeline, dataset, rows, origin = opened(folder, data, num_images, path, figure)
    records = sampler_curve(
        pipeline,
        **_drawn_anew(dataset, rows),
        solvers=solvers,
        steps=steps,
        reference_steps=reference_steps,
        guidance_scale=guidance_scale,
        seed=seed,
    )
    _write_records(path, origin, rows, records, guidance_scale=guidance_scale, seed=seed)
    *curve, reference = records
    by_solver = {name: [record for record in curve if record.solver == name] for name in solvers}
    sampler_figure(
        {name: np.array([_point(record) for record in found]) for name, found in by_solver.items()},
        _point(reference)[1:],
        figure,
    )
    return records


def _drawn_anew(dataset: ImageDataset, rows: Tensor) -> dict[str, Any]:
    """Images, their factors, and how to read these: from the nearest image, where there is one of each combination."""
    return {"images": dataset.images(rows), "factors": dataset.factors(rows), "read": _nearest_read(dataset)}


def _nearest_read(dataset: ImageDataset) -> Read | None:
    """Reads factors as those of the nearest image, where there is one of each combination."""
    grid = every_image(dataset)
    return None if grid is None else lambda images: grid.factors(nearest_rendered(grid, images))


def _write_records(
    path: Path, origin: Mapping[str, Any], rows: Tensor, records: Sequence[Any], **settings: Any
) -> None:
    results = {
        **origin,
        "num_images": len(rows),
        **settings,
        "records": [asdict(record) for record in records],
    }
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
        ValueError: One line: no pipeline, an unwritable `out`, images of another size, or as in `sampler_curve.guidance_curve`.
    """
    path = out / "guidance.json"
    pipeline, dataset, rows, origin = opened(folder, data, num_images, path)
    records = guidance_curve(
        pipeline,
        **_drawn_anew(dataset, rows),
        scales=scales,
        intervals=intervals,
        steps=steps,
        seed=seed,
    )
    names = dataset.factor_names
    _write_records(path, origin, rows, records, num_inference_steps=steps, seed=seed, factors=names)
    return records, names


def pipeline_interventions(
    folder: Path,
    data: DataConfig,
    out: Path,
    *,
    num_images: int = 24,
    guidance_scale: float = 1.0,
    steps: int = 20,
    seed: int = 0,
) -> tuple[list[InterventionRecord], tuple[str, ...]]:
    """Whether a pipeline's images follow its latents, one at a time; write `interventions.json`.

    Both decoders draw, the iVAE's unless it was left untrained. Factors are read from a drawing as those of the nearest image of the
    dataset.

    Args:
        folder: A saved pipeline of Gaussian latents.
        data: The dataset, which has an image of every combination; rows are taken as in `evaluate_pipeline`.
        out: The folder of what is written.
        num_images: Held-out images that are encoded, and drawn once for each class of each factor.
        guidance_scale: See `interventions.interventions`, as for the rest.
        steps: As there.
        seed: As there.

    Returns:
        The records, and the names of the factors.

    Raises:
        ValueError: One line: no pipeline, an unwritable `out`, images of another size, latents that are not Gaussian, or a
            dataset without an image of every combination, or as in `interventions.interventions`.
    """
    path = out / "interventions.json"
    pipeline, dataset, rows, origin = opened(folder, data, num_images, path)
    if pipeline.ivae is None or pipeline.num_classes is not None:
        raise ValueError(
            f"latents are set to the means of classes on a model of Gaussian latents, {folder} has none"
        )
    read = _nearest_read(dataset)
    if read is None:
        raise ValueError(
            f"factors are read from the nearest image of every combination, which data.name={data.name} does not have"
        )
    decoders = trained_decoders(pipeline, folder)
    records = interventions(
        pipeline,
        pipeline.encode(dataset.images(rows)),
        dataset.factors(rows),
        reader_of_rows(pipeline, dataset),
        read,
        decoders=decoders,
        guidance_scale=guidance_scale,
        steps=steps,
        seed=seed,
    )
    names = dataset.factor_names
    drawing = {"guidance_scale": guidance_scale, "num_inference_steps": steps, "seed": seed}
    # an iVAE's decoder has no such settings
    settings = drawing if "ddpm" in decoders else {}
    _write_records(path, origin, rows, records, **settings, factors=names)
    return records, names


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
        ValueError: One line: no pipeline, an unwritable `out`, images of another size, or as in `sampler_curve.variant_table`.
    """
    path = out / "precision.json"
    pipeline, dataset, rows, origin = opened(folder, data, num_images, path)
    records = variant_table(
        pipeline, dataset.images(rows), variants=variants, guidance_scale=guidance_scale, seed=seed
    )
    _write_records(path, origin, rows, records, guidance_scale=guidance_scale, seed=seed)
    return records
