"""Full, read-only and vanished disks, and what does not belong: one clear line, and earlier checkpoints whole."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from idiff_hf.arguments import config_to_yaml
from idiff_hf.checkpoint import latest_checkpoint
from idiff_hf.config import Config
from idiff_hf.folders import CheckpointError, RunLock, clean_leftovers, refuse_unwritable, verify_folder
from tests.faults import inside
from tests.faults.checkpoints import assert_is_step, commit, names, refusal, steps, visible
from tests.faults.figures import Figure
from tests.faults.processes import start, until, wait
from tests.faults.runs import assert_same_end, in_folder
from tests.tiny import tiny_config

# A save


@pytest.mark.faults
@pytest.mark.parametrize("step", [3, 2])
def test_full_disk_at_each_operation_of_a_save(tmp_path: Path, step: int, figure: Figure) -> None:
    """A new step, and one that is saved again."""
    for operations in range(100):
        root, log = tmp_path / f"root{operations}", tmp_path / "log"
        commit(root, 1)
        commit(root, 2)
        ended = wait(start(log, inside.save_until, root, step, None, operations, "full"))
        if ended == 0:
            break
        assert log.read_text().startswith(
            f"cannot write {root / f'step-{step:08d}'}: [Errno 28] No space left"
        )
        assert log.read_text().count("\n") == 1
        assert all(verify_folder(root / name) for name in visible(root))
        assert not any(name.startswith(".tmp-") for name in names(root))
        clean_leftovers(root)
        assert names(root) in (steps(1, 2), steps(1, 2, step) if step == 3 else steps(1, 2))
        assert_is_step(root / "step-00000002", 2)
        figure(
            "F8",
            "writes of a save that found the disk full: one line, no checkpoint lost, nothing half-written",
        )
    else:
        pytest.fail("the save never ended")
    assert operations > 12


def test_full_disk_leaves_earlier_checkpoints_whole(small_disk: Path) -> None:
    root, size, page = small_disk / "root", 40_000, 4096
    commit(root, 1, size)
    failed = 0
    for pages in range(0, 140, 7):
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"")
        free = os.statvfs(small_disk).f_bavail - pages
        ballast.write_bytes(bytes(free * page))
        message = ""
        try:
            commit(root, 2, size)
        except CheckpointError as error:
            message = str(error)
        if not message:
            break
        assert message.startswith(f"cannot write {root / 'step-00000002'}: ") and "\n" not in message
        assert "No space left on device" in message
        assert names(root) == steps(1)
        assert latest_checkpoint(root) == root / "step-00000001"
        failed += 1
    assert failed >= 15
    assert names(root) == steps(1, 2)
    assert_is_step(root / "step-00000001", 1)
    assert_is_step(root / "step-00000002", 2)


def test_a_write_that_fails_half_way_leaves_no_folder(tmp_path: Path) -> None:
    root, log = tmp_path / "root", tmp_path / "log"
    commit(root, 1)
    for most in (0, 500, 5000):
        assert wait(start(log, inside.save_with_small_files, root, 2, 10_000, most)) == 1
        message = log.read_text()
        assert message.startswith(f"cannot write {root / 'step-00000002'}: ") and "File too large" in message
        assert names(root) == steps(1)
    assert_is_step(root / "step-00000001", 1)


def test_read_only_disk_gives_one_line(small_disk: Path) -> None:
    root = small_disk / "root"
    folder = commit(root, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system" in refusal(lambda: commit(root, 2))
    assert "Read-only file system" in refusal(RunLock(root).acquire)
    assert latest_checkpoint(root) == folder
    assert_is_step(folder, 1)


def test_a_folder_removed_while_running_is_made_again(tmp_path: Path) -> None:
    commit(tmp_path / "run" / "checkpoints", 1)
    shutil.rmtree(tmp_path / "run")
    assert_is_step(commit(tmp_path / "run" / "checkpoints", 2, total_limit=2), 2)


# A run


def program(folder: Path, config: Config) -> BaseProcess:
    """The training program in a process of its own."""
    path = folder / "config.yaml"
    path.write_text(config_to_yaml(config))
    return start(folder / "log", inside.program, "--config", str(path))


def error_line(folder: Path, process: BaseProcess) -> str:
    """The one line with which the program ended."""
    assert wait(process) == 2, (folder / "log").read_text()
    lines = (folder / "log").read_text().splitlines()
    assert not any(line.startswith("Traceback") for line in lines)
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines[-1:], lines
    return errors[0]


@pytest.mark.faults
def test_a_run_on_a_disk_that_fills_ends_in_one_line_and_goes_on_later(
    tmp_path: Path, small_disk: Path, figure: Figure
) -> None:
    whole = tiny_config(tmp_path / "whole")
    full = in_folder(whole, small_disk / "run", None)
    (small_disk / "ballast").write_bytes(bytes(1 << 20))
    line = error_line(tmp_path, program(tmp_path, full))
    assert "No space left on device" in line and str(small_disk) in line
    checkpoints = small_disk / "run" / "checkpoints"
    saved = names(checkpoints)
    assert 1 < len(saved) < 8 and saved == steps(*range(1, len(saved) + 1))
    assert all(verify_folder(checkpoints / name) for name in saved)

    (small_disk / "ballast").unlink()
    few = replace(full, train=replace(full.train, checkpoints_total_limit=2, resume_from_checkpoint="latest"))
    assert wait(start(tmp_path / "log", inside.run, config_to_yaml(few))) == 0, (tmp_path / "log").read_text()
    assert wait(start(tmp_path / "log", inside.run, config_to_yaml(whole))) == 0
    assert_same_end(small_disk / "run", tmp_path / "whole", 8)
    figure("F8", "a run whose disk fills ends in one line, and ends bit-equal once there is room")


@pytest.mark.faults
@pytest.mark.parametrize("free", [0, 1, 2])
def test_a_run_on_a_full_disk_ends_in_one_line(
    tmp_path: Path, small_disk: Path, free: int, figure: Figure
) -> None:
    """With room for so many pages: its own config needs one, the losses another, and then comes a checkpoint."""
    with (small_disk / "ballast").open("wb") as ballast:
        ballast.write(bytes(4096 * (os.statvfs(small_disk).f_bavail - free)))
    line = error_line(tmp_path, program(tmp_path, tiny_config(small_disk / "run")))
    assert "cannot write" in line and "No space left on device" in line
    assert not [name for name in names(small_disk / "run") if name.startswith(".tmp-")]
    figure("F8", "run on a full disk: one line, nothing half-written")


@pytest.mark.faults
def test_a_run_that_cannot_write_ends_in_one_line(tmp_path: Path, small_disk: Path, figure: Figure) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    line = error_line(tmp_path, program(tmp_path, tiny_config(small_disk / "run")))
    assert "Read-only file system" in line and str(small_disk / "run") in line
    figure("F9", "output folder on a read-only disk: one line")


def test_a_read_only_disk_is_refused_before_the_work(small_disk: Path) -> None:
    refuse_unwritable(small_disk / "new" / "folder")
    assert list(small_disk.iterdir()) == []  # only looked at
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(CheckpointError) as error:
        refuse_unwritable(small_disk / "new" / "folder")
    assert str(error.value) == f"cannot write {small_disk / 'new' / 'folder'}: {small_disk} takes no files"


@pytest.mark.faults
def test_a_run_whose_folder_is_removed_ends_in_one_line(tmp_path: Path, figure: Figure) -> None:
    folder = tmp_path / "run"
    process = program(tmp_path, tiny_config(folder, max_train_steps=10_000, checkpointing_steps=10_000))
    until((folder / "metrics.jsonl").exists)
    shutil.rmtree(folder)
    assert str(folder / "metrics.jsonl") in error_line(tmp_path, process)
    assert not folder.exists()
    figure("F9", "output folder removed while training: one line")


@pytest.mark.faults
@pytest.mark.parametrize("name", ["file", "link"])
def test_an_output_folder_that_is_none_is_refused(tmp_path: Path, name: str, figure: Figure) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    line = error_line(tmp_path, program(tmp_path, tiny_config(tmp_path / name)))
    assert str(tmp_path / name) in line
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "nowhere").exists()
    figure("F9", "output folder that is a file or a link to nothing: one line")
