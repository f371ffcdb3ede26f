"""From a saved pipeline and held-out data to codes, scores, figures and `results.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .arguments import config_from_yaml
from .baselines import SUPERVISED_PROBE, SUPERVISION_BASELINE, learns_widths
from .builders import build_dataset, scored_rows
from .card_scores import by_name, codes_are, disentanglement, estimator
from .config import Config
from .data import ImageDataset, to_float
from .drawing import draw_rows
from .figures import (
    channels_last,
    image_grid,
    latent_histograms,
    latent_labels,
    reconstruction_figure,
    to_uint8,
    traversal_figure,
)
from .metric_figures import factor_latent_scatter
from .models import Autoencoder, autoencode
from .pipelines import IVAEDiffusionPipeline
from .processes import process_state
from .provenance import versions, write_text
from .readback import encode_rows, every_image, nearest_rendered
from .results import SCHEMA

TRAVERSAL_VALUES = tuple(float(v) for v in np.linspace(-1.6, 1.6, 9))
NUM_SHOWN = 10
"""Images in a row of a figure."""
SUPERVISION = {
    "interval": "weakly supervised by u = interval: for each factor and image, on which side of a random cut the factor lies "
    "(mean and variance of that side), less than one bit a factor",
    "uniform_posterior": "weakly supervised by u = uniform_posterior: for each factor and image a variance drawn given the factor's "
    "distance from the middle of its range (the paper's u); it says nothing of the side",
    "normal": "weakly supervised by u = normal (the paper's first stage): for each factor and image the variance, or with modulate_mean "
    "mean and variance, of the normal law that the factor was drawn from",
    "observed": "supervised by u = observed: columns seen beside each image while training",
    "bounds": "weakly supervised by u = bounds: for each factor and image an interval in which the factor was known to lie",
    "factors": "supervised by u = factors: the factors themselves",
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


def evaluate_run(output_dir: Path) -> Path | None:
    """Measure a finished run from what it saved, and write `results.json` and `figures/`.

    Processes share what takes time: to encode, to draw, and to search the dataset for what was drawn. The first does the rest alone.

    Args:
        output_dir: A run's folder, with `pipeline/`, `training.json` and, where they were trained, `supervision_baseline/` and
            `supervised_probe/`.

    Returns:
        The path of `results.json`; None on a process that is not the first.

    Raises:
        ValueError: One line, for a folder that holds no finished run.
    """
    config, pipeline = load_run(output_dir)
    facts = json.loads((output_dir / "training.json").read_text(encoding="utf-8"))
    dataset = build_dataset(config, pipeline.device)
    _, held_out = dataset.split(config.data.held_out, config.train.seed)
    rows = scored_rows(config, held_out)
    pictured = rows[: config.eval.num_generated]
    codes = (
        None
        if pipeline.ivae is None
        else encode_rows(pipeline, dataset, rows, widths=learns_widths(config), shared=True, progress=True)
    )
    baselines = {} if codes is None else _codes_of_baselines(output_dir, dataset, rows)
    drawn = {} if pipeline.takes_vectors else draw_rows(config, pipeline, dataset, pictured)
    nearest = _nearest(dataset, pictured, drawn)
    if not process_state().is_main_process:
        return None
    figures = output_dir / "figures"
    metrics = generation = None
    if codes is not None:
        metrics = _metrics(config, pipeline, dataset, rows, codes, figures)
    if drawn:
        report = _unconditional if pipeline.ivae is None else _generation
        generation = report(config, pipeline, dataset, pictured, drawn, nearest, figures)
    measured = {
        name: {
            "metrics": disentanglement(
                of_baseline, factors, dataset.factor_names, unsigned=config.aux.unsigned
            ),
            **about,
        }
        for name, (of_baseline, factors, about) in baselines.items()
    }
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "config": config.to_dict(),
        "data": {
            "name": config.data.name,
            "source": dataset.source,
            "image_size": dataset.image_size,
            "channels": dataset.channels,
            "held_out_fraction": config.data.held_out,
            "num_held_out": len(held_out),
            "num_samples": 0 if pipeline.ivae is None else len(rows),
        },
        "supervision": {
            "aux": config.aux.name,
            "label_to_z": config.aux.label_to_z,
            "statement": supervision_statement(config),
        },
        "estimator": {} if pipeline.ivae is None else estimator(config, pipeline.num_classes),
        "model": {
            "metrics": metrics,
            "num_parameters": {
                "ivae": _num_parameters(pipeline.ivae),
                "autoencoder": _num_parameters(pipeline.vae),
                "unet": _num_parameters(pipeline.unet) + _num_parameters(pipeline.conditioning),
            },
        },
        SUPERVISION_BASELINE: measured.get(SUPERVISION_BASELINE),
        SUPERVISED_PROBE: measured.get(SUPERVISED_PROBE),
        "generation": generation,
        "autoencoder": None if pipeline.vae is None else _autoencoder(pipeline.vae, dataset, pictured),
        "training": {name: value for name, value in facts.items() if name not in ("hardware", "command")},
        "hardware": facts["hardware"],
        "versions": versions(),
        "command": facts["command"],
    }
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
    return config_from_yaml(path.read_text(encoding="utf-8")), pipeline.to(process_state().device)


def _codes_of_baselines(
    output_dir: Path, dataset: ImageDataset, rows: Tensor
) -> dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """Codes, factors, and `steps` and the kind of `codes`, of each that was trained beside the model; none where no factor is known."""
    found = {}
    for name in (SUPERVISION_BASELINE, SUPERVISED_PROBE):
        if dataset.factor_names and (output_dir / name / "pipeline").exists():
            config, pipeline = load_run(output_dir / name)
            codes, factors = encode_rows(pipeline, dataset, rows, widths=learns_widths(config), shared=True)
            found[name] = codes, factors, {"steps": config.train.max_train_steps, "codes": codes_are(config)}
    return found


def _nearest(dataset: ImageDataset, rows: Tensor, drawn: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Rows of the dataset's images nearest to what was drawn, by its name, and to the held-out images themselves (`rendered`).

    All processes search together. None where nothing was drawn, or no image of every combination is known.
    """
    if not drawn or (grid := every_image(dataset)) is None:
        return None
    images = {"rendered": to_float(grid.images(rows)), **_in_model_range(drawn)}
    found = nearest_rendered(grid, torch.cat(list(images.values())), shared=True)
    return dict(zip(images, found.split(len(rows)), strict=True))


