"""The model card, made from the fields of `results.json` alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .baselines import SUPERVISED_PROBE, SUPERVISION_BASELINE
from .markdown import markdown_table
from .model_types import (
    has_ivae,
    is_categorical,
    learns_decoder,
    model_sentence,
    model_type,
    settings,
    training_sentence,
)
from .provenance import write_text
from .results import check_results, read_results

_LICENCES = {
    "shapes3d": "Apache-2.0",
    "dsprites": "Apache-2.0",
    "mpi3d": "CC-BY-4.0",
    "rotation": "Apache-2.0",
}
"""Of the datasets, by a part of their names."""

_HEADLINE = {
    "mig": "MIG",
    "mcc_spearman": "MCC, Spearman",
    "mcc_pearson": "MCC, Pearson",
    "modularity": "Modularity, all latents",
    "modularity_active_dims": "Modularity, active latents",
}
_MCC = ("mcc_spearman", "mcc_pearson")
"""What means nothing of class numbers."""
_BESIDE = {SUPERVISION_BASELINE: "u alone", SUPERVISED_PROBE: "labels (probe)"}
"""What stands beside the model in the tables."""


def write_card(folder: Path) -> Path:
    """Write `README.md` beside the `results.json` it is made from.

    Args:
        folder: A run's folder; the card links to `figures/` and loads `pipeline` in it.

    Returns:
        The path of the card.

    Raises:
        ValueError: No `results.json`, one that is no JSON or lacks a field, or a card that cannot be written; an older one then stays.
    """
    card = build_card(read_results(folder))
    path = folder / "README.md"
    write_text(path, card)
    return path


def build_card(results: Mapping[str, Any], reference: str | None = None) -> str:
    """The card as Markdown with a YAML head, whose `model-index` holds the figures as numbers.

    Args:
        results: The content of `results.json`, schema 1. `model.metrics` may be null (no factor is known, or no latents are there),
            `generation` null (vectors, or nothing that draws), `generation.rendered` null (no grid of factors to read images back in),
            `generation.ivae` null (lambda_rec = 0 left the decoder untrained, and there is no `mse_ratio` then), `generation.ddpm`
            empty (no U-Net), `supervision_baseline` null, and absent `supervised_probe`, `generation.unconditional` (of a model without
            latents), `autoencoder` (null without one) and `real_images` (what `readback.read_real_images` returns): the card says what
            was not measured.
        reference: Of a card for the Hub, the arguments of `from_pretrained` as Python; the card of a run's folder loads `pipeline` in it.

    Raises:
        ValueError: Another schema, a missing field, or a value of the wrong type; the message names it.
    """
    check_results(results)
    config, data, model, generation, training = (
        results[key] for key in ("config", "data", "model", "generation", "training")
    )
    real = results.get("real_images")
    ddpm = {float(gamma): block for gamma, block in generation["ddpm"].items()} if generation else {}
    gammas = sorted(ddpm)
    unconditional = _unconditional(results)
    kind = model_type(config)
    images = data["image_size"] > 1
    size = f" {data['image_size']}x{data['image_size']}" if images else ""
    told = f", u = {results['supervision']['aux']}" if has_ivae(config) else ""
    name = f"{kind}, {data['name']}{size}{told}, seed {training['seed']}"
    licence = next((text for part, text in _LICENCES.items() if part in data["name"]), None)
    card_data = ModelCardData(
        library_name="diffusers",
        license=licence.lower() if licence else None,
        pipeline_tag="image-to-image" if has_ivae(config) else "unconditional-image-generation",
        tags=[
            "idiff_hf",
            *(["disentanglement", "identifiable-vae"] if has_ivae(config) else []),
            *(["diffusion"] if config["model"]["diffusion"] else []),
            data["name"],
        ],
        model_name=name,
        eval_results=_eval_results(results, ddpm),
    )
    card = ModelCard.from_template(
        card_data,
        template_str=files("idiff_hf").joinpath("card_template.md").read_text(encoding="utf-8"),
        **results,
        name=name,
        reference=reference,
        kind=kind,
        images=images,
        has_ivae=has_ivae(config),
        categorical=is_categorical(config),
        draws=bool(generation and (generation["ivae"] or ddpm)),
        learns_decoder=learns_decoder(config),
        sentence=model_sentence(config),
        origin=training_sentence(config),
        settings="; ".join(settings(config)),
        unconditional=unconditional,
        nearest=unconditional["nearest"] if unconditional else None,
        probe=results.get(SUPERVISED_PROBE),
        probe_reason=_probe_reason(results),
        licence=licence,
        guidances=" and ".join(f"{gamma:g}" for gamma in gammas),
        parameters={part: count for part, count in model["num_parameters"].items() if count},
        losses={
            term: f"{value:.4g}" for term, value in training["final_losses"].items() if value is not None
        },
        minutes=f"{training['seconds'] / 60:.1f}",
        speed=f"{training['images_per_second']:.0f}",
        memory=f"{results['hardware']['memory_gib']:g}",
        held_out=f"{100 * data['held_out_fraction']:g} %",
        metrics_table=_metrics_table(results) if model["metrics"] else None,
        factors_table=_factors_table(results, ddpm, gammas) if model["metrics"] else None,
        errors_table=_errors_table(generation["ivae"], ddpm, gammas)
        if generation and not unconditional
        else None,
        real_table=_real_table(real) if real else None,
        config_json=json.dumps(config, indent=2),
    )
    return str(card) + "\n"


def _unconditional(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was measured of a model without latents."""
    return (results["generation"] or {}).get("unconditional")


