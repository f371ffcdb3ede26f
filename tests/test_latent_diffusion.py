"""Latent diffusion: the autoencoder learns first, its latents are given a scale, and the U-Net runs on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, VQModel

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.baselines import supervised_probe, supervision_baseline
from idiff_hf.builders import build_batches, build_dataset, build_solver
from idiff_hf.checkpoint import load_checkpoint
from idiff_hf.config import AutoencoderConfig, AuxConfig, Config, ModelConfig, OptimConfig
from idiff_hf.data import to_float
from idiff_hf.evaluation import evaluate_run
from idiff_hf.hub import write_card
from idiff_hf.losses import IVAEDiffusionLoss
from idiff_hf.models import autoencode, decode_latents, encode_latents
from idiff_hf.random import BatchRandom
from idiff_hf.stages import Phase, phase
from idiff_hf.training import CALIBRATION_IMAGES
from tests.test_own_training import own_config, stream_of_digits
from tests.test_training import launch, losses
from tests.tiny import objective_and_inputs, tiny_config
from train_ivae_ddpm import train

TYPES = ("kl", "vq")
AUTOENCODER = Phase(ivae=False, unet=False, released=False, kl_weight=0.0, autoencoder=True)
UNET = Phase(ivae=False, unet=True, released=False, kl_weight=0.0)


def latent_config(folder: Path, kind: str, **train: object) -> Config:
    config = tiny_config(folder, **train)
    return replace(
        config,
        # images with a nuisance: no search among all images of a grid when a run is measured
        data=replace(config.data, name="color_dsprites"),
        autoencoder=AutoencoderConfig(
            type=kind,  # type: ignore[arg-type]
            block_out_channels=(8, 8),
            latent_channels=2,
        ),
        unet=replace(config.unet, patch_size=1),
        optim_autoencoder=OptimConfig(stop_step=4, learning_rate=1e-3),
    )


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


def test_the_codebook_term_is_diffusers_own_and_both_sides_of_it_learn(tmp_path: Path) -> None:
    """(1 + 1/4) times the mean squared distance of a latent to its code, the nearest vector of the codebook."""
    objective, inputs = objective_and_inputs(latent_config(tmp_path, "vq"))
    terms = objective(*inputs, AUTOENCODER)
    assert isinstance(objective.vae, VQModel)
    latents = encode_latents(objective.vae, inputs[0]).movedim(1, -1).flatten(0, 2)
    codes = objective.vae.quantize.embedding.weight
    distance = (latents[:, None] - codes).square().sum(dim=2).min(dim=1).values.mean() / latents.shape[1]
    torch.testing.assert_close(terms["autoencoder_commit"], 1.25 * distance.detach())
    torch.testing.assert_close(terms["loss"], terms["autoencoder_rec"] + terms["autoencoder_commit"])
    terms["loss"].backward()
    assert codes.grad is not None and codes.grad.any() and objective.vae.encoder.conv_in.weight.grad.any()


def test_the_squared_error_is_that_of_a_sample_of_the_latents(tmp_path: Path) -> None:
    objective, (image, aux, random) = objective_and_inputs(latent_config(tmp_path, "kl"))
    terms = objective(image, aux, random, AUTOENCODER)
    with torch.no_grad():
        posterior = objective.vae.encode(image).latent_dist  # type: ignore[union-attr]
        sample = posterior.mean + posterior.std * random.normal("autoencoder", posterior.mean.shape[1:])
        rec = (decode_latents(objective.vae, sample) - image).square().mean()  # type: ignore[arg-type]
    torch.testing.assert_close(terms["autoencoder_rec"], rec)


@pytest.mark.parametrize("kind", TYPES)
def test_the_unet_learns_the_scaled_latents_without_noise(tmp_path: Path, kind: str) -> None:
    """A U-Net whose output is zero, asked for x_0: its term is the mean square of what the diffusion runs on."""
    objective, inputs = objective_and_inputs(latent_config(tmp_path, kind))
    objective.calibrate(inputs[0])
    assert objective.vae is not None and objective.unet is not None
    torch.nn.init.zeros_(objective.unet.conv_out.weight)
    torch.nn.init.zeros_(objective.unet.conv_out.bias)
    with torch.no_grad():
        encoded = objective.vae.encode(inputs[0])
    latents = encoded.latents if kind == "vq" else encoded.latent_dist.mean
    expected = (objective.scaling_factor * latents).square().mean()
    torch.testing.assert_close(objective(*inputs, UNET)["ddpm"], expected)


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


@pytest.fixture(scope="module", params=TYPES)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run of two stages: the autoencoder beside the iVAE, then the U-Net; a checkpoint at each step."""
    config = latent_config(tmp_path_factory.mktemp(request.param) / "run", request.param)
    train(config)
    return config


def folder_of(config: Config) -> Path:
    return Path(config.train.output_dir)