def _in_model_range(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    """Images in [0, 1] as ones in [-1, 1]."""
    return {name: images.float() * 2.0 - 1.0 for name, images in drawn.items()}


def _metrics(
    config: Config,
    pipeline: IVAEDiffusionPipeline,
    dataset: ImageDataset,
    rows: Tensor,
    coded: tuple[np.ndarray, np.ndarray],
    folder: Path,
) -> dict[str, Any] | None:
    """Scores of held-out codes, None where no factor is known; the figures of latents."""
    codes, factors = coded
    names = dataset.factor_names
    metrics = (
        disentanglement(codes, factors, names, pipeline.num_classes, unsigned=config.aux.unsigned)
        if names
        else None
    )
    matched = metrics["matched_latent"] if metrics else {}
    labels = latent_labels(codes.shape[1], matched)
    latent_histograms(codes, labels, folder / "latents.png")
    if names:
        factor_latent_scatter(codes, factors, names, folder / "scatter.png")
    if not pipeline.takes_vectors:
        _traversals(config, pipeline, pipeline.encode(dataset.images(rows[:1])), labels, folder)
    return metrics


def _generation(
    config: Config,
    pipeline: IVAEDiffusionPipeline,
    dataset: ImageDataset,
    rows: Tensor,
    drawn: dict[str, Tensor],
    nearest: dict[str, Tensor] | None,
    folder: Path,
) -> dict[str, Any]:
    """Held-out images generated anew from their latents, compared with themselves and, in a grid of factors, read back."""
    originals = dataset.images(rows)
    target = to_float(originals)
    report: dict[str, dict[str, Any]] = {
        name: {"mse": float((image - target).square().mean()), "readback": None}
        for name, image in _in_model_range(drawn).items()
    }
    rendered = None
    if nearest is not None:
        factors, names = dataset.factors(rows), dataset.factor_names
        right = {
            name: by_name(names, (dataset.factors(found) == factors).float().mean(dim=0))
            for name, found in nearest.items()
        }
        rendered = {"readback": right.pop("rendered")}
        for name, rates in right.items():
            report[name]["readback"] = rates
    ivae = report.pop("ivae", None)
    if ivae is not None:
        for entry in report.values():
            entry["mse_ratio"] = entry["mse"] / ivae["mse"]
    pictures = {name: to_uint8(channels_last(image[:NUM_SHOWN])) for name, image in drawn.items()}
    reconstruction_figure(
        channels_last(originals[:NUM_SHOWN]),
        pictures.pop("ivae", None),
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


def _autoencoder(vae: Autoencoder, dataset: ImageDataset, rows: Tensor) -> dict[str, Any]:
    """Held-out images through the autoencoder alone, without diffusion in its latents."""
    target = to_float(dataset.images(rows))
    return {"num_images": len(rows), "mse": float((autoencode(vae, target) - target).square().mean())}


def _unconditional(
    config: Config,
    pipeline: IVAEDiffusionPipeline,
    dataset: ImageDataset,
    rows: Tensor,
    drawn: dict[str, Tensor],
    nearest: dict[str, Tensor] | None,
    folder: Path,
) -> dict[str, Any]:
    """Images drawn from noise alone and, in a grid of factors, how far each is from the nearest image of the dataset.

    Beside the distances stand how many images of the dataset are the nearest to one that was drawn, fewer where draws are alike, and the
    distance between two held-out images taken at random, as a measure.
    """
    distance: dict[str, Any] | None = None
    if nearest is not None:
        found = nearest["unconditional"]
        images = _in_model_range(drawn)["unconditional"]
        distances = _squared_distances(images, to_float(dataset.images(found)))
        originals = to_float(dataset.images(rows))
        distance = {
            "mean": float(distances.mean()),
            "median": float(distances.median()),
            "max": float(distances.max()),
            "each": distances.tolist(),
            "num_distinct": len(found.unique()),
            "between_held_out": float(_squared_distances(originals, originals.roll(1, dims=0)).mean()),
        }
    pictures = to_uint8(channels_last(drawn["unconditional"]))
    full = [pictures[i : i + NUM_SHOWN] for i in range(0, len(pictures), NUM_SHOWN)]
    shown = [row for row in full[:NUM_SHOWN] if len(row) == len(full[0])]
    image_grid(shown, [str(i * NUM_SHOWN) for i in range(len(shown))], folder / "samples.png")
    return {
        "num_images": len(rows),
        "num_inference_steps": config.eval.num_inference_steps,
        "solver": type(pipeline.scheduler).__name__,
        "rendered": None,
        "ivae": None,
        "ddpm": {},
        "unconditional": {"nearest": distance},
    }


def _squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Mean over pixels of each pair of images `(N, C, H, W)` in [-1, 1], `(N,)`."""
    return (one - other).square().flatten(1).mean(dim=1)


def _traversals(
    config: Config, pipeline: IVAEDiffusionPipeline, latents: Tensor, labels: list[str], folder: Path
) -> None:
    """One latent at a time along its range, or through its classes, by each decoder that was trained."""
    classes = pipeline.num_classes
    values = TRAVERSAL_VALUES if classes is None else tuple(range(classes))
    trained: dict[Literal["ivae", "ddpm"], bool] = {
        "ivae": config.loss.rec > 0,
        "ddpm": pipeline.unet is not None,
    }
    for decoder in (name for name, learned in trained.items() if learned):
        images = pipeline.traverse(
            latents,
            values=values,
            decoder=decoder,
            num_inference_steps=config.eval.num_inference_steps,
            output_type="np",
        )
        traversal_figure(to_uint8(images), values, labels, folder / f"traversal_{decoder}.png")


def _num_parameters(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())
