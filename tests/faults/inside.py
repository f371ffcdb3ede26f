"""What fault tests run in processes of their own. A server imports all of this once and forks; see `processes.py`."""

from __future__ import annotations

import errno
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from idiff_hf.arguments import config_from_yaml
from idiff_hf.folders import CheckpointError, RunLock
from tests.faults.checkpoints import commit
from train_ivae_ddpm import main, train


def logged(log: Path, function: Callable[..., None], *arguments: Any) -> None:
    """Call a function with standard output and error in a file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    function(*arguments)


def run(text: str) -> None:
    """Train as this configuration says."""
    train(config_from_yaml(text))


def program(*argv: str) -> NoReturn:
    """The training program, with its exit code."""
    raise SystemExit(main(argv))


def save(root: Path, step: int, size: int, limit: int | None) -> None:
    """Commit a step; a refusal is printed and exits with 1."""
    try:
        commit(root, step, size, total_limit=limit)
    except CheckpointError as error:
        raise SystemExit(str(error)) from None


def save_forever(root: Path, step: int, size: int, limit: int) -> None:
    """Commit one step after the other, and append each that is done, and its seconds, to `root`.log."""
    while True:
        began = time.perf_counter()
        save(root, step, size, limit)
        with root.with_suffix(".log").open("a") as log:
            log.write(f"{step} {time.perf_counter() - began}\n")
        step += 1


def save_until(root: Path, step: int, limit: int | None, operations: int, what: str) -> None:
    """Commit a step; after so many operations on the disk it is `killed`, or the next one finds the disk `full`."""
    left = operations

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1 and what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if left == -1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments, **options)

        return call

    # a full disk hinders no one from deleting
    deleting = ("unlink", "rmdir") if what == "killed" else ()
    for name in ("rename", "fsync", "mkdir", *deleting):
        setattr(os, name, counted(getattr(os, name)))
    Path.write_bytes = counted(Path.write_bytes)  # type: ignore[method-assign]
    save(root, step, 8, limit)


def save_with_small_files(root: Path, step: int, size: int, most: int) -> None:
    """Commit a step where no file may pass `most` bytes."""
    _, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, unlimited))
    try:
        save(root, step, size, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))


def lock_and_fork(folder: Path) -> None:
    """Lock a folder, and start a worker whose id is written to `folder`.pid."""
    RunLock(folder).acquire()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    folder.with_suffix(".pid").write_text(str(child))
    time.sleep(60)
