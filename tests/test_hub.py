"""The card: every figure in it comes from results.json, and what was not measured is said."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from idiff_hf import Config, IVAEDiffusionPipeline, IVAEModel
from idiff_hf.config import AuxConfig, ModelConfig
from idiff_hf.hub import build_card, write_card

FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")


def _each(start: float) -> dict[str, float]:
    return {name: start + 0.011 * k for k, name in enumerate(FACTORS)}


def _metrics(start: float) -> dict[str, Any]:
    return {
        "mig": start,
        "mig_per_factor": _each(start - 0.05),
        "mcc_pearson": start + 0.0313,
        "mcc_spearman": start + 0.0427,
        "mcc_spearman_per_factor": _each(start + 0.017),
        "modularity": start - 0.213,
        "modularity_active_dims": start - 0.117,
        "matched_latent": {name: (3 * k) % 10 for k, name in enumerate(FACTORS)},
    }


def _results() -> dict[str, Any]:
    return {
        "schema": 1,
        "config": Config().to_dict(),
        "data": {
            "name": "shapes3d",
            "source": "rendered",
            "image_size": 32,
            "held_out_fraction": 0.1,
            "num_held_out": 48000,
            "num_samples": 10000,
        },
        "supervision": {
            "aux": "interval",
            "label_to_z": "endpoints",
            "statement": "Weakly supervised by u = interval: for each factor, the side of a random cut.",
        },
        "estimator": {"num_bins": 20, "mig": "per H(factor)", "mcc": "Hungarian assignment"},
        "model": {"metrics": _metrics(0.9012), "num_parameters": {"ivae": 712345, "unet": 4512345}},
        "supervision_baseline": {"metrics": _metrics(0.8543), "steps": 3000},
        "generation": {
            "num_images": 96,
            "num_inference_steps": 20,
            "solver": "DPMSolverMultistepScheduler",
            "rendered": {"readback": _each(0.931)},
            "ivae": {"mse": 0.01934, "readback": _each(0.8201)},
            "ddpm": {
                "4.0": {"mse": 0.08821, "mse_ratio": 4.5610, "readback": _each(0.6402)},
                "1.0": {"mse": 0.02417, "mse_ratio": 1.2497, "readback": _each(0.7303)},
            },
        },
        "training": {
            "seed": 7,
            "steps": 6000,
            "seconds": 251.4,
            "images_per_second": 1287.3,
            "num_processes": 1,
            "final_losses": {"kl": 12.3456, "rec": 0.0193, "ddpm": 0.0311},
        },
        "hardware": {"device": "cpu", "name": "AMD EPYC", "cores": 2, "memory_gib": 24},
        "versions": {"idiff_hf": "0.1.0", "torch": "2.13.0"},
        "command": "accelerate launch train_ivae_ddpm.py --config configs/quickstart.yaml",
    }


def _without_unet() -> dict[str, Any]:
    results = _results()
    results["config"]["model"]["diffusion"] = False
    results["generation"]["ddpm"] = {}
    results["model"]["num_parameters"]["unet"] = 0
    results["generation"]["solver"] = None
    del results["training"]["final_losses"]["ddpm"]
    return results


def _unconditional() -> dict[str, Any]:
    results = _results()
    results["config"] = Config(
        aux=AuxConfig(name="none"), model=ModelConfig(ivae=False, prior_type="standard")
    ).to_dict()
    results["supervision"] = {"aux": "none", "label_to_z": "endpoints", "statement": "Unsupervised."}
    results["model"] = {"metrics": None, "num_parameters": {"ivae": 0, "unet": 4512345}}
    results["supervision_baseline"] = None
    results["data"]["num_samples"] = 0
    nearest = {"mean": 0.0123, "median": 0.0111, "max": 0.0456, "num_distinct": 91, "between_held_out": 0.5}
    results["generation"] |= {
        "rendered": None,
        "ivae": None,
        "ddpm": {},
        "unconditional": {"nearest": {**nearest, "each": [0.0123] * 96}},
    }
    return results


def _without_decoder() -> dict[str, Any]:
    """An encoder that was trained by the U-Net's gradient."""
    results = _results()
    results["config"]["loss"] |= {"rec": 0.0, "latent_grad_scale": 1.0}
    results["generation"]["ivae"] = None
    for block in results["generation"]["ddpm"].values():
        del block["mse_ratio"]
    return results


