"""Processes that import nothing, since they are forks of one that has; they can be killed at any moment."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.faults import inside

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.faults.inside"])


def start(log: Path, function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Run a function of `inside` in a process of its own; what it prints goes to `log`."""
    process = _CONTEXT.Process(target=inside.logged, args=(log, function, *arguments), daemon=True)
    process.start()
    return process


def wait(process: BaseProcess, seconds: float = 60) -> int:
    """The exit code of a process, or minus the signal that ended it."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"not ended after {seconds} s")
    return process.exitcode


def kill(process: BaseProcess) -> bool:
    """`kill -9`; false where it had come to its end before."""
    process.kill()
    code = wait(process)
    assert code in (0, -signal.SIGKILL), f"ended with {code} by itself"
    return code == -signal.SIGKILL


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.002)
