"""Whole runs of a tiny model, and what they leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from idiff_hf.config import Config
from train_ivae_ddpm import train


def losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, by group and name."""
    saved = folder / "checkpoints" / f"step-{step:08d}"
    return {
        f"{path.stem}/{name}": tensor
        for path in sorted(saved.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def assert_same_end(one: Path, other: Path, step: int) -> None:
    """Bit for bit the same last checkpoint, losses and exported weights."""
    assert_same_weights(weights(one, step), weights(other, step))
    assert losses(one) == losses(other)
    exported = sorted(path.relative_to(one) for path in (one / "pipeline").rglob("*.safetensors"))
    assert exported
    for file in exported:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


def in_folder(config: Config, folder: Path, resume: Path | str | None = "latest") -> Config:
    """The same run in another folder, from a checkpoint where one is named."""
    resume = None if resume is None else str(resume)
    return replace(config, train=replace(config.train, output_dir=str(folder), resume_from_checkpoint=resume))


def resume_at(whole: Path, step: int, folder: Path, config: Config) -> None:
    """Continue in a new folder from the checkpoint of `step` of a whole run."""
    train(in_folder(config, folder, whole / "checkpoints" / f"step-{step:08d}"))
