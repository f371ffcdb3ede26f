"""One run that several tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from idiff_hf.arguments import config_to_yaml
from tests.experiments.stand_in import toy_config
from tests.faults.runs import in_folder
from train_ivae_ddpm import main


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `toy_config`."""
    folder = tmp_path_factory.mktemp("finished")
    path = folder.with_suffix(".yaml")
    path.write_text(config_to_yaml(in_folder(toy_config(), folder)))
    assert main(["--config", str(path)]) == 0
    return folder
