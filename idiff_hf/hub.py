"""The model card, made from the fields of `results.json` alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

SCHEMA = 1

_FACTORS = "one number for each factor"
_NUMBER_OR_NULL = "a number, or null where it is undefined"
_METRICS: dict[str, Any] = {
    "mig": _NUMBER_OR_NULL,
    "mig_per_factor": {},
    "mcc_pearson": _NUMBER_OR_NULL,
    "mcc_spearman": _NUMBER_OR_NULL,
    "mcc_spearman_per_factor": _FACTORS,
    "modularity": _NUMBER_OR_NULL,
    "modularity_active_dims": _NUMBER_OR_NULL,
    "matched_latent": _FACTORS,
}
_GENERATED: dict[str, Any] = {"mse": float}
_READ_BACK: dict[str, Any] = {"readback": _FACTORS}
_REQUIRED: dict[str, Any] = {
    "config": {
        "model": {"backbone": str, "latent_dim": int, "prior_type": str},
        "train": {"train_batch_size": int},
    },
    "data": {
        "name": str,
        "source": str,
        "image_size": int,
        "held_out_fraction": float,
        "num_held_out": int,
        "num_samples": int,
    },
    "supervision": {"aux": str, "label_to_z": str, "statement": str},
    "estimator": {},
    "model": {"num_parameters": {"ivae": int}},
    "training": {
        "seed": int,
        "steps": int,
        "seconds": float,
        "images_per_second": float,
        "num_processes": int,
        "final_losses": {},
    },
    "hardware": {"device": str, "name": str, "cores": int, "memory_gib": float},
    "versions": {},
    "command": str,
}
_GENERATION = {
    "num_images": int,
    "num_inference_steps": int,
    "rendered": None,
    "ivae": _GENERATED,
    "ddpm": {},
}
_DDPM = {**_GENERATED, "mse_ratio": float}
_BASELINE = {"metrics": _METRICS, "steps": int}
_REAL_IMAGES = {"num_images": int, "exact": _FACTORS, "within_one": _FACTORS}

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


def write_card(folder: Path) -> Path:
    """Write `README.md` beside the `results.json` it is made from.

    Args:
        folder: A run's folder; the card links to `figures/` and loads `pipeline` in it.

    Returns:
        The path of the card.

    Raises:
        ValueError: No `results.json`, or one that is no JSON or lacks a field; an older card then stays.
    """
    source = folder / "results.json"
    if not source.is_file():
        raise ValueError(f"no results.json in {folder}: evaluate the run first")
    try:
        results = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{source} is no JSON ({error}): evaluate the run again") from error
    card = build_card(results)
    path = folder / "README.md"
    path.write_text(card, encoding="utf-8")
    return path


def build_card(results: Mapping[str, Any]) -> str:
    """The card as Markdown with a YAML head, whose `model-index` holds the figures as numbers.

    Args:
        results: The content of `results.json`, schema 1. `model.metrics` may be null (no factor is known),
            `generation` null (vectors), `generation.rendered` null (no grid of factors to read images back in),
            `supervision_baseline` null, `generation.ddpm` empty (no U-Net), and `real_images` (what
            `readback.read_real_images` returns) absent: the card says what was not measured.

    Raises:
        ValueError: Another schema, a missing field, or a value of the wrong type; the message names it.
    """
    _check_results(results)
    data, model, generation, training = (results[key] for key in ("data", "model", "generation", "training"))
    baseline, real = results["supervision_baseline"], results.get("real_images")
    ddpm = {float(gamma): block for gamma, block in generation["ddpm"].items()} if generation else {}
    gammas = sorted(ddpm)
    aux = results["supervision"]["aux"]
    kind = ("VAE" if aux == "none" else "iVAE") + ("+DDPM" if ddpm else "")
    size = f" {data['image_size']}x{data['image_size']}" if generation else ""
    name = f"{kind}, {data['name']}{size}, u = {aux}, seed {training['seed']}"
    licence = next((text for part, text in _LICENCES.items() if part in data["name"]), None)
    card_data = ModelCardData(
        library_name="diffusers",
        license=licence.lower() if licence else None,
        pipeline_tag="image-to-image",
        tags=[
            "idiff_hf",
            "disentanglement",
            "identifiable-vae",
            *(["diffusion"] if ddpm else []),
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
        kind=kind,
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
        metrics_table=_metrics_table(model["metrics"], baseline["metrics"] if baseline else None)
        if model["metrics"]
        else None,
        factors_table=_factors_table(results, ddpm, gammas) if model["metrics"] else None,
        errors_table=_errors_table(generation["ivae"], ddpm, gammas) if generation else None,
        real_table=_real_table(real) if real else None,
        config_json=json.dumps(results["config"], indent=2),
    )
    return str(card) + "\n"


def _eval_results(results: Mapping[str, Any], ddpm: Mapping[float, Mapping[str, Any]]) -> list[EvalResult]:
    data, metrics = results["data"], results["model"]["metrics"]
    size = f"{data['image_size']}x{data['image_size']}"

    def entry(kind: str, value: float, name: str, arguments: dict[str, Any] | None = None) -> EvalResult:
        return EvalResult(
            task_type="image-to-image",
            dataset_type=data["name"],
            dataset_name=", ".join(
                [data["name"], data["source"], *([size] if results["generation"] else [])]
            ),
            dataset_split="held-out",
            metric_type=kind,
            metric_value=value,
            metric_name=f"{name} (one seed)",
            metric_args=arguments,
        )

    defined = {kind: name for kind, name in _HEADLINE.items() if metrics and metrics[kind] is not None}
    entries = [entry(kind, metrics[kind], name) for kind, name in defined.items()]
    if results["generation"]:
        entries.append(entry("mse", results["generation"]["ivae"]["mse"], "Squared error, iVAE decoder"))
    for gamma, block in sorted(ddpm.items()):
        entries.append(
            entry("mse", block["mse"], f"Squared error, DDPM, guidance {gamma:g}", {"guidance_scale": gamma})
        )
    return entries


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _difference(one: float | None, other: float | None) -> str:
    return "" if one is None or other is None else f"{one - other:+.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _metrics_table(model: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> str:
    if baseline is None:
        return _table(("metric", "model"), [(name, _score(model[key])) for key, name in _HEADLINE.items()])
    return _table(
        ("metric", "model", "u alone", "difference"),
        [
            (name, _score(model[key]), _score(baseline[key]), _difference(model[key], baseline[key]))
            for key, name in _HEADLINE.items()
        ],
    )


def _factors_table(
    results: Mapping[str, Any], ddpm: Mapping[float, Mapping[str, Any]], gammas: Sequence[float]
) -> str:
    metrics, generation, baseline = (
        results["model"]["metrics"],
        results["generation"],
        results["supervision_baseline"],
    )
    columns: dict[str, dict[str, str]] = {
        "MIG": {k: _score(v) for k, v in metrics["mig_per_factor"].items()},
        "latent": {k: str(v) for k, v in metrics["matched_latent"].items()},
        "Spearman": {k: _score(v) for k, v in metrics["mcc_spearman_per_factor"].items()},
    }
    if baseline:
        columns["MIG, u alone"] = {k: _score(v) for k, v in baseline["metrics"]["mig_per_factor"].items()}
    if generation and generation["rendered"]:
        read = {"rendered": generation["rendered"], "iVAE": generation["ivae"]}
        read |= {f"DDPM, guidance {gamma:g}": ddpm[gamma] for gamma in gammas}
        columns |= {
            f"read back, {name}": {k: _score(v) for k, v in block["readback"].items()}
            for name, block in read.items()
        }
    return _table(
        ("factor", *columns),
        [(k, *(column[k] for column in columns.values())) for k in metrics["mig_per_factor"]],
    )


def _errors_table(
    ivae: Mapping[str, float], ddpm: Mapping[float, Mapping[str, Any]], gammas: Sequence[float]
) -> str:
    rows = [("iVAE decoder", f"{ivae['mse']:.4f}", "1")]
    rows += [
        (f"DDPM, guidance {g:g}", f"{ddpm[g]['mse']:.4f}", f"{ddpm[g]['mse_ratio']:.2f}") for g in gammas
    ]
    return _table(("images from", "squared error", "times the iVAE decoder's"), rows)


def _real_table(real: Mapping[str, Any]) -> str:
    rows = [(k, _score(v), _score(real["within_one"][k])) for k, v in real["exact"].items()]
    return _table(("factor", "exact", "within one class"), rows)


def _check_results(results: Mapping[str, Any]) -> None:
    if results.get("schema") != SCHEMA:
        raise ValueError(
            f"results: schema must be {SCHEMA}, got {results.get('schema')!r}: evaluate the run again"
        )
    _check(results, {"model": {"metrics": None}, "generation": None, "supervision_baseline": None}, "", ())
    metrics, generation = results["model"]["metrics"], results["generation"]
    factors: tuple[str, ...] = ()
    if metrics is not None:
        _check(metrics, {"mig_per_factor": {}}, "model.metrics", ())
        factors = tuple(metrics["mig_per_factor"])
        _check(
            metrics,
            {**_METRICS, "mig_per_factor": dict.fromkeys(factors, _NUMBER_OR_NULL)},
            "model.metrics",
            factors,
        )
    _check(results, _REQUIRED, "", factors)
    if generation is not None:
        _check(generation, _GENERATION, "generation", factors)
        blocks = {f"ddpm.{gamma}": block for gamma, block in generation["ddpm"].items()}
        for name, block in blocks.items():
            _check(block, _DDPM, f"generation.{name}", factors)
        if blocks:
            _check(generation, {"solver": str}, "generation", factors)
        if generation["rendered"] is not None:
            for name, block in {
                **blocks,
                "ivae": generation["ivae"],
                "rendered": generation["rendered"],
            }.items():
                _check(block, _READ_BACK, f"generation.{name}", factors)
    for name, required in (("supervision_baseline", _BASELINE), ("real_images", _REAL_IMAGES)):
        if results.get(name) is not None:
            _check(results[name], required, name, factors)


def _check(value: Any, required: Any, name: str, factors: tuple[str, ...]) -> None:
    """Refuse `value` unless it is what `required` says: keys, a type, `_FACTORS`, or None for anything."""
    if required is _FACTORS:
        required = dict.fromkeys(factors, float)
    if required is _NUMBER_OR_NULL:
        if value is None:
            return
        required = float
    if isinstance(required, dict):
        if not isinstance(value, Mapping):
            raise ValueError(f"results: {name} must be an object, got {value!r}")
        for key, part in required.items():
            inner = f"{name}.{key}" if name else key
            if key not in value:
                raise ValueError(f"results: {inner} is missing: evaluate the run again")
            _check(value[key], part, inner, factors)
    elif required is str and not isinstance(value, str):
        raise ValueError(f"results: {name} must be a text, got {value!r}")
    elif required in (int, float) and (
        isinstance(value, bool) or not isinstance(value, int | required) or not math.isfinite(value)
    ):
        raise ValueError(
            f"results: {name} must be {'an integer' if required is int else 'a finite number'}, got {value!r}"
        )
