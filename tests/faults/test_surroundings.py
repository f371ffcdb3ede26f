"""Where a run happens: clock, locale, paths, home, terminal; and for how long."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import psutil
import pytest

from idiff_hf.arguments import config_to_yaml
from idiff_hf.checkpoint import latest_checkpoint
from idiff_hf.folders import clean_leftovers
from tests.faults import inside
from tests.faults.checkpoints import commit, names, steps
from tests.faults.figures import Figure
from tests.faults.processes import start
from tests.faults.runs import losses
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]

JUMPING = """
import itertools, sys, time
true, jumps = time.time, itertools.cycle((0.0, 3e8, -3e8))
time.time = lambda: true() + next(jumps)
from train_ivae_ddpm import main
sys.exit(main(sys.argv[1:]))
"""
"""The training program under a clock that leaps ten years ahead and back whenever it is read."""


@pytest.mark.faults
@pytest.mark.slow
def test_a_whole_run_in_odd_surroundings(tmp_path: Path, figure: Figure) -> None:
    """No HOME, no terminal, a locale that does not exist, a path with a space, an accent and Japanese, and a clock that jumps."""
    folder = tmp_path / "mit Räumen" / "日本"
    folder.mkdir(parents=True)
    (folder / "c.yaml").write_text(config_to_yaml(tiny_config(folder / "run")), encoding="utf-8")
    kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
    odd = {"LC_ALL": "xx_XX.latin1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", JUMPING, "--config", str(folder / "c.yaml")],
        cwd=ROOT,
        env={**kept, **odd},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=280,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"README.md", "results.json", "pipeline", "metrics.jsonl"} <= set(names(folder / "run"))
    assert len(losses(folder / "run")) == 8
    figure("F31", "training, evaluation and card all at once in such surroundings: done")


@pytest.mark.faults
def test_the_latest_checkpoint_is_that_of_the_highest_step_whatever_the_clock_said(
    tmp_path: Path, figure: Figure
) -> None:
    for step in (1, 2, 3):
        os.utime(commit(tmp_path, step), (1e9 - step, 1e9 - step))
    clean_leftovers(tmp_path)
    assert latest_checkpoint(tmp_path) == tmp_path / steps(3)[0]
    commit(tmp_path, 4, total_limit=2)
    assert names(tmp_path) == steps(3, 4)
    figure("F31", "checkpoints dated backwards: the highest step is the latest")


@pytest.mark.faults
@pytest.mark.slow
def test_a_long_run_does_not_grow(tmp_path: Path, figure: Figure) -> None:
    """Memory and open files of another process, seen from outside, in the second and the last quarter of the run."""
    folder, total = tmp_path / "run", 2_000
    config = tiny_config(
        folder,
        max_train_steps=total,
        train_batch_size=8,
        checkpointing_steps=50,
        checkpoints_total_limit=2,
        validation_steps=100,
        report_to="tensorboard",
    )
    config = replace(
        config,
        optim_ivae=replace(config.optim_ivae, stop_step=None),
        optim_unet=replace(config.optim_unet, start_step=0),
    )
    process = start(tmp_path / "log", inside.run, config_to_yaml(config))
    watched, metrics = psutil.Process(process.pid), folder / "metrics.jsonl"
    seen: list[tuple[int, int, int]] = []
    while process.exitcode is None:
        if metrics.exists() and (lines := metrics.read_bytes().count(b"\n")) < total:
            with watched.oneshot():
                seen.append((lines, watched.memory_info().rss, watched.num_fds()))
        time.sleep(0.1)
    assert process.exitcode == 0, (tmp_path / "log").read_text()[-3000:]
    assert len(losses(folder)) == total and len(names(folder / "samples")) == total // 100 - 1
    assert names(folder / "checkpoints") == steps(total - 50, total)

    quarters = [
        [entry[1:] for entry in seen if quarter * total // 4 <= entry[0] < (quarter + 1) * total // 4]
        for quarter in (1, 3)
    ]
    assert all(len(quarter) > 20 for quarter in quarters)
    memory = [median(rss for rss, _ in quarter) for quarter in quarters]
    files = [median(count for _, count in quarter) for quarter in quarters]
    growth = memory[1] / memory[0] - 1
    assert growth < 0.05 and files[0] == files[1]
    figure(
        "F32",
        f"{total:,} steps, {total // 50} saves, {total // 100 - 1} grids of samples: memory {growth:+.1%} "
        f"of {memory[0] / 2**20:.0f} MiB, {files[1]:.0f} open files as before",
    )
