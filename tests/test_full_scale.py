"""The configs that are for a GPU, with their networks and images whole: a few steps of each stage, on whatever is there."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.arguments import config_from_yaml, config_to_yaml
from idiff_hf.config import Config
from train_ivae_ddpm import main, train

from .faults.runs import assert_same_weights, losses, resume_at, weights

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = ("best_interval", "best_paper_u", "best_paper_u_shapes3d")


def short(name: str, folder: Path, device: str) -> Config:
    """Two steps of the iVAE, then two of the U-Net: of the config's batch in bfloat16, on a CPU of eight images."""
    config = config_from_yaml((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    config = replace(
        config,
        optim_ivae=replace(config.optim_ivae, stop_step=2, lr_warmup_steps=1),
        optim_unet=replace(config.optim_unet, start_step=2, lr_warmup_steps=1),
        train=replace(
            config.train,
            output_dir=str(folder),
            max_train_steps=4,
            checkpointing_steps=1,
            checkpoints_total_limit=4,
            validation_steps=1000,
            logging_steps=1,
            report_to="none",
            deterministic=True,
        ),
        eval=replace(config.eval, num_samples=64, num_generated=8, num_inference_steps=2),
    )
    if device == "cpu":
        return replace(config, train=replace(config.train, train_batch_size=8))
    return replace(config, train=replace(config.train, mixed_precision="bf16"))


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_config_for_a_gpu_learns_and_is_loaded(name: str, device: str, tmp_path: Path) -> None:
    pipeline = IVAEDiffusionPipeline.from_pretrained(train(short(name, tmp_path / "run", device))).to(device)
    found = losses(tmp_path / "run")
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    assert all(math.isfinite(value) for line in found for value in line.values())
    # the iVAE alone, then the U-Net alone
    assert ["ddpm" in line for line in found] == [False, False, True, True]
    z = torch.zeros(2, pipeline.ivae.config["latent_dim"])
    images = pipeline(latents=z, num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, pipeline.channels, 64, 64) and bool(torch.isfinite(images).all())


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_it_is_measured_on_a_gpu(name: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(short(name, tmp_path / "run", "cuda")), encoding="utf-8")
    assert main(["--config", str(path)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["hardware"]["device"] == "cuda"
    assert results["generation"]["ddpm"].keys() == {"1.0", "2.0", "4.0"}


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_to_the_last_bit_on_a_gpu(name: str, tmp_path: Path) -> None:
    config = short(name, tmp_path / "whole", "cuda")
    train(config)
    for step in (1, 3):
        resume_at(tmp_path / "whole", step, tmp_path / f"from_{step}", config)
        assert_same_weights(weights(tmp_path / f"from_{step}", 4), weights(tmp_path / "whole", 4))
