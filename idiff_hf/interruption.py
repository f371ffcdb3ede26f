"""SIGTERM and SIGUSR1, with which schedulers take a machine back: a training program saves, and ends with exit code 143.

The handler sets a flag, which training reads between its steps. Where nothing that is kept is being changed (`at_once`), it raises.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

EXIT_CODE = 143
"""128 + SIGTERM: what a shell shows of a program that SIGTERM ended."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
ONE_REQUEST_SECONDS = 2.0
"""Signals so close to each other are one request: a scheduler tells every process, and `torchrun` tells its workers once more."""
HOW_TO_GO_ON = "go on with the same command and --train.resume_from_checkpoint latest"


class Interrupted(BaseException):
    """The program was asked to end. No `Exception`, so that nothing that deals with errors takes it for one.

    Args:
        state: What was done by then, for the one line that the program prints.
    """

    def __init__(self, state: str) -> None:
        name = "a signal to another process" if _state.requested is None else _state.requested.name
        super().__init__(f"stopped by {name}: {state}")


@dataclass
class _State:
    requested: signal.Signals | None = None
    when: float = 0.0
    at_once: str | None = None


_state = _State()


@contextmanager
def answered() -> Iterator[None]:
    """Answer the signals inside the `with`, in the main thread; in another thread, where none can be handled, this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _state.requested = None


def requested() -> bool:
    """Whether a signal has come."""
    return _state.requested is not None


@contextmanager
def at_once(state: str) -> Iterator[None]:
    """Raise `Interrupted` as soon as a signal comes, or where one has come, instead of waiting until somebody asks.

    Args:
        state: For the line of `Interrupted`.
    """
    _state.at_once = state
    try:
        if requested():
            raise Interrupted(state)
        yield
    finally:
        _state.at_once = None


def exit_with(code: int) -> NoReturn:
    """End the process; after an interruption without waiting for its threads, one of which may be waiting for data."""
    if code == EXIT_CODE:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _handle(number: int, frame: FrameType | None) -> None:
    if _state.requested is None:
        _state.requested, _state.when = signal.Signals(number), time.monotonic()
        if _state.at_once is not None:
            raise Interrupted(_state.at_once)
    elif time.monotonic() - _state.when > ONE_REQUEST_SECONDS:
        os._exit(EXIT_CODE)
