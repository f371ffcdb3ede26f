"""Small configs, and programs that stand in for the training program by way of `launcher`."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from idiff_hf.config import Config, OptimConfig
from tests.tiny import tiny_config


def toy_config(**train: object) -> Config:
    """An iVAE that learns for eight steps."""
    config = tiny_config("unused", **train)
    return replace(
        config,
        # DCI fits a tree for each class that it sees
        eval=replace(config.eval, num_samples=8),
        model=replace(config.model, diffusion=False),
        optim_ivae=replace(config.optim_ivae, stop_step=None),
        optim_unet=OptimConfig(),
    )


def program(path: Path, body: str) -> tuple[str, ...]:
    """A launcher: it is given `-m train_ivae_ddpm --config FILE`, and `folder` is that of the trial."""
    head = "import sys, pathlib\nfolder = pathlib.Path(sys.argv[sys.argv.index('--config') + 1]).parent\n"
    path.write_text(head + body)
    return sys.executable, str(path)


def that_copies(run: Path, path: Path) -> tuple[str, ...]:
    """A program that is done at once: it leaves what a finished run left, and a line in `begun`."""
    kept = path.with_suffix(".run")
    shutil.copytree(run, kept, ignore=shutil.ignore_patterns("trial*", ".lock", "checkpoints"))
    body = (
        f"import shutil\nshutil.copytree({str(kept)!r}, folder, dirs_exist_ok=True)\n"
        "(folder / 'begun').open('a').write('once\\n')\n"
    )
    return program(path, body)
