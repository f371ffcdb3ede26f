"""What the explorer computes equals what the pipeline does; what it is not made for is refused in a line."""

from __future__ import annotations

import json
import math
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from idiff_hf import IVAEDiffusionPipeline, IVAEModel, Shapes3D
from idiff_hf.config import DataConfig
from idiff_hf.demo.explorer import Drawing, Explorer
from idiff_hf.pipeline_scores.opening import held_out_rows
from idiff_hf.sampler_curve import with_solver
from tests.pipelines.pipes import make, one

IMAGE = Shapes3D(image_size=16).render(torch.tensor([[0, 3, 7, 5, 2, 7]]))[0].movedim(0, -1).numpy()
OWN = Drawing("DPM-Solver++ 2M", num_inference_steps=3, seed=5)
KINDS = ("additive", "categorical", "kl")


def explorer(kind: str) -> Explorer:
    return Explorer(one(kind), "tiny")


def pixels(images: np.ndarray) -> np.ndarray:
    return np.round(images * 255.0).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_encoded_values_the_decoder_reconstructs(kind: str) -> None:
    found = explorer(kind)
    expected = one(kind).reconstruct(IMAGE[None], output_type="np")[0]
    np.testing.assert_array_equal(found.decode(found.encode(IMAGE)), pixels(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_a_drawing_is_the_pipelines_from_the_same_seed(kind: str) -> None:
    found, pipeline = explorer(kind), one(kind)
    values, own = found.encode(IMAGE), pipeline.scheduler
    expected = pipeline(
        images=IMAGE[None],
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images[0]
    np.testing.assert_array_equal(found.draw(IMAGE, values, OWN), pixels(expected))
    assert pipeline.scheduler is own and found.default_solver == "DPM-Solver++ 2M"


def test_solver_and_guidance_are_those_asked_for() -> None:
    pipeline = make("additive", solver="heun_ode")
    found = Explorer(pipeline, "tiny")
    assert found.default_solver == "VP-SDE Heun ODE"
    values = found.encode(IMAGE)
    drawn = found.draw(IMAGE, values, Drawing("DDIM", guidance_scale=3.0, num_inference_steps=4))
    pipeline.scheduler = with_solver(pipeline, "DDIM")
    expected = pipeline(
        images=IMAGE[None],
        guidance_scale=3.0,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]
    np.testing.assert_array_equal(drawn, pixels(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_a_strip_is_a_traversal(kind: str) -> None:
    found, pipeline = explorer(kind), one(kind)
    z = pipeline.encode(IMAGE[None])
    strip = found.strip(found.encode(IMAGE), 2, OWN)
    assert strip.values == (
        tuple(map(float, range(5)))
        if kind == "categorical"
        else (-2.5, -1.88, -1.25, -0.62, 0.0, 0.62, 1.25, 1.88, 2.5)
    )
    for decoder, images in (("ivae", strip.ivae), ("ddpm", strip.ddpm)):
        rows: Any = pipeline.traverse(
            z, [2], strip.values, decoder, num_inference_steps=3, seed=5, output_type="np"
        )
        assert images is not None
        np.testing.assert_array_equal(images, pixels(rows[0]))


def test_a_strip_of_classes_has_all_of_them() -> None:
    found = Explorer(make("categorical", num_categories=10), "tiny")
    strip = found.strip([0.0] * 6, 0, Drawing("DDIM", num_inference_steps=1))
    assert strip.values == tuple(map(float, range(10)))
    assert strip.ddpm is not None and len(strip.ivae) == len(strip.ddpm) == 10


def test_with_its_own_noise_a_drawing_is_an_edit() -> None:
    found, pipeline = explorer("additive"), one("additive")
    values, _ = found.within(found.encode(IMAGE))
    keep = Drawing("DDIM", num_inference_steps=3, keep_noise=True)
    unmoved = pipeline.edit(IMAGE[None], {}, num_inference_steps=3, output_type="np").images[0]
    np.testing.assert_array_equal(found.draw(IMAGE, values, keep), pixels(unmoved))
    values[1] = 1.5
    edited = pipeline.edit(IMAGE[None], {1: 1.5}, num_inference_steps=3, output_type="np").images[0]
    np.testing.assert_array_equal(found.draw(IMAGE, values, keep), pixels(edited))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_as_json_draws_the_same(kind: str) -> None:
    found = explorer(kind)
    values, _ = found.within(found.encode(IMAGE))
    saved = json.loads(json.dumps(found.document(values, OWN)))
    assert saved["model"] == "tiny" and saved["drawing"]["seed"] == 5
    assert list(saved["codes"].values()) == values
    drawn = one(kind)(
        latents=torch.tensor(saved["latents"]),
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images[0]
    np.testing.assert_array_equal(found.draw(IMAGE, values, OWN), pixels(drawn))


def test_values_are_shown_within_their_range() -> None:
    values, outside = explorer("additive").within([0.12345, -3.0, 2.5, 9.0, 0.0, 0.0])
    assert values == [0.123, -2.5, 2.5, 2.5, 0.0, 0.0] and [latent.number for latent in outside] == [1, 3]


def test_a_model_without_unet_has_ivae_pictures_only() -> None:
    found = Explorer(IVAEDiffusionPipeline(ivae=one("additive").ivae), "tiny")
    strip = found.strip(found.encode(IMAGE), 0, OWN)
    assert not found.draws and strip.ddpm is None and strip.ivae.shape == (9, 16, 16, 3)
    assert found.document([0.0] * 6, OWN)["drawing"] is None


def test_models_without_latents_or_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^tiny is an unconditional diffusion model: it has no latents"):
        Explorer(one("unconditional"), "tiny")
    ivae = IVAEModel(image_size=1, in_channels=3, backbone="mlp", hidden_dim=8, latent_dim=3, num_factors=3)
    with pytest.raises(ValueError, match=r"^tiny is a model of vectors"):
        Explorer(IVAEDiffusionPipeline(ivae=ivae.eval()), "tiny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guidance_scale": 10.5}, "guidance must be a number from 0 to 10, got 10.5"),
        ({"guidance_scale": math.nan}, "guidance must be a number from 0 to 10, got nan"),
        ({"num_inference_steps": 51}, "steps must be a whole number from 1 to 50, got 51"),
        ({"num_inference_steps": 2.5}, "steps must be a whole number from 1 to 50, got 2.5"),
        ({"seed": -1}, "the seed must be a whole number from 0 to 2.14748e+09, got -1"),
        ({"seed": None}, "the seed must be a whole number from 0 to 2.14748e+09, got None"),
        ({"solver": "Euler"}, "the solver must be one of DPM-Solver++ 2M, "),
    ],
)
def test_a_drawing_that_costs_too_much_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Drawing(**{"solver": "DDIM", **change})


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("additive", [2.6, 0, 0, 0, 0, 0], "z0 must be a number from -2.5 to 2.5, got 2.6"),
        ("additive", [0, math.nan, 0, 0, 0, 0], "z1 must be a number from -2.5 to 2.5, got nan"),
        ("additive", [0, "0", 0, 0, 0, 0], "z1 must be a number from -2.5 to 2.5, got 0"),
        ("additive", [0], "this model has 6 latents, got 1 values"),
        ("categorical", [0, 0, 5, 0, 0, 0], "z2 must be a whole number from 0 to 4, got 5"),
        ("categorical", [0, 0, 0.5, 0, 0, 0], "z2 must be a whole number from 0 to 4, got 0.5"),
    ],
)
def test_values_outside_the_range_are_refused(kind: str, values: list[Any], message: str) -> None:
    for call in (
        lambda: explorer(kind).decode(values),
        lambda: explorer(kind).draw(IMAGE, values, OWN),
        lambda: explorer(kind).strip(values, 0, OWN),
    ):
        with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
            call()


def test_numbers_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="latents are numbered from 0 to 5, got 6"):
        explorer("additive").strip([0.0] * 6, 6, OWN)
    with pytest.raises(ValueError, match="there are 0 images to start from, got number 0"):
        explorer("additive").example(0)


