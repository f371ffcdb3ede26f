"""Which latent stands for which factor: as the prior says it, or as a finished run measured it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OF_A_FACTOR = ("known", "released", "per_dimension")
"""Types of prior that tie latent k to factor k from the start."""


def named_latents(folder: Path, ivae: Mapping[str, Any]) -> dict[str, int]:
    """The number of the latent of each factor; empty where nothing says it.

    Args:
        folder: A saved pipeline. In a run that was evaluated, the latents are those that its `results.json` matched to the factors.
        ivae: The configuration of its iVAE, whose prior says it elsewhere, such as for a model from the Hub.

    Raises:
        ValueError: One line, for a `results.json` that is damaged, or of another model.
    """
    return _of_prior(ivae) | _matched(folder.resolve(), ivae["latent_dim"])


def _matched(folder: Path, latent_dim: int) -> dict[str, int]:
    path = folder.parent / "results.json"
    if folder.name != "pipeline" or not path.is_file():
        return {}
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))["model"]["metrics"]
        latents = {} if metrics is None else dict(metrics["matched_latent"])
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        raise ValueError(f"{path} holds no model.metrics.matched_latent: evaluate the run again") from None
    for name, number in latents.items():
        if type(number) is not int or not -1 <= number < latent_dim:
            raise ValueError(
                f"{path} has {number!r} for the latent of {name}, which is no number below {latent_dim}: evaluate the run again"
            )
    # -1: fewer latents than factors
    return {name: number for name, number in latents.items() if number >= 0}


def _of_prior(ivae: Mapping[str, Any]) -> dict[str, int]:
    if ivae["prior_type"] not in OF_A_FACTOR:
        return {}
    return {name: number for number, name in enumerate(ivae["factor_names"])}