def _tables(card: str) -> list[list[list[str]]]:
    blocks = re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE)
    return [[[c.strip() for c in line.strip("|").split("|")] for line in b.splitlines()] for b in blocks]


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value


def test_metrics_table_puts_the_model_beside_what_u_alone_gives() -> None:
    table = _tables(build_card(_results()))[0]
    assert table[0] == ["metric", "model", "u alone", "difference"]
    assert table[2:] == [
        ["MIG", "0.901", "0.854", "+0.047"],
        ["MCC, Spearman", "0.944", "0.897", "+0.047"],
        ["MCC, Pearson", "0.932", "0.886", "+0.047"],
        ["Modularity, all latents", "0.688", "0.641", "+0.047"],
        ["Modularity, active latents", "0.784", "0.737", "+0.047"],
    ]


def test_factor_table() -> None:
    table = _tables(build_card(_results()))[1]
    assert table[0] == [
        "factor",
        "MIG",
        "latent",
        "Spearman",
        "MIG, u alone",
        "read back, rendered",
        "read back, iVAE",
        "read back, DDPM, guidance 1",
        "read back, DDPM, guidance 4",
    ]
    assert [row[0] for row in table[2:]] == list(FACTORS)
    assert table[5] == ["scale", "0.884", "9", "0.951", "0.837", "0.964", "0.853", "0.763", "0.673"]


def test_error_table() -> None:
    assert _tables(build_card(_results()))[2][2:] == [
        ["iVAE decoder", "0.0193", "1"],
        ["DDPM, guidance 1", "0.0242", "1.25"],
        ["DDPM, guidance 4", "0.0882", "4.56"],
    ]


def test_every_number_in_a_table_is_in_the_results() -> None:
    results = _results()
    known = {f"{value:{form}}" for value in _numbers(results) for form in (".2f", ".3f", ".4f", "g")}
    for table in _tables(build_card(results)):
        for row in table[2:]:
            assert {cell for cell in row[1:] if not cell.startswith("+")} <= known | {"1"}


def test_card_states_what_a_reader_needs() -> None:
    results = _results()
    card = build_card(results)
    for text in (
        results["supervision"]["statement"],
        results["command"],
        "seeds: 7), so there is no spread",
        "for 3000 steps",
        "10000 of the 48000 held-out factor combinations (10 % of all",
        "`num_bins` 20; `mig` per H(factor); `mcc` Hungarian assignment.",
        "rendered by `idiff_hf`: these are not the images of the original file",
        "96 held-out images",
        "`DPMSolverMultistepScheduler`, 20 steps",
        "ivae 712,345 parameters, unet 4,512,345 parameters.",
        "6000 steps of 32 images on each of 1 process(es), seed 7",
        "4.2 minutes, 1287 images/s",
        "cpu, AMD EPYC, 2 cores, 24 GiB",
        "kl 12.35, rec 0.0193, ddpm 0.0311",
        "idiff_hf 0.1.0, torch 2.13.0",
        "figures/reconstructions.png",
        "figures/traversal_ivae.png",
        "figures/traversal_ddpm.png",
        "figures/latents.png",
        "Not measured: real images.",
        "Apache-2.0",
    ):
        assert text in card
    assert "{{" not in card and "{%" not in card and "\n\n\n" not in card and not card.endswith("\n\n")


def test_configuration_in_the_card_is_the_runs() -> None:
    block = re.search(r"```json\n(.*?)```", build_card(_results()), flags=re.DOTALL)
    assert block is not None and json.loads(block[1]) == Config().to_dict()


