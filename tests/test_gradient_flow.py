"""The table in docs/models.md of which loss reaches which part, cell by cell, and its table of what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idiff_hf.arguments import config_from_yaml
from idiff_hf.builders import build_batches, build_dataset, build_objective, build_pipeline
from idiff_hf.config import Config, OptimConfig
from idiff_hf.losses import IVAEDiffusionLoss
from idiff_hf.random import BatchRandom
from idiff_hf.stages import Phase, phase
from tests.tiny import joint, tiny_config

ROOT = Path(__file__).parents[1]
PARTS = ("encoder", "decoder", "prior", "U-Net", "conditioning")
FIRST, SECOND = 0, 4
"""Steps of the first and of the second half of the run, which are its two stages where it has two."""

Change = Callable[[Config, Path], Config]


def of(stages: int = 1, **parts: dict[str, Any]) -> Change:
    """The config in one stage, both parts at once, or in two, with other values of some groups."""

    def change(config: Config, folder: Path) -> Config:
        whole = joint(config) if stages == 1 else config
        groups = {name: replace(getattr(whole, name), **values) for name, values in parts.items()}
        return replace(whole, **groups)

    return change


def frozen(config: Config, folder: Path) -> Config:
    """A U-Net on the iVAE of a saved pipeline."""
    build_pipeline(config, build_objective(config, build_dataset(config))).save_pretrained(folder)
    return replace(
        config,
        model=replace(config.model, pretrained_ivae=str(folder), freeze_ivae=True),
        optim_ivae=OptimConfig(),
        optim_unet=replace(config.optim_unet, start_step=0),
    )


CASES: dict[str, tuple[int, Change]] = {
    "two stages, in the first": (FIRST, of(stages=2)),
    "two stages, in the second": (SECOND, of(stages=2)),
    "joint, `loss.latent_grad_scale: 1`": (FIRST, of()),
    "joint, `loss.latent_grad_scale: 0`": (FIRST, of(loss={"latent_grad_scale": 0.0})),
    "`loss.rec: 0`": (FIRST, of(loss={"rec": 0.0})),
    "every condition dropped": (FIRST, of(cfg={"drop_prob": 1.0})),
    "every condition dropped, `cfg.null_condition: learned`": (
        FIRST,
        of(cfg={"drop_prob": 1.0, "null_condition": "learned"}),
    ),
    "`unet.conditioning: scale_shift`": (FIRST, of(unet={"conditioning": "scale_shift"})),
    "`unet.conditioning: tokens`": (FIRST, of(unet={"conditioning": "tokens"})),
    "`model.latent_type: categorical`": (FIRST, of(model={"latent_type": "categorical"})),
    "`loss.kl_reverse` above 0": (FIRST, of(loss={"kl_reverse": 1e-4})),
    "`loss.kl_balance: 1`": (FIRST, of(loss={"kl_balance": 1.0})),
    "`loss.kl_balance: 0`": (FIRST, of(loss={"kl_balance": 0.0})),
    "`model.prior_type: known`": (FIRST, of(model={"prior_type": "known"})),
    "`model.prior_type: released`, before the release": (FIRST, of(model={"prior_type": "released"})),
    "`model.prior_type: released`, after it": (SECOND, of(model={"prior_type": "released"})),
    "VAE+DDPM": (FIRST, of(aux={"name": "none"}, model={"prior_type": "standard"})),
    "iVAE alone": (FIRST, of(model={"diffusion": False})),
    "frozen iVAE": (FIRST, frozen),
    "DDPM alone": (
        FIRST,
        of(
            aux={"name": "none"},
            model={"ivae": False, "prior_type": "standard"},
            loss={"latent_grad_scale": 0.0},
            optim_ivae={"learning_rate": OptimConfig.learning_rate},
        ),
    ),
}


def table(title: str) -> list[list[str]]:
    """The cells of the table in a section of docs/models.md, without its two rows of heading."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


DOCUMENTED = {
    row[0]: [set(cell.split(", ")) - {""} for cell in row[1:]]
    for row in table("Which loss reaches which part")
}


def parts_of(objective: IVAEDiffusionLoss) -> dict[str, nn.Module | None]:
    ivae = objective.ivae
    found = (None, None, None) if ivae is None else (ivae.encoder, ivae.decoder, ivae.prior_encoder)
    return dict(zip(PARTS, (*found, objective.unet, objective.conditioning), strict=True))


def gradients(objective: IVAEDiffusionLoss, inputs: tuple[Any, ...], now: Phase) -> dict[str, list[Tensor]]:
    """Of the weights of each part, zeros where there is none."""
    objective.zero_grad(set_to_none=True)
    loss = objective(*inputs, now)["loss"]
    if loss.requires_grad:
        loss.backward()
    return {
        name: [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in part.parameters()]
        for name, part in parts_of(objective).items()
        if part is not None
    }


def statistics(objective: IVAEDiffusionLoss) -> dict[str, list[Tensor]]:
    """The buffers of encoder and decoder: what norms over the batch keep."""
    parts = ((name, parts_of(objective)[name]) for name in ("encoder", "decoder"))
    return {name: [b.clone() for b in part.buffers()] for name, part in parts if part is not None}


def differ(one: list[Tensor], other: list[Tensor]) -> bool:
    return not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_every_row_of_the_table_is_checked() -> None:
    assert list(DOCUMENTED) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_each_loss_reaches_the_parts_that_the_table_says(case: str, tmp_path: Path) -> None:
    """A loss reaches a part whose gradient is another, to the last bit, without it: the loss is a sum."""
    step, change = CASES[case]
    config = tiny_config(tmp_path)
    config = replace(config, model=replace(config.model, prior_type="learned", norm="batch"))
    config = change(config, tmp_path / "saved")
    dataset, now = build_dataset(config), phase(config, step)
    objective = build_objective(config, dataset).train()
    random = BatchRandom(0, step, 0, 16, torch.device("cpu"))
    batch = build_batches(config, dataset)(16, random)
    inputs = (batch.image, batch.aux, random)

    before = statistics(objective)
    whole = gradients(objective, inputs, now)
    moved = {name for name, buffers in statistics(objective).items() if differ(buffers, before[name])}
    reached: dict[str, set[str]] = {name: set() for name in PARTS}
    for term in ("rec", "KL", "DDPM"):
        kept, less = objective.config, now
        if term == "rec":
            objective.config = replace(kept, loss=replace(kept.loss, rec=0.0))
        else:
            less = replace(now, kl_weight=0.0) if term == "KL" else replace(now, unet=False)
        without = gradients(objective, inputs, less)
        objective.config = kept
        for name in without:
            if differ(whole[name], without[name]):
                reached[name].add(term)
    assert [*reached.values(), moved] == DOCUMENTED[case]
    for name, grads in whole.items():
        assert any(bool(grad.any()) for grad in grads) == bool(reached[name]), name


@pytest.mark.parametrize(("keys", "message"), table("What is refused"))
def test_what_the_docs_say_is_refused_is_refused_in_these_words(keys: str, message: str) -> None:
    lines = re.findall(r"`([\w.]+: [^`]+)`", keys)
    assert lines
    with pytest.raises(ValueError) as caught:
        config_from_yaml("\n".join(lines))
    assert str(caught.value).startswith(message)
