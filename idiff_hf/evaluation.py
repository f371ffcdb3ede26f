"""From a saved pipeline and held-out data to codes, scores, figures and `results.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from .arguments import config_from_yaml
from .builders import build_dataset
from .config import Config
from .data import Shapes3D, to_float
from .figures import latent_histograms, reconstruction_figure, to_uint8, traversal_figure
from .metrics import mcc, mig, modularity
from .pipelines import IVAEDiffusionPipeline
from .provenance import versions, write_text
from .random import generator

TRAVERSAL_VALUES = tuple(float(v) for v in np.linspace(-1.6, 1.6, 9))
SUPERVISION = {
    "interval": "weakly supervised by u = interval: for each factor and image, on which side of a random cut the factor lies "
    "(mean and variance of that side), less than one bit a factor",
    "uniform_posterior": "weakly supervised by u = uniform_posterior: for each factor and image a variance drawn given the factor's "
    "distance from the middle of its range (the paper's u); it says nothing of the side",
    "none": "not supervised: no auxiliary variable",
}


def encode_rows(
    pipeline: IVAEDiffusionPipeline, dataset: Any, rows: Tensor, batch_size: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and labels of rendered images.

    Args:
        pipeline: The model.
        dataset: Renders factors.
        rows: Row numbers, `(N,)`.
        batch_size: Images rendered and encoded at once.

    Returns:
        Codes `(N, D)` float64 and factors `(N, K)` int64.
    """
    codes, factors = [], []
    for part in rows.split(batch_size):
        labels = dataset.factor_space.factors(part)
        codes.append(pipeline.encode(dataset.render(labels.to(pipeline.device))).cpu())
        factors.append(labels.cpu())
    return torch.cat(codes).double().numpy(), torch.cat(factors).numpy()


