"""From a saved pipeline and held-out data to codes, scores, figures and `results.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from .arguments import config_from_yaml
from .builders import build_dataset
from .config import Config
from .data import GridDataset, ImageDataset, to_float
from .figures import channels_last, latent_histograms, reconstruction_figure, to_uint8, traversal_figure
from .metric_figures import factor_latent_scatter
from .metrics import evaluate, mcc
from .pipelines import IVAEDiffusionPipeline
from .provenance import versions, write_text
from .random import generator
from .readback import by_name, encode_rows, nearest_rendered

TRAVERSAL_VALUES = tuple(float(v) for v in np.linspace(-1.6, 1.6, 9))
SUPERVISION = {
    "interval": "weakly supervised by u = interval: for each factor and image, on which side of a random cut the factor lies "
    "(mean and variance of that side), less than one bit a factor",
    "uniform_posterior": "weakly supervised by u = uniform_posterior: for each factor and image a variance drawn given the factor's "
    "distance from the middle of its range (the paper's u); it says nothing of the side",
    "normal": "weakly supervised by u = normal (the paper's first stage): for each factor and image the variance, or with modulate_mean "
    "mean and variance, of the normal law that the factor was drawn from",
    "observed": "supervised by u = observed: columns seen beside each image while training",
    "bounds": "weakly supervised by u = bounds: for each factor and image an interval in which the factor was known to lie",
    "none": "not supervised: no auxiliary variable",
}


def supervision_statement(config: Config) -> str:
    """What the model was told, in words."""
    text = SUPERVISION[config.aux.name]
    if config.aux.num_cuts > 1:
        text = (
            f"weakly supervised by u = interval: for each factor and image, between which of {config.aux.num_cuts} random cuts the "
            "factor lies (mean and variance of that piece)"
        )
    columns = config.data.aux_columns or config.data.bound_columns
    return f"{text}: {', '.join(columns)}" if columns else text


def disentanglement(codes: np.ndarray, factors: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """MIG, MCC and modularity as the card shows them; a code is a posterior mean.

    None stands for what a single factor or latent leaves undefined, `undefined` says why.
    """
    record = evaluate(codes, factors, metrics=("mig", "modularity", "mcc"))
    values: dict[str, Any] = record.values
    spearman = mcc(codes, factors, correlation="spearman")
    gaps = values["mig_per_factor"]
    return {
        "mig": values["mig"],
        "mig_per_factor": dict.fromkeys(names) if gaps is None else by_name(names, gaps),
        "mcc_pearson": values["mcc_pearson"],
        "mcc_spearman": values["mcc_spearman"],
        "mcc_spearman_per_factor": by_name(names, spearman.per_factor),
        "modularity": values["modularity"],
        "modularity_active_dims": values["modularity_active_dims"],
        "matched_latent": {
            name: int(latent) for name, latent in zip(names, spearman.assignment, strict=True)
        },
        "undefined": record.undefined,
    }


def evaluate_run(output_dir: Path) -> Path | None:
    """Measure a finished run from what it saved, and write `results.json` and `figures/`.

    Args:
        output_dir: A run's folder, with `pipeline/`, `training.json` and, where it was trained, `supervision_baseline/`.

    Returns:
        The path of `results.json`; None on a process that is not the first.

    Raises:
        ValueError: One line, for a folder that holds no finished run.
    """
    if not PartialState().is_main_process:
        return None
    config, pipeline = load_run(output_dir)
    facts = json.loads((output_dir / "training.json").read_text(encoding="utf-8"))
    dataset = build_dataset(config, pipeline.device)
    _, held_out = dataset.split(config.data.held_out, config.train.seed)
    order = torch.randperm(len(held_out), generator=generator(config.train.seed, "evaluation"))
    rows = held_out[order[: config.eval.num_samples]]
    codes, factors = encode_rows(pipeline, dataset, rows)
    names, figures = dataset.factor_names, output_dir / "figures"
    metrics = disentanglement(codes, factors, names) if names else None
    results: dict[str, Any] = {
        "schema": 1,
        "config": config.to_dict(),
        "data": {
            "name": config.data.name,
            "source": dataset.source,
            "image_size": dataset.image_size,
            "channels": dataset.channels,
            "held_out_fraction": config.data.held_out,
            "num_held_out": len(held_out),
            "num_samples": len(rows),
        },
        "supervision": {
            "aux": config.aux.name,
            "label_to_z": config.aux.label_to_z,
            "statement": supervision_statement(config),
        },
        "estimator": {
            "num_bins": 20,
            "mig": "equal-width bins of posterior means, mutual information over factor entropy",
            "mcc": "absolute correlation of posterior means, Hungarian assignment",
        },
        "model": {
            "metrics": metrics,
            "num_parameters": {
                "ivae": _num_parameters(pipeline.ivae),
                "unet": _num_parameters(pipeline.unet) + _num_parameters(pipeline.conditioning),
            },
        },
        "supervision_baseline": _baseline(output_dir, dataset, rows) if names else None,
        "generation": None
        if pipeline.takes_vectors
        else _generation(config, pipeline, dataset, rows[: config.eval.num_generated], figures),
        "training": {name: value for name, value in facts.items() if name not in ("hardware", "command")},
        "hardware": facts["hardware"],
        "versions": versions(),
        "command": facts["command"],
    }
    matched = metrics["matched_latent"] if metrics else {}
    labels = [_latent_label(dim, matched) for dim in range(pipeline.latent_dim)]
    latent_histograms(codes, labels, figures / "latents.png")
    if names:
        factor_latent_scatter(codes, factors, names, figures / "scatter.png")
    if not pipeline.takes_vectors:
        _traversals(config, pipeline, torch.from_numpy(codes[:1]).float(), labels, figures)
    path = output_dir / "results.json"
    write_text(path, json.dumps(results, indent=2) + "\n")
    return path


def load_run(output_dir: Path) -> tuple[Config, IVAEDiffusionPipeline]:
    """The config and the pipeline of a finished run, on the accelerator where there is one."""
    path = output_dir / "pipeline" / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{output_dir} holds no finished run: there is no pipeline/config.yaml in it")
    pipeline = IVAEDiffusionPipeline.from_pretrained(path.parent)
    pipeline.set_progress_bar_config(disable=True)
    return config_from_yaml(path.read_text(encoding="utf-8")), pipeline.to(PartialState().device)


def _baseline(output_dir: Path, dataset: ImageDataset, rows: Tensor) -> dict[str, Any] | None:
    folder = output_dir / "supervision_baseline"
    if not (folder / "pipeline").exists():
        return None
    config, pipeline = load_run(folder)
    codes, factors = encode_rows(pipeline, dataset, rows)
    return {
        "metrics": disentanglement(codes, factors, dataset.factor_names),
        "steps": config.train.max_train_steps,
    }


def _generation(
    config: Config, pipeline: IVAEDiffusionPipeline, dataset: ImageDataset, rows: Tensor, folder: Path
) -> dict[str, Any]:
    """Held-out images generated anew from their posterior means, compared with themselves and, in a grid of factors, read back."""
    originals = dataset.images(rows)
    latents = pipeline.encode(originals)
    drawn: dict[str, Tensor] = {"ivae": pipeline.decode(latents, "pt")}
    if pipeline.unet is not None:
        for scale in config.eval.guidance_scales:
            generators = [
                generator(config.train.seed, "generation", i, device=pipeline.device)
                for i in range(len(rows))
            ]
            drawn[str(float(scale))] = pipeline(
                latents=latents,
                guidance_scale=scale,
                num_inference_steps=config.eval.num_inference_steps,
                generator=generators,
                output_type="pt",
            ).images
    target = to_float(originals)
    images = {name: image.float() * 2.0 - 1.0 for name, image in drawn.items()}
    report: dict[str, dict[str, Any]] = {
        name: {"mse": float((image - target).square().mean()), "readback": None}
        for name, image in images.items()
    }
    rendered = None
    # a nuisance is not in the factors, so that no image of the grid need be near
    if isinstance(dataset, GridDataset) and dataset.nuisance_shape is None:
        read = nearest_rendered(dataset, torch.cat([target, *images.values()])).split(len(rows))
        factors, names = dataset.factors(rows), dataset.factor_names
        right = [by_name(names, (labels == factors).float().mean(dim=0)) for labels in read]
        rendered = {"readback": right[0]}
        for entry, rates in zip(report.values(), right[1:], strict=True):
            entry["readback"] = rates
    ivae = report.pop("ivae")
    for entry in report.values():
        entry["mse_ratio"] = entry["mse"] / ivae["mse"]
    pictures = {name: to_uint8(channels_last(image[:10])) for name, image in drawn.items()}
    reconstruction_figure(
        channels_last(originals[:10]),
        pictures.pop("ivae"),
        {float(k): v for k, v in pictures.items()},
        folder / "reconstructions.png",
    )
    return {
        "num_images": len(rows),
        "num_inference_steps": config.eval.num_inference_steps,
        "solver": type(pipeline.scheduler).__name__ if pipeline.unet is not None else None,
        "rendered": rendered,
        "ivae": ivae,
        "ddpm": report,
    }


def _traversals(
    config: Config, pipeline: IVAEDiffusionPipeline, latents: Tensor, labels: list[str], folder: Path
) -> None:
    steps = config.eval.num_inference_steps
    images = pipeline.traverse(latents, values=TRAVERSAL_VALUES, decoder="ivae", output_type="np")
    traversal_figure(to_uint8(images), TRAVERSAL_VALUES, labels, folder / "traversal_ivae.png")
    if pipeline.unet is not None:
        images = pipeline.traverse(
            latents, values=TRAVERSAL_VALUES, decoder="ddpm", num_inference_steps=steps, output_type="np"
        )
        traversal_figure(to_uint8(images), TRAVERSAL_VALUES, labels, folder / "traversal_ddpm.png")


def _num_parameters(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def _latent_label(dim: int, matched: Mapping[str, int]) -> str:
    factor = next((name for name, latent in matched.items() if latent == dim), None)
    return f"z{dim}" if factor is None else f"z{dim} {factor}"
