"""`idiff train`: the training program, on one process."""

from __future__ import annotations

from typing import Any


def add(commands: Any) -> None:
    """Name the command; the training program reads its arguments itself."""
    commands.add_parser("train", help="train a model: the arguments of train_ivae_ddpm.py", add_help=False)


def run(arguments: list[str]) -> int:
    """Train; returns the exit code, unless a signal ended it."""
    if "--help" in arguments:
        # the program itself imports torch first, which takes seconds
        from ..arguments import load_config

        load_config(arguments, "idiff train")
    from train_ivae_ddpm import main

    from ..interruption import EXIT_CODE, exit_with

    code = main(arguments)
    if code == EXIT_CODE:
        exit_with(code)
    return code
