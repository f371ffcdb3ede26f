"""The diffusion in the latents of an autoencoder of diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from idiff_hf import IVAEDiffusionPipeline
from tests.pipelines.pipes import one, seeds, source

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(params=["kl", "vq"])
def pipe(request: pytest.FixtureRequest) -> IVAEDiffusionPipeline:
    return one(request.param)


def test_images_are_the_decoded_sample_over_the_scaling_factor(pipe: IVAEDiffusionPipeline) -> None:
    samples: list[Tensor] = []

    def keep(_: Any, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        samples.append(tensors["sample"])
        return {}

    call = {"num_inference_steps": 2, "output_type": "pt", **source(pipe, 2)}
    images = pipe(generator=seeds(2), callback_on_step_end=keep, **call).images
    assert [tuple(sample.shape) for sample in samples] == [(2, 4, 8, 8)] * 2
    with torch.no_grad():
        decoded = pipe.vae.decode(samples[-1] / 3.0).sample  # type: ignore[union-attr]
    torch.testing.assert_close(images, decoded.clamp(-1, 1) / 2 + 0.5)


def test_what_the_diffusion_runs_on_is_encoded_times_the_scaling_factor(pipe: IVAEDiffusionPipeline) -> None:
    assert pipe.vae is not None
    with torch.no_grad():
        encoded = pipe.vae.encode(IMAGES)
        expected = encoded.latent_dist.mode() if "latent_dist" in encoded else encoded.latents
        torch.testing.assert_close(pipe.diffused(IMAGES), 3.0 * expected)


def test_sizes_are_those_of_the_images_without_an_ivae(pipe: IVAEDiffusionPipeline) -> None:
    alone = IVAEDiffusionPipeline(**{**pipe.components, "ivae": None})
    assert (alone.channels, alone.image_size) == (pipe.channels, pipe.image_size) == (3, 16)
    assert alone._sample_shape == (4, 8, 8)