def resumed(config: Config, step: int, folder: Path) -> Config:
    checkpoint = folder_of(config) / "checkpoints" / f"step-{step:08d}"
    return replace(
        config,
        train=replace(config.train, output_dir=str(folder), resume_from_checkpoint=str(checkpoint)),
    )


@pytest.mark.parametrize("step", [3, 4, 5])
def test_a_run_resumed_around_the_end_of_the_autoencoder_equals_the_uninterrupted_one(
    whole: Config, tmp_path: Path, step: int
) -> None:
    train(resumed(whole, step, tmp_path / "resumed"))
    assert losses(tmp_path / "resumed") == losses(folder_of(whole))[step:]
    first, second = (
        load_checkpoint(folder / "checkpoints" / "step-00000008").tensors
        for folder in (folder_of(whole), tmp_path / "resumed")
    )
    assert first.keys() == second.keys() > {"model", "ema", "optimizer_autoencoder"}
    for group, tensors in first.items():
        assert tensors.keys() == second[group].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, second[group][name]), f"{group}/{name}"


def test_terms_are_those_of_the_stage(whole: Config) -> None:
    second = "autoencoder_kl" if whole.autoencoder.type == "kl" else "autoencoder_commit"
    lines = [set(line) - {"step", "loss"} for line in losses(folder_of(whole))]
    assert lines == [{"rec", "kl", "autoencoder_rec", second}] * 4 + [{"ddpm"}] * 4


def test_what_is_frozen_calibrated_and_published_is_the_averaged_autoencoder(whole: Config) -> None:
    """The scale is 1 before the autoencoder's last step; after it, that of the averaged weights on the first training images."""
    checkpoints = folder_of(whole) / "checkpoints"
    scales = [
        load_checkpoint(checkpoints / f"step-{n:08d}").tensors["model"]["scaling_factor"] for n in (3, 4, 8)
    ]
    assert scales[0] == 1.0 != scales[1] and torch.equal(scales[1], scales[2])
    average = load_checkpoint(checkpoints / "step-00000004").tensors["ema"]
    vae = IVAEDiffusionPipeline.from_pretrained(folder_of(whole) / "pipeline").vae
    assert vae is not None
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, average[f"vae.{name}"]), name
    assert vae.config["scaling_factor"] == float(scales[1])
    random = BatchRandom(whole.train.seed, 0, 0, CALIBRATION_IMAGES, torch.device("cpu"))
    images = build_batches(whole, build_dataset(whole))(CALIBRATION_IMAGES, random).image
    with torch.no_grad():
        assert float(scales[1] * encode_latents(vae, images).std()) == pytest.approx(1.0, abs=1e-5)


def test_a_saved_pipeline_comes_back_and_draws_the_same(whole: Config, tmp_path: Path) -> None:
    one = IVAEDiffusionPipeline.from_pretrained(folder_of(whole) / "pipeline")
    one.save_pretrained(tmp_path)
    other = IVAEDiffusionPipeline.from_pretrained(tmp_path)
    images = build_dataset(whole).images(torch.arange(2))
    drawn = []
    for pipeline in (one, other):
        pipeline.set_progress_bar_config(disable=True)
        source = torch.Generator().manual_seed(0)
        drawn.append(
            pipeline(images=images, generator=source, num_inference_steps=2, output_type="pt").images
        )
    assert drawn[0].shape == (2, 3, 16, 16) and torch.equal(*drawn)
    assert one.vae is not None and type(one.vae) is type(other.vae)
    through = autoencode(one.vae, to_float(images))
    with torch.no_grad():
        torch.testing.assert_close(through, one._to_images(one.diffused(to_float(images))).clamp(-1, 1))


def test_no_solver_clips_latents(whole: Config) -> None:
    for solver in ("dpm_solver", "heun_ode"):
        config = replace(whole, scheduler=replace(whole.scheduler, solver=solver))  # type: ignore[arg-type]
        scheduler = build_solver(config)
        # a scheduler that is swapped in would clip by default
        for keys in (scheduler.config, DDIMScheduler.from_config(scheduler.config).config):
            assert keys["thresholding"] is False and keys["clip_sample"] is False


def test_results_and_card_tell_of_the_autoencoder(whole: Config) -> None:
    folder = folder_of(whole)
    evaluate_run(folder)
    results = json.loads((folder / "results.json").read_text())
    vae = IVAEDiffusionPipeline.from_pretrained(folder / "pipeline").vae
    assert vae is not None
    size = sum(p.numel() for p in vae.parameters())
    assert results["model"]["num_parameters"]["autoencoder"] == size
    assert results["autoencoder"]["num_images"] == 8 and 0 < results["autoencoder"]["mse"] < 4
    text = write_card(folder).read_text()
    assert f"\nautoencoder {size:,} parameters" in text or f", autoencoder {size:,} parameters" in text
    assert f"by it alone: squared error {results['autoencoder']['mse']:.4f}." in text and "\n\n\n" not in text
    assert f"diffusion in the 2-channel latents of a `{whole.autoencoder.type}` autoencoder" in text


