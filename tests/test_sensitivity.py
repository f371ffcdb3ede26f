"""Sensitivity of the U-Net to each latent: against finite differences, reverse mode and enumeration, weights that settle it, `idiff`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from idiff_hf import IVAEDiffusionPipeline, VPSDEScheduler
from idiff_hf.arguments import config_to_yaml
from idiff_hf.builders import build_dataset, build_objective, build_pipeline, build_scheduler
from idiff_hf.cli import main as cli
from idiff_hf.config import Config
from idiff_hf.data import Shapes3D
from idiff_hf.metric_figures import sensitivity_heatmap
from idiff_hf.models import NoConditioning, denoise
from idiff_hf.random import generator
from idiff_hf.sensitivity import Sensitivity, sensitivity

from .tiny import tiny_config

LATENTS = 6
CLASSES = 3
DEEP: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4, "prediction_type": "epsilon"}
UNETS: dict[str, dict[str, Any]] = {
    "additive": {},
    "additive, attention": {**DEEP, "attention": True, "resnet_time_scale_shift": "scale_shift"},
    "scale_shift": {**DEEP, "conditioning": "scale_shift"},
    "tokens": {**DEEP, "conditioning": "tokens", "cross_attention": (0, 1)},
}


def config_of(unet: dict[str, Any], **model: Any) -> Config:
    config = tiny_config("unused")
    return replace(
        config,
        unet=replace(config.unet, **unet),
        model=replace(config.model, **{"prior_type": "learned", **model}),
    )


def pipeline_of(config: Config, dtype: torch.dtype = torch.float64) -> IVAEDiffusionPipeline:
    torch.manual_seed(0)
    objective = build_objective(config, build_dataset(config))
    return build_pipeline(config, objective.eval()).to(dtype)


def images(count: int) -> Tensor:
    dataset = Shapes3D(16)
    return dataset.images(torch.randperm(len(dataset), generator=generator(0, "test"))[:count])


def projection(pipeline: IVAEDiffusionPipeline) -> Tensor:
    return pipeline.conditioning.projection.weight.data  # type: ignore[union-attr, return-value]


def eps_at(
    pipeline: IVAEDiffusionPipeline, pictures: Tensor, t: float, z: Tensor, null: bool = False
) -> Tensor:
    """eps_theta(x_t, z, t), by formulas for alpha, sigma and the prediction types."""
    assert pipeline.unet is not None and pipeline.conditioning is not None
    x_0 = pipeline.prepare_images(pictures).double()
    noise = torch.randn(x_0.shape, generator=generator(0, "sensitivity")).double()
    beta_min, beta_max = (pipeline.scheduler.config[name] for name in ("beta_min", "beta_max"))
    alpha = np.exp(-0.5 * (beta_min * t + 0.5 * (beta_max - beta_min) * t**2))
    sigma = np.sqrt(1.0 - alpha**2)
    x_t = alpha * x_0 + sigma * noise
    timestep = torch.full((len(z),), pipeline.scheduler.config["num_train_timesteps"] * t - 1.0)
    condition = pipeline.conditioning.null(len(z)) if null else pipeline.conditioning(z)
    output = denoise(pipeline.unet, pipeline.conditioning, x_t, timestep, condition)
    kind = pipeline.scheduler.config["prediction_type"]
    if kind == "sample":
        return (x_t - alpha * output) / sigma
    return output if kind == "epsilon" else sigma * x_t + alpha * output


def norms(change: Tensor) -> Tensor:
    return change.flatten(1).norm(dim=1)


TIMES = np.linspace(1e-3, 1.0, 3)


# Against other ways to the same numbers


@pytest.mark.parametrize("name", UNETS)
def test_jacobian_is_that_of_central_differences(name: str) -> None:
    pipeline, pictures = pipeline_of(config_of(UNETS[name])), images(3)
    found = sensitivity(pipeline, pictures, num_times=3, batch_size=2)
    np.testing.assert_allclose(found.times, TIMES, rtol=1e-12)
    z = pipeline.encode(pictures).double()
    step = 1e-5
    expected = np.zeros((3, LATENTS))
    for row, t in enumerate(TIMES):
        for latent in range(LATENTS):
            move = step * torch.eye(LATENTS)[latent].double()
            with torch.no_grad():
                change = eps_at(pipeline, pictures, t, z + move) - eps_at(pipeline, pictures, t, z - move)
            expected[row, latent] = norms(change / (2 * step)).mean()
    np.testing.assert_allclose(found.sensitivity, expected, rtol=1e-5)
    np.testing.assert_allclose(found.normalized, expected * z.numpy().std(axis=0), rtol=1e-5)
    assert (expected > 0).all()


def test_jacobian_is_that_of_reverse_mode() -> None:
    """Column by column, and so also in its Frobenius norm."""
    pipeline, pictures = pipeline_of(config_of({})), images(2)
    z = pipeline.encode(pictures).double()
    jacobian = torch.autograd.functional.jacobian(
        lambda z: eps_at(pipeline, pictures, 1e-3, z), z, vectorize=True
    )
    # of one image nothing depends on the other's z
    assert not jacobian[0, ..., 1, :].any() and not jacobian[1, ..., 0, :].any()
    each = torch.stack([jacobian[row, ..., row, :].flatten(0, 2) for row in range(2)])
    assert each.shape == (2, 3 * 16 * 16, LATENTS)
    found = sensitivity(pipeline, pictures, num_times=2).sensitivity[0]
    np.testing.assert_allclose(found, each.norm(dim=1).mean(dim=0), rtol=1e-8)


def test_condition_is_what_all_latents_do_together() -> None:
    pipeline, pictures = pipeline_of(config_of(UNETS["scale_shift"])), images(3)
    found = sensitivity(pipeline, pictures, num_times=3)
    z = pipeline.encode(pictures).double()
    with torch.no_grad():
        expected = [
            norms(eps_at(pipeline, pictures, t, z) - eps_at(pipeline, pictures, t, z, null=True)).mean()
            for t in TIMES
        ]
    np.testing.assert_allclose(found.condition, expected, rtol=1e-6)


# Weights that settle the answer


def test_a_latent_that_the_condition_ignores_has_none() -> None:
    pipeline, pictures = pipeline_of(config_of({})), images(3)
    projection(pipeline)[:, 2] = 0.0
    for method in ("jacobian", "captum"):
        found = sensitivity(pipeline, pictures, num_times=2, method=method)  # type: ignore[arg-type]
        assert not found.sensitivity[:, 2].any() and not found.normalized[:, 2].any()
        assert found.sensitivity[:, [0, 1, 3, 4, 5]].all()


def test_latents_of_equal_and_opposite_weights_have_the_same() -> None:
    pipeline = pipeline_of(config_of({}))
    projection(pipeline)[:, 1] = projection(pipeline)[:, 0]
    projection(pipeline)[:, 2] = -projection(pipeline)[:, 0]
    found = sensitivity(pipeline, images(3), num_times=2).sensitivity
    np.testing.assert_allclose(found[:, [1, 2]], found[:, [0, 0]], rtol=1e-10)


def test_normalized_sensitivity_does_not_depend_on_the_unit_of_a_latent() -> None:
    """Half the number, with twice the weight: the derivative doubles, the normalised one stays."""
    pipeline, pictures = pipeline_of(config_of({})), images(4)
    before = sensitivity(pipeline, pictures, num_times=2)
    assert pipeline.ivae is not None
    last = [module for module in pipeline.ivae.encoder.modules() if isinstance(module, nn.Linear)][-1]
    last.weight.data[3] *= 0.5
    last.bias.data[3] *= 0.5
    projection(pipeline)[:, 3] *= 2.0
    after = sensitivity(pipeline, pictures, num_times=2)
    factor = np.array([1.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    # codes are float32, whatever the model is
    np.testing.assert_allclose(after.sensitivity, before.sensitivity * factor, rtol=1e-5)
    np.testing.assert_allclose(after.normalized, before.normalized, rtol=1e-5)


@pytest.mark.parametrize("method", ["jacobian", "captum"])
def test_a_unet_that_is_given_nothing_is_not_sensitive(method: Any) -> None:
    pipeline = pipeline_of(config_of({}))
    projection(pipeline).zero_()
    found = sensitivity(pipeline, images(2), num_times=2, method=method)
    assert not found.sensitivity.any() and not found.normalized.any() and not found.condition.any()


def test_prediction_types_compare() -> None:
    """One network read as eps, v or x_0: by x_t = alpha x_0 + sigma eps its derivatives are as 1, alpha and alpha / sigma."""
    pictures = images(2)
    found: dict[str, Sensitivity] = {}
    for kind in ("epsilon", "v_prediction", "sample"):
        found[kind] = sensitivity(pipeline_of(config_of({"prediction_type": kind})), pictures, num_times=3)
    ratio = found["epsilon"].sigma_over_alpha[:, None]
    integral = 0.1 * TIMES + 0.5 * (20.0 - 0.1) * TIMES**2
    np.testing.assert_allclose(ratio[:, 0], np.sqrt(np.expm1(integral)), rtol=1e-10)
    alpha = 1.0 / np.sqrt(1.0 + ratio**2)
    eps = found["epsilon"].sensitivity
    np.testing.assert_allclose(found["v_prediction"].sensitivity, eps * alpha, rtol=1e-8)
    np.testing.assert_allclose(found["sample"].sensitivity, eps / ratio, rtol=1e-8)


# Categorical latents


def test_classes_are_tried_one_by_one() -> None:
    pipeline = pipeline_of(config_of({}, latent_type="categorical", num_categories=CLASSES))
    pictures = images(5)
    z = pipeline.encode(pictures).double()
    classes = z.view(5, LATENTS, CLASSES).argmax(dim=2)
    found = sensitivity(pipeline, pictures, num_times=2, batch_size=2)
    assert found.sensitivity.shape == (2, LATENTS)
    for row, t in enumerate((1e-3, 1.0)):
        with torch.no_grad():
            before = eps_at(pipeline, pictures, t, z)
            for latent in range(LATENTS):
                to_others, redrawn = [], torch.zeros(5).double()
                for number in range(CLASSES):
                    moved = classes.clone()
                    moved[:, latent] = number
                    other = functional.one_hot(moved, CLASSES).flatten(1).double()
                    change = norms(eps_at(pipeline, pictures, t, other) - before)
                    to_others.append(change)
                    redrawn += (classes[:, latent] == number).double().mean() * change
                expected = torch.stack(to_others).sum(dim=0).mean() / (CLASSES - 1)
                assert found.sensitivity[row, latent] == pytest.approx(expected.item(), rel=1e-8)
                assert found.normalized[row, latent] == pytest.approx(redrawn.mean().item(), rel=1e-6)
    # a class that is always the same is never redrawn
    constant = (classes == classes[0]).all(dim=0).numpy()
    assert constant.any() and not constant.all()
    assert not found.normalized[:, constant].any() and found.sensitivity.all()


def test_classes_of_equal_weights_are_one() -> None:
    pipeline = pipeline_of(config_of({}, latent_type="categorical", num_categories=CLASSES))
    weight = projection(pipeline)
    weight[:, CLASSES : 2 * CLASSES] = weight[:, CLASSES : CLASSES + 1]
    found = sensitivity(pipeline, images(3), num_times=2).sensitivity
    assert (found[:, 1] < 1e-12 * found[:, 0]).all() and found[:, 0].all()


# Captum


@pytest.mark.parametrize("name", ["additive", "tokens"])
def test_attributions_sum_to_what_z_does(name: str) -> None:
    """The axiom of completeness; with `additive`, z = 0 is the null condition."""
    pipeline, pictures = pipeline_of(config_of(UNETS[name])), images(3)
    found = sensitivity(pipeline, pictures, num_times=2, method="captum")
    np.testing.assert_array_equal(found.sensitivity, found.normalized)
    z = pipeline.encode(pictures).double()
    with torch.no_grad():
        expected = [
            norms(
                eps_at(pipeline, pictures, t, z) - eps_at(pipeline, pictures, t, torch.zeros_like(z))
            ).mean()
            for t in (1e-3, 1.0)
        ]
    np.testing.assert_allclose(found.sensitivity.sum(axis=1), expected, rtol=1e-6)
    if name == "additive":
        np.testing.assert_allclose(found.condition, expected, rtol=1e-8)


def test_attribution_to_a_single_latent_is_all_that_z_does() -> None:
    pipeline, pictures = pipeline_of(config_of({})), images(2)
    projection(pipeline)[:, 1:] = 0.0
    found = sensitivity(pipeline, pictures, num_times=2, method="captum")
    np.testing.assert_allclose(found.sensitivity[:, 0], found.condition, rtol=1e-6)


def test_attribution_to_a_categorical_latent_is_that_to_its_classes() -> None:
    config = config_of({}, latent_type="categorical", num_categories=CLASSES)
    pipeline = pipeline_of(config)
    projection(pipeline)[:, CLASSES:] = 0.0
    found = sensitivity(pipeline, images(2), num_times=2, method="captum")
    assert found.sensitivity.shape == (2, LATENTS) and not found.sensitivity[:, 1:].any()
    np.testing.assert_allclose(found.sensitivity[:, 0], found.condition, rtol=1e-6)


def test_without_captum_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = pipeline_of(config_of({}))
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    message = (
        r'^method captum needs the captum library: pip install "idiff_hf\[xai\]", or use method jacobian$'
    )
    with pytest.raises(ValueError, match=message):
        sensitivity(pipeline, images(2), method="captum")


# What it leaves alone, and what it refuses


def test_batches_and_solver_change_nothing_and_the_unet_is_left_as_it_was() -> None:
    config = config_of(UNETS["additive, attention"])
    pipeline, pictures = pipeline_of(config), images(3)
    assert not isinstance(pipeline.scheduler, VPSDEScheduler) and pipeline.unet is not None
    found = sensitivity(pipeline, pictures, num_times=2)
    pipeline.unet.train()
    pipeline.scheduler = build_scheduler(config)
    again = sensitivity(pipeline, pictures, num_times=2, batch_size=2)
    assert pipeline.unet.training
    for name in ("sensitivity", "normalized", "condition"):
        np.testing.assert_allclose(getattr(found, name), getattr(again, name), rtol=1e-8, err_msg=name)
    assert not any(module._forward_pre_hooks for module in pipeline.unet.modules())
    assert all(parameter.grad is None for parameter in pipeline.unet.parameters())


def test_single_precision_is_close_to_double() -> None:
    single, double = (
        sensitivity(pipeline_of(config_of(UNETS["tokens"]), dtype), images(3), num_times=3)
        for dtype in (torch.float32, torch.float64)
    )
    np.testing.assert_allclose(single.sensitivity, double.sensitivity, rtol=1e-3)


def test_refusals_are_one_clear_line() -> None:
    pictures, whole = images(2), pipeline_of(config_of({}))
    for count, message in ((1, "got 1"), (0, "got 0")):
        with pytest.raises(
            ValueError, match=rf"^num_images must be 2 or more, for their spread is taken, {message}$"
        ):
            sensitivity(whole, pictures[:count])
    with pytest.raises(ValueError, match=r"^num_times must be 2 or more, got 1$"):
        sensitivity(whole, pictures, num_times=1)
    alone = IVAEDiffusionPipeline(
        unet=whole.unet, conditioning=NoConditioning(patch_size=4), scheduler=whole.scheduler
    )
    with pytest.raises(ValueError, match=r"^this model is unconditional: it has no latents, "):
        sensitivity(alone, pictures)
    with pytest.raises(
        ValueError, match=r"^this model has no U-Net, .*: train one with model.diffusion=true$"
    ):
        sensitivity(IVAEDiffusionPipeline(ivae=whole.ivae), pictures)


# The heat map


YELLOW, VIOLET = (253, 231, 36), (68, 1, 84)


def heatmap(path: Path, effect: np.ndarray, ratio: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The two panels' cells."""
    times = np.linspace(0, 1, len(effect))
    ratio = np.ones(len(effect)) if ratio is None else ratio
    sensitivity_heatmap(effect, ratio, times, [f"z{i}" for i in range(effect.shape[1])], path)
    picture = np.asarray(Image.open(path).convert("RGB"))
    half = picture.shape[1] // 2
    return picture[:, : half - 90], picture[:, half : 2 * half - 90]


