"""What a trial is named by, and its record."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from idiff_hf.config import AuxConfig, Config, HubConfig
from idiff_hf.experiments.records import NOT_DECISIVE, load_record, record_to_json, trial_id
from idiff_hf.experiments.trials import run_trial
from idiff_hf.folders import MANIFEST
from tests.experiments.scored import scored
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
    assert trial_id(Config()) == "31f132861c69"


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
    with pytest.raises(ValueError) as error:
        load_record(tmp_path, config)
    # the run may be the work of days: nobody is told to remove it
    assert str(error.value) == (
        f"{path} is of another config than its folder is named by: loss.kl is 1.0 in it, and 0.0001 is asked for: give another --root"
    )
    bare, odd = {**values, "facts": {}}, {**values, "config": {**values["config"], "data": 3}}
    deep = "[" * 100_000
    for text in ("{", "[]", '{"id": 1}', deep, *map(json.dumps, ({**values, "config": None}, bare, odd))):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"trial.json: .*: remove it, and the trial is scored again$"):
            load_record(tmp_path, config)
    path.write_text(json.dumps({**values, "seed": 3}))
    with pytest.raises(
        ValueError, match=r"not the record of a trial: its seed is 3, its train\.seed 0: remove it, and "
    ):
        load_record(tmp_path, config)


def written(root: Path, config: Config) -> str:
    """Leave the record of a finished trial, and return its id."""
    record = scored(config, 0.5)
    (root / record.id).mkdir(parents=True)
    (root / record.id / "trial.json").write_text(json.dumps(record_to_json(record)))
    return record.id


def test_a_pretrained_ivae_whose_folder_is_written_otherwise_finds_its_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ivae").mkdir()
    (tmp_path / "ivae" / MANIFEST).write_text("{}")
    monkeypatch.chdir(tmp_path)

    def on(path: str) -> Config:
        return replace(Config(), model=replace(Config().model, pretrained_ivae=path))

    id = written(tmp_path / "root", on("ivae"))
    for path in ("./ivae", str(tmp_path / "ivae")):
        found = load_record(tmp_path / "root", on(path))
        assert found is not None and found.id == id


def own(path: str, **data: object) -> Config:
    """A VAE of the user's pictures."""
    return replace(
        Config(),
        data=replace(Config().data, name="own", path=path, **data),
        aux=AuxConfig(name="none"),
        model=replace(Config().model, prior_type="standard"),
    )


def test_own_pictures_are_known_by_their_files_and_not_by_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pics"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.JPG", "metadata.csv"):
        (folder / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    before = written(tmp_path / "root", own("pics"))
    for path in ("./pics", "pics/../pics", str(folder)):
        found = load_record(tmp_path / "root", own(path))
        assert found is not None and found.id == before == trial_id(own(path))

    def changed() -> bool:
        nonlocal before
        last, before = before, trial_id(own("pics"))
        return before != last

    # what is not read decides nothing
    for name in ("notes.txt", ".hidden.png", "deep/metadata.csv"):
        (folder / name).write_text("")
    os.utime(folder / "metadata.csv", (1, 1))
    assert not changed()
    (folder / "metadata.csv").write_text("metadata,csv")
    assert changed()
    (folder / "deep" / "c.png").write_text("")
    assert changed()
    (folder / "a.png").rename(folder / "z.png")
    assert changed()
    os.utime(folder / "z.png", (1, 1))
    assert changed()
    (folder / "z.png").write_text("another")
    os.utime(folder / "z.png", (1, 1))
    assert changed()
    (folder / "deep" / "d.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"^cannot read data\.path=pics: .*d\.png"):
        trial_id(own("pics"))


def test_of_a_parquet_file_the_size_and_time_count_and_of_a_hub_id_the_text(tmp_path: Path) -> None:
    file = tmp_path / "set.parquet"
    file.write_text("one")
    before = trial_id(own(str(file)))
    file.rename(tmp_path / "moved.parquet")
    assert trial_id(own(str(tmp_path / "moved.parquet"))) == before
    (tmp_path / "moved.parquet").write_text("two!")
    assert trial_id(own(str(tmp_path / "moved.parquet"))) != before
    assert len({trial_id(own(path)) for path in ("user/name", "user/other", "gone")}) == 3
    # a stream is not looked through
    assert trial_id(own(str(tmp_path), streaming=True)) != trial_id(own(f"{tmp_path}/.", streaming=True))
