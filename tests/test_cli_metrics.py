"""`idiff metrics` on files of anybody's codes, and `idiff evaluate` on a saved pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.builders import open_dataset
from idiff_hf.cli import main as cli
from idiff_hf.config import DataConfig
from idiff_hf.data import Shapes3D
from idiff_hf.metrics import beta_vae, evaluate, factor_vae
from idiff_hf.models import IVAEModel
from idiff_hf.random import generator
from idiff_hf.readback import encode_rows
from tests.torchrun import torchrun


def save(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def sample(rows: int = 600) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    factors = rng.integers(0, [4, 5], (rows, 2))
    return factors @ np.array([[1.0, 0.3, 0.0], [0.0, 1.0, 0.5]]) + 0.1 * rng.normal(size=(rows, 3)), factors


def test_a_file_is_scored_as_its_arrays_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes, factors = sample()
    path = save(tmp_path / "codes.npz", codes=codes, factors=factors)
    assert cli(["metrics", path, "--json", "--seed", "3", "--num_train", "400"]) == 0
    assert json.loads(capsys.readouterr().out) == evaluate(codes, factors, seed=3, num_train=400).to_dict()


def test_text_has_a_line_for_each_number_and_each_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes, factors = sample()
    path = save(tmp_path / "codes.npz", codes=codes, factors=factors)
    assert cli(["metrics", path, "--metrics", "mig,mcc,factor_vae", "--intervals", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "600 rows, 3 latents, 2 factors, 400 rows to fit on, 20 bins, seed 0"
    values = evaluate(codes, factors, metrics=["mig", "mcc"]).values
    (line,) = [line for line in lines if line.startswith("mcc_spearman ")]
    assert line.split()[1] == f"{values['mcc_spearman']:.4f}"
    low, high = (float(part.strip("[],")) for part in line.split()[2:])
    assert low < values["mcc_spearman"] < high  # type: ignore[operator]
    assert any(line.startswith("factor_vae ") and "undefined:" in line for line in lines)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"codes": np.zeros((9, 3))}, "has no array factors; there are: codes"),
    (
        {"codes": np.zeros((3, 50)), "factors": np.tile(np.arange(50)[:, None] % 3, 2)},
        "codes look transposed, pass codes.T",
    ),
    (
        {"codes": np.ones((50, 2)), "factors": np.ones((40, 2))},
        "codes and factors must have the same number of rows, got shapes (50, 2) and (40, 2)",
    ),
    (
        {"codes": np.full((9, 2), "a"), "factors": np.ones((9, 2))},
        "codes must hold real numbers, got dtype <U1",
    ),
    (
        {"codes": np.array([[0.0, np.nan]] * 9), "factors": np.ones((9, 2))},
        "codes must be finite, got 9 NaN or infinite values",
    ),
    (
        {"codes": np.arange(20).reshape(10, 2), "factors": np.linspace(0, 1, 30).reshape(10, 3)},
        "codes are int64 and factors float64, so they look swapped: exchange them, or save codes as floats",
    ),
    ({"codes": np.ones((1, 2)), "factors": np.ones((1, 2))}, "must have at least 2 rows, got 1"),
    (
        {"codes": np.array([{"a": 1}], dtype=object), "factors": np.ones((1, 2))},
        "cannot be read: Object arrays",
    ),
]


@pytest.mark.parametrize(("arrays", "message"), BAD)
def test_a_bad_file_is_one_line_and_exit_2(
    arrays: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["metrics", save(tmp_path / "codes.npz", **arrays)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_what_is_no_such_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.npz").write_text("codes")
    whole = Path(save(tmp_path / "whole.npz", codes=np.ones((99, 9)), factors=np.ones((99, 2)))).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name, message in (
        ("none.npz", "is not a file: give an npz file with the arrays codes and factors"),
        ("text.npz", "is no npz file"),
        ("cut.npz", "is no npz file"),
    ):
        assert cli(["metrics", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err
    assert cli(["metrics", str(tmp_path / "whole.npz"), "--metrics", "mgi"]) == 2
    assert "metrics must be 'all' or names among mig, " in capsys.readouterr().err
    assert cli(["metrics", str(tmp_path / "whole.npz"), "--metric", "mig"]) == 2
    assert "unknown argument '--metric'" in capsys.readouterr().err


def test_an_array_that_declares_too_much_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("idiff_hf.metrics.codes_file.MAX_BYTES", 1000)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, codes=np.zeros((9999, 3)), factors=np.ones((9, 2)))
    assert cli(["metrics", str(path)]) == 2
    assert "codes takes 240,104 bytes, more than 1,000: give fewer rows" in capsys.readouterr().err


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "pipeline"
    torch.manual_seed(0)
    ivae = IVAEModel(image_size=16, channels=(8, 8, 8, 16), hidden_dim=16, latent_dim=6)
    IVAEDiffusionPipeline(ivae=ivae).save_pretrained(folder)
    return folder


def test_a_pipeline_is_scored_on_the_rows_that_are_held_out(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    flags = ["--data.image_size", "16", "--num_samples", "400", "--metrics", "mig,mcc", "--out", str(out)]
    assert cli(["evaluate", str(pipeline), *flags]) == 0
    results = json.loads((out / "results.json").read_text())
    dataset = Shapes3D(16)
    _, held_out = dataset.split(0.1, 0)
    rows = held_out[torch.randperm(len(held_out), generator=generator(0, "evaluation"))[:400]]
    codes, factors = encode_rows(IVAEDiffusionPipeline.from_pretrained(pipeline), dataset, rows)
    assert results["values"] == evaluate(codes, factors, metrics=["mig", "mcc"]).values
    assert results["num_samples"] == 400 and results["data"]["held_out_seed"] == 0
    names = {path.stem for path in (out / "figures").iterdir()}
    assert names == {"latents", "scatter", "tsne", "mutual_information"}
    assert f"mig{' ' * 38}{results['values']['mig']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--metrics", "mcc,typo"], "metrics must be 'all' or names among "),
        (["--seed", "-1"], "seed must be "),
        (
            ["--num_samples", "all", "--data.streaming", "true", "--data.name", "own", "--data.path", "set"],
            "all images of a stream cannot be encoded: give num_samples",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_before_images_are_encoded(
    pipeline: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores"
    assert cli(["evaluate", str(pipeline), "--data.image_size", "16", *flags, "--out", str(out)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not out.exists()


def test_the_number_of_subsamples_is_refused_before_anything_is_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for given in ("1", "-1", "some"):
        for command in ("metrics", "evaluate"):
            with pytest.raises(SystemExit, match="2"):
                cli([command, "none", "--intervals", given])
            line = f"argument --intervals: must be 0, or a whole number of 2 or more, got '{given}'"
            assert capsys.readouterr().err == f"error: {line}: see idiff {command} --help\n"


def test_scores_are_kept_where_figures_cannot_be_written(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "figures").touch()
    flags = ["--data.image_size", "16", "--num_samples", "50", "--metrics", "mcc", "--out", str(tmp_path)]
    assert cli(["evaluate", str(pipeline), *flags]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert "mcc_spearman" in json.loads((tmp_path / "results.json").read_text())["values"]


def test_all_images_are_the_grid_that_factor_vae_needs(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Own pictures of each of 24 combinations of two factors, brightness above and below."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))
    grid = np.indices((6, 4)).reshape(2, -1).T
    (tmp_path / "set").mkdir()
    lines = ["file_name,above,below"]
    for row, (above, below) in enumerate(grid):
        picture = np.repeat([40 * above, 60 * below], 8)[:, None, None].repeat(16, 1).repeat(3, 2)
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "set" / f"{row:02}.png")
        lines.append(f"{row:02}.png,{above},{below}")
    (tmp_path / "set" / "metadata.csv").write_text("\n".join(lines))
    own = [
        "--data.name",
        "own",
        "--data.path",
        str(tmp_path / "set"),
        "--data.factor_columns",
        "[above,below]",
    ]
    cache = ["--data.cache_dir", str(tmp_path / "cache"), "--data.image_size", "16"]
    command = ["evaluate", str(pipeline), *own, *cache, "--metrics", "factor_vae,beta_vae", "--out"]
    assert cli([*command, str(tmp_path / "all"), "--num_samples", "all"]) == 0
    results = json.loads((tmp_path / "all" / "results.json").read_text())
    assert results["num_samples"] == 24 and results["data"]["rows"] == "all"
    dataset = open_dataset(
        DataConfig("own", path=str(tmp_path / "set"), factor_columns=("above", "below"), image_size=16)
    )
    codes, factors = encode_rows(IVAEDiffusionPipeline.from_pretrained(pipeline), dataset, torch.arange(24))
    np.testing.assert_array_equal(factors, grid)
    assert results["values"]["factor_vae"] == factor_vae(codes, factors).score
    assert results["values"]["beta_vae"] == beta_vae(codes, factors).score
    # half of the pictures are no grid
    assert cli([*command, str(tmp_path / "some"), "--data.held_out", "0.5"]) == 0
    results = json.loads((tmp_path / "some" / "results.json").read_text())
    assert results["values"]["factor_vae"] is None and results["data"]["rows"] == "held out"
    capsys.readouterr()
    assert cli([*command, str(tmp_path / "none"), "--num_samples", "0"]) == 2
    assert capsys.readouterr().err == "error: the number of images must be 1 or more, got 0\n"
    with pytest.raises(SystemExit, match="2"):
        cli([*command, str(tmp_path / "none"), "--num_samples", "some"])
    line = "argument --num_samples: must be a whole number or all, got 'some': see idiff evaluate --help"
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_pipeline_is_scored_on_fewer_rows_than_tsne_has_neighbours(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data.image_size", "16", "--num_samples", "12", "--metrics", "mcc", "--out", str(tmp_path)]
    assert cli(["evaluate", str(pipeline), *flags, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "results.json").read_text()) and printed["num_samples"] == 12
    assert (tmp_path / "figures" / "tsne.png").is_file()


def test_a_dataset_that_does_not_fit_is_refused(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["evaluate", str(pipeline), "--data.image_size", "32", "--out", str(tmp_path / "x")]) == 2
    assert "is of images 3 x 16 x 16, data.name=shapes3d gives 3 x 32 x 32" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_flags_of_the_other_kind_of_folder_are_refused(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag, value in (("--metrics", "mig"), ("--num_samples", "5"), ("--intervals", "20"), ("--out", "x")):
        assert cli(["evaluate", str(tmp_path), flag, value]) == 2
        error = capsys.readouterr().err
        assert (
            error
            == f"error: {flag} is for a pipeline's folder, {tmp_path} is none: give {tmp_path / 'pipeline'}\n"
        )
    assert cli(["evaluate", str(pipeline), "--real", "real.npz"]) == 2
    assert f"--real is for a run's folder, {pipeline} is a pipeline's" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(pipeline: Path, tmp_path: Path) -> None:
    """401 rows: the shares differ in size, and none is counted twice."""
    flags = ["--data.image_size", "16", "--num_samples", "401", "--metrics", "mig,mcc,modularity"]
    assert cli(["evaluate", str(pipeline), *flags, "--out", str(tmp_path / "one")]) == 0
    program = ("-m", "idiff_hf.cli", "evaluate", str(pipeline))
    done = torchrun(2, *program, *flags, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert one["num_samples"] == two["num_samples"] == 401
    for key, value in one["values"].items():
        np.testing.assert_allclose(two["values"][key], value, atol=1e-6, err_msg=key)
