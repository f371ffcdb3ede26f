"""Saving and loading: what a folder holds, and what it may hold."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler
from safetensors import SafetensorError

from idiff_hf import IVAEDiffusionPipeline, IVAEModel, VPSDEScheduler
from idiff_hf.folders import MANIFEST, commit_folder
from idiff_hf.pipelines import loading
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


# what a folder may hold


def changed(folder: Path, name: str, change: object) -> Path:
    """The JSON file of this name with keys changed, or with other text."""
    path = folder / name
    if isinstance(change, dict):
        content = {**json.loads(path.read_text()), **change}
        path.write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))
    else:
        path.write_text(str(change))
    return folder


@pytest.fixture(scope="module")
def saved(pipe: IVAEDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("[]", r"scheduler_config\.json must hold a JSON object, got list$"),
        ('"someone/else"', r"scheduler_config\.json must hold a JSON object, got str$"),
        ("[" * 100_000, r"scheduler_config\.json is not JSON: "),
        ({"predictiontype": "sample"}, r"has keys that no scheduler knows: predictiontype$"),
        ({"prediction_type": "gone"}, r"has no prediction_type: images drawn by a default would be others$"),
        ({"num_train_timesteps": "gone"}, r"has no num_train_timesteps: images drawn by a default would"),
        ({"trained_betas": [0.1]}, r"has 1 trained_betas for num_train_timesteps 100: one each is needed$"),
        ({"trained_betas": "abc"}, r"scheduler can't be loaded as DPMSolverMultistepScheduler: \w+Error: "),
        ({"algorithm_type": "x"}, r"can't be loaded as DPMSolverMultistepScheduler: NotImplementedError: x"),
    ],
)
def test_a_scheduler_that_would_draw_other_images_is_refused(
    saved: Path, tmp_path: Path, change: object, message: str
) -> None:
    folder = shutil.copytree(saved, tmp_path / "p")
    with pytest.raises(ValueError, match=message) as caught:
        IVAEDiffusionPipeline.from_pretrained(changed(folder, "scheduler/scheduler_config.json", change))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_path_in_the_place_of_a_schedulers_config_is_not_followed(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "p")
    changed(folder, "scheduler/scheduler_config.json", json.dumps(str(saved / "scheduler")))
    with pytest.raises(ValueError, match="must hold a JSON object, got str"):
        IVAEDiffusionPipeline.from_pretrained(folder)


def test_defaults_are_not_put_in_the_place_of_what_a_config_says(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "p")
    changed(folder, "scheduler/scheduler_config.json", {"_use_default_values": ["prediction_type"]})
    scheduler = IVAEDiffusionPipeline.from_pretrained(folder).scheduler
    assert scheduler.config["prediction_type"] == "sample"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ivae/config.json", {"latent_dim": "6"}, "ivae can't be loaded as IVAEModel: "),
        ("ivae/config.json", {"channels": None}, "ivae can't be loaded as IVAEModel: "),
        ("ivae/config.json", {"latent_dim": 0}, "ivae can't be loaded as IVAEModel: "),
        ("unet/config.json", {"block_out_channels": 3}, "unet can't be loaded as UNet2DModel: TypeError: "),
        ("unet/config.json", {"act_fn": "nope"}, "unet can't be loaded as UNet2DModel: "),
        ("unet/config.json", {"norm_num_groups": 0}, "unet can't be loaded as UNet2DModel: Zero"),
        ("conditioning/config.json", {"embedding_dim": "a"}, "can't be loaded as AdditiveConditioning: "),
    ],
)
def test_a_bad_value_of_a_config_is_one_line(
    saved: Path, tmp_path: Path, name: str, change: object, message: str
) -> None:
    folder = shutil.copytree(saved, tmp_path / "p")
    with pytest.raises(ValueError, match=message) as caught:
        IVAEDiffusionPipeline.from_pretrained(changed(folder, name, change))
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_file_in_the_place_of_a_folder_is_one_line(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved, tmp_path / "p")
    shutil.rmtree(folder / "ivae")
    (folder / "ivae").write_text("")
    with pytest.raises(ValueError, match=r"ivae/config\.json can't be read: Not a directory$"):
        IVAEDiffusionPipeline.from_pretrained(folder)


def test_only_the_weights_that_are_read_are_looked_at_and_a_damaged_file_is_named(
    saved: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved, tmp_path / "p")
    (folder / "ivae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"xx")
    IVAEDiffusionPipeline.from_pretrained(folder)
    weights = folder / "ivae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(
        ValueError,
        match=r"ivae can't be loaded as IVAEModel: diffusion_pytorch_model\.safetensors is damaged .*: copy or save it",
    ):
        IVAEDiffusionPipeline.from_pretrained(folder)


# saving


def content(folder: Path) -> dict[str, bytes | None]:
    """Of all that is in a folder: of files their bytes, of folders None."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def full_disk(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_save_that_fails_changes_nothing(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(saved, tmp_path / "p")
    (folder / MANIFEST).write_text("of what is there")
    before, other = content(folder), make("kl")
    for error in (full_disk, full_header):
        monkeypatch.setattr("diffusers.UNet2DModel.save_pretrained", error)
        for place in (folder, tmp_path / "new" / "p"):
            with pytest.raises(ValueError, match=rf"^cannot write {place}: .*No space left on device"):
                other.save_pretrained(place)
        assert content(folder) == before and not (tmp_path / "new").exists()