def disentanglement(codes: np.ndarray, factors: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """MIG, MCC and modularity as the card shows them; a code is a posterior mean."""
    gap, pearson, spearman = (
        mig(codes, factors),
        mcc(codes, factors),
        mcc(codes, factors, correlation="spearman"),
    )
    scores = modularity(codes, factors)
    return {
        "mig": float(gap.mean),
        "mig_per_factor": _by_name(names, gap.per_factor),
        "mcc_pearson": float(pearson.mean),
        "mcc_spearman": float(spearman.mean),
        "mcc_spearman_per_factor": _by_name(names, spearman.per_factor),
        "modularity": float(scores.mean),
        "modularity_active_dims": float(scores.mean_active),
        "matched_latent": {
            name: int(latent) for name, latent in zip(names, spearman.assignment, strict=True)
        },
    }


class FactorReader:
    """Reads factors from codes: for each factor the latent that matches it, through a monotone fit on rendered data, to the nearest level.

    Args:
        codes: `(N, D)` of rendered images.
        factors: Their labels, `(N, K)`.
    """

    def __init__(self, codes: np.ndarray, factors: np.ndarray) -> None:
        self.assignment = mcc(codes, factors, correlation="spearman").assignment
        self.sizes = factors.max(axis=0) + 1
        self.fits = [
            IsotonicRegression(increasing="auto", out_of_bounds="clip").fit(codes[:, latent], factors[:, k])
            for k, latent in enumerate(self.assignment)
        ]

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Labels `(N, K)` for codes `(N, D)`."""
        columns = [
            np.clip(np.rint(fit.predict(codes[:, latent])), 0, size - 1).astype(np.int64)
            for fit, latent, size in zip(self.fits, self.assignment, self.sizes, strict=True)
        ]
        return np.stack(columns, axis=1)


def nearest_rendered(dataset: Any, images: Tensor, batch_size: int = 4000) -> Tensor:
    """Labels of the rendered image that is nearest to each given one, by squared error over all factor combinations.

    Args:
        dataset: Renders factors.
        images: `(N, C, H, W)` float in [-1, 1].
        batch_size: Rendered images compared at once.

    Returns:
        `(N, K)`.
    """
    space, queries = dataset.factor_space, images.flatten(1)
    best = torch.full((len(images),), float("inf"), device=images.device)
    index = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    for rows in torch.arange(len(space)).split(batch_size):
        rendered = to_float(dataset.render(space.factors(rows).to(images.device))).flatten(1)
        # |r - q|^2 without |q|^2, which does not decide between rendered images
        distance = rendered.square().sum(dim=1) - 2.0 * queries @ rendered.T
        value, position = distance.min(dim=1)
        index = torch.where(value < best, rows.to(index.device)[position], index)
        best = torch.minimum(best, value)
    return space.factors(index.cpu())


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
    names = dataset.factor_space.names
    _, held_out = dataset.factor_space.split(config.data.held_out, config.train.seed)
    order = torch.randperm(len(held_out), generator=generator(config.train.seed, "evaluation"))
    rows = held_out[order[: config.eval.num_samples]]
    codes, factors = encode_rows(pipeline, dataset, rows)
    results: dict[str, Any] = {
        "schema": 1,
        "config": config.to_dict(),
        "data": {
            "name": config.data.name,
            "source": "rendered",
            "image_size": config.data.image_size,
            "held_out_fraction": config.data.held_out,
            "num_held_out": len(held_out),
            "num_samples": len(rows),
        },
        "supervision": {
            "aux": config.aux.name,
            "label_to_z": config.aux.label_to_z,
            "statement": SUPERVISION[config.aux.name],
        },
        "estimator": {
            "num_bins": 20,
            "mig": "equal-width bins of posterior means, mutual information over factor entropy",
            "mcc": "absolute correlation of posterior means, Hungarian assignment",
        },
        "model": {
            "metrics": disentanglement(codes, factors, names),
            "num_parameters": {
                "ivae": _num_parameters(pipeline.ivae),
                "unet": _num_parameters(pipeline.unet) + _num_parameters(pipeline.conditioning),
            },
        },
        "supervision_baseline": _baseline(output_dir, dataset, rows),
        "generation": _generation(
            config, pipeline, dataset, rows[: config.eval.num_generated], output_dir / "figures"
        ),
        "training": {name: value for name, value in facts.items() if name not in ("hardware", "command")},
        "hardware": facts["hardware"],
        "versions": versions(),
        "command": facts["command"],
    }
    matched = results["model"]["metrics"]["matched_latent"]
    labels = [_latent_label(dim, matched) for dim in range(pipeline.latent_dim)]
    latent_histograms(codes, labels, output_dir / "figures" / "latents.png")
    _traversals(config, pipeline, torch.from_numpy(codes[:1]).float(), labels, output_dir / "figures")
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


def _baseline(output_dir: Path, dataset: Any, rows: Tensor) -> dict[str, Any] | None:
    folder = output_dir / "supervision_baseline"
    if not (folder / "pipeline").exists():
        return None
    config, pipeline = load_run(folder)
    codes, factors = encode_rows(pipeline, dataset, rows)
    return {
        "metrics": disentanglement(codes, factors, dataset.factor_space.names),
        "steps": config.train.max_train_steps,
    }


def _generation(
    config: Config, pipeline: IVAEDiffusionPipeline, dataset: Any, rows: Tensor, folder: Path
) -> dict[str, Any]:
    """Held-out images generated anew from their posterior means, compared with themselves and read back."""
    factors = dataset.factor_space.factors(rows)
    originals = dataset.render(factors.to(pipeline.device))
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
    stacked = torch.cat([target, *(image.float() * 2.0 - 1.0 for image in drawn.values())])
    read = nearest_rendered(dataset, stacked).split(len(rows))
    names = dataset.factor_space.names
    report: dict[str, dict[str, Any]] = {}
    for (name, image), labels in zip(drawn.items(), read[1:], strict=True):
        error = float((image.float() * 2.0 - 1.0 - target).square().mean())
        report[name] = {"mse": error, "readback": _by_name(names, (labels == factors).float().mean(dim=0))}
    ivae = report.pop("ivae")
    for entry in report.values():
        entry["mse_ratio"] = entry["mse"] / ivae["mse"]
    pictures = {name: to_uint8(image[:10].movedim(1, -1).cpu().numpy()) for name, image in drawn.items()}
    shown = originals[:10].movedim(1, -1).cpu().numpy()
    reconstruction_figure(
        shown,
        pictures.pop("ivae"),
        {float(k): v for k, v in pictures.items()},
        folder / "reconstructions.png",
    )
    return {
        "num_images": len(rows),
        "num_inference_steps": config.eval.num_inference_steps,
        "solver": type(pipeline.scheduler).__name__ if pipeline.unet is not None else None,
        "rendered": {"readback": _by_name(names, (read[0] == factors).float().mean(dim=0))},
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


def read_real_images(
    pipeline: IVAEDiffusionPipeline, images: np.ndarray, factors: np.ndarray, num_fit: int = 10000
) -> dict[str, Any]:
    """Read the factors of real 3D Shapes images with a model that has seen rendered ones only.

    Args:
        pipeline: A model of rendered Shapes3D.
        images: uint8 `(N, 64, 64, 3)`; averaged down to the model's image size.
        factors: Their labels, `(N, 6)`.
        num_fit: Rendered images on which the monotone fits are made.

    Returns:
        `num_images`, and for each factor the rates `exact` and `within_one`.
    """
    size = int(pipeline.ivae.config.image_size)
    dataset = Shapes3D(image_size=size, device=pipeline.device)
    rows = torch.randperm(len(dataset.factor_space), generator=generator(0, "monotone fit"))[:num_fit]
    reader = FactorReader(*encode_rows(pipeline, dataset, rows))
    tensor = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(images).movedim(-1, 1).float(), size)
    read = reader(pipeline.encode(tensor / 127.5 - 1.0).cpu().double().numpy())
    distance = np.abs(read - factors)
    names = dataset.factor_space.names
    return {
        "num_images": len(images),
        "exact": _by_name(names, (distance == 0).mean(axis=0)),
        "within_one": _by_name(names, (distance <= 1).mean(axis=0)),
    }


def real_image_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `(N, 64, 64, 3)` and labels `(N, 6)` from an npz file with `images` and `factors`.

    Raises:
        ValueError: One line, for a file that is missing or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, factors = arrays["images"], arrays["factors"]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no npz file with images and factors: {error}") from None
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[1:] != (64, 64, 3)
        or factors.shape != (len(images), 6)
    ):
        raise ValueError(
            f"{path}: images must be uint8 (N, 64, 64, 3) and factors (N, 6), got {images.dtype} {images.shape} and {factors.shape}"
        )
    return images, factors


def _by_name(names: tuple[str, ...], values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _num_parameters(module: torch.nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())


def _latent_label(dim: int, matched: Mapping[str, int]) -> str:
    factor = next((name for name, latent in matched.items() if latent == dim), None)
    return f"z{dim}" if factor is None else f"z{dim} {factor}"
