"""One run at a time writes into a folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from idiff_hf.arguments import config_to_yaml
from idiff_hf.folders import RunLock
from tests.faults import inside
from tests.faults.checkpoints import names, refusal
from tests.faults.figures import Figure
from tests.faults.processes import kill, start, until, wait
from tests.tiny import tiny_config


def test_a_second_lock_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    message = f"{folder} is in use by another run: use another folder"
    with RunLock(folder) as lock:
        assert refusal(RunLock(folder).acquire) == message
        assert refusal(lock.acquire) == message
        assert refusal(RunLock(folder).acquire) == message, "the failed attempts did not lose the lock"
    second = RunLock(folder)
    second.acquire()
    second.release()
    second.release()
    (tmp_path / "file").write_text("")
    assert refusal(RunLock(tmp_path / "file").acquire).startswith(f"cannot lock {tmp_path / 'file'}: ")


def test_a_killed_run_loses_its_lock_even_when_a_worker_lives_on(tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "run.pid"
    process = start(tmp_path / "log", inside.lock_and_fork, folder)
    until(lambda: file.exists() and file.read_text())
    worker = int(file.read_text())
    assert refusal(RunLock(folder).acquire).endswith("is in use by another run: use another folder")
    assert kill(process)
    os.kill(worker, 0)
    with RunLock(folder):
        pass
    os.kill(worker, signal.SIGKILL)


@pytest.mark.faults
@pytest.mark.parametrize("resume", [None, "latest"])
def test_a_second_run_in_one_folder_is_refused(tmp_path: Path, resume: str | None, figure: Figure) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    text = config_to_yaml(tiny_config(folder, resume_from_checkpoint=resume))
    (tmp_path / "config.yaml").write_text(text)
    with RunLock(folder):
        assert wait(start(log, inside.program, "--config", str(tmp_path / "config.yaml"))) == 2
        assert names(folder) == [".lock"]
    assert log.read_text().splitlines()[-1] == f"error: {folder} is in use by another run: use another folder"
    figure("F30", "the second run refused in one line, nothing touched")