def _eval_results(results: Mapping[str, Any], ddpm: Mapping[float, Mapping[str, Any]]) -> list[EvalResult]:
    data, metrics = results["data"], results["model"]["metrics"]
    generation, unconditional = results["generation"], _unconditional(results)
    size = f"{data['image_size']}x{data['image_size']}"

    def entry(kind: str, value: float, name: str, arguments: dict[str, Any] | None = None) -> EvalResult:
        return EvalResult(
            task_type="unconditional-image-generation" if unconditional else "image-to-image",
            dataset_type=data["name"],
            dataset_name=", ".join(
                [data["name"], data["source"], *([size] if data["image_size"] > 1 else [])]
            ),
            dataset_split="held-out",
            metric_type=kind,
            metric_value=value,
            metric_name=f"{name} (one seed)",
            metric_args=arguments,
        )

    meaningless = _MCC if is_categorical(results["config"]) else ()
    defined = {
        kind: name
        for kind, name in _HEADLINE.items()
        if metrics and metrics[kind] is not None and kind not in meaningless
    }
    entries = [entry(kind, metrics[kind], name) for kind, name in defined.items()]
    if unconditional and unconditional["nearest"]:
        name = "Squared distance to the nearest image of the dataset"
        entries.append(entry("nearest_mse", unconditional["nearest"]["mean"], name))
    if generation and generation["ivae"]:
        entries.append(entry("mse", generation["ivae"]["mse"], "Squared error, iVAE decoder"))
    for gamma, block in sorted(ddpm.items()):
        entries.append(
            entry("mse", block["mse"], f"Squared error, DDPM, guidance {gamma:g}", {"guidance_scale": gamma})
        )
    return entries


def _probe_reason(results: Mapping[str, Any]) -> str:
    """Why no supervised probe could be trained, see `baselines.has_labels`; empty where one could."""
    config = results["config"]
    factors, latents = len(config.get("data", {}).get("factor_columns", ())), config["model"]["latent_dim"]
    return f", as there are {factors} factors for {latents} latents" if factors > latents else ""


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _difference(one: float | None, other: float | None) -> str:
    return "" if one is None or other is None else f"{one - other:+.3f}"


def _beside(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Scores of what the model is compared with, by the names of their columns."""
    return {column: results[name]["metrics"] for name, column in _BESIDE.items() if results.get(name)}


def _metrics_table(results: Mapping[str, Any]) -> str:
    model, beside = results["model"]["metrics"], _beside(results)
    meaningless = _MCC if is_categorical(results["config"]) else ()
    columns: dict[str, list[str]] = {
        "metric": [f"{name}{' *' if key in meaningless else ''}" for key, name in _HEADLINE.items()],
        "model": [_score(model[key]) for key in _HEADLINE],
    }
    for column, metrics in beside.items():
        columns[column] = [_score(metrics[key]) for key in _HEADLINE]
        if column == _BESIDE[SUPERVISION_BASELINE]:
            columns["difference"] = [
                "" if key in meaningless else _difference(model[key], metrics[key]) for key in _HEADLINE
            ]
    return markdown_table(tuple(columns), list(zip(*columns.values(), strict=True)))


def _factors_table(
    results: Mapping[str, Any], ddpm: Mapping[float, Mapping[str, Any]], gammas: Sequence[float]
) -> str:
    metrics, generation = results["model"]["metrics"], results["generation"]
    columns: dict[str, dict[str, str]] = {
        "MIG": {k: _score(v) for k, v in metrics["mig_per_factor"].items()},
        "latent": {k: "none" if v < 0 else str(v) for k, v in metrics["matched_latent"].items()},
    }
    if not is_categorical(results["config"]):
        columns["Spearman"] = {k: _score(v) for k, v in metrics["mcc_spearman_per_factor"].items()}
    for column, other in _beside(results).items():
        columns[f"MIG, {column}"] = {k: _score(v) for k, v in other["mig_per_factor"].items()}
    if generation and generation["rendered"]:
        read = {"rendered": generation["rendered"]}
        read |= {"iVAE": generation["ivae"]} if generation["ivae"] else {}
        read |= {f"DDPM, guidance {gamma:g}": ddpm[gamma] for gamma in gammas}
        columns |= {
            f"read back, {name}": {k: _score(v) for k, v in block["readback"].items()}
            for name, block in read.items()
        }
    return markdown_table(
        ("factor", *columns),
        [(k, *(column[k] for column in columns.values())) for k in metrics["mig_per_factor"]],
    )


def _errors_table(
    ivae: Mapping[str, float] | None, ddpm: Mapping[float, Mapping[str, Any]], gammas: Sequence[float]
) -> str:
    if ivae is None:
        plain = [(f"DDPM, guidance {gamma:g}", f"{ddpm[gamma]['mse']:.4f}") for gamma in gammas]
        return markdown_table(("images from", "squared error"), plain)
    rows = [("iVAE decoder", f"{ivae['mse']:.4f}", "1")]
    rows += [
        (f"DDPM, guidance {g:g}", f"{ddpm[g]['mse']:.4f}", f"{ddpm[g]['mse_ratio']:.2f}") for g in gammas
    ]
    return markdown_table(("images from", "squared error", "times the iVAE decoder's"), rows)


def _real_table(real: Mapping[str, Any]) -> str:
    rows = [(k, _score(v), _score(real["within_one"][k])) for k, v in real["exact"].items()]
    return markdown_table(("factor", "exact", "within one class"), rows)
