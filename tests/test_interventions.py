"""Latents set one at a time: what is drawn, what is counted, and `idiff bench interventions`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.arguments import config_to_yaml
from idiff_hf.builders import build_dataset, build_objective, build_pipeline
from idiff_hf.cli import main as cli
from idiff_hf.pipeline_scores.interventions import interventions, interventions_table
from idiff_hf.random import generator
from idiff_hf.readback import FactorReader

from .pipelines.pipes import make
from .tiny import joint, tiny_config

FACTORS = torch.tensor([[0, 1], [1, 2], [1, 0]])


@pytest.fixture
def pipeline() -> IVAEDiffusionPipeline:
    torch.manual_seed(0)
    return make()


def reader_of(latents: Tensor) -> FactorReader:
    """Of two factors, of two and three classes: the first in latent 3 with means -2 and 2, the second in latent 0 with means 0, 5 and 9."""
    factors = np.indices((2, 3)).reshape(2, -1).T.repeat(50, axis=0)
    codes = np.zeros((len(factors), latents.shape[1]))
    codes[:, 3], codes[:, 0] = np.array([-2.0, 2.0])[factors[:, 0]], np.array([0.0, 5.0, 9.0])[factors[:, 1]]
    return FactorReader(codes, factors)


def test_each_latent_is_set_in_turn_and_the_others_stay(pipeline: IVAEDiffusionPipeline) -> None:
    latents = torch.randn(3, pipeline.latent_dim, generator=torch.Generator().manual_seed(0))
    given: list[Tensor] = []

    def read(images: Tensor) -> Tensor:
        given.append(images)
        return FACTORS.repeat(6, 1)

    interventions(pipeline, latents, FACTORS, reader_of(latents), read, decoders=("ivae", "ddpm"), steps=2)
    assert len(given) == 2
    for number, setting in enumerate([None, (3, -2.0), (3, 2.0), (0, 0.0), (0, 5.0), (0, 9.0)]):
        moved = latents.clone()
        if setting is not None:
            moved[:, setting[0]] = setting[1]
        rows = slice(3 * number, 3 * number + 3)
        expected = pipeline.decode(moved, "pt") * 2.0 - 1.0
        torch.testing.assert_close(given[0][rows], expected, rtol=0.0, atol=1e-6)
        noise = [generator(0, "interventions", row) for row in range(3)]
        drawn = pipeline(latents=moved, num_inference_steps=2, generator=noise, output_type="pt").images
        torch.testing.assert_close(given[1][rows], drawn * 2.0 - 1.0, rtol=0.0, atol=1e-5)


def test_what_follows_and_what_is_kept(pipeline: IVAEDiffusionPipeline) -> None:
    """Drawings obey the first latent, but in one of six the second factor changes too; the second latent moves nothing.

    As they are encoded, one of three loses its first factor.
    """
    latents = torch.zeros(3, pipeline.latent_dim)
    first = torch.tensor([[[level, image[1]] for image in FACTORS.tolist()] for level in (0, 1)])
    first[1, 2, 1] = 1
    as_encoded = torch.tensor([[1, 1], [1, 2], [1, 0]])
    answers = torch.cat([as_encoded, first.flatten(0, 1), FACTORS.repeat(3, 1)])
    records = interventions(
        pipeline, latents, FACTORS, reader_of(latents), lambda images: answers, decoders=("ivae",)
    )
    plain, obeys, still = records
    assert (plain.factor, plain.latent, plain.follows, plain.kept) == (
        None,
        None,
        None,
        (pytest.approx(2 / 3), 1.0),
    )
    assert (obeys.decoder, obeys.factor, obeys.latent, obeys.follows) == ("ivae", 0, 3, 1.0)
    assert obeys.kept == (None, pytest.approx(5 / 6))
    # each of three images has the class that was set once
    assert (still.factor, still.latent, still.follows) == (1, 0, pytest.approx(1 / 3))
    assert still.kept == (1.0, None)
    assert interventions_table(records, ("hue", "size")).splitlines() == [
        "| drawn by | factor set | latent | follows | hue kept | size kept |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| ivae | none |  |  | 0.667 | 1.000 |",
        "| ivae | hue | 3 | 1.000 |  | 0.833 |",
        "| ivae | size | 0 | 0.333 | 1.000 |  |",
    ]


def saved(folder: Path, kind: str) -> Path:
    config = joint(tiny_config("unused"))
    make(kind).save_pretrained(folder / "pipeline")
    (folder / "pipeline" / "config.yaml").write_text(config_to_yaml(config))
    return folder


def test_idiff_bench_interventions_writes_table_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", "additive")
    flags = ["--num_images", "1", "--num_inference_steps", "1", "--out", str(tmp_path / "out")]
    assert cli(["bench", "interventions", str(run), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| ivae"] * 7 + ["| ddpm"] * 7
    saved_records = json.loads((tmp_path / "out" / "interventions.json").read_text())
    assert saved_records["factors"][3] == "scale" and saved_records["num_inference_steps"] == 1
    record = saved_records["records"][11]
    assert (record["decoder"], record["factor"], record["kept"][3]) == ("ddpm", 3, None)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"interventions.json"}


def test_settings_of_a_u_net_are_not_written_where_none_draws(tmp_path: Path) -> None:
    config = joint(tiny_config("unused"))
    config = replace(config, model=replace(config.model, diffusion=False))
    objective = build_objective(config, build_dataset(config)).eval()
    build_pipeline(config, objective).save_pretrained(tmp_path / "model")
    flags = ["--data.image_size", "16", "--num_images", "1", "--out", str(tmp_path / "out")]
    assert cli(["bench", "interventions", str(tmp_path / "model"), *flags]) == 0
    written = json.loads((tmp_path / "out" / "interventions.json").read_text())
    assert {record["decoder"] for record in written["records"]} == {"ivae"}
    assert written["num_images"] == 1 and written.keys().isdisjoint(
        {"guidance_scale", "num_inference_steps", "seed"}
    )


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        ("categorical", [], "latents are set to the means of classes on a model of Gaussian latents"),
        (
            "additive",
            ["--data.name", "noisy_dsprites"],
            "read from the nearest image of every combination, which data.name=noisy_dsprites does not have",
        ),
        ("additive", ["--guidance_scale", "nan"], "guidance_scale must be 0 or more, got nan"),
        ("additive", ["--num_inference_steps", "0"], "num_inference_steps must be 1 or more, got 0"),
    ],
)
def test_what_cannot_be_set_or_read_is_refused(
    tmp_path: Path, kind: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved(tmp_path / "run", kind)
    out = tmp_path / "out"
    assert cli(["bench", "interventions", str(run), *flags, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
