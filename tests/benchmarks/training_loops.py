"""The training step of this repository and a bare loop over the same networks, each as one call, and how fast they are side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import mse_loss

from idiff_hf.arguments import config_from_yaml
from idiff_hf.builders import build_objective
from idiff_hf.config import Config
from idiff_hf.data import ImageDataset, to_float
from idiff_hf.models import denoise
from idiff_hf.training import TrainingRun
from tests.tiny import tiny_config
from train_ivae_ddpm import training_step

ROOT = Path(__file__).parents[2]
ENDLESS = 10**6
POOL = 2048
"""Images that a bare loop draws its batches from, in memory."""
Step = Callable[[], None]


def quickstart(folder: Path, tiny: bool, **train: object) -> Config:
    """The quickstart's networks and batch, both parts learning in every step, without an end."""
    config = config_from_yaml((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    if tiny:
        config = tiny_config(folder)
    config = replace(
        config,
        optim_ivae=replace(config.optim_ivae, stop_step=None),
        optim_unet=replace(config.optim_unet, start_step=0),
    )
    settings = {
        "output_dir": str(folder),
        "max_train_steps": ENDLESS,
        "checkpointing_steps": ENDLESS,
        "validation_steps": ENDLESS,
        "logging_steps": 50,
        "report_to": "none",
        **train,
    }
    return replace(config, train=replace(config.train, **settings))  # type: ignore[arg-type]


def ivae_stage(config: Config) -> Config:
    """Only the iVAE learns."""
    return replace(config, optim_unet=replace(config.optim_unet, start_step=ENDLESS - 1))


def unet_stage(config: Config) -> Config:
    """Only the U-Net learns, on latents of a frozen iVAE, after a step in which the iVAE learns."""
    return replace(
        config,
        optim_ivae=replace(config.optim_ivae, stop_step=1),
        optim_unet=replace(config.optim_unet, start_step=1),
    )


def our_step(run: TrainingRun, log: bool = True) -> Step:
    """A step as `train_ivae_ddpm.train` takes it: data, losses, optimiser, moving average, log; checkpoints are measured apart."""
    steps = run.steps()

    def step() -> None:
        number = next(steps)
        training_step(run, number)
        if log:
            run.log(number)

    return step


def bare_step(
    config: Config, dataset: ImageDataset, device: torch.device, *, ivae: bool = False, unet: bool = False
) -> Step:
    """A step of the shortest loop over the networks of `config`: random images from memory, one AdamW, no average, no log, no files.

    Args:
        config: The networks, the batch size, the precision.
        dataset: The images.
        device: Where to train.
        ivae: Train the iVAE, with the plain loss of a VAE.
        unet: Train the U-Net, on the latents of that iVAE, or without one on random numbers, which costs nothing.
    """
    objective = build_objective(config, dataset).to(device)
    pool = dataset.images(torch.linspace(0, len(dataset) - 1, POOL).long())
    model, conditioning, vae, sde = (
        objective.unet,
        objective.conditioning,
        objective.ivae,
        objective.scheduler,
    )
    assert model is not None and conditioning is not None and vae is not None
    learning = [*([vae] if ivae else []), *([model, conditioning] if unet else [])]
    parameters = [parameter for module in learning for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    size, kind = config.train.train_batch_size, config.train.mixed_precision

    def step() -> None:
        image = to_float(pool[torch.randint(POOL, (size,), device=pool.device)])
        z = torch.randn(size, vae.code_dim, device=device)
        loss = image.new_zeros(())
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16"):
            if ivae:
                posterior = vae.encode(image).latent_dist
                z = posterior.sample(torch.randn_like(posterior.mean))
                kl = (posterior.mean**2 + posterior.logvar.exp() - 1.0 - posterior.logvar).sum(
                    dim=1
                ).mean() / 2
                loss = loss + mse_loss(vae.decode(z).sample, image) + 1e-4 * kl
            if unet:
                timestep = sde.timestep_from_t(torch.rand(size, device=device).clamp_min(1e-3))
                noise = torch.randn_like(image)
                x_t = sde.add_noise(image, noise, timestep)
                predicted = denoise(model, conditioning, x_t, timestep, conditioning(z.detach()))
                loss = loss + mse_loss(predicted.float(), sde.target(image, noise, timestep))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def synchronize(device: torch.device) -> None:
    """Wait for what was asked of an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def images_per_second(step: Step, count: int, images: int, device: torch.device) -> float:
    """Over so many steps of so many images."""
    started = time.perf_counter()
    for _ in range(count):
        step()
    synchronize(device)
    return count * images / (time.perf_counter() - started)


def side_by_side(
    steps: Mapping[str, Step], images: int, device: torch.device, seconds: float, rounds: int
) -> dict[str, list[float]]:
    """Images a second of each in each round; in a round they take turns of so many seconds, so that all see the same machine."""
    counts = {}
    for name, step in steps.items():
        images_per_second(step, 3, images, device)
        counts[name] = max(2, round(seconds * images_per_second(step, 3, images, device) / images))
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        # back and forth, so that none is always the first
        for name in list(steps)[:: 1 if number % 2 == 0 else -1]:
            rates[name].append(images_per_second(steps[name], counts[name], images, device))
    return rates


def ratio(ours: list[float], other: list[float]) -> str:
    """The median over rounds of the ratio of two rates, with its range."""
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
