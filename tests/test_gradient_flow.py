"""The table in docs/models.md of which loss reaches which part, cell by cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from idiff_hf.builders import build_batches, build_dataset, build_objective
from idiff_hf.config import Config
from idiff_hf.random import BatchRandom
from idiff_hf.stages import Phase
from tests.tiny import joint, tiny_config

ROOT = Path(__file__).parents[1]
JOINT = Phase(ivae=True, unet=True, released=True, kl_weight=1e-2)
IVAE, UNET = replace(JOINT, unet=False), replace(JOINT, ivae=False)


def of(**parts: dict[str, Any]) -> Callable[[Config], Config]:
    """A config with other fields of some parts."""

    def change(config: Config) -> Config:
        return replace(
            config, **{name: replace(getattr(config, name), **part) for name, part in parts.items()}
        )

    return change


# The DDPM term alone: lambda_rec and the KL's weight are 0. The KL alone: lambda_rec is 0.
ALONE = replace(JOINT, kl_weight=0.0)
CASES: dict[str, tuple[Phase, Callable[[Config], Config]]] = {
    "iVAE stage": (IVAE, lambda c: c),
    "U-Net stage": (UNET, lambda c: c),
    "joint, `latent_grad_scale: 1`": (JOINT, joint),
    "L_DDPM alone, `latent_grad_scale: 1`": (ALONE, lambda c: of(loss={"rec": 0.0})(joint(c))),
    "L_DDPM alone, `latent_grad_scale: 0`": (
        ALONE,
        lambda c: of(loss={"rec": 0.0, "latent_grad_scale": 0.0})(joint(c)),
    ),
    "L_DDPM alone, every condition dropped": (
        ALONE,
        lambda c: of(loss={"rec": 0.0}, cfg={"drop_prob": 1.0})(joint(c)),
    ),
    "L_KL alone (`rec: 0`)": (IVAE, of(loss={"rec": 0.0})),
    "L_KL alone, `kl_balance: 1`": (IVAE, of(loss={"rec": 0.0, "kl_balance": 1.0})),
    "L_KL alone, `kl_balance: 0`": (IVAE, of(loss={"rec": 0.0, "kl_balance": 0.0})),
    "L_KL alone, not released yet": (replace(IVAE, released=False), of(loss={"rec": 0.0})),
    "frozen iVAE": (UNET, lambda c: c),
}


def documented() -> dict[str, list[bool]]:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    section = text.split("## Which loss reaches which part")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() == "x" for cell in row[1:]] for row in rows[2:]}


def reached(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def test_every_row_of_the_table_is_checked() -> None:
    assert set(documented()) == set(CASES)


@pytest.mark.parametrize("case", list(CASES))
def test_gradient_reaches_what_the_table_says(case: str, tmp_path: Path) -> None:
    phase, change = CASES[case]
    config = change(tiny_config(tmp_path))
    dataset = build_dataset(config)
    objective = build_objective(config, dataset).train()
    random = BatchRandom(0, 0, 0, 16, torch.device("cpu"))
    batch = build_batches(config, dataset)(16, random)
    objective(batch.image, batch.aux, random, phase)["loss"].backward()
    assert objective.ivae is not None and objective.unet is not None and objective.conditioning is not None
    parts = (
        objective.ivae.encoder,
        objective.ivae.decoder,
        objective.ivae.prior_encoder,
        objective.unet,
        objective.conditioning,
    )
    assert [reached(part) for part in parts] == documented()[case]
