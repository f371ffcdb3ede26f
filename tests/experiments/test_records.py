"""What a trial is named by, and its record."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from idiff_hf.config import Config, HubConfig
from idiff_hf.experiments.records import NOT_DECISIVE, load_record, trial_id
from idiff_hf.experiments.trials import run_trial
from idiff_hf.folders import MANIFEST
from tests.experiments.stand_in import that_copies, toy_config
from tests.tiny import tiny_config


def test_the_id_leaves_out_what_does_not_decide_the_result() -> None:
    config = toy_config()
    other = replace(
        config,
        train=replace(
            config.train,
            output_dir="elsewhere",
            resume_from_checkpoint="latest",
            report_to="tensorboard",
            checkpointing_steps=3,
            checkpoints_total_limit=5,
            logging_steps=2,
            validation_steps=7,
        ),
        hub=HubConfig(push_to_hub=True, hub_model_id="user/name"),
    )
    changed = {
        name for name in vars(config.train) if getattr(config.train, name) != getattr(other.train, name)
    }
    assert changed == set(NOT_DECISIVE["train"])
    assert trial_id(other) == trial_id(config)
    assert len(trial_id(config)) == 12


def test_the_id_changes_with_every_other_group() -> None:
    config = toy_config()
    others = {
        "data": replace(config, data=replace(config.data, held_out=0.2)),
        "aux": replace(config, aux=replace(config.aux, num_cuts=2)),
        "model": replace(config, model=replace(config.model, latent_dim=7)),
        "unet": replace(config, unet=replace(config.unet, layers_per_block=2)),
        "scheduler": replace(config, scheduler=replace(config.scheduler, beta_max=10.0)),
        "loss": replace(config, loss=replace(config.loss, kl=2e-4)),
        "cfg": replace(config, cfg=replace(config.cfg, drop_prob=0.3)),
        "optim_ivae": replace(config, optim_ivae=replace(config.optim_ivae, learning_rate=2e-3)),
        "optim_unet": replace(config, optim_unet=replace(config.optim_unet, learning_rate=2e-3)),
        "train": replace(config, train=replace(config.train, seed=1)),
        "eval": replace(config, eval=replace(config.eval, num_samples=65)),
    }
    # of a config that has an autoencoder
    coded = tiny_config("unused")
    coded = replace(
        coded,
        autoencoder=replace(coded.autoencoder, type="kl"),
        optim_autoencoder=replace(coded.optim_autoencoder, stop_step=4),
    )
    others |= {
        "autoencoder": replace(coded, autoencoder=replace(coded.autoencoder, kl=1e-5)),
        "optim_autoencoder": replace(
            coded, optim_autoencoder=replace(coded.optim_autoencoder, learning_rate=1e-3)
        ),
    }
    assert {*others, "hub"} == {field.name for field in fields(Config)}
    ids = {trial_id(other) for other in others.values()}
    assert len(ids) == len(others) and not ids & {trial_id(config), trial_id(coded)}


def test_an_id_is_the_same_on_every_machine() -> None:
    """Files that other machines have written are found by it."""
    assert trial_id(Config()) == "8e72e1b06780"


def test_a_pretrained_ivae_is_known_by_its_files_and_not_by_its_folder(tmp_path: Path) -> None:
    def on(name: str, manifest: str) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / MANIFEST).write_text(manifest)
        config = Config()
        return trial_id(replace(config, model=replace(config.model, pretrained_ivae=str(folder))))

    before = on("here", "{1}")
    assert on("there", "{1}") == before != trial_id(Config())
    # trained again in its place
    assert on("here", "{2}") != before


def test_a_record_of_another_config_or_a_damaged_one_is_refused(finished: Path, tmp_path: Path) -> None:
    config = toy_config()
    record = run_trial(config, tmp_path, launcher=that_copies(finished, tmp_path / "program.py"))
    path = tmp_path / record.id / "trial.json"
    values = json.loads(path.read_text())
    values["config"]["loss"]["kl"] = 1.0
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"trial.json is of another config than its folder is named by"):
        load_record(tmp_path, config)
    bare = {**values, "facts": {}}
    for text in ("{", "[]", '{"id": 1}', json.dumps({**values, "config": None}), json.dumps(bare)):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"trial.json: .*: remove it, and the trial is scored again$"):
            load_record(tmp_path, config)
