"""Each page of the tutorials is run from top to bottom, word for word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.blocks import blocks, run_bash, run_python
from tests.docs.conftest import ROOT
from tests.hub.conftest import Client, environment
from tests.hub.loopback import TOKEN, Hub

DOCS = ROOT / "docs"


def run_page(name: str, folder: Path, *languages: str) -> str:
    """Run its Python in this process and its Bash in new ones, both in the folder; returns what they wrote."""
    names: dict[str, Any] = {}
    said = []
    for block in blocks((DOCS / name).read_text(encoding="utf-8"), *(languages or ("python", "bash"))):
        if block.language == "python":
            said.append(run_python(block.source, names))
        else:
            said.append(run_bash(block.source, folder))
    return "".join(said)


def test_metrics(workspace: Path) -> None:
    said = run_page("tutorials/metrics.md", workspace)
    assert "2000 rows, 4 latents, 4 factors" in said and "mcc_pearson " in said


def test_what_choosing_a_prior_shows_of_u(workspace: Path) -> None:
    said = run_page("tutorials/priors.md", workspace, "python")
    assert "model.prior_type=standard does not go with aux.name=interval" in said


def test_for_diffusers_users(pipeline: Path) -> None:
    said = run_page("for_diffusers_users.md", pipeline)
    assert "trust_remote_code is refused: IVAEDiffusionPipeline never runs code from a model folder" in said


def test_coming_from(workspace: Path) -> None:
    assert "mig modularity explicitness sap mcc irs infomec" in run_page("coming_from.md", workspace)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quickstart(workspace: Path) -> None:
    said = run_page("tutorials/quickstart.md", workspace)
    assert "estimated hours" in said and "traversal_ddpm.png" in said
    assert Image.open("quickstart.png").size == (4 * 32, 3 * 32)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_own_images(workspace: Path) -> None:
    said = run_page("tutorials/own_images.md", workspace)
    assert "300 images, 1 x 32 x 32" in said
    assert (workspace / "runs" / "pictures" / "README.md").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_choosing_a_prior(workspace: Path) -> None:
    run_page("tutorials/priors.md", workspace, "bash")
    card = (workspace / "runs" / "paper_u" / "README.md").read_text(encoding="utf-8")
    assert "prior `learned`" in card and "Auxiliary variable `u`: `uniform_posterior`" in card


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_gpus(workspace: Path) -> None:
    assert "global_batch_size: 64" in run_page("tutorials/many_gpus.md", workspace)
    card = (workspace / "runs" / "two" / "README.md").read_text(encoding="utf-8")
    assert "4 steps of 32 images on each of 2 process(es)" in card


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_publishing(
    quickstart: Path, hub: Hub, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On a Hub of the loopback interface: each block of Python in a process that talks to no other."""
    env = environment(hub, tmp_path_factory.mktemp("home")) | {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0"}
    text = (DOCS / "tutorials/publishing.md").read_text(encoding="utf-8")
    so_far = ""
    for block in blocks(text, "python", "bash"):
        if block.language == "bash":
            said = run_bash(block.source, client.folder, env)
        else:
            so_far += block.source
            code, output = client(so_far)
            assert code == 0, output
    assert "500 rows, 10 latents, 6 factors" in said
    assert {"README.md", "results.json", "unet/config.json"} <= hub.repos["user/name"].files().keys()