def file(image: Image.Image, format: str = "PNG") -> bytes:
    content = BytesIO()
    image.save(content, format=format)
    return content.getvalue()


def test_an_upload_is_read_as_the_pipeline_reads_pictures() -> None:
    found = explorer("additive")
    np.testing.assert_array_equal(found.read_image(file(Image.fromarray(IMAGE)), False), IMAGE)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    prepared = one("additive").prepare_images(photo, resize=True)[0]
    expected = ((prepared + 1.0) * 127.5).round().byte().movedim(0, -1).numpy()
    np.testing.assert_array_equal(found.read_image(file(photo), True), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "this file is no picture that can be read: give PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "this file is no picture that can be read"),
        (b"\0" * (8 * 2**20 + 1), "the file has 8.0 MiB, 8 at most are read: scale it down"),
        (
            file(Image.new("1", (4097, 4096))),
            "the picture has 4097 x 4096 pixels, 16,777,216 at most are read",
        ),
        (file(Image.new("RGB", (20, 16))), "the picture has 20 x 16 pixels, this model takes 16 x 16"),
        (file(Image.fromarray(IMAGE))[:-40], "the file: cannot be decoded as PNG"),
    ],
    ids=["empty", "eps", "bytes", "pixels", "size", "cut"],
)
def test_an_upload_that_is_no_such_picture_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        explorer("additive").read_image(content, False)
    assert "\n" not in str(caught.value)


def test_a_saved_model_opens_with_held_out_images_of_its_data(tmp_path: Path) -> None:
    folder, data = tmp_path / "mine" / "pipeline", DataConfig(image_size=16)
    one("additive").save_pretrained(folder)
    found = Explorer.open(folder, data, num_images=60, num_examples=5)
    dataset, rows, _ = held_out_rows(folder, one("additive"), data, 5)
    expected = dataset.images(rows).movedim(1, -1).numpy()
    assert found.name == "mine"
    np.testing.assert_array_equal(np.stack([found.example(number) for number in range(5)]), expected)
    # whatever is offered to start from can be shown as it is
    assert all(not found.within(found.encode(image))[1] for image in found.examples)
    assert Explorer.open(folder, None).latents == explorer("additive").latents
    with pytest.raises(ValueError, match=r"set data\.image_size=16"):
        Explorer.open(folder, DataConfig(image_size=32))
