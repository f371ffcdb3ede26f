"""Decoded images on disk, memory-mapped: built once, whole or not at all, and shared by every process and run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..folders import MANIFEST, clean_leftovers, commit_folder, json_bytes, os_errors

logger = logging.getLogger(__name__)

Fill = Callable[[np.ndarray, Callable[[int], None]], Mapping[str, Any] | None]

_FOLDER, _FILE = "images", "images.npy"
_UPLOAD_BYTES = 2**26  # what is copied to an accelerator at a time


def default_cache_dir() -> Path:
    """`idiff_hf` in the cache folder of Hugging Face, which `HF_HOME` moves."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "idiff_hf"


def cached_images(
    cache_dir: Path | None,
    name: str,
    fingerprint: Mapping[str, Any],
    shape: tuple[int, int, int, int],
    fill: Fill,
    check: Callable[[], None] | None = None,
) -> np.ndarray:
    """Images from the cache, which is built by `fill` when they are not there yet.

    They lie in `cache_dir/NAME-HASH/images/images.npy`, the hash being that of fingerprint and shape, beside a manifest that says what
    they are. The file is allocated before it is filled and appears under its name when it is complete. Of several processes one builds
    and the others wait for it. Anything in the cache may be deleted when no run uses it.

    Args:
        cache_dir: The cache; None is `default_cache_dir()`.
        name: Of the dataset, for people who look into the cache.
        fingerprint: Plain JSON values that identify the content: another one is another entry.
        shape: `(N, H, W, C)`.
        fill: `fill(out, advance)` writes all rows into `out`, uint8 of that shape, and calls `advance(n)` after every n of them, for the
            progress bar. Plain JSON values that it returns are recorded in the manifest under `source`.
        check: Called once before `fill` and before the disk is touched, to refuse bad sources with what it raises.

    Returns:
        Read-only memory-mapped uint8 `(N, H, W, C)`.

    Raises:
        ValueError: The disk is too small (said before anything is written) or the cache cannot be written; and what `fill` raises, after
            which nothing of the entry is left; and what `check` raises.
    """
    identity = json.loads(json_bytes({"fingerprint": dict(fingerprint), "shape": shape}))
    digest = hashlib.sha256(json_bytes(identity)).hexdigest()[:16]
    root = (cache_dir or default_cache_dir()).expanduser()
    home = root / (re.sub(r"[^\w.-]+", "_", name) + f"-{digest}")
    target = home / _FOLDER
    # Before the lock, so that a cache that is only readable serves as well.
    if not _is_whole(target, identity):
        if check:
            check()
        with _waiting_lock(home):
            if not _is_whole(target, identity):
                clean_leftovers(home)
                _build(target, name, identity, shape, fill)
    return np.load(target / _FILE, mmap_mode="r", allow_pickle=False)


def _build(
    target: Path, name: str, identity: dict[str, Any], shape: tuple[int, int, int, int], fill: Fill
) -> None:
    need, free = int(np.prod(shape)), shutil.disk_usage(target.parent).free
    if need > free:
        raise ValueError(
            f"the decoded images of {name} take {need / 1e9:,.1f} GB and {target.parent.parent} has {free / 1e9:,.1f} GB free: "
            "make room, or set data.cache_dir to a folder on a larger disk"
        )
    metadata = dict(identity)
    with commit_folder(target, metadata=metadata) as folder:
        out = np.lib.format.open_memmap(folder / _FILE, mode="w+", dtype=np.uint8, shape=shape)
        # Otherwise a disk that fills up meanwhile would end the process by SIGBUS. (macOS has no such call.)
        if hasattr(os, "posix_fallocate"):
            with (folder / _FILE).open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        with tqdm(total=shape[0], desc=f"caching {name}", unit=" images", disable=None) as bar:
            metadata["source"] = dict(fill(out, bar.update) or {})
        out.flush()


def _is_whole(target: Path, identity: dict[str, Any]) -> bool:
    """Whether a committed entry is there with the size it was committed with; bytes are not hashed again."""
    try:
        manifest = json.loads((target / MANIFEST).read_bytes())
        same = {key: manifest["metadata"][key] for key in identity} == identity
        return same and (target / _FILE).stat().st_size == manifest["files"][_FILE]["size"]
    except (OSError, KeyError, TypeError, ValueError):
        return False


@contextmanager
def _waiting_lock(home: Path) -> Iterator[None]:
    """Holds the lock of one entry, which ends with the process, after waiting for whoever has it."""
    with os_errors(f"cannot use the image cache {home}"):
        home.mkdir(parents=True, exist_ok=True)
        file = (home / ".lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for the process that builds %s", home)
            fcntl.flock(file, fcntl.LOCK_EX)
    with file:
        try:
            yield
        finally:
            # Not by closing alone: a process forked meanwhile has the file open, too.
            fcntl.flock(file, fcntl.LOCK_UN)


class ArrayImages:
    """Images `(N, H, W, C)` by row number, on a device.

    On an accelerator they are copied there once if that takes at most a third of its free memory; otherwise, and on a CPU, each batch is
    gathered from the array, through page-locked memory on its way to an accelerator.
    """

    def __init__(self, images: np.ndarray, device: torch.device | str) -> None:
        """Keeps the array, or its copy on the device.

        Args:
            images: `(N, H, W, C)` uint8, such as `cached_images` returns.
            device: Where batches are wanted.
        """
        self.device = torch.device(device)
        self._images = images
        self._resident: Tensor | None = None
        if self.device.type == "cuda" and images.nbytes <= torch.cuda.mem_get_info(self.device)[0] // 3:
            self._resident = torch.empty(images.shape, dtype=torch.uint8, device=self.device)
            step = max(_UPLOAD_BYTES * len(images) // images.nbytes, 1)
            for start in range(0, len(images), step):
                self._resident[start : start + step] = torch.from_numpy(images[start : start + step].copy())

    def __call__(self, rows: Tensor) -> Tensor:
        """Images of row numbers.

        Args:
            rows: `(B,)` int64 in 0 .. N - 1.

        Returns:
            `(B, C, H, W)` uint8, contiguous, on the device.
        """
        if self._resident is not None:
            return self._resident.index_select(0, rows.to(self.device)).permute(0, 3, 1, 2).contiguous()
        batch = (
            torch.from_numpy(self._images.take(rows.cpu().numpy(), axis=0)).permute(0, 3, 1, 2).contiguous()
        )
        if self.device.type == "cpu":
            return batch
        return (batch.pin_memory() if self.device.type == "cuda" else batch).to(
            self.device, non_blocking=True
        )
