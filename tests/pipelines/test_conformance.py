"""The habits that diffusers tests its own pipelines for, by their names there, for each type of model."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import schedulers
from torch import Tensor, nn

from idiff_hf import IVAEDiffusionPipeline, VPSDEScheduler
from tests.faults.figures import Figure
from tests.pipelines.pipes import CONDITIONAL, KINDS, make, one, seeds, source

# of those compatible: one takes a noise level in place of a time, one needs torchsde
SCHEDULERS = [
    n for n in VPSDEScheduler._compatibles if n not in ("EDMEulerScheduler", "DPMSolverSDEScheduler")
]
SOLVERS = ("euler_maruyama", "predictor_corrector", "heun_ode")


@pytest.fixture(params=("additive", "tokens", "unconditional", "kl"))
def pipe(request: pytest.FixtureRequest) -> IVAEDiffusionPipeline:
    return one(request.param)


@pytest.fixture(params=KINDS)
def any_kind(request: pytest.FixtureRequest) -> IVAEDiffusionPipeline:
    return one(request.param)


@pytest.fixture(params=CONDITIONAL)
def conditional(request: pytest.FixtureRequest) -> IVAEDiffusionPipeline:
    return one(request.param)


def draw(pipeline: IVAEDiffusionPipeline, count: int = 2, **call: Any) -> Tensor:
    settings = {
        "num_inference_steps": 3,
        "guidance_scale": 2.0,
        "generator": seeds(count),
        "output_type": "pt",
    }
    images: Tensor = pipeline(**source(pipeline, count), **{**settings, **call}).images
    return images


def last_sample(pipeline: IVAEDiffusionPipeline) -> Tensor:
    """x_0 as the solver leaves it, before an autoencoder, whose quantisation jumps, and before it is cut at -1 and 1."""
    samples: list[Tensor] = []

    def keep(_: Any, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        samples.append(tensors["sample"])
        return {}

    assert draw(pipeline, callback_on_step_end=keep).isfinite().all()
    return samples[-1]


def load(folder: Path, **call: Any) -> IVAEDiffusionPipeline:
    pipeline = IVAEDiffusionPipeline.from_pretrained(folder, **call)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def same(again: IVAEDiffusionPipeline, pipeline: IVAEDiffusionPipeline) -> None:
    """The same tensors, and images: these up to rounding, for loaded tensors lie elsewhere in memory, where sums go in another order."""
    for name, part in pipeline.components.items():
        assert type(getattr(again, name)) is type(part)
        if isinstance(part, nn.Module):
            loaded = getattr(again, name).state_dict()
            assert loaded.keys() == part.state_dict().keys()
            assert all(torch.equal(loaded[key], value) for key, value in part.state_dict().items())
    torch.testing.assert_close(draw(again), draw(pipeline), atol=1e-5, rtol=0.0)


def test_save_load_local(any_kind: IVAEDiffusionPipeline, tmp_path: Path) -> None:
    any_kind.save_pretrained(tmp_path)
    same(load(tmp_path), any_kind)


def test_save_load_float16(pipe: IVAEDiffusionPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    half = load(tmp_path, dtype=torch.float16)
    parts = [part for part in half.components.values() if isinstance(part, nn.Module)]
    assert {part.dtype for part in parts} == {torch.float16}
    torch.testing.assert_close(last_sample(half), last_sample(pipe), atol=0.01, rtol=0.0)
    half.save_pretrained(tmp_path / "half")
    again = load(tmp_path / "half", dtype=torch.float16)
    torch.testing.assert_close(last_sample(again), last_sample(half), atol=0.01, rtol=0.0)


@pytest.mark.parametrize("dtype", [{"unet": torch.float16}, "float16"])
def test_one_dtype_is_for_all_components(pipe: IVAEDiffusionPipeline, tmp_path: Path, dtype: object) -> None:
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^dtype must be one torch\.dtype for all components, got "):
        load(tmp_path, dtype=dtype)


def test_save_load_variants(pipe: IVAEDiffusionPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert all(".fp16." in path.name for path in tmp_path.rglob("*.safetensors"))
    same(load(tmp_path, variant="fp16"), pipe)


def test_save_load_optional_components(pipe: IVAEDiffusionPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    absent = {name for name, part in pipe.components.items() if part is None}
    assert absent == {name for name, part in load(tmp_path).components.items() if part is None}
    assert absent <= set(IVAEDiffusionPipeline._optional_components)


def test_components_function(pipe: IVAEDiffusionPipeline) -> None:
    again = IVAEDiffusionPipeline(**pipe.components)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(draw(again), draw(pipe))


def test_from_pipe_consistent_config(any_kind: IVAEDiffusionPipeline) -> None:
    again = IVAEDiffusionPipeline.from_pipe(any_kind)
    assert all(again.components[name] is component for name, component in any_kind.components.items())
    assert torch.equal(draw(again), draw(any_kind))


def test_pipeline_call_signature() -> None:
    parameters = inspect.signature(IVAEDiffusionPipeline.__call__).parameters
    assert set(parameters) >= {
        "num_inference_steps",
        "generator",
        "output_type",
        "return_dict",
        "guidance_scale",
        "guidance_rescale",
        "num_images_per_input",
        "callback_on_step_end",
        "callback_on_step_end_tensor_inputs",
    }
    assert all(p.default is not inspect.Parameter.empty for name, p in parameters.items() if name != "self")


def test_dict_tuple_outputs_equivalent(pipe: IVAEDiffusionPipeline) -> None:
    call: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt", **source(pipe, 2)}
    output = pipe(generator=seeds(2), **call)
    images, latents = pipe(generator=seeds(2), return_dict=False, **call)
    assert torch.equal(images, output.images) and torch.equal(latents, output.latents)


def test_output_types(pipe: IVAEDiffusionPipeline) -> None:
    pt, array, pil = (draw(pipe, output_type=kind) for kind in ("pt", "np", "pil"))
    assert pt.shape == (2, 3, 16, 16) and pt.min() >= 0 and pt.max() <= 1
    np.testing.assert_allclose(array, pt.movedim(1, -1).numpy())
    np.testing.assert_array_equal(np.asarray(pil[1]), np.round(array[1] * 255).astype(np.uint8))


def test_inference_batch_consistent(pipe: IVAEDiffusionPipeline) -> None:
    assert [len(draw(pipe, count)) for count in (1, 2, 3)] == [1, 2, 3]


@pytest.mark.faults
def test_inference_batch_single_identical(any_kind: IVAEDiffusionPipeline, figure: Figure) -> None:
    whole = draw(any_kind, 3)
    given = {
        name: value if isinstance(value, int) else value[2:] for name, value in source(any_kind, 3).items()
    }
    given = {name: 1 if isinstance(value, int) else value for name, value in given.items()}
    alone = any_kind(
        **given, num_inference_steps=3, guidance_scale=2.0, generator=seeds(1, first=2), output_type="pt"
    ).images
    torch.testing.assert_close(whole[2:], alone, atol=1e-5, rtol=1e-5)
    figure("F29", "kinds of model that draw image i alone as in its batch, within 1e-5")


@cache
def predicts_v() -> IVAEDiffusionPipeline:
    return make(prediction_type="v_prediction")


@pytest.mark.parametrize("name", [*SCHEDULERS, *SOLVERS])
def test_karras_schedulers_shape_and_a_generator_for_each_image(name: str) -> None:
    """Image i depends on its own generator, also where each step of the solver draws noise."""
    # some know nothing of "sample", and "epsilon" at t = 1 multiplies the rounding of float32 by 1 / alpha = 150
    pipeline = IVAEDiffusionPipeline(**predicts_v().components)
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.scheduler.config
    if name in SOLVERS:
        pipeline.scheduler = VPSDEScheduler.from_config(config, solver=name)
    else:
        pipeline.scheduler = getattr(schedulers, name).from_config(config)
    z = source(pipeline, 3)["latents"]
    call: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt"}
    whole = pipeline(latents=z, generator=seeds(3), **call).images
    assert whole.shape == (3, 3, 16, 16) and whole.isfinite().all()
    alone = pipeline(latents=z[2:], generator=seeds(1, first=2), **call).images
    torch.testing.assert_close(whole[2:], alone, atol=1e-5, rtol=1e-5)
    other = pipeline(latents=z, generator=[*seeds(2, first=7), *seeds(1, first=2)], **call).images
    torch.testing.assert_close(other[2:], alone, atol=1e-5, rtol=1e-5)


def test_num_images_per_input(pipe: IVAEDiffusionPipeline) -> None:
    images = draw(pipe, 2, num_images_per_input=2, generator=seeds(4))
    given = source(pipe, 2)
    rows = {
        name: 4 if isinstance(value, int) else value.repeat_interleave(2, dim=0)
        for name, value in given.items()
    }
    plain = pipe(
        **rows, num_inference_steps=3, guidance_scale=2.0, generator=seeds(4), output_type="pt"
    ).images
    assert torch.equal(images, plain) and not torch.allclose(images[0], images[1])


def test_callback_inputs(pipe: IVAEDiffusionPipeline) -> None:
    calls: list[tuple[int, float, set[str]]] = []

    def record(pipeline: IVAEDiffusionPipeline, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        assert pipeline is pipe
        calls.append((i, float(t), set(tensors)))
        return {}

    plain = draw(pipe)
    every = IVAEDiffusionPipeline._callback_tensor_inputs
    assert torch.equal(draw(pipe, callback_on_step_end=record), plain)
    assert torch.equal(
        draw(pipe, callback_on_step_end=record, callback_on_step_end_tensor_inputs=every), plain
    )
    assert [i for i, _, _ in calls] == [0, 1, 2] * 2 and pipe.num_timesteps == 3
    assert [t for _, t, _ in calls[:3]] == pipe.scheduler.timesteps.tolist()
    assert [names for _, _, names in calls] == [{"sample"}] * 3 + [set(every)] * 3

    def blank(_: Any, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"sample": torch.zeros_like(tensors["sample"])}

    blanked = draw(pipe, callback_on_step_end=blank)
    assert torch.equal(blanked[0], blanked[1])


def test_callback_cfg(conditional: IVAEDiffusionPipeline) -> None:
    def rise(pipeline: IVAEDiffusionPipeline, *_: Any) -> dict[str, Any]:
        pipeline._guidance_scale += 1.0
        return {}

    risen = draw(conditional, callback_on_step_end=rise, guidance_scale=1.0)
    assert conditional.guidance_scale == 1.0 + conditional.num_timesteps
    assert not torch.allclose(risen, draw(conditional, guidance_scale=1.0))


def rows_of_unet(pipeline: IVAEDiffusionPipeline, **call: Any) -> list[int]:
    """How many rows each call of the U-Net has, for two images."""
    rows: list[int] = []
    hook = pipeline.unet.register_forward_pre_hook(lambda module, given: rows.append(len(given[0])))  # type: ignore[union-attr]
    draw(pipeline, **call)
    hook.remove()
    return rows


def test_cfg(conditional: IVAEDiffusionPipeline) -> None:
    expected = {0.0: [2] * 3, 1.0: [2] * 3, 2.5: [4] * 3}
    for scale, rows in expected.items():
        assert rows_of_unet(conditional, guidance_scale=scale) == rows
        assert conditional.do_classifier_free_guidance == (scale == 2.5)
    drawn = [draw(conditional, guidance_scale=scale) for scale in (0.0, 1.0, 2.5, 4.0)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_an_unconditional_model_has_no_guidance() -> None:
    pipeline = one("unconditional")
    assert rows_of_unet(pipeline, guidance_scale=4.0) == [2] * 3 and not pipeline.do_classifier_free_guidance
    assert torch.equal(draw(pipeline, guidance_scale=4.0), draw(pipeline, guidance_scale=1.0))


def test_interrupt_gives_what_is_there_by_then(pipe: IVAEDiffusionPipeline) -> None:
    samples: list[Tensor] = []

    def stop(pipeline: IVAEDiffusionPipeline, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        samples.append(tensors["sample"])
        pipeline._interrupt = i == 1
        return {}

    images = draw(pipe, callback_on_step_end=stop)
    assert len(samples) == 2 and pipe.interrupt
    assert torch.equal(images, pipe._output(pipe._to_images(samples[1]), "pt"))
    draw(pipe)
    assert not pipe.interrupt


def test_progress_bar_counts_calls_of_the_unet(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = make(solver="heun_ode")
    pipeline.set_progress_bar_config(disable=False)
    draw(pipeline)
    assert "5/5" in capsys.readouterr().err and pipeline.num_timesteps == 5


def test_to_device_and_no_value_is_read_from_it_in_the_loop(pipe: IVAEDiffusionPipeline) -> None:
    """On the meta device, where reading a value is an error."""
    there = IVAEDiffusionPipeline(**pipe.components)
    there.set_progress_bar_config(disable=True)
    state = {
        name: {k: v.clone() for k, v in part.state_dict().items()}
        for name, part in pipe.components.items()
        if isinstance(part, nn.Module)
    }
    try:
        assert there.to("meta").device.type == "meta"
        images = draw(there, generator=None, guidance_rescale=0.5, guidance_interval=(0.2, 0.9))
        assert images.device.type == "meta" and images.shape == (2, 3, 16, 16)
    finally:
        for name, tensors in state.items():
            getattr(pipe, name).to_empty(device="cpu").load_state_dict(tensors)
    assert pipe.device.type == "cpu"


def test_to_dtype(pipe: IVAEDiffusionPipeline) -> None:
    whole = last_sample(pipe)
    try:
        pipe.to(torch.bfloat16)
        parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
        assert {part.dtype for part in parts} == {torch.bfloat16} and pipe.dtype == torch.bfloat16
        half = last_sample(pipe)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, whole, atol=0.05, rtol=0.0)
    finally:
        pipe.to(torch.float32)


def test_cpu_offload_forward_pass(any_kind: IVAEDiffusionPipeline) -> None:
    """No accelerator is here: hooks run with the CPU as the device, and a book is kept of what would lie on one."""
    pipeline = IVAEDiffusionPipeline(**any_kind.components)
    pipeline.set_progress_bar_config(disable=True)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    given: dict[str, Any] = {"batch_size": 2} if any_kind.ivae is None else {"images": images}
    call: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "pt", **given}
    plain = any_kind(generator=seeds(2), **call).images
    edited = (
        None
        if any_kind.ivae is None
        else any_kind.edit(images, {0: 1}, num_inference_steps=2, output_type="pt").images
    )
    pipeline.enable_model_cpu_offload(device="cpu")
    names = [name for name in ("ivae", "unet", "vae") if getattr(any_kind, name) is not None]
    order: list[str] = []
    there: set[str] = set()
    removals = []
    for place, name in enumerate(names):
        module = getattr(any_kind, name)

        def arrives(*_: Any, name: str = name, place: int = place, **__: Any) -> tuple[Any, Any]:
            if not order or order[-1] != name:
                order.append(name)
            there.add(name)
            there.difference_update(names[place - 1 : place] if place else [])
            return _[1:], __

        def checks(*_: Any, name: str = name) -> None:
            assert name in there, f"{name} is called before it is on the device"

        module._hf_hook.pre_forward = arrives
        removals += [
            leaf.register_forward_pre_hook(checks) for leaf in module.modules() if not list(leaf.children())
        ]
    pipeline.maybe_free_model_hooks = lambda: None  # type: ignore[method-assign]
    try:
        assert torch.equal(pipeline(generator=seeds(2), **call).images, plain)
        assert order == names
        if edited is not None:
            there.clear()
            again = pipeline.edit(images, {0: 1}, num_inference_steps=2, output_type="pt").images
            assert torch.equal(again, edited)
    finally:
        for removal in removals:
            removal.remove()
        pipeline.remove_all_hooks()