def centre(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    places = np.argwhere((picture == colour).all(axis=2))
    assert len(places) > 300
    return places.mean(axis=0)


def test_heat_map_has_latents_in_rows_and_times_in_columns(tmp_path: Path) -> None:
    centres = {}
    for time, latent in ((0, 0), (3, 0), (0, 2)):
        effect = np.zeros((4, 3))
        effect[time, latent] = 2.0
        centres[time, latent] = centre(heatmap(tmp_path / "figure.png", effect)[0], YELLOW)
    across, down = centres[3, 0] - centres[0, 0], centres[0, 2] - centres[0, 0]
    assert across[1] > 100 and abs(across[0]) < 5
    assert down[0] > 50 and abs(down[1]) < 5


def test_heat_map_of_the_predicted_image_weighs_times(tmp_path: Path) -> None:
    effect = np.zeros((4, 3))
    effect[0, 1], effect[3, 1] = 2.0, 1.0
    left, right = heatmap(tmp_path / "figure.png", effect, ratio=np.array([0.1, 1.0, 1.0, 10.0]))
    assert centre(left, YELLOW)[1] < left.shape[1] / 2 < centre(right, YELLOW)[1]


def test_heat_map_of_nothing_is_dark_and_bad_arrays_are_refused(tmp_path: Path) -> None:
    left, _ = heatmap(tmp_path / "figure.png", np.zeros((4, 3)))
    assert (left == VIOLET).all(axis=2).sum() > 5000 and not (left == YELLOW).all(axis=2).any()
    for effect in (np.zeros((3, 4)), np.full((4, 3), np.nan)):
        with pytest.raises(
            ValueError, match=r"^effect must be finite of shape \(n_times, n_latents\), \(4, 3\) by"
        ):
            sensitivity_heatmap(effect, np.ones(4), np.arange(4), ["a", "b", "c"], tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = config_of({})
    pipeline_of(config, torch.float32).save_pretrained(folder / "pipeline")
    (folder / "pipeline" / "config.yaml").write_text(config_to_yaml(config))
    metrics = {"matched_latent": {"floor_hue": 4, "shape": 0, "scale": -1}}
    (folder / "results.json").write_text(json.dumps({"model": {"metrics": metrics}}))
    return folder


def test_idiff_sensitivity_writes_json_and_heat_map(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--num_images", "4", "--num_times", "3", "--out", str(tmp_path)]
    assert cli(["sensitivity", str(run), *flags, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    saved = json.loads((tmp_path / "jacobian.json").read_text())
    assert printed == saved
    assert saved["latents"] == ["z0 shape", "z1", "z2", "z3", "z4 floor_hue", "z5"]
    assert {path.name for path in tmp_path.iterdir()} == {"jacobian.json", "jacobian.png"}
    pipeline = IVAEDiffusionPipeline.from_pretrained(run / "pipeline")
    _, held_out = Shapes3D(16).split(0.1, 0)
    rows = held_out[torch.randperm(len(held_out), generator=generator(0, "evaluation"))[:4]]
    expected = sensitivity(pipeline, Shapes3D(16).images(rows), num_times=3).to_dict()
    assert {key: saved[key] for key in expected} == expected
    # the pipeline's own folder is the same model
    assert cli(["sensitivity", str(run / "pipeline"), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == LATENTS + 2
    assert lines[0].split() == ["t", "0.001", "0.500", "1.000"]
    assert lines[5].startswith("z4 floor_hue ") and lines[-1].startswith("all, against none ")
    assert float(lines[5].split()[-1]) == pytest.approx(expected["normalized"][2][4], rel=1e-2)


def test_idiff_sensitivity_by_captum(run: Path, tmp_path: Path) -> None:
    flags = ["--num_images", "2", "--num_times", "2", "--out", str(tmp_path), "--method", "captum"]
    assert cli(["sensitivity", str(run), *flags]) == 0
    saved = json.loads((tmp_path / "captum.json").read_text())
    assert saved["method"] == "captum" and (tmp_path / "captum.png").is_file()
    np.testing.assert_allclose(np.sum(saved["sensitivity"], axis=1), saved["condition"], rtol=1e-3)


def test_a_pipeline_outside_a_run_has_plain_labels(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    IVAEDiffusionPipeline.from_pretrained(run / "pipeline").save_pretrained(folder)
    (tmp_path / "results.json").write_text((run / "results.json").read_text())
    flags = ["--num_images", "2", "--num_times", "2", "--out", str(tmp_path / "out")]
    assert cli(["sensitivity", str(folder), "--data.image_size", "16", *flags]) == 0
    saved = json.loads((tmp_path / "out" / "jacobian.json").read_text())
    assert saved["latents"] == [f"z{latent}" for latent in range(LATENTS)]


def test_idiff_sensitivity_refuses_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    for arguments, message in (
        ([str(tmp_path)], "holds no saved pipeline: there is no model_index.json in it, nor in "),
        (
            [str(run), "--data.image_size", "32"],
            "is of images 3 x 16 x 16, data.name=shapes3d gives 3 x 32 x 32",
        ),
        ([str(run), "--num_images", "1"], "num_images must be 2 or more"),
        ([str(run), "--num_times", "1"], "num_times must be 2 or more, got 1"),
    ):
        assert cli(["sensitivity", *arguments, *out]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "out").exists()
    taken = tmp_path / "out" / "jacobian.png"
    taken.mkdir(parents=True)
    assert cli(["sensitivity", str(run), *out]) == 2
    assert (
        capsys.readouterr().err == f"error: cannot write {taken}: it is a folder, give the name of a file\n"
    )