def test_metadata_and_model_index_round_trip() -> None:
    data: Any = ModelCard(build_card(_results())).data
    assert (data.library_name, data.license, data.pipeline_tag) == (
        "diffusers",
        "apache-2.0",
        "image-to-image",
    )
    assert data.model_name == "iVAE+DDPM, shapes3d 32x32, u = interval, seed 7"
    assert {"idiff_hf", "disentanglement", "shapes3d"} <= set(data.tags)
    entries = [
        (r.metric_type, r.metric_value, (r.metric_args or {}).get("guidance_scale"))
        for r in data.eval_results
    ]
    metrics = _metrics(0.9012)
    names = ("mig", "mcc_spearman", "mcc_pearson", "modularity", "modularity_active_dims")
    assert entries == [
        *((name, metrics[name], None) for name in names),
        ("mse", 0.01934, None),
        ("mse", 0.02417, 1.0),
        ("mse", 0.08821, 4.0),
    ]
    assert {(r.dataset_type, r.dataset_name, r.dataset_split) for r in data.eval_results} == {
        ("shapes3d", "shapes3d, rendered, 32x32", "held-out")
    }


def test_without_a_unet_its_rows_are_left_out_and_that_is_said() -> None:
    card = build_card(_without_unet())
    assert "No U-Net was trained" in card and "Not measured: images of a diffusion model." in card
    text = card.split("<details>")[0]
    assert "traversal_ddpm" not in text and "guidance" not in text and "unet" not in text
    assert _tables(card)[2][2:] == [["iVAE decoder", "0.0193", "1"]]
    data: Any = ModelCard(card).data
    assert len(data.eval_results) == 6


def test_without_a_baseline_that_is_said() -> None:
    results = _results()
    results["supervision_baseline"] = None
    card = build_card(results)
    assert "The supervision baseline was not trained" in card
    assert _tables(card)[0][0] == ["metric", "model"] and "MIG, u alone" not in card


def test_a_vae_is_not_called_identifiable_or_supervised() -> None:
    results = _results()
    results["supervision_baseline"] = None
    results["supervision"] = {"aux": "none", "label_to_z": "endpoints", "statement": "Unsupervised."}
    results["config"]["aux"]["name"] = "none"
    results["config"]["model"]["prior_type"] = "standard"
    card = build_card(results)
    assert "# VAE+DDPM," in card and "An identifiable" not in card and "Weakly" not in card
    assert "There is no auxiliary variable, so there is no supervision baseline." in card


def test_the_supervised_probe_has_a_column_and_is_explained() -> None:
    results = _results()
    results["supervised_probe"] = {"metrics": _metrics(0.9321), "steps": 3000}
    card = build_card(results)
    tables = _tables(card)
    assert tables[0][0] == ["metric", "model", "u alone", "difference", "labels (probe)"]
    assert tables[0][2] == ["MIG", "0.901", "0.854", "+0.047", "0.932"]
    assert tables[1][0][4:6] == ["MIG, u alone", "MIG, labels (probe)"] and tables[1][2][5] == "0.882"
    assert "as a regression on the labels, for 3000 steps" in card and "an upper mark" in card
    assert "no supervised probe was trained" not in card
    results["supervision_baseline"] = None
    assert _tables(build_card(results))[0][0] == ["metric", "model", "labels (probe)"]


@pytest.mark.parametrize("probe", ["absent", None])
def test_without_a_supervised_probe_that_is_said(probe: str | None) -> None:
    """Results of earlier versions do not have the key."""
    results = _results()
    if probe is None:
        results["supervised_probe"] = None
    card = build_card(results)
    assert "- Not measured: what labels give, for no supervised probe was trained." in card
    assert "labels (probe)" not in card


