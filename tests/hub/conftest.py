"""A Hub, and a client that talks to no other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from idiff_hf.arguments import config_to_yaml
from idiff_hf.folders import commit_folder
from idiff_hf.hub import build_card
from tests.hub.loopback import TOKEN, Hub, Repo
from tests.pipelines.pipes import one
from tests.test_hub import _results
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]


@dataclass
class Client:
    """Runs Python in a fresh child of a process with the imports; each test has a cache and a working directory of its own."""

    process: subprocess.Popen[str]
    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def __call__(self, source: str, **env: str) -> tuple[int, str]:
        """Exit code and output; `env` adds to the environment, in which HF_TOKEN is set unless it is empty."""
        values = {"HF_HUB_CACHE": str(self.folder / "cache"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", **env}
        log = self.folder / "output.txt"
        job = {"source": source, "env": values, "log": str(log), "cwd": str(self.folder)}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()), log.read_text(encoding="utf-8", errors="replace")

    def idiff(self, *arguments: object, **env: str) -> tuple[int, str]:
        """The same of a command."""
        source = f"import sys; from idiff_hf.cli import main; sys.exit(main({[str(a) for a in arguments]!r}))"
        return self(source, **env)


@pytest.fixture(scope="session")
def _hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.server.shutdown()


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """Of a process that knows this Hub only."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {
        **kept,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="session")
def _process(_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hub.warm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(_hub, tmp_path_factory.mktemp("home")),
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    assert process.wait(30) == 0


@pytest.fixture
def hub(_hub: Hub) -> Hub:
    """Empty, and well."""
    _hub.repos.clear()
    _hub.log.clear()
    _hub.faults.clear()
    _hub.sizes.clear()
    _hub.objects.clear()
    return _hub


@pytest.fixture
def client(_process: subprocess.Popen[str], tmp_path: Path) -> Client:
    """With an empty cache."""
    return Client(_process, tmp_path)


@pytest.fixture
def repo(hub: Hub, saved: Path) -> Callable[..., Repo]:
    """Puts a repository on the Hub, by its name and what it holds beside the saved pipeline."""

    def put(name: str = "user/model", **extra: bytes) -> Repo:
        files = {p.relative_to(saved).as_posix(): p.read_bytes() for p in saved.rglob("*") if p.is_file()}
        hub.repos[name] = Repo()
        hub.repos[name].add({**files, **extra}, "by hand")
        return hub.repos[name]

    return put


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline as training exports it, in `pipeline/` of a folder."""
    folder = tmp_path_factory.mktemp("run") / "pipeline"
    with commit_folder(folder, metadata={"step": 8}) as staged:
        one("additive").save_pretrained(staged)
        (staged / "config.yaml").write_text(config_to_yaml(tiny_config("run")), encoding="utf-8")
    return folder


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """The folder of a finished run of 8 steps, with what a run leaves beside its results."""
    folder = tmp_path / "runs" / "tiny"
    shutil.copytree(saved, folder / "pipeline")
    results = _results()
    results["config"] = tiny_config("run").to_dict()
    results["data"] |= {"image_size": 16, "channels": 3}
    results["training"]["steps"] = 8
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "figures").mkdir()
    for name in re.findall(r"figures/\w+\.png", build_card(results)):
        (folder / name).write_bytes(b"\x89PNG " + name.encode())
    for name in ("training.json", "metrics.jsonl", "README.md", "notes.txt", "figures/private.png", ".env"):
        (folder / name).write_text("of this machine", encoding="utf-8")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "model.safetensors").write_bytes(b"0")
    (folder / "pipeline" / ".DS_Store").write_bytes(b"dropped by a file browser")
    return folder
