"""Where a result comes from: versions, machine, command line."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from .folders import CheckpointError, os_errors, refuse_unwritable


def refuse_no_file(path: Path) -> None:
    """Refuse a path that `write_text` cannot write, before the work whose result is for it; makes nothing.

    Raises:
        CheckpointError: One line: a folder, a device or the like is there, or its folder can't be made or takes no files.
    """
    _target(path)
    # of a link, the folder of what it leads to
    refuse_unwritable(Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent)


def _target(path: Path) -> Path:
    """The file that a path or a link stands for, there or not; a rename onto anything else would take its place."""
    problem = f"cannot write {path}"
    with os_errors(problem):
        if path.exists() and not path.is_file():
            found = "a folder" if path.is_dir() else "no regular file"
            raise CheckpointError(f"{problem}: it is {found}, give the name of a file")
    return Path(os.path.realpath(path))


def write_text(path: Path, text: str) -> None:
    """Replace a file in one rename, so that no reader sees half of it, and make its folder; of a link, the file that it leads to.

    Raises:
        CheckpointError: One line: something else than a file is there, or it cannot be written.
    """
    target = _target(path)
    staged = target.with_name(f".tmp-{target.name}")
    with os_errors(f"cannot write {path}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.write_text(text, encoding="utf-8")
            os.replace(staged, target)
        except OSError:
            staged.unlink(missing_ok=True)
            raise


# each call reads and parses a file
_version = cache(metadata.version)


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    names = ("idiff-hf", "torch", "diffusers", "accelerate", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine in words: device, name, cores, memory."""
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif Path("/proc/cpuinfo").exists():
        models = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        name = models[0] if models else name
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "device": device.type,
        "name": name,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
    }


def command() -> str:
    """The command line that repeats this run."""
    name = Path(sys.argv[0]).name
    launcher = ["accelerate", "launch"] if name.endswith(".py") else []
    return shlex.join([*launcher, name, *sys.argv[1:]])
