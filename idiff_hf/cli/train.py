"""`idiff train`: the training program, on one process."""

from __future__ import annotations

from typing import Any


def add(commands: Any) -> None:
    """Name the command; the training program reads its arguments itself."""
    commands.add_parser("train", help="train a model: the arguments of train_ivae_ddpm.py", add_help=False)


def run(arguments: list[str]) -> int:
    """Train; returns the exit code."""
    from train_ivae_ddpm import main

    return main(arguments)