def test_a_stream_has_images_to_calibrate_on(tmp_path: Path) -> None:
    """Its held-out images are all that a stream keeps; the training ones are read anew."""
    (tmp_path / "set").mkdir()
    path = stream_of_digits(tmp_path / "set")
    config = own_config(tmp_path, AuxConfig(name="none"), "standard", path=str(path), streaming=True)
    config = replace(
        config,
        autoencoder=AutoencoderConfig(type="kl", block_out_channels=(8, 8), latent_channels=2),
        unet=replace(config.unet, patch_size=1),
        optim_autoencoder=OptimConfig(stop_step=4, learning_rate=1e-3),
    )
    vae = IVAEDiffusionPipeline.from_pretrained(train(config)).vae
    assert vae is not None and vae.config["in_channels"] == 1
    assert 0.0 < vae.config["scaling_factor"] != 1.0


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """The same global batch of 16 across the end of the autoencoder: losses within 1e-6, the scale too."""
    one = latent_config(tmp_path / "one", "kl")
    windows = {
        name: replace(getattr(one, name), learning_rate=2e-4)
        for name in ("optim_ivae", "optim_unet", "optim_autoencoder")
    }
    one = replace(one, **windows)  # type: ignore[arg-type]
    train(one)
    two = replace(one, train=replace(one.train, output_dir=str(tmp_path / "two"), train_batch_size=8))
    launch(two, 2)
    for line, wanted in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert line == pytest.approx(wanted, abs=1e-6, rel=1e-6)
    scales = [
        IVAEDiffusionPipeline.from_pretrained(tmp_path / name / "pipeline").vae.config["scaling_factor"]  # type: ignore[union-attr]
        for name in ("one", "two")
    ]
    assert scales[0] == pytest.approx(scales[1], rel=1e-6)


KL = AutoencoderConfig(type="kl", block_out_channels=(8, 8))
DONE = OptimConfig(stop_step=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"autoencoder": KL},
            "optim_autoencoder stops at step 8, after optim_unet.start_step=4: the U-Net learns on the latents of an autoencoder that is "
            "done, so give optim_autoencoder.stop_step and no earlier optim_unet.start_step",
        ),
        (
            {"optim_autoencoder": OptimConfig(stop_step=3)},
            "optim_autoencoder has no effect with autoencoder.type=none",
        ),
        (
            {"autoencoder": KL, "optim_autoencoder": OptimConfig(start_step=2, stop_step=9)},
            "optim_autoencoder: steps 2 to 9 do not fit train.max_train_steps=8",
        ),
        (
            {"autoencoder": replace(KL, block_out_channels=(8, 8, 8, 8)), "optim_autoencoder": DONE},
            "data.image_size=16 must be divisible by 8 (the autoencoder's factor) times unet.patch_size=4 times 1 "
            "(unet.block_out_channels has 1 resolutions)",
        ),
        (
            {
                "autoencoder": KL,
                "optim_autoencoder": DONE,
                "optim_unet": OptimConfig(),
                "optim_ivae": OptimConfig(),
                "model": ModelConfig(diffusion=False),
            },
            "autoencoder.type=kl needs model.diffusion=true: only the U-Net would use its latents",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        replace(tiny_config(tmp_path), **changes)  # type: ignore[arg-type]
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"latent_channels": 3, "norm_num_groups": 4},
            "autoencoder.latent_channels, autoencoder.norm_num_groups needs autoencoder.type=kl or vq, got autoencoder.type=none",
        ),
        (
            {"type": "kl", "num_codes": 5},
            "autoencoder.num_codes needs autoencoder.type=vq, got autoencoder.type=kl",
        ),
        ({"type": "vq", "kl": 1.0}, "autoencoder.kl needs autoencoder.type=kl, got autoencoder.type=vq"),
        (
            {"type": "kl", "block_out_channels": (8, 12)},
            "autoencoder.block_out_channels must be one or more multiples of autoencoder.norm_num_groups=8, got (8, 12)",
        ),
        ({"type": "kl", "latent_channels": 0}, "autoencoder.latent_channels must be positive, got 0"),
        ({"type": "kl", "kl": -1.0}, "autoencoder.kl must be 0 or more, got -1.0"),
        ({"type": "vq", "num_codes": 1}, "autoencoder.num_codes must be 2 or more, got 1"),
    ],
)
def test_a_value_out_of_range_or_unread_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        AutoencoderConfig(**values)
    assert str(caught.value) == message


def test_baselines_have_no_autoencoder(tmp_path: Path) -> None:
    config = latent_config(tmp_path, "kl")
    for baseline in (supervision_baseline(config), supervised_probe(config)):
        assert list(baseline.windows) == ["optim_ivae"] and baseline.autoencoder.type == "none"
