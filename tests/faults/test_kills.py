"""kill -9: no run is lost, and none ends differently."""

from __future__ import annotations

import random
import shutil
import signal
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from idiff_hf.arguments import config_to_yaml
from idiff_hf.checkpoint import latest_checkpoint, load_checkpoint
from idiff_hf.folders import clean_leftovers, verify_folder
from tests.faults import inside
from tests.faults.checkpoints import assert_is_step, commit, names, steps, visible
from tests.faults.figures import Figure
from tests.faults.processes import kill, start, until, wait
from tests.faults.runs import assert_same_end, in_folder
from tests.tiny import tiny_config

KILLS = 50
STEPS = 6


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(tmp_path: Path, figure: Figure) -> None:
    """50 runs, each killed at a random moment between its first file and its end, then finished."""
    config = tiny_config(
        "unused",
        max_train_steps=STEPS,
        train_batch_size=8,
        gradient_accumulation_steps=2,
        checkpoints_total_limit=2,
    )
    config = replace(
        config,
        optim_ivae=replace(config.optim_ivae, stop_step=STEPS // 2),
        optim_unet=replace(config.optim_unet, start_step=STEPS // 2),
    )
    draw = random.Random(0)
    whole, log = tmp_path / "whole", tmp_path / "log"

    def begin(folder: Path) -> BaseProcess:
        process = start(log, inside.run, config_to_yaml(in_folder(config, folder)))
        until((folder / "config.yaml").exists)
        return process

    process = begin(whole)
    began = time.monotonic()
    assert wait(process) == 0, log.read_text()
    seconds = time.monotonic() - began
    assert len(list((whole / "checkpoints").iterdir())) == 2

    resumed, mid_save, stages = 0, 0, set()
    for number in range(2 * KILLS):
        folder = tmp_path / f"run{number}"
        process = begin(folder)
        moment = draw.uniform(0.0, seconds)
        time.sleep(moment)
        if not kill(process):
            seconds = moment  # a run takes less than that by now
            continue
        left = names(folder / "checkpoints")
        mid_save += any(name.startswith(".tmp-") for name in left)
        for name in visible(folder / "checkpoints"):
            verify_folder(folder / "checkpoints" / name)
        newest = latest_checkpoint(folder / "checkpoints")
        stages.add(0 if newest is None else int(newest.name[5:]))

        process = begin(folder)
        assert wait(process) == 0, log.read_text()
        assert_same_end(folder, whole, STEPS)
        assert names(folder / "checkpoints") == steps(STEPS - 1, STEPS)
        shutil.rmtree(folder)
        resumed += 1
        if resumed == KILLS:
            break
    assert resumed == KILLS
    assert len(stages) > STEPS // 2 and mid_save > 0, "the kills fell all on one place"
    figure("F1", f"{resumed} of {KILLS} kills resumed, {mid_save} of them in a save; no damaged checkpoint")
    figure("F2", f"{resumed} of {KILLS} ended bit-equal to the run that was not killed")


@pytest.mark.faults
def test_kill_at_random_moments_of_saves_loses_nothing(tmp_path: Path, figure: Figure) -> None:
    """12 MB a save, one after the other, so that the kills fall into the writing of files."""
    random_ = random.Random(0)
    root, log = tmp_path / "root", tmp_path / "root.log"
    step, mid_save, kills = 1, 0, 12

    def size() -> int:
        return log.stat().st_size if log.exists() else 0

    for _ in range(kills):
        known = size()
        process = start(tmp_path / "log", inside.save_forever, root, step, 1_000_000, 2)
        until(lambda known=known: size() > known)
        # At any moment of the next save, however long one takes on this machine.
        time.sleep(random_.random() * float(log.read_text().splitlines()[-1].split()[1]))
        assert kill(process)

        acknowledged = int(log.read_text().splitlines()[-1].split()[0])
        mid_save += names(root) != visible(root)
        whole = visible(root)
        assert all(verify_folder(root / name) for name in whole)
        clean_leftovers(root)
        assert names(root) == whole
        newest = latest_checkpoint(root)
        assert newest is not None
        step = load_checkpoint(newest).step
        assert step in (acknowledged, acknowledged + 1)
        assert_is_step(newest, step)
        step += 1
    assert mid_save >= kills // 3, "the kills missed the saves"
    figure(
        "F1", f"{kills} of {kills} kills among saves of 12 MB, {mid_save} of them inside one, lost nothing"
    )


@pytest.mark.faults
def test_kill_before_each_operation_of_a_save(tmp_path: Path, figure: Figure) -> None:
    """With two checkpoints kept: a save that rotates one away, one that rotates three away, one that replaces its own step."""
    cases = (
        ((1, 2), 3, [steps(1, 2), steps(1, 2, 3), steps(2, 3)], steps(1, 2, 3)),
        (
            (1, 2, 3, 4),
            5,
            [steps(1, 2, 3, 4), *(steps(*range(oldest, 6)) for oldest in (1, 2, 3, 4))],
            steps(1, 2, 3, 4, 5),
        ),
        ((1, 2), 2, [steps(1, 2)], steps(1)),
    )
    kills = 0
    for number, (before, step, allowed, between) in enumerate(cases):
        origin = tmp_path / f"origin{number}"
        for earlier in before:
            commit(origin, earlier)
        seen = []
        for operations in range(100):
            root = tmp_path / f"root{number}-{operations}"
            shutil.copytree(origin, root)
            ended = wait(start(tmp_path / "log", inside.save_until, root, step, 2, operations, "killed"))
            assert ended in (0, -signal.SIGKILL), (tmp_path / "log").read_text()
            assert all(verify_folder(root / name) for name in visible(root))
            seen.append(visible(root))
            clean_leftovers(root)
            whole = names(root)
            assert whole in allowed
            newest = latest_checkpoint(root)
            assert newest == root / whole[-1]
            assert_is_step(newest, int(whole[-1][-8:]))
            commit(root, 9, total_limit=2)
            assert names(root) == steps(int(whole[-1][-8:]), 9)
            if ended == 0:
                break
            kills += 1
        else:
            pytest.fail("the save never ended")
        assert between in seen, "the kill between the renames was not tried"
    assert kills >= 50
    figure("F7", f"{kills} of {kills} kills inside a save and its rotation left the newest checkpoint good")
