"""`idiff sample` and `idiff traverse`: which images, from what, in which files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.arguments import config_to_yaml
from idiff_hf.cli import main
from idiff_hf.data import Shapes3D
from idiff_hf.figures import to_uint8
from idiff_hf.pipeline_scores.opening import held_out_rows
from idiff_hf.random import generator
from tests.pipelines.pipes import one
from tests.tiny import tiny_config

STEPS = ["--num_inference_steps", "2"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline as training exports it, with `config.yaml`; latents of its prior are those of the factors."""
    folder = tmp_path_factory.mktemp("run") / "pipeline"
    one("additive").save_pretrained(folder)
    (folder / "config.yaml").write_text(config_to_yaml(tiny_config("run")), encoding="utf-8")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def drawn(pipe: IVAEDiffusionPipeline, latents: torch.Tensor, seed: int = 0) -> np.ndarray:
    """As the pipeline draws them, image i from noise of its own."""
    sources = [generator(seed, "samples", i) for i in range(len(latents))]
    return to_uint8(pipe(latents=latents, num_inference_steps=2, generator=sources, output_type="np").images)


def test_held_out_images_are_encoded_and_drawn(
    saved: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(saved), "--num_images", "3", "--seed", "5", "--json", *STEPS]) == 0
    found = json.loads(capsys.readouterr().out)
    pipe = IVAEDiffusionPipeline.from_pretrained(saved)
    dataset, rows, _ = held_out_rows(saved, pipe, tiny_config("run").data, 3)
    latents = pipe.encode(dataset.images(rows))
    assert torch.tensor([image["latents"] for image in found["images"]]).equal(latents)
    files = [image["file"] for image in found["images"]]
    assert files == ["samples/00000.png", "samples/00001.png", "samples/00002.png"]
    for file, image in zip(files, drawn(pipe, latents, seed=5), strict=True):
        np.testing.assert_array_equal(picture(Path(file)), image)
    assert {path.name for path in Path("samples").iterdir()} == {
        *map(lambda f: Path(f).name, files),
        "grid.png",
    }
    assert found["grid"] == "samples/grid.png"
    assert [path.name for path in here.iterdir()] == ["samples"]