def full_header(*_: object, **__: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_save_that_fails_while_files_move_in_changes_nothing(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(saved, tmp_path / "p")
    (folder / MANIFEST).write_text("of what is there")
    before, other = content(folder), make("kl")
    rename, count = os.rename, 0

    def fails_at(last: int, *args: Any) -> None:
        nonlocal count
        count += 1
        if count == last:
            full_disk()
        rename(*args)

    for last in range(1, 100):
        count = 0
        monkeypatch.setattr("os.rename", partial(fails_at, last))
        try:
            other.save_pretrained(folder)
            break
        except ValueError as error:
            assert "No space left on device" in str(error) and content(folder) == before
    # what was there, what is new, and the index twice
    assert last > 12 and not (folder / MANIFEST).exists()
    assert IVAEDiffusionPipeline.from_pretrained(folder).vae is not None
    assert not list(folder.glob(".tmp-*"))


def test_saving_again_leaves_no_weights_of_the_same_variant_and_all_of_others(
    pipe: IVAEDiffusionPipeline, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path, max_shard_size="4KB")
    pipe.save_pretrained(tmp_path, max_shard_size="4KB", variant="fp16")
    marked = {name for name in content(tmp_path) if "fp16" in name}
    assert "unet/diffusion_pytorch_model.safetensors.index.fp16.json" in marked
    pipe.save_pretrained(tmp_path)
    names = set(content(tmp_path))
    assert marked <= names
    assert {name for name in names - marked if name.startswith("unet/")} == {
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }
    IVAEDiffusionPipeline.from_pretrained(tmp_path)
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert [name for name in content(tmp_path) if "fp16" in name and name.startswith("unet/")] == [
        "unet/diffusion_pytorch_model.fp16.safetensors"
    ]


def test_a_subclass_and_compiled_parts_are_saved_as_what_they_are(
    pipe: IVAEDiffusionPipeline, tmp_path: Path
) -> None:
    class Mine(IVAEDiffusionPipeline):
        pass

    mine = Mine(**pipe.components)
    mine.unet = torch.compile(pipe.unet, backend="eager")
    mine.save_pretrained(tmp_path)
    assert type(Mine.from_pretrained(tmp_path)) is Mine
    assert type(IVAEDiffusionPipeline.from_pretrained(tmp_path)) is IVAEDiffusionPipeline


def test_what_would_not_load_again_is_not_saved(pipe: IVAEDiffusionPipeline, tmp_path: Path) -> None:
    class MyIVAE(IVAEModel):
        pass

    config = pipe.scheduler.config
    parts: list[tuple[dict[str, Any], str]] = [
        (
            {"ivae": MyIVAE.from_config(pipe.ivae.config)},  # type: ignore[union-attr]
            r"^ivae must be idiff_hf\.IVAEModel to be loaded again, got MyIVAE: replace it before saving$",
        ),
        (
            {"scheduler": LCMScheduler.from_config(config)},
            r"^scheduler must be idiff_hf\.VPSDEScheduler or a diffusers scheduler .*, got LCMScheduler: replace",
        ),
        ({"ivae": None, "unet": None}, r"^there is neither an ivae nor a unet: nothing to save$"),
    ]
    for change, message in parts:
        with pytest.raises(ValueError, match=message):
            IVAEDiffusionPipeline(**{**pipe.components, **change}).save_pretrained(tmp_path / "p")
    assert not (tmp_path / "p").exists()
    assert {type(part) for part in pipe.components.values() if part is not None} <= {
        cls for classes in loading.allowed_classes().values() for cls in classes.values()
    }


def test_a_place_or_an_argument_that_saving_does_not_take_is_one_line(
    pipe: IVAEDiffusionPipeline, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match=rf"^cannot write {file}: {file} is no folder$"):
        pipe.save_pretrained(file)
    assert file.read_text() == "mine"
    with pytest.raises(ValueError, match=r"^save_directory must be a path, got None$"):
        pipe.save_pretrained(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"IVAEDiffusionPipeline\.save_pretrained: flash$"):
        pipe.save_pretrained(tmp_path / "p", flash=True)
    with pytest.raises(ValueError, match=r"^variant must be letters, .*, got '\.\./x'$"):
        pipe.save_pretrained(tmp_path / "p", variant="../x")


def test_one_model_is_saved_and_loaded_strictly_too(pipe: IVAEDiffusionPipeline, tmp_path: Path) -> None:
    assert pipe.ivae is not None
    with pytest.raises(
        ValueError, match=r"^safe_serialization=False would write pickles: idiff_hf saves saf"
    ):
        pipe.ivae.save_pretrained(tmp_path / "p", safe_serialization=False)
    assert not (tmp_path / "p").exists()
    pipe.ivae.save_pretrained(tmp_path / "p", variant="fp16")
    assert (tmp_path / "p" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    with pytest.raises(
        ValueError, match=r"^output_loading_info=True is refused: IVAEModel loads with every "
    ):
        IVAEModel.from_pretrained(tmp_path / "p", variant="fp16", output_loading_info=True)