def test_a_model_without_latents_is_not_scored_and_its_distances_are() -> None:
    card = build_card(_unconditional())
    assert "# DDPM, shapes3d 32x32, seed 7\n" in card
    for text in (
        "A variance-preserving diffusion model, unconditional (DDPM): it draws images and has no latents.",
        "Model type DDPM: the U-Net predicts `epsilon`;\nunet 4,512,345 parameters.",
        "**Not measured: the model has no latents.**",
        "![Samples](figures/samples.png)",
        "mean 0.0123, median 0.0111, largest 0.0456.",
        "91 different images of the dataset are the nearest",
        "images = pipe(batch_size=8).images",
        "Not measured: real images.",
    ):
        assert text in card
    text = card.split("<details>")[0]
    for stray in (
        "MIG",
        "traversal",
        "Histogram",
        "iVAE",
        "encode",
        "Auxiliary",
        "probe",
        "backbone",
        "No U-Net",
    ):
        assert stray not in text, stray
    assert not _tables(card) and "\n\n\n" not in card
    data: Any = ModelCard(card).data
    assert data.pipeline_tag == "unconditional-image-generation" and "identifiable-vae" not in data.tags
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [("nearest_mse", 0.0123)]


def test_a_model_without_latents_of_images_that_are_no_grid() -> None:
    results = _unconditional()
    results["generation"]["unconditional"]["nearest"] = None
    card = build_card(results)
    assert "Distance to the dataset" not in card and not ModelCard(card).data.get("model-index")
    assert "- Not measured: how diverse the images are, or how natural." in card


def test_an_untrained_decoder_is_not_shown() -> None:
    card = build_card(_without_decoder())
    assert (
        "The encoder was trained by the U-Net's gradient and the KL to the prior alone (lambda_rec = 0)."
        in card
    )
    assert "The iVAE's decoder is untrained, and nothing below is drawn by it." in card
    text = card.split("<details>")[0]
    assert "iVAE decoder" not in text and "traversal_ivae" not in text and "traversal_ddpm" in text
    tables = _tables(card)
    assert "read back, iVAE" not in tables[1][0]
    assert tables[2] == [
        ["images from", "squared error"],
        ["---", "---:"],
        ["DDPM, guidance 1", "0.0242"],
        ["DDPM, guidance 4", "0.0882"],
    ]
    assert "images = pipe(latents=latents, guidance_scale=1.0).images" in card and "\n\n\n" not in card


def test_nothing_that_draws_has_no_pictures() -> None:
    """The KL alone, which is what a supervision baseline is."""
    results = _without_unet()
    results["config"]["loss"]["rec"] = 0.0
    results["generation"] = None
    card = build_card(results)
    assert "**No U-Net was trained, and nothing draws images.**" in card
    assert "The encoder was trained by the KL to the prior alone (lambda_rec = 0)." in card
    assert "reconstructions" not in card and "figures/latents.png" in card and "\n\n\n" not in card
    assert "latents = pipe.encode(images)\n```" in card


def test_mcc_of_class_numbers_is_flagged_and_not_published() -> None:
    results = _results()
    results["config"]["model"] |= {"latent_type": "categorical", "prior_type": "learned"}
    results["model"]["metrics"]["matched_latent"]["shape"] = -1
    card = build_card(results)
    assert "# CatVAE+DDPM, shapes3d 32x32, u = interval, seed 7\n" in card
    assert (
        "A categorical identifiable variational autoencoder (CatVAE) with 10 latents of 10 classes each"
        in card
    )
    tables = _tables(card)
    assert tables[0][3:5] == [
        ["MCC, Spearman *", "0.944", "0.897", ""],
        ["MCC, Pearson *", "0.932", "0.886", ""],
    ]
    assert "\\* Without meaning: a code is the number of a class, classes have no order" in card
    assert tables[1][0][:4] == ["factor", "MIG", "latent", "MIG, u alone"] and tables[1][6][2] == "none"
    assert "Likeliest classes of 10000" in card and "matched to the factor by mutual information" in card
    data: Any = ModelCard(card).data
    assert {r.metric_type for r in data.eval_results} == {
        "mig",
        "modularity",
        "modularity_active_dims",
        "mse",
    }


