"""How much the U-Net's prediction depends on each latent, at each time (Section 4, "Explainable AI")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from .models import denoise
from .pipelines import IVAEDiffusionPipeline
from .random import generator
from .schedulers import VPSDEScheduler

Method = Literal["jacobian", "captum"]
METHODS: tuple[Method, ...] = ("jacobian", "captum")
NUM_PATH_STEPS = 32
"""Points of Gauss and Legendre on the path of integrated gradients."""

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""eps `(B, C, H, W)` from z `(B, code_dim)`, x_t and timesteps `(B,)`."""
Measure = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Sensitivity and normalised sensitivity of each image, `(B, D)`, from the same."""
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sensitivity:
    """What the network's prediction of eps owes to each latent: means over images of Euclidean norms over all C H W numbers of a picture.

    Whatever the network predicts, its prediction is taken to eps, so that models of different prediction types compare. A change of eps
    is one of the predicted x_0 that is `sigma_over_alpha` times as large, and one of the score that is 1 / sigma times as large.

    Attributes:
        method: `jacobian` or `captum`.
        times: t, `(T,)`, 1 is noise.
        sigma_over_alpha: `(T,)`.
        sensitivity: S, `(T, D)`. Of `jacobian`: E|d eps / d z_i|, for one unit of z_i; of a categorical latent E|eps(z') - eps(z)|, where
            z' is z with another class of latent i, a mean over all others. Of `captum`: the attribution to latent i, which may be
            negative; over all latents they sum to E|eps(z) - eps(0)|.
        normalized: `(T, D)`, for as much as latents vary among the images. Of `jacobian`: S times the standard deviation of z_i; of a
            categorical latent the mean change to a class drawn as often as it occurs, the present one included. Of `captum`: as
            `sensitivity`, which is in these units.
        condition: `(T,)`, E|eps(z) - eps(null condition)|: what all latents do together.
        num_images: Of which means are taken.
    """

    method: Method
    times: Array
    sigma_over_alpha: Array
    sensitivity: Array
    normalized: Array
    condition: Array
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, arrays as nested lists."""
        return {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in asdict(self).items()
        }


def sensitivity(
    pipeline: IVAEDiffusionPipeline,
    images: Tensor,
    *,
    num_times: int = 11,
    method: Method = "jacobian",
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = False,
) -> Sensitivity:
    """The sensitivity of eps_theta(x_t, z, t) to each z_i, with z = encode(x_0) and x_t = alpha_t x_0 + sigma_t eps.

    Args:
        pipeline: The model, with an iVAE and a U-Net.
        images: x_0, as `IVAEDiffusionPipeline.encode` takes them, two or more: `(N, C, H, W)`. Of a diffusion in the latents of an
            autoencoder, x_0 and eps are what these images have there.
        num_times: T, on an even grid from the scheduler's `sampling_eps` to 1.
        method: `jacobian`: one exact forward-mode derivative for each latent. With categorical latents, of which a derivative says little,
            every class of every latent is tried instead. `captum`: integrated gradients (Sundararajan et al., arXiv:1703.01365) from z = 0
            to z of the projection of eps on the direction in which it moves, so that they sum to |eps(z) - eps(0)|. With `additive` and
            `scale_shift` and a null condition of zeros, z = 0 is the null condition; otherwise it is the middle of the prior.
        seed: Of the noise in x_t, which is the same at all times.
        batch_size: Images at once; of the jacobian, D times as many pass the network.
        progress: Show a bar.

    Raises:
        ValueError: One line: a model without latents or without a U-Net, fewer than two images or times, or `captum` where it is not
            installed.
    """
    if pipeline.ivae is None:
        raise ValueError("this model is unconditional: it has no latents, to which it could be sensitive")
    if pipeline.unet is None or pipeline.conditioning is None:
        raise ValueError(
            "this model has no U-Net, whose sensitivity could be measured: train one with model.diffusion=true"
        )
    if len(images) < 2:
        raise ValueError(f"num_images must be 2 or more, for their spread is taken, got {len(images)}")
    if num_times < 2:
        raise ValueError(f"num_times must be 2 or more, got {num_times}")
    unet, conditioning = pipeline.unet, pipeline.conditioning
    scheduler = VPSDEScheduler.from_config(pipeline.scheduler.config)
    z = pipeline.encode(images).to(unet.dtype)
    with torch.no_grad():
        # pixels, or latents of an autoencoder where the diffusion runs on these
        prepared = pipeline.prepare_images(images).split(batch_size)
        x_0 = torch.cat([pipeline.diffused(part) for part in prepared]).to(unet.dtype)
    noise = torch.randn(x_0.shape, generator=generator(seed, "sensitivity")).to(x_0)

    def eps(condition: Tensor, x_t: Tensor, timestep: Tensor) -> Tensor:
        return scheduler.predict_noise(denoise(unet, conditioning, x_t, timestep, condition), x_t, timestep)

    def predict(z: Tensor, x_t: Tensor, timestep: Tensor) -> Tensor:
        return eps(conditioning(z), x_t, timestep)

    measure = _measure(method, predict, z, pipeline.num_classes)
    times = torch.linspace(scheduler.config["sampling_eps"], 1.0, num_times, dtype=torch.float64)
    means: list[list[Tensor]] = []
    with _evaluating(unet):
        for t in tqdm(times, desc=f"sensitivity, {method}", disable=None if progress else True):
            timestep = scheduler.timestep_from_t(t).to(z.device).expand(len(z))
            x_t = scheduler.add_noise(x_0, noise, timestep)
            parts = []
            for z_part, x_part, time in zip(
                z.split(batch_size), x_t.split(batch_size), timestep.split(batch_size), strict=True
            ):
                with torch.no_grad():
                    null = eps(conditioning.null(len(z_part)), x_part, time)
                    moved = _norm(predict(z_part, x_part, time) - null)
                parts.append((*measure(z_part, x_part, time), moved))
            means.append([torch.cat(every).double().mean(dim=0) for every in zip(*parts, strict=True)])
    alpha, sigma = scheduler.alpha_sigma(times)
    found, normalized, condition = (torch.stack(every).cpu().numpy() for every in zip(*means, strict=True))
    return Sensitivity(
        method=method,
        times=times.numpy(),
        sigma_over_alpha=(sigma / alpha).numpy(),
        sensitivity=found,
        normalized=normalized,
        condition=condition,
        num_images=len(z),
    )


def _measure(method: Method, predict: Predict, z: Tensor, num_classes: int | None) -> Measure:
    """What is measured of a batch, by the method and by what z is."""
    if method == "captum":
        integrated_gradients = _integrated_gradients()

        def attributions(z: Tensor, x_t: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
            found = _attributions(integrated_gradients, predict, z, x_t, timestep)
            if num_classes is not None:
                found = found.unflatten(1, (-1, num_classes)).sum(dim=2)
            return found, found

        return attributions
    if num_classes is None:
        std = z.std(dim=0, correction=0)

        def derivatives(z: Tensor, x_t: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
            norms = _derivative_norms(predict, z, x_t, timestep)
            return norms, norms * std

        return derivatives
    frequency = z.unflatten(1, (-1, num_classes)).mean(dim=0)

    def class_changes(z: Tensor, x_t: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        changes = _class_changes(predict, z, x_t, timestep, num_classes)
        return changes.sum(dim=2) / (num_classes - 1), (changes * frequency).sum(dim=2)

    return class_changes


def _norm(change: Tensor) -> Tensor:
    """Over all but the first axis, `(B,)`."""
    return change.flatten(1).norm(dim=1)


@contextmanager
def _evaluating(unet: nn.Module) -> Iterator[None]:
    """The U-Net in evaluation mode, and so that it can be differentiated forward.

    Forward-mode derivatives are missing from the fused attention, and those of a group norm from tensors that are not contiguous, as
    they come from attention.
    """

    def contiguous(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].contiguous(),)

    training = unet.training
    unet.eval()
    norms = [module for module in unet.modules() if isinstance(module, nn.GroupNorm)]
    hooks = [norm.register_forward_pre_hook(contiguous) for norm in norms]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        unet.train(training)


@torch.no_grad()
def _derivative_norms(predict: Predict, z: Tensor, x_t: Tensor, timestep: Tensor) -> Tensor:
    """|d eps / d z_i| of each image, `(B, D)`."""

    def along(direction: Tensor) -> Tensor:
        tangent: Tensor = torch.func.jvp(
            lambda z: predict(z, x_t, timestep), (z,), (direction.expand_as(z),)
        )[1]
        return _norm(tangent)

    return torch.vmap(along)(torch.eye(z.shape[1]).to(z)).T


@torch.no_grad()
def _class_changes(predict: Predict, z: Tensor, x_t: Tensor, timestep: Tensor, num_classes: int) -> Tensor:
    """|eps(z') - eps(z)| of each image for each class of each latent, `(B, D, classes)`; 0 for the class that is present."""
    before = predict(z, x_t, timestep)
    present = z.unflatten(1, (-1, num_classes))
    changes = torch.zeros_like(present)
    for latent in range(present.shape[1]):
        for number in range(num_classes):
            other = present.clone()
            other[:, latent] = functional.one_hot(torch.tensor(number), num_classes).to(z)
            changes[:, latent, number] = _norm(predict(other.flatten(1), x_t, timestep) - before)
    return changes.where(present == 0, 0.0)


def _integrated_gradients() -> Any:
    """Captum's class, imported where it is wanted and nowhere else."""
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        raise ValueError(
            'method captum needs the captum library: pip install "idiff_hf[xai]", or use method jacobian'
        ) from None
    return IntegratedGradients


def _attributions(
    integrated_gradients: Any, predict: Predict, z: Tensor, x_t: Tensor, timestep: Tensor
) -> Tensor:
    """What each number of z adds to |eps(z) - eps(0)| of each image, `(B, code_dim)`."""
    with torch.no_grad():
        change = predict(z, x_t, timestep) - predict(torch.zeros_like(z), x_t, timestep)
    direction = functional.normalize(change.flatten(1), dim=1)

    def along(z: Tensor, x_t: Tensor, timestep: Tensor, direction: Tensor) -> Tensor:
        return (predict(z, x_t, timestep).flatten(1) * direction).sum(dim=1)

    found: Tensor = integrated_gradients(along).attribute(
        z.detach().requires_grad_(),
        additional_forward_args=(x_t, timestep, direction),
        n_steps=NUM_PATH_STEPS,
        # eight points of the path at once
        internal_batch_size=8 * len(z),
    )
    return found.detach()
