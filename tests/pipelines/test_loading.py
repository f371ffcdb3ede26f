"""Saving and loading: what a folder holds, and what it may hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from idiff_hf import IVAEDiffusionPipeline, VPSDEScheduler
from idiff_hf.folders import MANIFEST, commit_folder
from tests.pipelines.pipes import KINDS, make, one, seeds, source


@pytest.fixture(scope="module")
def pipe() -> IVAEDiffusionPipeline:
    return one("additive")


CLASSES = {
    "additive": {"conditioning": "AdditiveConditioning", "unet": "UNet2DModel"},
    "scale_shift": {"conditioning": "ScaleShiftConditioning", "unet": "UNet2DModel"},
    "tokens": {"conditioning": "TokenConditioning", "unet": "UNet2DConditionModel"},
    "unconditional": {"conditioning": "NoConditioning", "unet": "UNet2DModel", "ivae": None},
    "kl": {"conditioning": "AdditiveConditioning", "unet": "UNet2DModel", "vae": "AutoencoderKL"},
    "vq": {"conditioning": "AdditiveConditioning", "unet": "UNet2DModel", "vae": "VQModel"},
}


@pytest.mark.parametrize("kind", CLASSES)
def test_model_index_names_the_package_and_public_classes(kind: str, tmp_path: Path) -> None:
    one(kind).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    components = {name: entry for name, entry in index.items() if not name.startswith("_")}
    expected = {"ivae": "IVAEModel", "scheduler": "DPMSolverMultistepScheduler", "vae": None, **CLASSES[kind]}
    ours = ("ivae", "conditioning")
    assert components == {
        name: [None, None] if cls is None else ["idiff_hf" if name in ours else "diffusers", cls]
        for name, cls in expected.items()
    }
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


@pytest.mark.parametrize("kind", KINDS)
def test_each_component_is_loaded_by_its_own_class(kind: str, tmp_path: Path) -> None:
    pipeline = one(kind)
    pipeline.save_pretrained(tmp_path)
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            again = type(part).from_pretrained(tmp_path, subfolder=name)
            public = [
                {key: value for key, value in module.config.items() if key[0] != "_"}
                for module in (part, again)
            ]
            assert json.loads(json.dumps(public[0])) == json.loads(json.dumps(public[1]))
            assert all(
                torch.equal(again.state_dict()[key], value) for key, value in part.state_dict().items()
            )
            assert (again.dtype, again.device.type) == (torch.float32, "cpu")


def test_scheduler_swapped_in_memory_and_after_a_reload_is_the_same(tmp_path: Path) -> None:
    pipeline = make(solver="euler_maruyama")
    pipeline.save_pretrained(tmp_path)
    again = IVAEDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    z = torch.zeros(1, 6)
    for cls in (DPMSolverMultistepScheduler, DDIMScheduler):
        drawn = []
        for either in (pipeline, again):
            either.scheduler = cls.from_config(either.scheduler.config)
            drawn.append(
                either(latents=z, num_inference_steps=3, generator=seeds(1), output_type="pt").images
            )
        assert torch.equal(*drawn)
    sde = VPSDEScheduler.from_config(again.scheduler.config)
    assert (sde.config.beta_min, sde.config.beta_max) == (0.1, 20.0)


@pytest.mark.parametrize("solver", ["euler_maruyama", "predictor_corrector", "heun_ode"])
def test_saved_and_loaded_draws_the_same_by_each_solver(tmp_path: Path, solver: str) -> None:
    pipeline = make(solver=solver)
    pipeline.save_pretrained(tmp_path)
    again = IVAEDiffusionPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 3, "output_type": "pt", **source(pipeline, 2)}
    torch.testing.assert_close(
        pipeline(generator=seeds(2), **call).images,
        again(generator=seeds(2), **call).images,
        atol=1e-5,
        rtol=0.0,
    )


def test_a_folder_of_before_there_was_a_vae_loads(pipe: IVAEDiffusionPipeline, tmp_path: Path) -> None:
    path = edited(pipe, tmp_path) / "model_index.json"
    index = json.loads(path.read_text())
    del index["vae"]
    path.write_text(json.dumps(index))
    assert IVAEDiffusionPipeline.from_pretrained(tmp_path).vae is None


def edited(pipe: IVAEDiffusionPipeline, folder: Path, **changes: object) -> Path:
    pipe.save_pretrained(folder)
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ivae": ["os", "system"]}, r"ivae must be idiff_hf.IVAEModel, got \['os', 'system'\]"),
        (
            {"unet": ["subprocess", "Popen"]},
            r"unet must be diffusers.UNet2DModel or diffusers.UNet2DConditionModel, got",
        ),
        (
            {"scheduler": ["os", "system"]},
            "scheduler must be idiff_hf.VPSDEScheduler or a diffusers scheduler",
        ),
        ({"vae": ["os", "system"]}, "vae must be diffusers.AutoencoderKL or diffusers.VQModel, got"),
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
