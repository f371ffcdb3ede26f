"""Small checkpoints whose every tensor tells their step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from idiff_hf.checkpoint import load_checkpoint, save_checkpoint
from idiff_hf.folders import CheckpointError

FILES = (
    "MANIFEST.json",
    "config.yaml",
    "ema.safetensors",
    "model.safetensors",
    "optimizer.safetensors",
    "trainer.json",
)


def groups(step: int, size: int = 8) -> dict[str, dict[str, Tensor]]:
    """Three groups that only a checkpoint of this step holds."""
    return {
        "model": {"weight": torch.full((size,), float(step)), "bias": torch.arange(3.0)},
        "ema": {"weight": torch.full((size,), step + 0.5)},
        "optimizer": {
            "weight/exp_avg": torch.full((size,), -float(step)),
            "weight/step": torch.tensor(float(step)),
        },
    }


def commit(root: Path, step: int, size: int = 8, **options: Any) -> Path:
    state = {"step": step, "best": 0.1}
    return save_checkpoint(
        root, step, groups(step, size), state, "seed: 0\n", metadata={"seed": 0}, **options
    )


def assert_is_step(folder: Path, step: int) -> None:
    loaded = load_checkpoint(folder)
    assert (loaded.step, loaded.state["step"]) == (step, step)
    assert torch.all(loaded.tensors["model"]["weight"] == step)
    assert torch.all(loaded.tensors["ema"]["weight"] == step + 0.5)
    assert torch.all(loaded.tensors["optimizer"]["weight/exp_avg"] == -step)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def visible(root: Path) -> list[str]:
    """What is not hidden: folders under their final names."""
    return [name for name in names(root) if not name.startswith(".")]


def steps(*numbers: int) -> list[str]:
    return [f"step-{number:08d}" for number in numbers]


def refusal(call: Callable[[], object], kind: type[CheckpointError] = CheckpointError) -> str:
    """The message of the refusal, which must be one line."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)
