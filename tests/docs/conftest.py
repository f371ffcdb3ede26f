"""A folder that looks like the repository, in which the configs of the tutorials are a few steps long."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from idiff_hf.arguments import config_from_yaml, config_to_yaml
from idiff_hf.builders import build_dataset, build_objective, build_pipeline
from idiff_hf.config import Config
from tests.hub.conftest import _hub, _process, client, hub  # noqa: F401
from train_ivae_ddpm import main

ROOT = Path(__file__).parents[2]


def small(config: Config) -> Config:
    """The same networks, data and u, for two steps of each stage and few images to measure."""
    return replace(
        config,
        optim_ivae=replace(config.optim_ivae, stop_step=2, lr_warmup_steps=1),
        optim_unet=replace(config.optim_unet, start_step=2, lr_warmup_steps=1),
        train=replace(config.train, max_train_steps=4, checkpointing_steps=2),
        eval=replace(
            config.eval, num_samples=64, num_generated=8, num_inference_steps=2, supervised_probe=False
        ),
    )


def furnish(folder: Path) -> None:
    """Put there what the tutorials name."""
    for name in ("examples", "tests", "train_ivae_ddpm.py"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "configs").mkdir()
    for name in ("quickstart", "own_images"):
        text = (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
        (folder / "configs" / f"{name}.yaml").write_text(
            config_to_yaml(small(config_from_yaml(text))), encoding="utf-8"
        )


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Such a folder, as the working directory, with no run in it yet."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def _quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart")
    furnish(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["--config", "configs/quickstart.yaml"]) == 0
    return folder / "runs" / "quickstart"


@pytest.fixture
def quickstart(_quickstart: Path, workspace: Path) -> Path:
    """The folder of the quickstart's run, after its few steps, in the workspace."""
    return Path(shutil.copytree(_quickstart, workspace / "runs" / "quickstart"))


@pytest.fixture(scope="session")
def _pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    config = config_from_yaml((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    build_pipeline(config, build_objective(config, build_dataset(config)).eval()).save_pretrained(folder)
    return folder


@pytest.fixture
def pipeline(_pipeline: Path, workspace: Path) -> Path:
    """The workspace, with an untrained pipeline of the quickstart where its run would have put it."""
    shutil.copytree(_pipeline, workspace / "runs" / "quickstart" / "pipeline")
    return workspace
