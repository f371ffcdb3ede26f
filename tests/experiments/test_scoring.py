"""Scores of a factor whose sign u does not tell, and the ELBO."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from idiff_hf.arguments import config_to_yaml
from idiff_hf.builders import build_dataset, build_ivae, build_objective, build_pipeline
from idiff_hf.config import AuxConfig, Config, DataConfig, LossConfig, ModelConfig, OptimConfig
from idiff_hf.data import label_to_z, to_float
from idiff_hf.experiments.scoring import elbo, held_out_scores, unsigned_scores
from idiff_hf.metrics import mcc
from tests.experiments.stand_in import toy_config


def test_unsigned_scores_are_those_of_distances_from_the_middle() -> None:
    generator = np.random.default_rng(0)
    z = generator.choice([-0.5, -0.25, 0.0, 0.25, 0.5], size=(400, 2))
    # the first latent has the second factor folded, the second the first with the sign of each image drawn anew
    codes = np.column_stack([np.abs(z[:, 1]), z[:, 0] * generator.choice([-1.0, 1.0], size=400)])
    found = unsigned_scores(codes, z, ("one", "other"))
    assert found["mcc_spearman_unsigned"] == pytest.approx(1.0)
    assert found["mcc_spearman_unsigned_per_factor"] == pytest.approx({"one": 1.0, "other": 1.0})
    assert mcc(codes, z, correlation="spearman").mean < 0.2


@pytest.mark.parametrize("size", (3, 6, 10, 15, 40))
def test_mirrored_labels_are_equally_far_from_the_middle(size: int) -> None:
    labels = torch.arange(size)[:, None]
    codes = (2 * labels - (size - 1)).double().numpy()
    found = unsigned_scores(codes, label_to_z(labels, [size], "centers").numpy(), ("one",))
    assert found["mcc_spearman_unsigned"] == pytest.approx(1.0, abs=1e-12)


def test_a_factor_of_two_values_has_no_unsigned_score() -> None:
    z = np.array([[-0.5, 0.0], [0.5, 0.5], [-0.5, -0.5], [0.5, 0.0]])
    found = unsigned_scores(z, z, ("two", "three"))
    assert found["mcc_spearman_unsigned_per_factor"] == pytest.approx({"three": 1.0})
    assert unsigned_scores(z[:, :1], z[:, :1], ("two",)) == {}


def test_the_elbo_of_a_vae_is_its_closed_form_and_a_mean_over_many_samples() -> None:
    config = toy_config()
    config = replace(
        config,
        aux=AuxConfig(name="none"),
        model=replace(config.model, prior_type="standard"),
        loss=replace(config.loss, rec=0.3, kl=0.01),
    )
    dataset, rows = build_dataset(config), torch.arange(0, 480_000, 1200)
    torch.manual_seed(0)
    ivae = build_ivae(config, dataset)
    found = elbo(config, ivae, dataset, rows)

    image = to_float(dataset.images(rows))
    with torch.no_grad():
        q = ivae.eval().encode(image).latent_dist
        mean, std = q.mode(), q.std
        # KL of N(m, s^2) from N(0, 1): (m^2 + s^2 - 1) / 2 - log s
        kl = ((mean.square() + std.square() - 1.0) / 2.0 - std.log()).sum(dim=1).mean()
        errors = [
            (ivae.decode(mean + std * torch.randn_like(mean)).sample - image).square().mean()
            for _ in range(20)
        ]
    assert found == pytest.approx(-float(kl + 30.0 * torch.stack(errors).mean()), rel=2e-3)


def test_the_elbo_is_one_of_the_ratio_of_the_weights_and_takes_u() -> None:
    config = toy_config()
    dataset, rows = build_dataset(config), torch.arange(0, 480_000, 2400)
    ivae = build_ivae(config, dataset)
    found = elbo(config, ivae, dataset, rows)
    halved = replace(config, loss=replace(config.loss, rec=config.loss.rec / 2, kl=config.loss.kl / 2))
    assert elbo(halved, ivae, dataset, rows) == pytest.approx(found, rel=1e-6)
    # u is drawn by the seed
    other = replace(config, train=replace(config.train, seed=1))
    assert elbo(other, ivae, dataset, rows) != found


def saved(config: Config, folder: Path) -> Path:
    """The folder of a run that was not trained."""
    pipeline = build_pipeline(config, build_objective(config, build_dataset(config)))
    pipeline.save_pretrained(folder / "pipeline")
    (folder / "pipeline" / "config.yaml").write_text(config_to_yaml(config))
    return folder


def test_images_without_known_factors_have_the_elbo_alone(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (400, 16, 16, 3), dtype=np.uint8)
    folder = tmp_path / "images"
    folder.mkdir()
    np.save(folder / "images.npy", images)
    config = toy_config()
    config = replace(
        config,
        data=DataConfig(name="own", path=str(folder), image_size=16, held_out=0.5),
        aux=AuxConfig(name="none"),
        model=replace(config.model, prior_type="standard"),
        eval=replace(config.eval, num_samples=1000),
    )
    found = held_out_scores(saved(config, tmp_path / "run"))
    assert found.keys() == {"values", "num_samples", "estimators", "undefined"}
    assert found["values"].keys() == {"elbo"} and found["values"]["elbo"] < 0
    assert found["num_samples"] == 200
    assert json.loads(json.dumps(found)) == found


def test_no_elbo_without_both_terms(tmp_path: Path) -> None:
    config = toy_config()
    regression = replace(config, loss=replace(config.loss, rec=0.0))
    assert "elbo" not in held_out_scores(saved(regression, tmp_path / "regression"))["values"]
    alone = replace(
        config,
        model=ModelConfig(ivae=False, prior_type="standard"),
        aux=AuxConfig("none"),
        optim_ivae=OptimConfig(),
        loss=LossConfig(),
    )
    assert held_out_scores(saved(alone, tmp_path / "alone")) == {}