def test_a_frozen_ivae_was_not_trained_here() -> None:
    results = _results()
    results["supervision_baseline"] = None
    results["config"]["model"] |= {"pretrained_ivae": "runs/one/pipeline", "freeze_ivae": True}
    card = build_card(results)
    assert "The iVAE is that of `runs/one/pipeline`, frozen: it was not trained here." in card
    assert (
        "nothing to train a baseline beside" in card
        and "The supervision baseline was not trained" not in card
    )
    results["config"]["model"]["freeze_ivae"] = False
    assert "The iVAE was trained on from that of `runs/one/pipeline`." in build_card(results)


def test_what_is_not_plain_is_named() -> None:
    results = _results()
    results["config"]["model"]["prior_family"] = "uniform"
    results["config"]["unet"] |= {"conditioning": "tokens", "prediction_type": "sample"}
    results["config"]["cfg"]["null_condition"] = "learned"
    loss = results["config"]["loss"]
    loss |= {"kl": 0.001, "kl_reverse": 0.01, "free_bits": 0.25, "weighting": "min_snr"}
    loss |= {"timestep_law": "logit_normal", "timestep_std": 1.5}
    assert (
        "Model type iVAE+DDPM: backbone `cnn`; prior `learned` of family `uniform`; condition `tokens`, null condition `learned`; "
        "KL in both directions, weights 0.001 and 0.01; 0.25 free nats a latent; the U-Net predicts `sample`; weighting `min_snr` (5); "
        "time steps logit-normal, mean 0, deviation 1.5;\n"
    ) in build_card(results)
    loss |= {"kl_reverse": 0.0, "kl_balance": 0.8, "kl_anneal_factor": 0.0, "kl_anneal_shape": "linear"}
    loss |= {
        "kl_anneal_cycles": 4,
        "free_bits": 0.0,
        "weighting": "likelihood",
        "timestep_law": "beta",
        "timestep_beta": 0.5,
    }
    assert (
        "KL balanced by stop-gradients, 0.8 of its gradient to the prior; KL weight annealed from 0 times its value, linear, 4 times; "
        "the U-Net predicts `sample`; weighting `likelihood`; time steps of Beta(1, 0.5);\n"
    ) in build_card(results)


def test_latent_diffusion_is_named() -> None:
    results = _results()
    results["config"]["autoencoder"] |= {"type": "vq", "latent_channels": 3}
    assert "; diffusion in the 3-channel latents of a `vq` autoencoder; the U-Net predicts" in build_card(
        results
    )


def test_real_images_are_shown_where_measured() -> None:
    results = _results()
    results["real_images"] = {"num_images": 50, "exact": _each(0.41), "within_one": _each(0.63)}
    card = build_card(results)
    assert "50 images of the original dataset" in card and "Not measured: real images" not in card
    assert _tables(card)[3][2] == ["floor_hue", "0.410", "0.630"]


def test_more_factors_than_latents_have_no_probe_and_the_card_says_so() -> None:
    results = _results()
    results["config"]["model"]["latent_dim"] = 4
    # a dataset with a grid of factors can have a probe of fewer latents: it was not asked for
    assert "no supervised probe was trained." in build_card(results)
    results["config"]["data"]["factor_columns"] = ["a", "b", "c", "d"]
    assert "no supervised probe was trained." in build_card(results)
    results["config"]["data"]["factor_columns"].append("e")
    assert "no supervised probe was trained, as there are 5 factors for 4 latents." in build_card(results)


