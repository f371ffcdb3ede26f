"""What a run's `results.json` must hold: read from its folder, and checked key by key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .baselines import SUPERVISED_PROBE, SUPERVISION_BASELINE

SCHEMA = 1
"""The `schema` of the `results.json` that this version writes and reads."""

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
        "aux": {"name": str},
        "model": {"backbone": str, "latent_dim": int, "prior_type": str, "diffusion": None},
        "unet": {"prediction_type": str},
        "loss": {"rec": float, "kl": float, "kl_anneal_factor": float, "timestep_beta": float},
        "cfg": {},
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
_GENERATION: dict[str, Any] = {
    "num_images": int,
    "num_inference_steps": int,
    "rendered": None,
    "ivae": None,
    "ddpm": {},
}
_NEAREST = {"mean": float, "median": float, "max": float, "num_distinct": int, "between_held_out": float}
_BASELINE = {"metrics": _METRICS, "steps": int}
_REAL_IMAGES = {"num_images": int, "exact": _FACTORS, "within_one": _FACTORS}


def read_results(folder: Path) -> Any:
    """The content of `results.json` in a run's folder.

    Raises:
        ValueError: There is none, or one that is no JSON.
    """
    source = folder / "results.json"
    if not source.is_file():
        raise ValueError(f"no results.json in {folder}: evaluate the run first")
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is no JSON ({error}): evaluate the run again") from error


def check_results(results: Any) -> None:
    """Refuse results from which no card can be made.

    Args:
        results: The content of a `results.json`.

    Raises:
        ValueError: One line: another schema, or the first field that is missing or of another kind.
    """
    if not isinstance(results, Mapping):
        raise ValueError(f"results: must be an object, got {results!r:.80}: evaluate the run again")
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
    training, config = results["training"], results["config"]
    losses = dict.fromkeys(training["final_losses"], _NUMBER_OR_NULL)
    # absent from results of earlier versions
    waited = {"data_wait_fraction": float} if "data_wait_fraction" in training else {}
    _check(training, {"final_losses": losses, **waited}, "training", factors)
    if "data" in config:
        _check(config["data"], {}, "config.data", factors)
        if "factor_columns" in config["data"]:
            _check(config["data"], {"factor_columns": list}, "config.data", factors)
    if generation is not None:
        _check(generation, _GENERATION, "generation", factors)
        ivae = generation["ivae"]
        drawn = {f"ddpm.{gamma}": block for gamma, block in generation["ddpm"].items()}
        against = {} if ivae is None else {"mse_ratio": float}
        for name, block in drawn.items():
            _check(block, {**_GENERATED, **against}, f"generation.{name}", factors)
        if drawn:
            _check(generation, {"solver": str}, "generation", factors)
        if ivae is not None:
            _check(ivae, _GENERATED, "generation.ivae", factors)
            drawn["ivae"] = ivae
        if (rendered := generation["rendered"]) is not None:
            for name, block in {**drawn, "rendered": rendered}.items():
                _check(block, _READ_BACK, f"generation.{name}", factors)
        if generation.get("unconditional") is not None:
            _check(generation, {"solver": str, "unconditional": {"nearest": None}}, "generation", factors)
            if (nearest := generation["unconditional"]["nearest"]) is not None:
                _check(nearest, _NEAREST, "generation.unconditional.nearest", factors)
    optional = (
        (SUPERVISION_BASELINE, _BASELINE),
        (SUPERVISED_PROBE, _BASELINE),
        ("real_images", _REAL_IMAGES),
    )
    for name, required in optional:
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
    elif required is list and not isinstance(value, list | tuple):
        raise ValueError(f"results: {name} must be a list, got {value!r}")
    elif required is str and not isinstance(value, str):
        raise ValueError(f"results: {name} must be a text, got {value!r}")
    elif required in (int, float) and (
        isinstance(value, bool) or not isinstance(value, int | required) or not math.isfinite(value)
    ):
        raise ValueError(
            f"results: {name} must be {'an integer' if required is int else 'a finite number'}, got {value!r}"
        )
