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

from .folders import os_errors


def write_text(path: Path, text: str) -> None:
    """Replace a file in one rename, so that no reader sees half of it, and make its folder; raises `CheckpointError` if it cannot be."""
    staged = path.with_name(f".tmp-{path.name}")
    with os_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.write_text(text, encoding="utf-8")
            os.replace(staged, path)
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
