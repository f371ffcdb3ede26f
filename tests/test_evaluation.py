"""From a finished run to results, figures and card."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idiff_hf.arguments import config_to_yaml
from idiff_hf.baselines import learns_widths
from idiff_hf.card_scores import disentanglement
from idiff_hf.cli import main as cli
from idiff_hf.experiments.scoring import held_out_scores
from tests.tiny import joint, tiny_config
from train_ivae_ddpm import main

REAL = Path(__file__).parent / "reference" / "shapes3d_reference50.npz"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole command at tiny size."""
    folder = tmp_path_factory.mktemp("runs") / "with space"
    config = tiny_config(folder, validation_steps=6)
    config = replace(config, eval=replace(config.eval, supervision_baseline=True))
    path = folder.parent / "config.yaml"
    path.write_text(config_to_yaml(config))
    assert main(["--config", str(path)]) == 0
    return folder


def test_the_command_ends_with_results_figures_and_card(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert results["data"]["source"] == "rendered" and results["data"]["num_held_out"] == 48000
    metrics = results["model"]["metrics"]
    assert 0 <= metrics["mig"] <= 1 and len(metrics["mig_per_factor"]) == 6
    assert results["supervision_baseline"]["steps"] == 4
    assert set(results["generation"]["ddpm"]) == {"1.0", "4.0"}
    assert results["generation"]["rendered"]["readback"] == {name: 1.0 for name in metrics["mig_per_factor"]}
    assert set(results["training"]["final_losses"]) == {"kl", "rec", "ddpm"}
    for name in ("reconstructions", "traversal_ivae", "traversal_ddpm", "latents"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 0
    assert [path.name for path in (run / "samples").iterdir()] == ["step_00000006.png"]
    assert f"{metrics['mig']:.3f}" in (run / "README.md").read_text()
    assert not [path for path in run.rglob("*") if path.suffix in (".pkl", ".bin", ".pt")]


def test_u_that_tells_no_side_is_scored_alone_by_the_widths_that_it_teaches(tmp_path: Path) -> None:
    config = joint(tiny_config(tmp_path / "run"))
    config = replace(
        config,
        aux=replace(config.aux, name="uniform_posterior", label_to_z="centers"),
        model=replace(config.model, diffusion=False),
        eval=replace(config.eval, supervision_baseline=True, supervised_probe=True),
    )
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config))
    assert main(["--config", str(path)]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["supervision_baseline"]["codes"] == "log-variances of q(z|x)"
    assert results["supervised_probe"]["codes"] == "posterior means" in results["estimator"]["mig"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "its codes are the log-variances of q(z|x)" in card
    # the baseline by itself, as a trial of a table
    values = held_out_scores(tmp_path / "run" / "supervision_baseline")["values"]
    assert values["mig"] == pytest.approx(results["supervision_baseline"]["metrics"]["mig"])


@pytest.mark.parametrize(
    ("aux", "loss", "model", "learns"),
    [
        ({}, {}, {}, True),
        ({"name": "normal", "label_to_z": "endpoints"}, {}, {}, True),
        ({"name": "normal", "label_to_z": "endpoints", "modulate_mean": True}, {}, {}, False),
        ({"name": "interval"}, {}, {}, False),
        ({}, {"rec": 0.1}, {}, False),
        ({}, {}, {"diffusion": True}, True),
        ({}, {"latent_grad_scale": 1.0}, {"diffusion": True}, False),
        ({}, {}, {"latent_type": "categorical", "prior_type": "per_dimension"}, False),
        ({}, {}, {"prior_type": "known", "prior_family": "reciprocal"}, True),
        ({}, {}, {"prior_type": "known", "prior_family": "half_reciprocal"}, False),
        ({}, {}, {"prior_type": "released", "prior_family": "half_reciprocal"}, True),
    ],
)
def test_which_encoders_learn_widths(
    tmp_path: Path, aux: dict[str, Any], loss: dict[str, Any], model: dict[str, Any], learns: bool
) -> None:
    config = joint(tiny_config(tmp_path))
    changed = replace(
        config,
        aux=replace(config.aux, **{"name": "uniform_posterior", "label_to_z": "centers", **aux}),
        loss=replace(config.loss, **{"rec": 0.0, "latent_grad_scale": 0.0, **loss}),
        model=replace(config.model, **{"diffusion": False, **model}),
    )
    assert learns_widths(changed) == learns


def test_evaluation_reads_only_what_was_saved_and_repeats_itself(run: Path) -> None:
    before = json.loads((run / "results.json").read_text())
    assert cli(["evaluate", str(run)]) == 0
    assert json.loads((run / "results.json").read_text()) == before


def test_real_images_are_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["evaluate", str(run), "--real", str(REAL)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_images"] == 50
    for name, exact in report["exact"].items():
        assert 0 <= exact <= report["within_one"][name] <= 1
    assert json.loads((run / "results.json").read_text())["real_images"] == report


def test_real_images_need_a_run_that_was_measured(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / "results.json").unlink()
    assert cli(["evaluate", str(copy), "--real", str(REAL)]) == 2
    assert capsys.readouterr().err == f"error: no results.json in {copy}: evaluate the run first\n"


def test_rows_of_training_are_not_called_held_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data.held_out", "0.9", "--out", str(tmp_path / "scores")]
    assert cli(["evaluate", str(run / "pipeline"), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: data.held_out=0.9 would take rows that ") and error.count("\n") == 1
    assert not (tmp_path / "scores").exists()


def test_a_folder_in_the_place_of_the_scores_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the work would begin with the weights, which are not there
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    taken = tmp_path / "scores" / "results.json"
    taken.mkdir(parents=True)
    flags = ["--data.name", "shapes3d", "--out", str(tmp_path / "scores")]
    assert cli(["evaluate", str(tmp_path / "model"), *flags]) == 2
    assert (
        capsys.readouterr().err == f"error: cannot write {taken}: it is a folder, give the name of a file\n"
    )


def test_refusals_are_one_line_and_exit_2(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["evaluate", str(tmp_path)]) == 2
    assert "holds no finished run: there is no pipeline/config.yaml in it\n" in capsys.readouterr().err
    config = run.parent / "config.yaml"
    assert main(["--config", str(config)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: train.output_dir=") and "already holds a run" in error


def test_dry_run_prints_what_a_run_takes_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(tiny_config(tmp_path / "run")))
    assert main(["--config", str(path), "--dry_run"]) == 0
    printed = capsys.readouterr().out
    for what in (
        "parameters ivae:",
        "parameters unet:",
        "steps 0 to 4:",
        "steps 4 to 8:",
        "memory:",
        "estimated hours:",
    ):
        assert what in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_categories", [2, 10, 19, 20, 21, 24, 64])
def test_class_numbers_in_any_order_are_a_perfect_code(num_categories: int) -> None:
    """On the full grid of a factor with as many values as classes and one of two: MIG and modularity 1, no classes merged.

    The rank correlation of a shuffled code is below that of the other latent, so that matching by it would be wrong.
    """
    factors = np.stack(np.meshgrid(np.arange(num_categories), np.arange(2), indexing="ij"), axis=-1).reshape(
        -1, 2
    )
    shuffled = np.random.default_rng(0).permutation(num_categories)[factors[:, 0]]
    codes = np.stack([1 - factors[:, 1], shuffled], axis=1).astype(float)
    scores = disentanglement(codes, factors, ("many", "two"), num_categories)
    assert scores["mig"] == pytest.approx(1.0, abs=1e-12)
    assert scores["modularity"] == pytest.approx(1.0, abs=1e-12)
    assert scores["matched_latent"] == {"many": 1, "two": 0}


def test_codes_that_chose_their_own_sides_are_matched_by_information() -> None:
    """Each value of a factor has a side of its own, so that the other latent, which leaks a little of its order, correlates more."""
    factors = np.stack(np.meshgrid(np.arange(10), np.arange(10), indexing="ij"), axis=-1).reshape(-1, 2)
    sides = np.array([-1, 1, -1, 1, 1, -1, 1, -1, 1, -1])
    codes = sides[factors] * np.abs(factors - 4.5)
    codes += 0.2 * factors[:, ::-1]
    names = ("first", "second")
    assert disentanglement(codes, factors, names)["matched_latent"] == {"first": 1, "second": 0}
    unsigned = disentanglement(codes, factors, names, unsigned=True)
    assert unsigned["matched_latent"] == {"first": 0, "second": 1}


def test_a_class_that_no_image_has_leaves_the_others_apart() -> None:
    factors = np.arange(3)[:, None].repeat(2, axis=1)
    codes = np.array([[0.0, 4.0], [18.0, 4.0], [19.0, 4.0]])
    scores = disentanglement(codes, factors, ("one", "same"), 20)
    assert scores["mig"] == pytest.approx(1.0, abs=1e-12)


def test_a_factor_without_a_latent_is_matched_to_none() -> None:
    factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    scores = disentanglement(factors[:, 1:].astype(float), factors, ("first", "second"), 2)
    assert scores["matched_latent"] == {"first": -1, "second": 0}
    assert scores["mig"] is None and "MIG is the gap" in scores["undefined"]["mig"]
