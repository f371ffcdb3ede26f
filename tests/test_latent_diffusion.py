"""Latent diffusion: the autoencoder learns first, its latents are given a scale, and the U-Net runs on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.builders import build_batches, build_dataset, build_objective
from idiff_hf.config import AutoencoderConfig, Config, OptimConfig
from idiff_hf.data import to_float
from idiff_hf.losses import IVAEDiffusionLoss
from idiff_hf.random import BatchRandom
from idiff_hf.stages import Phase, phase
from tests.tiny import tiny_config
from train_ivae_ddpm import train

TYPES = ("kl", "vq")
AUTOENCODER = Phase(ivae=False, unet=False, released=False, kl_weight=0.0, autoencoder=True)
UNET = Phase(ivae=False, unet=True, released=False, kl_weight=0.0)


def latent_config(folder: Path, kind: str, **train: object) -> Config:
    config = tiny_config(folder, **train)
    return replace(
        config,
        autoencoder=AutoencoderConfig(
            type=kind,  # type: ignore[arg-type]
            block_out_channels=(8, 8),
            latent_channels=2,
        ),
        unet=replace(config.unet, patch_size=1),
        optim_autoencoder=OptimConfig(stop_step=4, learning_rate=1e-3),
    )


def objective_and_inputs(
    config: Config,
) -> tuple[IVAEDiffusionLoss, tuple[torch.Tensor, torch.Tensor, BatchRandom]]:
    dataset = build_dataset(config)
    random = BatchRandom(0, 0, 0, 16, torch.device("cpu"))
    batch = build_batches(config, dataset)(16, random)
    return build_objective(config, dataset), (batch.image, batch.aux, random)


def learning(objective: IVAEDiffusionLoss) -> set[str]:
    return {
        name.split(".")[0] for name, p in objective.named_parameters() if p.grad is not None and p.grad.any()
    }


@pytest.mark.parametrize("kind", TYPES)
def test_each_stage_reaches_its_own_part_alone(tmp_path: Path, kind: str) -> None:
    objective, inputs = objective_and_inputs(latent_config(tmp_path, kind))
    objective(*inputs, AUTOENCODER)["loss"].backward()
    assert learning(objective) == {"vae"}
    objective.zero_grad()
    objective(*inputs, UNET)["loss"].backward()
    assert learning(objective) == {"unet", "conditioning"}


def test_the_kl_term_is_that_of_a_gaussian_summed_over_the_latents_of_an_image(tmp_path: Path) -> None:
    objective, inputs = objective_and_inputs(latent_config(tmp_path, "kl"))
    terms = objective(*inputs, AUTOENCODER)
    assert objective.vae is not None
    posterior = objective.vae.encode(inputs[0]).latent_dist
    law = torch.distributions.Normal(posterior.mean, posterior.std)
    kl = (
        torch.distributions.kl_divergence(law, torch.distributions.Normal(0.0, 1.0)).sum(dim=(1, 2, 3)).mean()
    )
    torch.testing.assert_close(terms["autoencoder_kl"], kl.detach())
    torch.testing.assert_close(terms["loss"], terms["autoencoder_rec"] + 1e-6 * terms["autoencoder_kl"])


@pytest.mark.parametrize("kind", TYPES)
def test_calibrated_latents_have_unit_deviation(tmp_path: Path, kind: str) -> None:
    objective, (image, _, _) = objective_and_inputs(latent_config(tmp_path, kind))
    assert abs(float(objective.diffused(image).std()) - 1.0) > 0.05
    objective.calibrate(image)
    assert float(objective.diffused(image).std()) == pytest.approx(1.0, abs=1e-5)


def test_stages_follow_their_windows(tmp_path: Path) -> None:
    config = latent_config(tmp_path, "kl")
    assert list(config.windows) == ["optim_autoencoder", "optim_ivae", "optim_unet"]
    assert [phase(config, step).autoencoder for step in (0, 3, 4, 7)] == [True, True, False, False]


@pytest.mark.parametrize("kind", TYPES)
def test_a_run_resumed_after_the_autoencoder_equals_the_uninterrupted_one_and_draws(
    tmp_path: Path, kind: str
) -> None:
    whole = latent_config(tmp_path / "whole", kind)
    train(whole)
    half = latent_config(tmp_path / "parts", kind)
    train(half)
    for number in (6, 7, 8):
        # as if the run had been killed after step 5, past the autoencoder's last
        folder = tmp_path / "parts" / "checkpoints" / f"step-{number:08d}"
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    train(replace(half, train=replace(half.train, resume_from_checkpoint="latest")))
    first, second = (
        IVAEDiffusionPipeline.from_pretrained(tmp_path / name / "pipeline") for name in ("whole", "parts")
    )
    assert first.vae is not None and second.vae is not None
    assert first.vae.config["scaling_factor"] == second.vae.config["scaling_factor"] != 1.0
    for name in ("vae", "unet", "conditioning", "ivae"):
        state = getattr(second, name).state_dict()
        for key, tensor in getattr(first, name).state_dict().items():
            assert torch.equal(tensor, state[key]), f"{name}.{key}"
    images = to_float(build_dataset(whole).images(torch.arange(2)))
    drawn = first(
        images=images, num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)
    ).images
    assert drawn.shape == (2, 3, 16, 16) and torch.isfinite(drawn).all()


def test_the_solver_does_not_clip_latents(tmp_path: Path) -> None:
    train(latent_config(tmp_path / "run", "kl"))
    pipeline = IVAEDiffusionPipeline.from_pretrained(tmp_path / "run" / "pipeline")
    assert pipeline.scheduler.config["thresholding"] is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoder": AutoencoderConfig(type="kl")}, "optim_autoencoder stops at step"),
        (
            {"optim_autoencoder": OptimConfig(stop_step=3)},
            "optim_autoencoder has no effect with autoencoder.type=none",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        replace(tiny_config(tmp_path), **changes)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_unread_keys_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^autoencoder.num_codes needs autoencoder.type=vq, got autoencoder.type=kl"
    ):
        AutoencoderConfig(type="kl", num_codes=5)
