"""The whole program on a user's own pictures, on a stream of them, and on vectors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from safetensors.numpy import load_file

from idiff_hf.arguments import config_to_yaml
from idiff_hf.config import AuxConfig, Config, DataConfig
from tests.tiny import tiny_config
from train_ivae_ddpm import main

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


def own_config(folder: Path, aux: AuxConfig, prior_type: str, **data: Any) -> Config:
    config = tiny_config(folder / "run")
    pictures: dict[str, Any] = {
        "name": "own",
        "path": str(DIGITS),
        "cache_dir": str(folder / "cache"),
        "image_size": 16,
        "color": "grey",
        "resize": True,
    }
    return replace(
        config,
        data=DataConfig(**{**pictures, **data}),
        aux=aux,
        model=replace(config.model, prior_type=prior_type),
        eval=replace(config.eval, supervision_baseline=True),
    )


def run(config: Config, *flags: str) -> dict[str, Any]:
    folder = Path(config.train.output_dir)
    path = folder.parent / "config.yaml"
    path.write_text(config_to_yaml(config))
    assert main(["--config", str(path), *flags]) == 0
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


def card(config: Config) -> str:
    return (Path(config.train.output_dir) / "README.md").read_text()


def ivae_config(config: Config) -> dict[str, Any]:
    path = Path(config.train.output_dir) / "pipeline" / "ivae" / "config.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_observed_u_is_learned_and_its_statistics_are_stored(tmp_path: Path) -> None:
    config = own_config(
        tmp_path,
        AuxConfig(name="observed"),
        "learned",
        aux_columns=("digit", "ink"),
        categorical_columns=("digit",),
        factor_columns=("digit", "ink", "slant"),
    )
    results = run(config)
    assert results["data"]["source"] == "own" and results["data"]["channels"] == 1
    assert results["data"]["num_held_out"] == 30
    assert set(results["model"]["metrics"]["mig_per_factor"]) == {"digit", "ink", "slant"}
    assert results["supervision_baseline"] is None and results["generation"]["rendered"] is None
    assert results["supervision"]["statement"].endswith("while training: digit, ink")
    stored = ivae_config(config)
    assert stored["aux_dim"] == 11 and stored["num_factors"] == 0
    digit, ink = stored["aux_columns"]["columns"]
    assert digit["name"] == "digit" and len(digit["categories"]) == 10
    assert ink["name"] == "ink" and 0.2 < ink["mean"] < 0.4
    text = card(config)
    assert "no known prior and no baseline of `u` alone" in text and "Images of the user's own" in text
    assert "Not stated: that of the images decides." in text and "license:" not in text


def test_bounds_have_a_known_prior_and_a_baseline(tmp_path: Path) -> None:
    config = own_config(
        tmp_path,
        AuxConfig(name="bounds"),
        "known",
        bound_columns=("ink_lower:ink_upper",),
        factor_columns=("ink", "slant"),
    )
    results = run(config)
    assert results["supervision_baseline"]["steps"] == 4
    stored = ivae_config(config)
    assert stored["factor_names"] == ["ink"] and stored["aux_moments"] == "mean_variance"
    assert "| metric | model | u alone | difference |" in card(config)


def test_without_factors_nothing_is_scored_and_that_is_said(tmp_path: Path) -> None:
    config = own_config(tmp_path, AuxConfig(name="none"), "standard", color="rgb")
    results = run(config)
    assert results["model"]["metrics"] is None and results["data"]["channels"] == 3
    assert set(results["generation"]["ddpm"]) == {"1.0", "4.0"}
    text = card(config)
    assert "**Not measured: no factor columns were given (`data.factor_columns`)" in text
    assert "Each factor" not in text and "MIG" not in text.split("<details>")[0]
    assert not (Path(config.train.output_dir) / "figures" / "scatter.png").exists()


def stream_of_digits(folder: Path) -> Path:
    """Two parquet files of 60 pictures each, with a column."""
    names = sorted(DIGITS.glob("*.png"))[:120]
    features = Features({"image": Image(), "ink": Value("float64")})
    rng = np.random.default_rng(0)
    for shard in range(2):
        part = names[60 * shard : 60 * (shard + 1)]
        rows = {
            "image": [{"bytes": path.read_bytes(), "path": None} for path in part],
            "ink": rng.normal(size=60).tolist(),
        }
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"part-{shard}.parquet")
    return folder


def test_a_stream_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    path = stream_of_digits(tmp_path / "set")

    def config(name: str) -> Config:
        (tmp_path / name).mkdir()
        streamed = own_config(
            tmp_path / name,
            AuxConfig(name="observed"),
            "learned",
            path=str(path),
            streaming=True,
            aux_columns=("ink",),
            factor_columns=("ink",),
        )
        return replace(streamed, train=replace(streamed.train, checkpoints_total_limit=2))

    whole, stopped = config("whole"), config("stopped")
    results = run(whole)
    assert results["data"]["num_held_out"] == results["data"]["num_samples"] > 4
    run(stopped)
    # as a kill after step 7 leaves it
    folder = Path(stopped.train.output_dir)
    for name in ("pipeline", "checkpoints/step-00000008"):
        path_ = folder / name
        for file in sorted(path_.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        path_.rmdir()
    run(stopped, "--train.resume_from_checkpoint", "latest")
    for part in ("ivae", "unet", "conditioning"):
        file = Path("pipeline") / part / "diffusion_pytorch_model.safetensors"
        one, other = (load_file(Path(c.train.output_dir) / file) for c in (whole, stopped))
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_vectors_have_scores_and_no_pictures(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run")
    config = replace(
        config,
        data=DataConfig(name="rotation"),
        model=replace(config.model, backbone="mlp", latent_dim=3, diffusion=False, prior_family="uniform"),
        optim_ivae=replace(config.optim_ivae, stop_step=None),
        eval=replace(config.eval, supervision_baseline=True),
    )
    results = run(config)
    assert results["generation"] is None and results["data"]["image_size"] == 1
    assert set(results["model"]["metrics"]["mig_per_factor"]) == {"z0", "z1", "z2"}
    figures = Path(config.train.output_dir) / "figures"
    assert sorted(path.name for path in figures.iterdir()) == ["latents.png", "scatter.png"]
    text = card(config)
    assert "vectors of 3 numbers" in text and "Squared errors" not in text and "Reconstructions" not in text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"path": "no/such/folder"}, "no/such/folder"),
        (
            {"factor_columns": ("age",)},
            "no column 'age' beside its pictures; there are: digit, ink, slant, ink_lower, ink_upper",
        ),
        (
            {"held_out": 0.003, "factor_columns": ("digit",)},
            "data.held_out=0.003 of 300 images leaves 1 to be scored on, in which factor 'digit' has one value: ",
        ),
        ({"resize": False}, "32 x 32 pixels (width x height), not 16 x 16; set data.resize=true"),
    ],
)
def test_bad_data_is_one_line_and_nothing_is_left(
    data: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = own_config(tmp_path, AuxConfig(name="none"), "standard", **data)
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config))
    assert main(["--config", str(path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run" / "pipeline").exists()
