"""Whole small runs of each type of model: what is trained, measured, drawn, saved and said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.arguments import config_to_yaml
from idiff_hf.baselines import has_labels, supervised_probe
from idiff_hf.builders import build_dataset, build_objective, same_rows
from idiff_hf.cli import main as cli
from idiff_hf.config import AuxConfig, Config, DataConfig, OptimConfig
from idiff_hf.folders import verify_folder
from idiff_hf.readback import read_real_images, real_image_file
from tests.tiny import joint, tiny_config
from train_ivae_ddpm import main

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
Change = Callable[[Config], Config]
BOTH = {"supervision_baseline": True, "supervised_probe": True}
CONDITIONAL = {"prior_type": "learned"}
OBSERVED = {"name": "own", "path": "pictures", "aux_columns": ("ink",), "factor_columns": ("ink", "slant")}


def changed(config: Config, **parts: Any) -> Config:
    """`config` with other parts, or with fields of parts, given as dicts."""
    return replace(
        config,
        **{
            name: replace(getattr(config, name), **part) if isinstance(part, dict) else part
            for name, part in parts.items()
        },
    )


def without_u(config: Config) -> Config:
    return changed(config, model={"prior_type": "standard"}, aux=AuxConfig(name="none"))


def categorical(config: Config) -> Config:
    return changed(config, model={"latent_type": "categorical", "num_categories": 5, "prior_type": "learned"})


def unfolded(config: Config) -> Config:
    law = {"prior_type": "released", "prior_family": "half_reciprocal", "latent_dim": 2}
    return changed(
        config,
        model=law,
        loss={"kl_before_release": 0.5, "kl_temperature": 0.5, "kl_temperature_start": 0.8},
        aux=AuxConfig(name="uniform_posterior", label_to_z="centers"),
    )


def without_unet(config: Config) -> Config:
    return changed(
        config, model={"diffusion": False}, optim_ivae={"stop_step": None}, optim_unet=OptimConfig()
    )


def ddpm_alone(config: Config) -> Config:
    return changed(
        config,
        model={"ivae": False, "prior_type": "standard"},
        aux=AuxConfig(name="none"),
        optim_ivae=OptimConfig(),
        optim_unet={"start_step": 0},
    )


def encoder_by_unet(config: Config) -> Config:
    return changed(joint(config), loss={"rec": 0.0})


TYPES: dict[str, tuple[str, Change]] = {
    "vae": ("VAE", lambda c: without_unet(without_u(c))),
    "ivae": ("iVAE", without_unet),
    "ivae_ddpm": ("iVAE+DDPM", lambda c: c),
    "unfolded_ivae_ddpm": ("iVAE+DDPM", unfolded),
    "cat_vae": ("CatVAE", lambda c: without_unet(categorical(c))),
    "cat_vae_ddpm": ("CatVAE+DDPM", categorical),
    "ddpm": ("DDPM", ddpm_alone),
    "encoder_by_unet": ("iVAE+DDPM", encoder_by_unet),
    "encoder_by_unet_without_u": (
        "VAE+DDPM",
        lambda c: changed(encoder_by_unet(without_u(c)), loss={"kl": 0.0, "kl_anneal_factor": 1.0}),
    ),
}


def run(config: Config) -> Path:
    """The whole command; returns the run's folder."""
    folder = Path(config.train.output_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(config_to_yaml(config))
    assert main(["--config", str(path)]) == 0
    return folder


def small(folder: Path) -> Config:
    """Pictures of two known factors: no grid of which every image has to be searched, and small figures."""
    config = tiny_config(folder, checkpointing_steps=8)
    pictures = DataConfig(
        name="own",
        path=str(DIGITS),
        cache_dir=str(folder.parent / "cache"),
        image_size=16,
        color="grey",
        resize=True,
        held_out=0.3,
        factor_columns=("ink", "slant"),
    )
    return changed(config, data=pictures, model={"latent_dim": 3})


def results_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {name: run(change(small(root / name))) for name, (_, change) in TYPES.items()}


def test_the_card_says_how_much_kl_there_is_before_the_release(runs: dict[str, Path]) -> None:
    card = card_of(runs["unfolded_ivae_ddpm"])
    assert "prior `released` of family `half_reciprocal`" in card
    assert "KL weight times 0.5 until the prior is released" in card
    assert "entropy of q in the KL times 0.5 from 80 % of the steps on" in card


@pytest.mark.parametrize("name", TYPES)
def test_each_type_has_results_and_a_card_that_names_it(name: str, runs: dict[str, Path]) -> None:
    folder, kind = runs[name], TYPES[name][0]
    results, card = results_of(folder), card_of(folder)
    assert f"\n# {kind}, own 16x16" in card and f"\nModel type {kind}: " in card
    assert "{{" not in card and "\n\n\n" not in card
    has_ivae, has_unet = kind != "DDPM", "DDPM" in kind
    assert (results["model"]["metrics"] is not None) == has_ivae
    sizes = results["model"]["num_parameters"]
    assert (sizes["ivae"] > 0, sizes["unet"] > 0) == (has_ivae, has_unet)
    assert results["supervision_baseline"] is None and results["supervised_probe"] is None
    generation = results["generation"]
    assert set(generation["ddpm"]) == ({"1.0", "4.0"} if has_unet and has_ivae else set())
    decodes = has_ivae and not name.startswith("encoder_by_unet")
    assert (generation["ivae"] is not None) == decodes
    assert all(("mse_ratio" in block) == decodes for block in generation["ddpm"].values())
    drawn = {path.stem for path in (folder / "figures").iterdir()}
    if not has_ivae:
        assert drawn == {"samples"}
    else:
        decoders = {"traversal_ivae"} if decodes else set()
        decoders |= {"traversal_ddpm"} if has_unet else set()
        assert drawn == {"latents", "scatter", "reconstructions"} | decoders
    for figure in drawn:
        assert f"(figures/{figure}.png)" in card


@pytest.mark.parametrize("name", TYPES)
def test_a_saved_pipeline_gives_equal_outputs(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    """What the run wrote, loaded, saved and loaded again: the same latents, decoded and drawn images to the last bit."""
    verify_folder(runs[name] / "pipeline")
    one = IVAEDiffusionPipeline.from_pretrained(runs[name] / "pipeline")
    one.save_pretrained(tmp_path)
    other = IVAEDiffusionPipeline.from_pretrained(tmp_path)
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
    outputs: list[list[np.ndarray]] = []
    for pipeline in (one, other):
        pipeline.set_progress_bar_config(disable=True)
        given: dict[str, Any] = {"batch_size": 3}
        found = []
        if pipeline.ivae is not None:
            latents = pipeline.encode(images)
            found += [latents.numpy(), pipeline.codes(latents).numpy(), pipeline.decode(latents, "np")]
            given = {"latents": latents}
        if pipeline.unet is not None:
            source = torch.Generator().manual_seed(1)
            found.append(pipeline(**given, generator=source, num_inference_steps=2, output_type="np").images)
        outputs.append(found)
    assert len(outputs[0]) == len(outputs[1]) > 0
    for ours, theirs in zip(*outputs, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_losses_are_those_of_the_type(runs: dict[str, Path]) -> None:
    terms = {
        name: set(json.loads((folder / "training.json").read_text())["final_losses"])
        for name, folder in runs.items()
    }
    assert terms["vae"] == terms["ivae"] == terms["cat_vae"] == {"kl", "rec"}
    assert terms["ivae_ddpm"] == terms["cat_vae_ddpm"] == {"kl", "rec", "ddpm"}
    assert terms["encoder_by_unet"] == terms["encoder_by_unet_without_u"] == {"kl", "ddpm"}
    assert terms["ddpm"] == {"ddpm"}


@pytest.mark.parametrize("name", ["cat_vae", "cat_vae_ddpm"])
def test_categorical_codes_are_class_numbers_and_mcc_is_flagged(name: str, runs: dict[str, Path]) -> None:
    results, card = results_of(runs[name]), card_of(runs[name])
    assert results["estimator"]["codes"] == "the number of the likeliest class of each latent"
    assert "without meaning" in results["estimator"]["mcc"]
    assert set(results["model"]["metrics"]["matched_latent"].values()) <= set(range(3))
    assert "MCC, Spearman *" in card and "3 latents of 5 classes each" in card
    assert "mcc" not in card.split("---")[1]


def test_cards_say_how_an_encoder_without_reconstruction_learned(runs: dict[str, Path]) -> None:
    card = card_of(runs["encoder_by_unet"])
    assert "trained by the U-Net's gradient and the KL to the prior alone (lambda_rec = 0)" in card
    card = card_of(runs["encoder_by_unet_without_u"])
    assert "trained by the U-Net's gradient alone (lambda_rec = 0)" in card and "; no KL term; " in card


def test_an_unconditional_pipeline_has_nothing_to_score(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = runs["ddpm"] / "pipeline"
    assert cli(["evaluate", str(pipeline)]) == 2
    assert capsys.readouterr().err == (
        f"error: {pipeline} is an unconditional diffusion model: it has no latents, and there is nothing to score\n"
    )
    assert cli(["evaluate", str(runs["ddpm"])]) == 0


def test_a_categorical_pipeline_is_scored_by_its_classes(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--num_samples", "60", "--metrics", "mig", "--out", str(tmp_path / "scores")]
    assert cli(["evaluate", str(runs["cat_vae"] / "pipeline"), *flags]) == 0
    results = results_of(tmp_path / "scores")
    assert results["codes"].startswith("the number of the likeliest class of each latent")
    assert results["num_latents"] == 3 and results["num_bins"] == 20
    assert "codes: the number of the likeliest class" in capsys.readouterr().out


def test_real_images_are_refused_without_gaussian_latents_and_by_models_of_others(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    real = Path(__file__).parent / "reference" / "shapes3d_reference50.npz"
    for name in ("ddpm", "cat_vae"):
        before = results_of(runs[name])
        assert cli(["evaluate", str(runs[name]), "--real", str(real)]) == 2
        said = f"--real is of 3D Shapes, {runs[name]} was trained on data.name=own"
        assert capsys.readouterr().err == f"error: {said}\n" and results_of(runs[name]) == before
        pipeline = IVAEDiffusionPipeline.from_pretrained(runs[name] / "pipeline")
        with pytest.raises(
            ValueError, match="are read from Gaussian latents, which this model does not have"
        ):
            read_real_images(pipeline, *real_image_file(real))


@pytest.mark.slow
def test_unconditional_draws_are_compared_with_every_rendered_image(tmp_path: Path) -> None:
    config = ddpm_alone(tiny_config(tmp_path / "run", checkpointing_steps=8))
    folder = run(config)
    results, card = results_of(folder), card_of(folder)
    assert results["generation"]["num_images"] == 8
    nearest = results["generation"]["unconditional"]["nearest"]
    assert len(nearest["each"]) == 8 and 1 <= nearest["num_distinct"] <= 8
    assert 0 < nearest["median"] <= nearest["max"] == max(nearest["each"])
    assert nearest["mean"] == pytest.approx(sum(nearest["each"]) / 8, rel=1e-6)
    assert nearest["between_held_out"] > 0
    assert f"mean {nearest['mean']:.4f}, median" in card and "## Distance to the dataset" in card


def test_baseline_and_probe_stand_beside_the_model(tmp_path: Path) -> None:
    config = small(tmp_path / "run")
    config = changed(config, eval=BOTH)
    folder = run(config)
    results = results_of(folder)
    assert results["supervision_baseline"].keys() == results["supervised_probe"].keys()
    assert results["supervision_baseline"]["steps"] == results["supervised_probe"]["steps"] == 4
    scores = [results[name]["metrics"] for name in ("supervision_baseline", "supervised_probe")]
    assert scores[0].keys() == scores[1].keys() == results["model"]["metrics"].keys()
    assert "| metric | model | u alone | difference | labels (probe) |" in card_of(folder)
    # the same command again finds all three trained, and changes nothing
    path = folder.with_suffix(".yaml")
    assert main(["--config", str(path), "--train.resume_from_checkpoint", "latest"]) == 0
    again = results_of(folder)
    assert {**again, "config": None} == {**results, "config": None}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(without_u(tiny_config("run")), id="none"),
        pytest.param(
            changed(tiny_config("run"), aux=AuxConfig(name="uniform_posterior", num_bins=100)), id="bins"
        ),
        pytest.param(
            changed(tiny_config("run"), aux=AuxConfig(name="normal", modulate_mean=True)), id="normal"
        ),
        pytest.param(categorical(tiny_config("run")), id="categorical"),
        pytest.param(
            changed(tiny_config("run"), model=CONDITIONAL, data=OBSERVED, aux=AuxConfig(name="observed")),
            id="observed",
        ),
        pytest.param(encoder_by_unet(without_u(tiny_config("run"))), id="encoder_by_unet"),
    ],
)
def test_a_probe_can_be_built_beside_any_model_with_labels(config: Config) -> None:
    assert has_labels(config)
    probe = supervised_probe(config)
    assert (probe.aux.name, probe.model.prior_type, probe.model.latent_type) == (
        "factors",
        "known",
        "gaussian",
    )
    assert (probe.model.diffusion, probe.loss.rec) == (False, 0.0) and probe.loss.kl > 0
    assert probe.train.output_dir == "run/supervised_probe"


def test_no_probe_without_labels_or_a_latent_for_each_of_them() -> None:
    config = changed(tiny_config("run"), model=CONDITIONAL, data=OBSERVED, aux=AuxConfig(name="observed"))
    assert not has_labels(changed(config, data={"factor_columns": ()}))
    assert not has_labels(changed(config, model={"latent_dim": 1}))
    assert not has_labels(ddpm_alone(tiny_config("run")))


def test_a_frozen_ivae_is_left_as_it_was_and_has_no_baselines(tmp_path: Path, runs: dict[str, Path]) -> None:
    source = runs["ivae"] / "pipeline"
    frozen = changed(
        small(tmp_path / "frozen"),
        model={"pretrained_ivae": str(source), "freeze_ivae": True},
        optim_ivae=OptimConfig(),
        optim_unet={"start_step": 0},
        eval=BOTH,
    )
    folder = run(frozen)
    results, card = results_of(folder), card_of(folder)
    assert results["supervision_baseline"] is None and results["supervised_probe"] is None
    assert results["model"]["metrics"] == results_of(runs["ivae"])["model"]["metrics"]
    assert set(results["training"]["final_losses"]) == {"ddpm"}
    assert f"The iVAE is that of `{source}`, frozen: it was not trained here." in card
    before, after = (
        IVAEDiffusionPipeline.from_pretrained(path).ivae.state_dict()
        for path in (source, folder / "pipeline")
    )
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert torch.equal(tensor, after[key]), key


@pytest.mark.slow
def test_an_ivae_that_is_trained_on_starts_from_the_given_one(tmp_path: Path, runs: dict[str, Path]) -> None:
    source = runs["ivae"] / "pipeline"
    folder = run(changed(small(tmp_path / "run"), model={"pretrained_ivae": str(source)}))
    assert f"The iVAE was trained on from that of `{source}`." in card_of(folder)
    before, after = (
        IVAEDiffusionPipeline.from_pretrained(path).ivae.encoder.state_dict()
        for path in (source, folder / "pipeline")
    )
    # four steps of Adam move each weight by little more than 4 * learning_rate, drawn anew they would be elsewhere
    assert 0.0 < max(float((before[key] - after[key]).abs().max()) for key in before) < 5e-3


def test_an_ivae_that_has_learned_from_what_is_held_out_is_refused(
    tmp_path: Path, runs: dict[str, Path]
) -> None:
    source = runs["ivae"] / "pipeline"
    config = changed(small(tmp_path / "run"), model={"pretrained_ivae": str(source)})
    for part, values, seen in (
        ("train", {"seed": 7}, "train.seed=0, this config has train.seed=7"),
        ("data", {"held_out": 0.25}, "data.held_out=0.3, this config has data.held_out=0.25"),
    ):
        other = changed(config, **{part: values})
        with pytest.raises(ValueError, match=rf"{seen}, and so holds out images that the iVAE has learned"):
            build_objective(other, build_dataset(other))


def test_sources_of_one_set_have_the_same_rows() -> None:
    rendered = DataConfig("shapes3d")
    assert same_rows(rendered, DataConfig("shapes3d", source="file", path="3dshapes.h5"))
    assert not same_rows(rendered, DataConfig("dsprites"))
    assert same_rows(DataConfig("own", path="a"), DataConfig("own", path="a", held_out=0.5))
    assert not same_rows(DataConfig("own", path="a"), DataConfig("own", path="b"))
