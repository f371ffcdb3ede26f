"""The pipeline: habits of diffusers, guidance, batches, saving, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from PIL import Image

from idiff_hf import IVAEDiffusionPipeline, VPSDEScheduler
from idiff_hf.builders import build_dataset, build_objective, build_pipeline
from idiff_hf.folders import MANIFEST, commit_folder
from tests.tiny import joint, tiny_config

SOLVERS = ("dpm_solver", "euler_maruyama", "predictor_corrector", "heun_ode")


def make(solver: str = "dpm_solver", diffusion: bool = True) -> IVAEDiffusionPipeline:
    config = joint(tiny_config("unused"))
    config = replace(
        config,
        scheduler=replace(config.scheduler, solver=solver),  # type: ignore[arg-type]
        model=replace(config.model, diffusion=diffusion),
    )
    objective = build_objective(config, build_dataset(config))
    if objective.unet is not None:
        # an untrained projection is too faint for guidance to be seen
        torch.nn.init.normal_(
            objective.conditioning.projection.weight, generator=torch.Generator().manual_seed(0)
        )  # type: ignore[union-attr, arg-type]
    pipeline = build_pipeline(config, objective.eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipe() -> IVAEDiffusionPipeline:
    return make()


def seeds(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def test_encode_is_the_posterior_mean_whatever_the_kind_of_image(pipe: IVAEDiffusionPipeline) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    uint8 = torch.from_numpy(array).movedim(-1, 1)
    with torch.no_grad():
        expected = pipe.ivae.encode(uint8.float() / 127.5 - 1).latent_dist.mean
    kinds = [
        [Image.fromarray(a) for a in array],
        array,
        array.astype(np.float32) / 255,
        uint8,
        uint8.float() / 127.5 - 1,
    ]
    for images in kinds:
        torch.testing.assert_close(pipe.encode(images), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pipe.encode(array, batch_size=2), expected, atol=1e-5, rtol=1e-5)
    assert pipe.encode(Image.fromarray(array[0])).shape == (1, 6)


def test_output_types_agree(pipe: IVAEDiffusionPipeline) -> None:
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    pt = pipe(latents=z, num_inference_steps=2, generator=seeds(2), output_type="pt").images
    array = pipe(latents=z, num_inference_steps=2, generator=seeds(2), output_type="np").images
    pil, latents = pipe(latents=z, num_inference_steps=2, generator=seeds(2), return_dict=False)
    assert torch.equal(latents, z)
    assert pt.shape == (2, 3, 16, 16) and pt.min() >= 0 and pt.max() <= 1
    np.testing.assert_allclose(array, pt.movedim(1, -1).numpy())
    np.testing.assert_array_equal(np.asarray(pil[1]), np.round(array[1] * 255).astype(np.uint8))


@pytest.mark.parametrize("solver", SOLVERS)
def test_image_i_does_not_depend_on_its_batch(solver: str) -> None:
    pipeline = make(solver)
    z = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    whole = pipeline(latents=z, num_inference_steps=3, generator=seeds(3), output_type="pt").images
    alone = pipeline(
        latents=z[2:], num_inference_steps=3, generator=seeds(1, first=2), output_type="pt"
    ).images
    torch.testing.assert_close(whole[2:], alone, atol=1e-5, rtol=1e-5)


def test_images_are_encoded_first(pipe: IVAEDiffusionPipeline) -> None:
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    from_images = pipe(x, num_inference_steps=2, generator=seeds(2), output_type="pt")
    from_latents = pipe(latents=pipe.encode(x), num_inference_steps=2, generator=seeds(2), output_type="pt")
    assert torch.equal(from_images.images, from_latents.images)
    assert torch.equal(from_images.latents, pipe.encode(x))


def test_guidance_zero_ignores_the_latents_and_one_is_conditional(pipe: IVAEDiffusionPipeline) -> None:
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))

    def draw(latents: torch.Tensor, scale: float) -> torch.Tensor:
        return pipe(
            latents=latents, guidance_scale=scale, num_inference_steps=2, generator=seeds(2), output_type="pt"
        ).images

    assert torch.equal(draw(z, 0.0), draw(-z, 0.0))
    assert torch.equal(draw(torch.zeros_like(z), 1.0), draw(z, 0.0))
    assert not torch.allclose(draw(z, 1.0), draw(-z, 1.0))
    # the batched forward of a guided call is the plain one at a scale next to 1
    torch.testing.assert_close(draw(z, 1.0 + 1e-6), draw(z, 1.0), atol=1e-4, rtol=1e-4)


def test_calling_changes_no_component(pipe: IVAEDiffusionPipeline) -> None:
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}  # type: ignore[union-attr]
    config = dict(pipe.scheduler.config)
    pipe(latents=torch.zeros(1, 6), num_inference_steps=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in pipe.unet.state_dict().items())  # type: ignore[union-attr]
    assert dict(pipe.scheduler.config) == config


def test_traverse_moves_one_latent_at_a_time_from_the_same_noise(pipe: IVAEDiffusionPipeline) -> None:
    z = torch.zeros(1, 6)
    images = pipe.traverse(z, dims=[0, 3], values=(-1.0, 0.0, 1.0), num_inference_steps=2, output_type="pt")
    assert images.shape == (2, 3, 3, 16, 16)
    torch.testing.assert_close(images[0, 1], images[1, 1], atol=1e-5, rtol=1e-5)
    moved = z.clone()
    moved[0, 3] = 1.0
    decoded = pipe.traverse(z, dims=[3], values=(1.0,), decoder="ivae", output_type="pt")
    torch.testing.assert_close(decoded[0, 0], pipe.decode(moved, "pt")[0])
    assert len(pipe.traverse(z, num_inference_steps=1)) == 6


def test_model_index_names_the_package_and_public_classes(
    pipe: IVAEDiffusionPipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    components = {name: entry for name, entry in index.items() if not name.startswith("_")}
    assert components == {
        "ivae": ["idiff_hf", "IVAEModel"],
        "unet": ["diffusers", "UNet2DModel"],
        "conditioning": ["idiff_hf", "AdditiveConditioning"],
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    }
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


@pytest.mark.parametrize("solver", SOLVERS)
def test_saved_and_loaded_draws_the_same(tmp_path: Path, solver: str) -> None:
    pipeline = make(solver)
    pipeline.save_pretrained(tmp_path)
    again = IVAEDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    for scale in (1.0, 4.0):
        kwargs = {"latents": z, "guidance_scale": scale, "num_inference_steps": 3, "output_type": "pt"}
        assert torch.equal(
            pipeline(generator=seeds(2), **kwargs).images,  # type: ignore[arg-type]
            again(generator=seeds(2), **kwargs).images,  # type: ignore[arg-type]
        )


def test_scheduler_swapped_in_memory_and_after_a_reload_is_the_same(tmp_path: Path) -> None:
    pipeline = make("euler_maruyama")
    pipeline.save_pretrained(tmp_path)
    again = IVAEDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    z = torch.zeros(1, 6)
    for cls in (DPMSolverMultistepScheduler, DDIMScheduler):
        drawn = []
        for one in (pipeline, again):
            one.scheduler = cls.from_config(one.scheduler.config)
            drawn.append(one(latents=z, num_inference_steps=3, generator=seeds(1), output_type="pt").images)
        assert torch.equal(*drawn)
    sde = VPSDEScheduler.from_config(again.scheduler.config)
    assert (sde.config.beta_min, sde.config.beta_max) == (0.1, 20.0)


def test_half_precision(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    half = IVAEDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.unet is not None and half.unet.dtype == torch.bfloat16


def test_ivae_alone(tmp_path: Path) -> None:
    make(diffusion=False).save_pretrained(tmp_path)
    alone = IVAEDiffusionPipeline.from_pretrained(tmp_path)
    assert alone.unet is None
    assert len(alone.reconstruct(torch.zeros(2, 3, 16, 16))) == 2
    with pytest.raises(
        ValueError, match=r"this model has no U-Net: use reconstruct\(images\) or decode\(latents\)"
    ):
        alone(latents=torch.zeros(1, 6))


IMAGE = torch.zeros(1, 3, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either images or latents, got neither"),
        ({"images": IMAGE, "latents": torch.zeros(1, 6)}, "give either images or latents, got both"),
        ({"latents": torch.zeros(1, 5)}, r"latents must be a tensor \(B, 6\), got \(1, 5\)"),
        ({"latents": [[0.0] * 6]}, r"latents must be a tensor \(B, 6\), got list"),
        (
            {"images": torch.zeros(1, 3, 32, 32)},
            r"images must be 3x16x16 .* got \(1, 3, 32, 32\): resize them first",
        ),
        ({"images": torch.full((1, 3, 16, 16), 7.0)}, r"images must lie in \[-1, 1\].*got 7 to 7"),
        (
            {"images": [Image.new("RGB", (16, 16)), Image.new("RGB", (8, 8))]},
            "images must be of one size, 16x16",
        ),
        ({"images": IMAGE, "guidance_scale": -1.0}, "guidance_scale must be 0 or more, got -1"),
        ({"images": IMAGE, "num_inference_steps": 0}, "num_inference_steps must be 1 or more, got 0"),
        ({"images": IMAGE, "output_type": "jpg"}, "output_type must be pil, np or pt, got 'jpg'"),
        (
            {"images": IMAGE, "generator": seeds(2)},
            "generator must be one or a list of 1, one for each image, got 2",
        ),
    ],
)
def test_call_refuses(pipe: IVAEDiffusionPipeline, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        pipe(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_traverse_refuses(pipe: IVAEDiffusionPipeline) -> None:
    with pytest.raises(ValueError, match=r"latents must be one row \(1, 6\), got \(2, 6\)"):
        pipe.traverse(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"dims must lie in 0 to 5, got \[6\]"):
        pipe.traverse(torch.zeros(1, 6), dims=[6])
    with pytest.raises(ValueError, match="decoder must be ivae or ddpm, got 'gan'"):
        pipe.traverse(torch.zeros(1, 6), decoder="gan")  # type: ignore[arg-type]


def edited(pipe: IVAEDiffusionPipeline, folder: Path, **changes: object) -> Path:
    pipe.save_pretrained(folder)
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ivae": ["os", "system"]}, r"ivae must be \['idiff_hf', 'IVAEModel'\], got \['os', 'system'\]"),
        ({"unet": ["subprocess", "Popen"]}, r"unet must be \['diffusers', 'UNet2DModel'\]"),
        (
            {"scheduler": ["os", "system"]},
            "scheduler must be idiff_hf.VPSDEScheduler or a diffusers scheduler",
        ),
        ({"scheduler": 3}, "scheduler must be idiff_hf.VPSDEScheduler or a diffusers scheduler"),
        (
            {"extra": ["idiff_hf", "IVAEModel"]},
            "names components that IVAEDiffusionPipeline does not have: extra",
        ),
        ({"_class_name": "DDPMPipeline"}, "must name _class_name 'IVAEDiffusionPipeline'"),
    ],
)
def test_from_pretrained_refuses_other_classes(
    pipe: IVAEDiffusionPipeline, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        IVAEDiffusionPipeline.from_pretrained(edited(pipe, tmp_path, **changes))


def test_from_pretrained_refuses_what_is_no_pipeline(pipe: IVAEDiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no saved pipeline: there is no model_index.json in it"):
        IVAEDiffusionPipeline.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match="trust_remote_code is refused: IVAEDiffusionPipeline never runs code"
    ):
        IVAEDiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    with pytest.raises(
        ValueError, match=r"unknown argument for IVAEDiffusionPipeline.from_pretrained: lantents"
    ):
        IVAEDiffusionPipeline.from_pretrained(edited(pipe, tmp_path / "p"), lantents=1)
    with pytest.raises(ValueError, match="safe_serialization=False would write pickles"):
        pipe.save_pretrained(tmp_path / "q", safe_serialization=False)
    stray = edited(pipe, tmp_path / "stray") / "unet" / "config.json"
    stray.write_text(json.dumps({**json.loads(stray.read_text()), "atention": 1}))
    with pytest.raises(ValueError, match="has keys that UNet2DModel does not know: atention"):
        IVAEDiffusionPipeline.from_pretrained(tmp_path / "stray")


def test_a_committed_folder_is_verified_and_saving_over_it_drops_its_manifest(
    pipe: IVAEDiffusionPipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "pipeline"
    with commit_folder(folder, metadata={}) as staged:
        pipe.save_pretrained(staged)
    IVAEDiffusionPipeline.from_pretrained(folder)
    weights = folder / "ivae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match=r"'ivae/diffusion_pytorch_model.safetensors' was altered"):
        IVAEDiffusionPipeline.from_pretrained(folder)
    pipe.save_pretrained(folder)
    assert not (folder / MANIFEST).exists()
    IVAEDiffusionPipeline.from_pretrained(folder)
