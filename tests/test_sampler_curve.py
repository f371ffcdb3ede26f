"""Solvers, guidance and precisions side by side: a U-Net that knows the answer, counts of calls, `idiff bench`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.arguments import config_to_yaml
from idiff_hf.cli import main as cli
from idiff_hf.data import Shapes3D, to_float
from idiff_hf.sampler_curve import (
    REFERENCE,
    SOLVERS,
    VARIANTS,
    GuidanceRecord,
    SamplerRecord,
    curve_table,
    guidance_curve,
    guidance_table,
    sampler_curve,
    variant_table,
    with_solver,
)

from .pipelines.pipes import make
from .tiny import joint, tiny_config

ROWS = torch.tensor([0, 7, 250_000, 479_999])


@pytest.fixture
def pipeline() -> IVAEDiffusionPipeline:
    torch.manual_seed(0)
    return make()


def says_grey(pipeline: IVAEDiffusionPipeline) -> None:
    """Whatever x_t is, the network now predicts x_0 = 0."""
    assert pipeline.unet is not None
    for parameter in pipeline.unet.conv_out.parameters():
        torch.nn.init.zeros_(parameter)


def test_every_solver_ends_at_the_image_that_the_network_is_sure_of(pipeline: IVAEDiffusionPipeline) -> None:
    says_grey(pipeline)
    dataset = Shapes3D(16)
    images = dataset.images(ROWS)
    expected = float(to_float(images).square().mean())
    records = sampler_curve(pipeline, images, steps=(4,), reference_steps=9)
    assert [record.solver for record in records] == [*SOLVERS, REFERENCE]
    for record in records:
        assert record.mse == pytest.approx(expected, rel=1e-5), record.solver
        assert record.readback is None and record.seconds > 0
    # methods of second order by two calls a step save the second call of the last
    calls = {"Heun": 7, "VP-SDE Heun ODE": 7, "VP-SDE predictor-corrector": 7}
    assert [record.calls for record in records] == [*(calls.get(name, 4) for name in SOLVERS), 9]
    assert [record.steps for record in records] == [4] * len(SOLVERS) + [9]


def test_the_pipeline_keeps_its_scheduler_and_draws_repeat(pipeline: IVAEDiffusionPipeline) -> None:
    own = pipeline.scheduler
    images = Shapes3D(16).images(ROWS)
    first, again = (
        sampler_curve(pipeline, images, solvers=("DDPM", "UniPC"), steps=(2, 3), reference_steps=2)
        for _ in range(2)
    )
    assert pipeline.scheduler is own
    assert [record.mse for record in first] == [record.mse for record in again]
    assert len({record.mse for record in first}) == len(first)


def test_factors_are_read_from_the_drawn_images_of_each_record(pipeline: IVAEDiffusionPipeline) -> None:
    dataset = Shapes3D(16)
    factors = dataset.factors(ROWS)
    given: list[Tensor] = []

    def read(images: Tensor) -> Tensor:
        given.append(images)
        answers = factors.repeat(3, 1)
        answers[0:4, 0] = -1  # a factor of six wrong in the first record
        answers[4:8] = -1  # all in the second
        return answers

    records = sampler_curve(
        pipeline,
        dataset.images(ROWS),
        factors=factors,
        read=read,
        solvers=("DDIM", "DDPM"),
        steps=(2,),
        reference_steps=2,
    )
    assert [record.readback for record in records] == [pytest.approx(5 / 6), 0.0, 1.0]
    assert given[0].shape == (12, 3, 16, 16) and given[0].abs().max() <= 1.0
    target = to_float(dataset.images(ROWS))
    errors = [float((part - target).square().mean()) for part in given[0].split(4)]
    assert [record.mse for record in records] == errors


def test_solvers_solve_the_sde_of_the_pipeline(pipeline: IVAEDiffusionPipeline) -> None:
    for name in SOLVERS:
        torch.testing.assert_close(
            with_solver(pipeline, name).alphas_cumprod, pipeline.scheduler.alphas_cumprod, rtol=1e-6, atol=0.0
        )


def test_unknown_names_and_models_that_do_not_draw_are_refused(pipeline: IVAEDiffusionPipeline) -> None:
    images = Shapes3D(16).images(ROWS)
    with pytest.raises(
        ValueError, match=r"^unknown solver 'Euler': give some of DPM-Solver\+\+ 2M, UniPC, Heun"
    ):
        sampler_curve(pipeline, images, solvers=("Euler",))
    with pytest.raises(ValueError, match=r"^unknown variant 'int8': give some of float32, "):
        variant_table(pipeline, images, variants=("int8",))
    pipeline.unet = None
    with pytest.raises(ValueError, match=r"^solvers are compared on a model with an iVAE and a U-Net"):
        sampler_curve(pipeline, images)
    with pytest.raises(
        ValueError, match=r"^scales of guidance are compared on a model with an iVAE and a U-Net"
    ):
        guidance_curve(pipeline, images)


def test_guidance_acts_at_the_times_of_its_interval_alone(pipeline: IVAEDiffusionPipeline) -> None:
    images = Shapes3D(16).images(ROWS)
    records = guidance_curve(
        pipeline, images, scales=(1.0, 4.0), intervals=((0.0, 1.0), (0.0, 1e-6), (0.5, 1.0)), steps=3
    )
    spans = [(record.guidance_scale, record.interval) for record in records]
    assert spans == [(1.0, (0.0, 1.0)), (4.0, (0.0, 1.0)), (4.0, (0.0, 1e-6)), (4.0, (0.5, 1.0))]
    plain, always, never, early = (record.mse for record in records)
    # of three steps the U-Net is called once or twice at the noisier half of the times, and never at t = 0
    assert never == plain and len({plain, always, early}) == 3
    (unguided, _) = sampler_curve(
        pipeline, images, solvers=("DPM-Solver++ 2M",), steps=(3,), reference_steps=1
    )
    assert unguided.mse == plain


def test_guidance_cannot_move_a_network_that_does_not_look_at_z(pipeline: IVAEDiffusionPipeline) -> None:
    says_grey(pipeline)
    dataset = Shapes3D(16)
    factors = dataset.factors(ROWS)
    answers = factors.repeat(2, 1)
    answers[4, 0] = -1  # a factor of one image in four, under the second scale
    records = guidance_curve(
        pipeline,
        dataset.images(ROWS),
        factors=factors,
        read=lambda images: answers,
        scales=(1.0, 8.0),
        intervals=((0.0, 1.0),),
        steps=2,
    )
    expected = float(to_float(dataset.images(ROWS)).square().mean())
    assert [record.mse for record in records] == pytest.approx([expected] * 2, rel=1e-5)
    assert [record.readback for record in records] == [(1.0,) * 6, (0.75, *[1.0] * 5)]
    lines = guidance_table(records, dataset.factor_names).splitlines()
    assert lines[0].startswith(
        "| guidance | at times | squared error | floor_hue read back | wall_hue read back |"
    )
    assert lines[3] == f"| 8 | 0 to 1 | {expected:.4f} | 0.750 | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 |"


def test_images_are_those_that_the_pipeline_takes(pipeline: IVAEDiffusionPipeline) -> None:
    images = Shapes3D(16).images(ROWS)
    array = images.movedim(1, -1).numpy()
    kinds = [images, array, [Image.fromarray(picture) for picture in array]]
    found = [
        guidance_curve(pipeline, kind, scales=(2.0,), intervals=((0.0, 1.0),), steps=2) for kind in kinds
    ]
    assert (
        found[0][0].mse
        == pytest.approx(found[1][0].mse, rel=1e-5)
        == pytest.approx(found[2][0].mse, rel=1e-5)
    )
    with pytest.raises(
        ValueError, match=r"^no guidance to draw under: give a scale and an interval or more$"
    ):
        guidance_curve(pipeline, images, scales=())


def test_a_table_without_factors_is_one_of_errors() -> None:
    lines = guidance_table([GuidanceRecord(1.5, (0.25, 1.0), 0.02, None)], ("hue",)).splitlines()
    assert lines == [
        "| guidance | at times | squared error |",
        "| --- | ---: | ---: |",
        "| 1.5 | 0.25 to 1 | 0.0200 |",
    ]


def test_the_table_sets_each_beside_the_reference() -> None:
    lines = curve_table(
        [
            SamplerRecord("UniPC", 20, 20, 0.021, 0.75, 0.5),
            SamplerRecord(REFERENCE, 1000, 1000, 0.02, None, 25.0),
        ]
    ).splitlines()
    assert lines[2] == "| UniPC | 20 | 20 | 0.0210 | 1.050 | 0.750 | 0.50 | 50.0 |"
    assert lines[3] == "| VP-SDE Euler-Maruyama | 1000 | 1000 | 0.0200 | 1.000 |  | 25.00 | 1.0 |"


# Largest difference of a pixel in [0, 1] after two steps. bfloat16 has 8 bits of mantissa, float16 11.
BOUNDS = {"float32": 0.0, "channels_last": 1e-5, "bfloat16": 0.05, "float16": 0.006}


def test_variants_agree_with_float32_as_far_as_their_precision_goes(pipeline: IVAEDiffusionPipeline) -> None:
    unet, conditioning = pipeline.unet, pipeline.conditioning
    before = {key: value.clone() for key, value in pipeline.unet.state_dict().items()}  # type: ignore[union-attr]
    records = variant_table(pipeline, Shapes3D(16).images(ROWS), variants=tuple(BOUNDS), steps=2)
    for record in records:
        assert record.max_difference <= BOUNDS[record.variant], record
        assert record.mean_difference <= record.max_difference
    differences = {record.variant: record.max_difference for record in records}
    assert 0.0 < differences["float16"] < differences["bfloat16"]
    assert pipeline.unet is unet and pipeline.conditioning is conditioning
    assert all(torch.equal(before[key], value) for key, value in unet.state_dict().items())  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_compiled_unet_draws_the_same(pipeline: IVAEDiffusionPipeline) -> None:
    (record,) = variant_table(pipeline, Shapes3D(16).images(ROWS), variants=("torch.compile",), steps=2)
    assert record.max_difference <= 1e-5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make().save_pretrained(folder / "pipeline")
    (folder / "pipeline" / "config.yaml").write_text(config_to_yaml(joint(tiny_config("unused"))))
    return folder


def test_idiff_bench_samplers_writes_table_json_and_plot(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--num_images", "2", "--steps", "1,2", "--solvers", "UniPC,DDIM", "--reference_steps", "3"]
    assert cli(["bench", "samplers", str(run), *flags, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| UniPC",
        "| UniPC",
        "| DDIM",
        "| DDIM",
        "| VP-SDE Euler-Maruyama",
    ]
    saved = json.loads((tmp_path / "samplers.json").read_text())
    assert [record["calls"] for record in saved["records"]] == [1, 2, 1, 2, 3]
    assert all(0.0 <= record["readback"] <= 1.0 for record in saved["records"])
    assert saved["num_images"] == 2 and saved["data"]["name"] == "shapes3d"
    assert {path.name for path in tmp_path.iterdir()} == {"samplers.json", "samplers.png"}


def test_idiff_bench_precision_writes_table_and_json(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--num_images", "2", "--variants", "float32,bfloat16", "--json", "--out", str(tmp_path)]
    assert cli(["bench", "precision", str(run), *flags]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "precision.json").read_text())["records"]
    assert [record["variant"] for record in printed] == ["float32", "bfloat16"]
    assert np.isclose(printed[0]["max_difference"], 0.0)


def test_idiff_bench_guidance_writes_table_and_json(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--num_images", "2", "--scales", "1,3", "--intervals", "0:1,0.5:1", "--num_inference_steps", "2"]
    out = tmp_path / "new" / "folder"
    assert cli(["bench", "guidance", str(run), *flags, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    starts = [" | ".join(line.split(" | ")[:2]) for line in lines[2:]]
    assert starts == ["| 1 | 0 to 1", "| 3 | 0 to 1", "| 3 | 0.5 to 1"]
    saved = json.loads((out / "guidance.json").read_text())
    assert [record["interval"] for record in saved["records"]] == [[0.0, 1.0], [0.0, 1.0], [0.5, 1.0]]
    assert saved["num_inference_steps"] == 2 and saved["num_images"] == 2
    assert {path.name for path in out.iterdir()} == {"guidance.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["guidance", "--scales", "1,x"], "--scales must be numbers joined by commas, got '1,x'"),
        (["guidance", "--scales", "-1"], "guidance_scale must be 0 or more, got -1.0"),
        (["guidance", "--intervals", "0.2"], "--intervals must be as in 0:1,0.2:1, got '0.2'"),
        (
            ["guidance", "--intervals", "0.5:0.2"],
            "guidance_interval must be two times with 0 <= start < end <= 1",
        ),
        (
            ["guidance", "--scales", "1", "--intervals", "1:0"],
            "guidance_interval must be two times with 0 <= start < end <= 1",
        ),
        (["guidance", "--scales", ""], "--scales must be numbers joined by commas, got ''"),
        (["samplers", "--steps", "5,ten"], "--steps must be whole numbers joined by commas, got '5,ten'"),
        (["samplers", "--steps", "0"], "num_inference_steps must be 1 or more, got 0"),
        (["samplers", "--num_images", "0"], "the number of images must be 1 or more, got 0"),
        (["samplers", "--solvers", "Euler"], "unknown solver 'Euler'"),
        (["precision", "--variants", "int8"], "unknown variant 'int8'"),
        (["precision", "--guidance_scale", "-1"], "guidance_scale must be 0 or more, got -1.0"),
    ],
)
def test_idiff_bench_refuses_in_one_line(
    run: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    action, *flags = arguments
    assert cli(["bench", action, str(run), *flags, "--out", str(tmp_path / "out")]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and message in error[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("action", ["samplers", "guidance", "interventions", "precision"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the work would begin with the weights, which are not there
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    flags = ["--data.name", "shapes3d", "--out", "file/new"]
    assert cli(["bench", action, "model", *flags]) == 2
    place = tmp_path / "file"
    assert capsys.readouterr().err == f"error: cannot write file/new: {place} is no folder\n"
    flags[-1] = "out"
    taken = Path("out") / f"{action}.json"
    taken.mkdir(parents=True)
    assert cli(["bench", action, "model", *flags]) == 2
    assert (
        capsys.readouterr().err == f"error: cannot write {taken}: it is a folder, give the name of a file\n"
    )


def test_every_variant_is_measured_by_a_test() -> None:
    assert {*BOUNDS, "torch.compile"} == set(VARIANTS)
