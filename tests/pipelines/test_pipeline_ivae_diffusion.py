"""The pipeline: what images are drawn from, guidance, and refusals. Habits of diffusers are in `test_conformance.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from PIL import Image
from torch import Tensor

from idiff_hf import IVAEDiffusionPipeline
from tests.pipelines.pipes import CONDITIONAL, make, one, seeds, source

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
Z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pipe() -> IVAEDiffusionPipeline:
    return one("additive")


def draw(pipeline: IVAEDiffusionPipeline, **call: Any) -> Tensor:
    settings = {"num_inference_steps": 2, "generator": seeds(2), "output_type": "pt"}
    images: Tensor = pipeline(**{**settings, **call}).images
    return images


def test_encode_is_the_posterior_mean_in_batches(pipe: IVAEDiffusionPipeline) -> None:
    assert pipe.ivae is not None
    with torch.no_grad():
        expected = pipe.ivae.encode(IMAGES).latent_dist.mean  # type: ignore[union-attr]
    for batch_size in (1, 256):
        torch.testing.assert_close(pipe.encode(IMAGES, batch_size), expected, atol=1e-5, rtol=1e-5)
    assert pipe.encode(Image.new("RGB", (16, 16))).shape == (1, 6)
    assert pipe.encode(Image.new("RGB", (20, 30)), resize=True).shape == (1, 6)


def test_categorical_latents_are_classes() -> None:
    pipeline = one("categorical")
    z = pipeline.encode(IMAGES)
    assert z.shape == (2, pipeline.latent_dim) == (2, 30)
    assert torch.equal(z.view(2, 6, 5).argmax(dim=2).float(), pipeline.codes(z))


def test_decode_and_reconstruct_in_batches(pipe: IVAEDiffusionPipeline) -> None:
    assert pipe.ivae is not None
    with torch.no_grad():
        expected = pipe.ivae.decode(pipe.encode(IMAGES)).sample.clamp(-1, 1) / 2 + 0.5
    for batch_size in (1, 256):
        decoded = pipe.reconstruct(IMAGES, "pt", batch_size)
        torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=1e-5)
    assert pipe.reconstruct(Image.new("RGB", (20, 30)), resize=True)[0].size == (16, 16)


def test_grey_pictures_come_back_grey() -> None:
    """`L`, as a model of one channel was given them."""
    output = one("additive").image_processor.postprocess(torch.zeros(1, 1, 4, 4), "pil")
    assert output[0].mode == "L"


def test_images_are_encoded_first(pipe: IVAEDiffusionPipeline) -> None:
    output = pipe(IMAGES, num_inference_steps=2, generator=seeds(2), output_type="pt")
    assert torch.equal(output.latents, pipe.encode(IMAGES))
    assert torch.equal(output.images, draw(pipe, latents=pipe.encode(IMAGES)))
    large = torch.nn.functional.interpolate(IMAGES, (32, 32))
    assert draw(pipe, images=large, resize=True).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("kind", ["additive", "categorical"])
def test_aux_draws_z_from_the_prior_for_each_image(kind: str) -> None:
    pipeline = one(kind)
    u = torch.cat([torch.zeros(2, 6), torch.full((2, 6), 0.04)], dim=1)
    output = pipeline(
        aux=u, num_images_per_input=20, num_inference_steps=1, generator=seeds(40), output_type="pt"
    )
    with torch.no_grad():
        prior = pipeline.ivae.prior(u.repeat_interleave(20, dim=0)).latent_dist  # type: ignore[union-attr]
    noise = torch.stack([torch.randn(6, generator=source) for source in seeds(40)])
    torch.testing.assert_close(output.latents, prior.sample(noise))
    assert output.images.shape == (40, 3, 16, 16) and len({tuple(z.tolist()) for z in output.latents}) > 10
    alone = pipeline(aux=u[1:], num_inference_steps=1, generator=seeds(1, first=39), output_type="pt")
    torch.testing.assert_close(alone.images[0], output.images[39], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", CONDITIONAL)
def test_guidance_zero_ignores_the_latents_and_one_is_conditional(kind: str) -> None:
    pipeline = one(kind)
    a, b = source(pipeline, 2)["latents"], source(pipeline, 2, seed=1)["latents"]
    assert torch.equal(
        draw(pipeline, latents=a, guidance_scale=0.0), draw(pipeline, latents=b, guidance_scale=0.0)
    )
    conditional = draw(pipeline, latents=a, guidance_scale=1.0)
    assert not torch.allclose(conditional, draw(pipeline, latents=b, guidance_scale=1.0))
    # the batched forward of a guided call is the plain one at a scale next to 1
    beside = draw(pipeline, latents=a, guidance_scale=1.0 + 1e-6)
    torch.testing.assert_close(beside, conditional, atol=1e-4, rtol=1e-4)
    assert torch.equal(draw(pipeline, latents=a), conditional)


@pytest.mark.parametrize("kind", ["additive", "scale_shift"])
def test_z_of_zero_is_no_condition(kind: str) -> None:
    pipeline, zero = one(kind), torch.zeros(2, 6)
    assert torch.equal(draw(pipeline, latents=zero), draw(pipeline, latents=Z, guidance_scale=0.0))


def test_a_guidance_interval_that_holds_no_time_is_scale_one(pipe: IVAEDiffusionPipeline) -> None:
    plain, guided = (draw(pipe, latents=Z, guidance_scale=scale) for scale in (1.0, 4.0))
    # two steps, at t = 1 and 0.5
    given = {"latents": Z, "guidance_scale": 4.0}
    assert torch.equal(draw(pipe, **given, guidance_interval=(0.6, 0.9)), plain)
    assert torch.equal(draw(pipe, **given, guidance_interval=(0.5, 1.0)), guided)
    first = draw(pipe, **given, guidance_interval=(0.9, 1.0))
    assert not torch.allclose(first, plain) and not torch.allclose(first, guided)
    rescaled = draw(pipe, **given, guidance_rescale=0.7)
    assert not torch.allclose(rescaled, guided)


def test_the_condition_is_computed_once_a_call(pipe: IVAEDiffusionPipeline) -> None:
    calls: list[int] = []
    hook = pipe.conditioning.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    draw(pipe, latents=Z, guidance_scale=4.0, num_inference_steps=5)
    hook.remove()
    assert len(calls) == 1


def test_calling_changes_no_component(pipe: IVAEDiffusionPipeline) -> None:
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}  # type: ignore[union-attr]
    config = dict(pipe.scheduler.config)
    draw(pipe, latents=Z)
    assert all(torch.equal(before[name], tensor) for name, tensor in pipe.unet.state_dict().items())  # type: ignore[union-attr]
    assert dict(pipe.scheduler.config) == config


def test_ivae_alone(tmp_path: Path) -> None:
    pipeline = one("additive")
    IVAEDiffusionPipeline(ivae=pipeline.ivae).save_pretrained(tmp_path)
    alone = IVAEDiffusionPipeline.from_pretrained(tmp_path)
    assert alone.unet is None
    assert len(alone.reconstruct(torch.zeros(2, 3, 16, 16))) == 2
    assert alone.traverse(torch.zeros(1, 6), decoder="ivae", output_type="np").shape == (6, 7, 16, 16, 3)
    for call in (lambda: alone(latents=torch.zeros(1, 6)), lambda: alone.edit(IMAGES, {})):
        with pytest.raises(
            ValueError, match=r"this model has no U-Net: use reconstruct\(images\) or decode\(latents\)"
        ):
            call()


def test_a_model_of_vectors_takes_and_gives_vectors() -> None:
    from idiff_hf import IVAEModel

    torch.manual_seed(0)
    ivae = IVAEModel(image_size=1, in_channels=3, backbone="mlp", hidden_dim=8, latent_dim=3, num_factors=3)
    pipeline = IVAEDiffusionPipeline(ivae=ivae.eval())
    assert pipeline.takes_vectors and pipeline.encode(torch.full((2, 3), 9.0)).shape == (2, 3)
    with pytest.raises(ValueError, match="this model is of vectors, not images"):
        pipeline.decode(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"give exactly one of images, latents and aux .*, got none"),
        (
            {"images": IMAGES, "latents": Z},
            "give exactly one of images, latents and aux .*, got images and latents",
        ),
        ({"images": IMAGES, "aux": torch.zeros(2, 12)}, "give exactly one of .*, got images and aux"),
        (
            {"batch_size": 2},
            r"give exactly one of .* \(batch_size is for unconditional models\), got batch_size",
        ),
        ({"latents": torch.zeros(1, 5)}, r"latents must be a tensor \(B, 6\), got \(1, 5\)"),
        ({"latents": [[0.0] * 6]}, r"latents must be a tensor \(B, 6\), got list"),
        ({"aux": torch.zeros(1, 5)}, r"aux must be a tensor \(B, 12\), got \(1, 5\)"),
        (
            {"images": torch.zeros(1, 3, 32, 32)},
            r"images must be 3x16x16 .* got \(1, 3, 32, 32\): resize them, or pass",
        ),
        ({"latents": Z[:0]}, r"latents must have one row or more, got \(0, 6\)"),
        ({"latents": Z * float("nan")}, "latents must be finite, got NaN or infinity"),
        ({"images": IMAGES, "guidance_scale": float("inf")}, "guidance_scale must be finite, got inf"),
        ({"images": IMAGES, "generator": 0}, "generator must be a torch.Generator or a list of them, got 0"),
        (
            {"images": IMAGES, "callback_on_step_end": lambda *_: {"latents": Z}},
            "callback_on_step_end must return any of sample, condition, null_condition by name, got latents",
        ),
        ({"images": IMAGES, "guidance_scale": -1.0}, "guidance_scale must be 0 or more, got -1"),
        (
            {"images": IMAGES, "guidance_interval": (0.8, 0.2)},
            r"guidance_interval must be two times .* got \(0.8, 0.2\)",
        ),
        ({"images": IMAGES, "guidance_rescale": -0.1}, r"guidance_rescale must lie in \[0, 1\], got -0.1"),
        ({"images": IMAGES, "num_inference_steps": 0}, "num_inference_steps must be 1 or more, got 0"),
        ({"images": IMAGES, "num_images_per_input": 0}, "num_images_per_input must be 1 or more, got 0"),
        ({"images": IMAGES, "output_type": "jpg"}, "output_type must be pil, np or pt, got 'jpg'"),
        (
            {"images": IMAGES, "generator": seeds(1)},
            "generator must be one or a list of 2, one for each image, got 1",
        ),
        (
            {"images": IMAGES, "num_images_per_input": 2, "generator": seeds(2)},
            "generator must be one or a list of 4, one for each image, got 2",
        ),
        (
            {"images": IMAGES, "callback_on_step_end_tensor_inputs": ["latents"]},
            "callback_on_step_end_tensor_inputs must be among sample, condition, null_condition, got latents",
        ),
        (
            {"images": IMAGES, "callback_on_step_end_tensor_inputs": "sample"},
            "callback_on_step_end_tensor_inputs must be a list of names, got 'sample'$",
        ),
        (
            {"images": IMAGES, "callback_on_step_end": "x"},
            "callback_on_step_end must be a function, got 'x'$",
        ),
        (
            {"images": IMAGES, "callback_on_step_end": lambda *_: Z},
            "callback_on_step_end must return a dict of tensors, or None, got Tensor$",
        ),
        *(
            (
                {"images": IMAGES, "callback_on_step_end": lambda *_, value=value: {"sample": value}},
                rf"return tensors of their shape, sample \(2, 3, 16, 16\), got {seen}$",
            )
            for value, seen in ((IMAGES[:1], r"\(1, 3, 16, 16\)"), (None, "NoneType"))
        ),
        *(
            ({"latents": Z, name: value}, rf"^{name} must be a whole number, got {seen}$")
            for name in ("num_images_per_input", "num_inference_steps")
            for value, seen in ((2.0, r"2\.0"), ("2", "'2'"), (True, "True"), (None, "None"))
        ),
        ({"latents": 3}, r"latents must be a tensor \(B, 6\), got int$"),
        (
            {"latents": Z.to(torch.complex64)},
            "^latents must be real numbers, got torch.complex64: give their",
        ),
        (
            {"latents": Z.double() * 1e300},
            r"^latents must be finite, got \S*e\+\d+, which torch\.float32 can't hold$",
        ),
    ],
)
def test_call_refuses(pipe: IVAEDiffusionPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        pipe(**arguments)
    assert "\n" not in str(caught.value)


def test_a_tuple_of_generators_is_a_list_and_a_callback_may_return_nothing(
    pipe: IVAEDiffusionPipeline,
) -> None:
    told = {"num_inference_steps": 2, "output_type": "pt"}
    listed = pipe(latents=Z, generator=seeds(2), **told).images
    assert torch.equal(pipe(latents=Z, generator=tuple(seeds(2)), **told).images, listed)
    silent = pipe(latents=Z, generator=seeds(2), callback_on_step_end=lambda *_: None, **told).images
    assert torch.equal(silent, listed)


def test_coding_refuses(pipe: IVAEDiffusionPipeline) -> None:
    with pytest.raises(ValueError, match=r"^latents must have one row or more, got \(0, 6\)$"):
        pipe.decode(Z[:0])
    with pytest.raises(ValueError, match=r"^latents must be finite, got NaN or infinity$"):
        pipe.decode(Z * float("inf"))
    with pytest.raises(ValueError, match=r"^batch_size must be 1 or more, got 0$"):
        pipe.encode(IMAGES, batch_size=0)
    for call in (pipe.encode, pipe.reconstruct):
        with pytest.raises(ValueError, match=r"^batch_size must be a whole number, got 1\.5$"):
            call(IMAGES, batch_size=1.5)  # type: ignore[call-arg, arg-type]
    for size, message in (
        (0, "1 or more, got 0"),
        (-1, "1 or more, got -1"),
        (None, "a whole number, got None"),
    ):
        with pytest.raises(ValueError, match=rf"^batch_size must be {message}$"):
            pipe.decode(Z, batch_size=size)  # type: ignore[arg-type]
    categorical = one("categorical")
    with pytest.raises(ValueError, match=r"^latents must be a tensor \(B, 30\), got \(2, 6\)$"):
        categorical.codes(Z)
    with pytest.raises(ValueError, match=r"^latents must be a tensor \(B, 30\), got ndarray$"):
        categorical.codes(Z.numpy())
    with pytest.raises(ValueError, match=r"^images of true and false have no range: give uint8, 255 times"):
        pipe.encode(IMAGES > 0)


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ({}, "none"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.0}, r"batch_size=2\.0"),
        ({"batch_size": "2"}, "batch_size='2'"),
        ({"batch_size": True}, "batch_size=True"),
        ({"latents": Z}, "latents"),
        ({"batch_size": 2, "images": IMAGES}, "images and batch_size"),
    ],
)
def test_an_unconditional_model_refuses(arguments: dict[str, Any], seen: str) -> None:
    message = f"this model is unconditional: give batch_size=1 or more and neither images, latents nor aux, got {seen}$"
    with pytest.raises(ValueError, match=message):
        one("unconditional")(**arguments)


def test_counts_are_whole_numbers_of_any_kind(pipe: IVAEDiffusionPipeline) -> None:
    told = {"output_type": "pt", "generator": seeds(2), "num_inference_steps": np.int64(2)}
    assert one("unconditional")(batch_size=np.int64(2), **told).images.shape == (2, 3, 16, 16)
    drawn = pipe(latents=Z[:1], num_images_per_input=torch.tensor(2), **told)  # type: ignore[arg-type]
    assert drawn.images.shape == (2, 3, 16, 16)


def test_aux_that_the_type_of_the_models_cannot_hold_is_refused() -> None:
    half = make("additive").to(torch.float16)
    aux = torch.ones(1, 12)
    aux[0, 0] = 1e6
    with pytest.raises(
        ValueError, match=r"^aux must be finite, got 1e\+06, which torch\.float16 can't hold$"
    ):
        half(aux=aux)


def test_a_callback_of_diffusers_names_the_tensors_that_it_takes(pipe: IVAEDiffusionPipeline) -> None:
    class NoCondition(PipelineCallback):
        tensor_inputs = ["condition"]

        def callback_fn(self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: Any) -> Any:
            return {"condition": 0.0 * callback_kwargs["condition"]}

    told = {"latents": Z, "num_inference_steps": 3}
    changed = draw(pipe, callback_on_step_end=NoCondition(), **told)
    assert not torch.equal(changed, draw(pipe, **told))
    both = MultiPipelineCallbacks([NoCondition(), NoCondition()])
    assert torch.equal(draw(pipe, callback_on_step_end=both, **told), changed)


def test_a_sample_in_sigma_space_is_at_the_schedulers_own_scale() -> None:
    """x_t / alpha_t: at the last step, which is of little noise, the two scales meet."""
    pipeline, seen = make("additive"), {}
    for cls in (DDIMScheduler, EulerDiscreteScheduler):
        pipeline.scheduler = cls.from_config(pipeline.scheduler.config)
        stds: list[float] = []
        draw(
            pipeline,
            latents=Z,
            num_inference_steps=4,
            callback_on_step_end=lambda _, i, t, given, s=stds: s.append(float(given["sample"].std())),
        )
        seen[cls] = stds
    assert seen[EulerDiscreteScheduler][0] > 2.0 * seen[DDIMScheduler][0]


def test_pndm_needs_four_steps() -> None:
    pipeline = make("additive", prediction_type="v_prediction")
    pipeline.scheduler = PNDMScheduler.from_config(pipeline.scheduler.config)
    for steps in (1, 3):
        with pytest.raises(
            ValueError, match=rf"^PNDMScheduler needs num_inference_steps of 4 or more, got {steps}$"
        ):
            draw(pipeline, latents=Z, num_inference_steps=steps)
    assert bool(draw(pipeline, latents=Z, num_inference_steps=4).isfinite().all())


@pytest.mark.parametrize("kind", ["additive", "scale_shift", "tokens"])
def test_the_unet_alone_may_be_in_bfloat16(kind: str) -> None:
    pipeline = make(kind)
    given = {"latents": Z, "guidance_scale": 2.0}
    full = draw(pipeline, **given)
    assert pipeline.unet is not None
    pipeline.unet.to(torch.bfloat16)
    assert (draw(pipeline, **given) - full).abs().mean() < 0.05


def test_a_pipeline_of_nothing_says_so() -> None:
    empty = IVAEDiffusionPipeline()
    for name in ("image_size", "channels", "takes_vectors"):
        with pytest.raises(
            ValueError, match=r"^this pipeline has neither an iVAE nor a U-Net with its condition"
        ):
            getattr(empty, name)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("unet", {"sample_size": [4, 4]}, r"^sample_size of the U-Net must be a whole number, got \[4, 4\]$"),
        ("conditioning", {"patch_size": 0}, "^patch_size of the conditioning must be 1 or more, got 0$"),
        (
            "conditioning",
            {"patch_size": 3},
            "^the U-Net's 48 channels are not those of patches of 3 x 3: give the",
        ),
    ],
)
def test_sizes_that_draw_nothing_are_one_line(name: str, change: dict[str, Any], message: str) -> None:
    pipeline = make("additive")
    getattr(pipeline, name).register_to_config(**change)
    with pytest.raises(ValueError, match=message):
        draw(pipeline, latents=Z)


def test_parts_of_different_models_and_parts_in_each_others_place_do_not_draw(
    pipe: IVAEDiffusionPipeline,
) -> None:
    parts, none = pipe.components, one("unconditional").components
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (
            {"ivae": make("additive", latent_dim=8).ivae},
            {"latents": torch.zeros(1, 8)},
            r"^the conditioning takes z of 6 numbers, and the iVAE gives 8: give the parts of one model$",
        ),
        (
            {"conditioning": none["conditioning"]},
            {"latents": Z},
            r"^the conditioning takes z of no numbers, and the iVAE gives 6: give the parts of one model$",
        ),
        (
            {"ivae": None},
            {"batch_size": 1},
            r"^the conditioning takes z of 6 numbers, and the iVAE gives none: give the parts of one model$",
        ),
        (
            {"unet": parts["ivae"]},
            {"latents": Z},
            r"^unet must be diffusers\.UNet2DModel or .*, got IVAEModel: that belongs in ivae$",
        ),
        (
            {"ivae": parts["unet"]},
            {"images": IMAGES},
            r"^ivae must be idiff_hf\.IVAEModel, got UNet2DModel: that belongs in unet$",
        ),
    ]
    for change, call, message in cases:
        mixed = IVAEDiffusionPipeline(**{**parts, **change})
        with pytest.raises(ValueError, match=message):
            mixed(**call)
    with pytest.raises(
        ValueError, match=r"^ivae must be idiff_hf\.IVAEModel, got UNet2DModel: that belongs in"
    ):
        IVAEDiffusionPipeline(**{**parts, "ivae": parts["unet"]}).encode(IMAGES)


@pytest.mark.parametrize("name", [None, 3])
def test_what_is_neither_a_folder_nor_a_name_is_one_line(name: Any) -> None:
    with pytest.raises(ValueError, match=rf"^give a folder, or user/name on the Hub, got {name}$"):
        IVAEDiffusionPipeline.from_pretrained(name)