def test_latents_from_a_file_and_pictures_of_a_folder_give_the_same_images(
    saved: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = IVAEDiffusionPipeline.from_pretrained(saved)
    images = Shapes3D(16).images(torch.tensor([7, 400000]))
    Path("mine").mkdir()
    for name, image in zip(("a.png", "b.PNG"), images, strict=True):
        Image.fromarray(image.movedim(0, -1).numpy()).save(Path("mine") / name, format="PNG")
    Path("mine/notes.txt").write_text("no picture")
    latents = pipe.encode(images)
    np.save("z.npy", latents.numpy())
    np.savez("z.npz", latents=latents.double().numpy())
    sources = (
        ["--images", "mine"],
        ["--images", "mine/a.png", "mine/b.PNG"],
        ["--latents", "z.npy"],
        ["--latents", "z.npz"],
    )
    for number, source in enumerate(sources):
        assert main(["sample", str(saved), *source, "--out", f"out{number}", *STEPS]) == 0
        assert capsys.readouterr().out.split() == [
            f"out{number}/{name}.png" for name in ("00000", "00001", "grid")
        ]
        for i, image in enumerate(drawn(pipe, latents)):
            np.testing.assert_array_equal(picture(Path(f"out{number}/{i:05d}.png")), image)


def test_a_picture_of_another_size_is_scaled_as_the_pipeline_does(saved: Path, here: Path) -> None:
    pipe = IVAEDiffusionPipeline.from_pretrained(saved)
    Image.fromarray(Shapes3D(64).images(torch.tensor([7]))[0].movedim(0, -1).numpy()).resize((80, 64)).save(
        "a.png"
    )
    assert main(["sample", str(saved), "--images", "a.png", *STEPS]) == 0
    latents = pipe.encode(Image.open("a.png"), resize=True)
    np.testing.assert_array_equal(picture(Path("samples/00000.png")), drawn(pipe, latents)[0])


def test_factors_are_drawn_as_sample_factors_does_in_any_number(
    saved: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = IVAEDiffusionPipeline.from_pretrained(saved)
    flags = ["--factors", "floor_hue=0.2, scale=-0.5", "--json", *STEPS]
    assert main(["sample", str(saved), *flags, "--num_images", "40"]) == 0
    found = json.loads(capsys.readouterr().out)["images"]
    expected = pipe.sample_factors(
        {"floor_hue": 0.2, "scale": -0.5},
        num_images_per_input=2,
        num_inference_steps=2,
        generator=[generator(0, "samples", i) for i in (38, 39)],
        output_type="np",
    )
    assert torch.tensor([image["latents"] for image in found[38:]]).equal(expected.latents)
    for image, values in zip(found[38:], to_uint8(expected.images), strict=True):
        np.testing.assert_array_equal(picture(Path(image["file"])), values)


def test_an_unconditional_model_draws_from_noise_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one("unconditional").save_pretrained("pipeline")
    assert main(["sample", "pipeline", "--num_images", "9", "--json", *STEPS]) == 0
    found = json.loads(capsys.readouterr().out)["images"]
    assert len(found) == 9 and all(image["latents"] == [] for image in found)
    assert len({picture(Path(image["file"])).tobytes() for image in found}) == 9
    # two rows of eight, of which seven places are empty
    with Image.open("samples/grid.png") as grid:
        assert grid.height == 2 * (2 * 16 + 2) - 2
        assert grid.getpixel((grid.width - 10, grid.height - 10)) == (255, 255, 255)
    assert main(["sample", "pipeline", "--factors", "scale=0", "--out", "x", *STEPS]) == 2
    assert "this model has no iVAE" in capsys.readouterr().err


REFUSED = [
    (["--images", "none.png"], "none.png: cannot be decoded as PNG"),
    (["--images", "empty"], "empty holds no picture: there is no file of .png, "),
    (["--latents", "none.npy"], "none.npy is not a file: give latents (N, D), npy or npz with an array latents"),
    (["--latents", "text.npy"], "text.npy cannot be read as npy, or npz with an array latents: it is neither"),
    (["--latents", "objects.npy"], "npz with an array latents: Array can't be memory-mapped: Python objects"),
    (["--latents", "short.npy"], "npz with an array latents: mmap length is greater"),
    (["--latents", "codes.npz"], "codes.npz cannot be read as npy, or npz with an array latents: \"There is no item"),
    (["--latents", "nan.npy"], "nan.npy: latents must be finite numbers (N, D), got shape (1, 6)"),
    (["--latents", "complex.npy"], "with an array latents: latents are complex128, not real numbers"),
    (["--latents", "huge.npy"], "huge.npy: latents must be finite numbers (N, D), got shape (1, 6)"),
    (["--latents", "wide.npy"], "latents must be a tensor (B, 6), got (2, 7)"),
    (["--factors", "floor_hue"], "--factors must be NAME=VALUE joined by commas, got 'floor_hue'"),
    (["--factors", "scale=0,scale=1"], "--factors names scale twice"),
    (["--factors", "hue=0"], "factors must be among floor_hue, wall_hue"),
    (["--factors", "scale=2"], "factors must lie in [-0.5, 0.5]"),
    (["--images", "a", "--latents", "b"], "argument --latents: not allowed with argument --images: see idiff sample --help"),
    (["--images", "a", "--num_images", "3"], "--num_images is not for --images, of which each gives an image"),
    (["--factors", "scale=0", "--data.name", "dsprites"], "unknown argument '--data.name'"),
    (["--num_images", "0"], "the number of images must be 1 or more, got 0"),
    (["--out", "full"], "full is there and not empty: give another folder, or remove it"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_what_cannot_be_drawn_is_one_line_and_leaves_nothing(
    saved: Path, here: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    Path("text.npy").write_text("latents")
    np.save("objects.npy", np.array([{"a": 1}], dtype=object))
    np.save("nan.npy", np.full((1, 6), np.nan))
    np.save("complex.npy", np.zeros((2, 6)) * 1j)
    np.save("huge.npy", np.full((1, 6), 1e300))
    np.save("wide.npy", np.zeros((2, 7)))
    np.save("short.npy", np.zeros((9, 6)))
    Path("short.npy").write_bytes(Path("short.npy").read_bytes()[:300])
    np.savez("codes.npz", codes=np.zeros((2, 6)))
    before = sorted(here.rglob("*"))
    try:
        code = main(["sample", str(saved), *flags])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1 and message in error, error
    assert sorted(here.rglob("*")) == before


def test_a_traversal_is_the_pipelines_with_the_names_of_the_factors(
    saved: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dims", "wall_hue,0", "--range", "-2", "1", "--row", "4", "--seed", "3"]
    assert main(["traverse", str(saved), *flags, "--json", *STEPS]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dims"] == ["z1 wall_hue", "z0 floor_hue"]
    assert found["values"] == [-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0]
    assert found["files"] == ["traversals/traversal_ivae.png", "traversals/traversal_ddpm.png"]
    pipe = IVAEDiffusionPipeline.from_pretrained(saved)
    dataset, rows, _ = held_out_rows(saved, pipe, tiny_config("run").data, 5)
    latents = pipe.encode(dataset.images(rows[4:]))
    assert torch.tensor([found["latents"]]).equal(latents)
    for decoder in ("ivae", "ddpm"):
        images = pipe.traverse(
            latents, [1, 0], found["values"], decoder, num_inference_steps=2, seed=3, output_type="np"
        )
        grid = picture(Path(f"traversals/traversal_{decoder}.png"))
        # the last image of the last row, each pixel of which is four
        np.testing.assert_array_equal(grid[-32::2, -32::2], to_uint8(images[1, -1]))


def test_what_is_drawn_of_a_latent_by_what_a_model_has(
    saved: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(Shapes3D(16).images(torch.tensor([7]))[0].movedim(0, -1).numpy()).save("a.png")
    start = ["--image", "a.png", "--dims", "2"]
    ivae = IVAEDiffusionPipeline(ivae=one("categorical").ivae)
    ivae.save_pretrained("ivae")
    assert main(["traverse", "ivae", *start, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == ["traversals/traversal_ivae.png"] and found["values"] == [0, 1, 2, 3, 4]
    # a decoder that was left untrained draws nothing, unless it is asked for
    one("additive").save_pretrained("weighted")
    config = tiny_config("x")
    config = replace(config, loss=replace(config.loss, rec=0.0))
    Path("weighted/config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    assert main(["traverse", "weighted", *start, *STEPS]) == 0
    assert capsys.readouterr().out.split() == ["traversals/traversal_ddpm.png"]
    assert main(["traverse", "weighted", *start, "--decoder", "ivae"]) == 0
    assert capsys.readouterr().out.split() == ["traversals/traversal_ivae.png"]
    Path("ivae/config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    assert main(["traverse", "ivae", *start]) == 2
    assert (
        "ivae has no U-Net, and a decoder that was not trained: nothing draws from z"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dims", "floor_hues"], "got 'floor_hues'"),
        (["--dims", "6"], "latents are numbered from 0 to 5, got 6"),
        (["--values", "nan"], "a latent must be set to one finite number for all images, got nan"),
        (["--row", "-1"], "--row must be 0 or more, got -1"),
        (["--row", "48000"], "there are 48000 held-out images, numbered from 0: there is no number 48000"),
        (["--image", "mine"], "--image must be one picture, got a folder of 2"),
        (["--image", "mine/0.png", "--data.name", "dsprites"], "unknown argument '--data.name'"),
    ],
)
def test_a_traversal_that_cannot_be_is_one_line(
    saved: Path, here: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    Path("mine").mkdir()
    for number in range(2):
        Image.new("RGB", (16, 16)).save(f"mine/{number}.png")
    assert main(["traverse", str(saved), *flags, *STEPS]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error, error
    assert not Path("traversals").exists()


def test_models_without_latents_or_pictures_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one("unconditional").save_pretrained("pipeline")
    assert main(["traverse", "pipeline", "--data.image_size", "16"]) == 2
    assert "this model has no iVAE" in capsys.readouterr().err


def test_a_folder_without_a_pipeline_is_not_looked_for_on_the_hub(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runs`, where `runs/quickstart` was meant: `runs/pipeline` would be a name on the Hub."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    Path("runs").mkdir()
    for command in (
        ["sample", "runs"],
        ["traverse", "runs"],
        ["publish", "runs", "--repo", "u/n", "--dry_run"],
    ):
        assert main(command) == 2
        assert capsys.readouterr().err == (
            "error: runs holds no saved pipeline: there is no model_index.json in it, nor in runs/pipeline\n"
        )


def test_grids_that_cannot_be_written_are_one_line(
    saved: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes.txt").write_text("mine")
    arguments = ["traverse", str(saved), "--dims", "0", "--decoder", "ivae", "--out", "notes.txt"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: cannot write notes.txt: ") and error.count("\n") == 1
    assert Path("notes.txt").read_text() == "mine"