@pytest.mark.parametrize("content", ["[]", "null", "3"])
def test_results_that_are_no_object_are_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"^results: must be an object, got .*: evaluate the run again$"):
        write_card(tmp_path)
    (tmp_path / "results.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"results\.json is no JSON \("):
        write_card(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data.num_samples", r"^results: data\.num_samples is missing: evaluate the run again$"),
        ("command", r"^results: command is missing"),
        ("supervision_baseline", r"^results: supervision_baseline is missing"),
        ("supervision_baseline.metrics.mig", r"^results: supervision_baseline\.metrics\.mig is missing"),
        ("model.metrics.mig_per_factor", r"^results: model\.metrics\.mig_per_factor is missing"),
        ("model.metrics.matched_latent.shape", r"^results: model\.metrics\.matched_latent\.shape is missing"),
        ("generation.ddpm.4.0.mse_ratio", r"^results: generation\.ddpm\.4\.0\.mse_ratio is missing"),
        ("generation.ddpm.4.0.readback", r"^results: generation\.ddpm\.4\.0\.readback is missing"),
        ("config.loss.rec", r"^results: config\.loss\.rec is missing"),
        ("schema", r"^results: schema must be 1, got None: evaluate the run again$"),
    ],
)
def test_a_missing_field_is_named(path: str, message: str) -> None:
    results = _results()
    *parents, leaf = path.replace("4.0", "4_0").split(".")
    block = results
    for key in parents:
        block = block[key.replace("_0", ".0") if key == "4_0" else key]
    del block[leaf]
    with pytest.raises(ValueError, match=message):
        build_card(results)


def test_a_value_of_the_wrong_type_is_named() -> None:
    for section, key, value, message in (
        ("training", "steps", 1.5, "training.steps must be an integer, got 1.5"),
        ("training", "seconds", float("nan"), "training.seconds must be a finite number, got nan"),
        ("hardware", "name", None, "hardware.name must be a text, got None"),
        ("model", "metrics", [], "model.metrics must be an object, got []"),
        (
            "training",
            "final_losses",
            {"kl": "x"},
            "training.final_losses.kl must be a finite number, got 'x'",
        ),
        ("training", "final_losses", {"kl": []}, "training.final_losses.kl must be a finite number, got []"),
        (
            "training",
            "data_wait_fraction",
            None,
            "training.data_wait_fraction must be a finite number, got None",
        ),
        ("config", "data", None, "config.data must be an object, got None"),
        ("config", "data", "x", "config.data must be an object, got 'x'"),
        ("config", "data", {"factor_columns": None}, "config.data.factor_columns must be a list, got None"),
        ("config", "data", {"factor_columns": "x"}, "config.data.factor_columns must be a list, got 'x'"),
    ):
        results = copy.deepcopy(_results())
        results[section][key] = value
        with pytest.raises(ValueError, match=re.escape(message)):
            build_card(results)


def test_distances_of_the_wrong_type_are_named() -> None:
    results = _unconditional()
    results["generation"]["unconditional"]["nearest"]["mean"] = "small"
    with pytest.raises(
        ValueError, match=r"generation\.unconditional\.nearest\.mean must be a finite number, got 'small'"
    ):
        build_card(results)


def test_write_card_reads_the_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(_results()), encoding="utf-8")
    assert write_card(tmp_path) == tmp_path / "README.md"
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == build_card(_results())


def test_write_card_keeps_the_old_card_on_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^no results\.json in .*: evaluate the run first$"):
        write_card(tmp_path)
    (tmp_path / "README.md").write_text("old", encoding="utf-8")
    (tmp_path / "results.json").write_text('{"schema": 1', encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json is no JSON"):
        write_card(tmp_path)
    (tmp_path / "results.json").write_text('{"schema": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"^results: model is missing"):
        write_card(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "old"


def test_snippet_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    IVAEDiffusionPipeline(ivae=IVAEModel(image_size=32, latent_dim=6)).save_pretrained(tmp_path / "pipeline")
    snippet = re.search(r"```python\n(.*?)```", build_card(_without_unet()), flags=re.DOTALL)
    assert snippet is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet[1], names)  # noqa: S102  the snippet of our own template
    assert names["latents"].shape == (1, 6) and names["images"][0].size == (32, 32)


CARDS = sorted((Path(__file__).parents[1] / "model_cards").iterdir())


@pytest.mark.parametrize("folder", CARDS, ids=lambda path: path.name)
def test_a_committed_card_is_what_its_results_give(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == build_card(results)
    for name in re.findall(r"\((figures/[a-z_]+\.png)\)", card):
        assert (folder / name).is_file(), name
