"""Folders that are written whole or not at all, verified before use, and locked while a run writes.

A folder is written beside its target, a manifest with size and SHA-256 of each file comes last, all is
synced, and one rename makes it visible: a folder under its final name is complete. The hashes find damage;
they do not prove who wrote.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
_POLL_SECONDS = 0.2
_LEFTOVER = re.compile(r"\.(tmp|old|del)-(.+)-[0-9a-f]{32}")
# File browsers drop these into any folder they show; nothing reads them.
_DROPPINGS = (".DS_Store", "Thumbs.db")


class CheckpointError(ValueError):
    """A committed folder could not be written, read or used; the message is one line."""


class FolderInUseError(CheckpointError):
    """Another process holds the lock of a folder."""


class DamagedFolderError(CheckpointError):
    """What is on disk is not what was committed."""


@contextmanager
def commit_folder(target: Path, *, metadata: Mapping[str, Any]) -> Iterator[Path]:
    """Yields an empty folder beside `target` that becomes `target`, whole or not at all, when the block ends.

    An existing `target` is moved aside first and removed last, so that a complete folder is always on disk
    (`clean_leftovers` puts it back after a kill in between). If the block raises, nothing has changed.

    Args:
        target: The folder to create or replace; one without a manifest is not ours and is not replaced.
        metadata: Plain JSON values for the manifest, read when the block ends.

    Raises:
        CheckpointError: `target` is in the way, `metadata` is not JSON, or writing failed (say, disk full).
    """
    tmp, aside = (target.with_name(f".{kind}-{target.name}-{uuid4().hex}") for kind in ("tmp", "old"))
    with os_errors(f"cannot write {target}"):
        try:
            if target.is_symlink() or (target.exists() and not (target / MANIFEST).is_file()):
                raise CheckpointError(f"{target} is in the way and has no {MANIFEST}: move it elsewhere")
            tmp.mkdir(parents=True)
            yield tmp
            files = {name: _fingerprint(path) for name, path in _list_files(tmp).items() if name != MANIFEST}
            body = {"format_version": FORMAT_VERSION, "metadata": dict(metadata), "files": files}
            (tmp / MANIFEST).write_bytes(_sealed(body))
            for parent, _, names in os.walk(tmp):
                for name in (*names, "."):
                    _fsync(Path(parent, name))
            if target.exists():
                os.rename(target, aside)
            os.rename(tmp, target)
            _fsync(target.parent)
        except BaseException:
            shutil.rmtree(tmp, ignore_errors=True)
            if aside.exists() and not target.exists():
                os.rename(aside, target)
            raise
    if aside.exists():
        remove_folder(aside)


def verify_folder(folder: Path) -> dict[str, Any]:
    """Checks that a committed folder holds exactly the bytes that were committed.

    Returns:
        The manifest: `format_version`, `metadata`, `files` (relative path to `size` in bytes and `sha256`).

    Raises:
        DamagedFolderError: A file is missing, altered, extra, a link or special, or the manifest is.
        CheckpointError: The folder cannot be read or has another format version.
    """
    with os_errors(f"cannot read {folder}"):
        # Only paths found by walking the folder are opened, never one that the manifest names.
        found = _list_files(folder)
        if MANIFEST not in found:
            raise DamagedFolderError(f"{folder}: {MANIFEST!r} is missing")
        manifest = _read_manifest(folder, found.pop(MANIFEST))
        for name in sorted(found.keys() | manifest["files"].keys()):
            if name not in found:
                raise DamagedFolderError(f"{folder}: {name!r} is missing")
            _verify_file(folder, name, found[name], manifest)
    return manifest


def verify_files(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Checks that these files of a committed folder hold the bytes that were committed; nothing is said of others, here or missing.

    For a folder that was published and fetched in part. A file may be a link, as in a snapshot in the Hub's cache: see `file_behind`.

    Args:
        folder: A folder with a manifest.
        names: Relative POSIX paths of files that are there.

    Returns:
        The manifest, as `verify_folder` does.

    Raises:
        DamagedFolderError: A file was altered, is not in the manifest or is a link that leads elsewhere, or the manifest is.
        CheckpointError: The folder cannot be read or has another format version.
    """
    with os_errors(f"cannot read {folder}"):
        manifest = _read_manifest(folder, file_behind(folder, MANIFEST))
        for name in sorted(names):
            _verify_file(folder, name, file_behind(folder, name), manifest)
    return manifest


def refuse_filled(folder: Path) -> None:
    """Refuse a place for new files that is not a new or empty folder.

    Raises:
        ValueError: One line.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there and not empty: give another folder, or remove it")


def file_behind(folder: Path, name: str) -> Path:
    """The file that `folder/name` is or is a link to, which lies in `folder` or, for a snapshot in the Hub's cache, among its blobs.

    Raises:
        DamagedFolderError: It lies elsewhere, or is no file.
        OSError: It is missing.
    """
    path, home = (folder / name).resolve(strict=True), folder.resolve()
    allowed = [home]
    for part in (home, *home.parents):
        if part.parent.name == "snapshots":
            # CACHE/models--user--name/snapshots/COMMIT; what several repositories share lies in CACHE/blobs
            repository = part.parent.parent
            allowed += [repository / "blobs", repository.parent / "blobs"]
            break
    if not path.is_file() or not any(path.is_relative_to(root) for root in allowed):
        raise DamagedFolderError(f"{folder}: {name!r} is a link that leads elsewhere, or no file")
    return path


def manifest_bytes(files: Mapping[str, Path | bytes], metadata: Mapping[str, Any]) -> bytes:
    """The manifest of files that lie in different places, by the relative POSIX paths under which they will be found."""
    fingerprints = {name: _fingerprint(content) for name, content in files.items()}
    return _sealed({"format_version": FORMAT_VERSION, "metadata": dict(metadata), "files": fingerprints})


def clean_leftovers(root: Path) -> None:
    """Removes what killed writers left in `root`; a folder moved aside and never replaced gets its name back.

    For the start of a run, with the `RunLock` held: another writer's temporary folder would be removed too.

    Raises:
        CheckpointError: `root` cannot be read or changed.
    """
    with os_errors(f"cannot clean {root}"):
        # The newest first: of two folders moved aside from one name, the later state returns.
        for folder in sorted(subfolders(root), key=lambda path: path.stat().st_mtime, reverse=True):
            leftover = _LEFTOVER.fullmatch(folder.name)
            if leftover and leftover[1] == "old" and not os.path.lexists(root / leftover[2]):
                os.rename(folder, root / leftover[2])
                logger.warning("restored %s: a run was killed while replacing it", root / leftover[2])
            elif leftover:
                shutil.rmtree(folder)


def remove_folder(folder: Path) -> None:
    """Deletes a committed folder, renamed first: a kill half way leaves nothing that looks committed."""
    doomed = folder.with_name(f".del-{folder.name}-{uuid4().hex}")
    try:
        os.rename(folder, doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        # What had to be written is safe by now: a leftover is no reason to stop a run.
        logger.warning("cannot remove %s: %s", folder, error)


def subfolders(root: Path) -> list[Path]:
    """The real folders in `root`, no links; none where there is no `root`."""
    entries = os.scandir(root) if root.is_dir() else ()
    return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def json_bytes(payload: Mapping[str, Any]) -> bytes:
    """Canonical JSON of plain values; raises `CheckpointError` for anything else, NaN included."""
    try:
        # Through JSON once, so that all keys are strings before they are sorted.
        plain = json.loads(json.dumps(payload, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"not plain JSON, cannot be saved: {error}") from error
    return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode()


@contextmanager
def os_errors(problem: str) -> Iterator[None]:
    """Turns an `OSError` of the block into a one-line `CheckpointError` that begins with `problem`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{problem}: {error}") from error


def refuse_unwritable(folder: Path) -> None:
    """Refuses a folder that can't be made, or takes no files, before the work whose result is for it; makes nothing.

    Raises:
        CheckpointError: One line that names what is in the way.
    """
    problem = f"cannot write {folder}"
    with os_errors(problem):
        place = folder.absolute()
        nearest = next(path for path in (place, *place.parents) if path.exists())
        if not nearest.is_dir():
            raise CheckpointError(f"{problem}: {nearest} is no folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise CheckpointError(f"{problem}: {nearest} takes no files")


class RunLock:
    """An exclusive lock on an output folder (created when missing): two runs cannot write into it at once.

    It ends with the process, by kill -9 too. The `.lock` file stays: removing it would race with a next run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Takes the lock; raises `FolderInUseError` when another run has it, `CheckpointError` when the folder is not writable."""
        with os_errors(f"cannot lock {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise FolderInUseError(
                    f"{self.folder} is in use by another run: use another folder"
                ) from None
        self._file = file
        # A forked data worker shares the lock and may outlive a killed run, whose restart would be refused.
        os.register_at_fork(after_in_child=self.release)

    def release(self) -> None:
        """Gives the lock back; does nothing when it is not held."""
        if self._file:
            self._file.close()

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@contextmanager
def waited_for(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, however long another process has it."""
    lock = RunLock(folder)
    while True:
        try:
            lock.acquire()
            break
        except FolderInUseError:
            time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _sealed(body: Mapping[str, Any]) -> bytes:
    """Renders a manifest that carries its own hash."""
    return json_bytes({**body, "manifest_sha256": hashlib.sha256(json_bytes(body)).hexdigest()})


def _read_manifest(folder: Path, path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    try:
        manifest: dict[str, Any] = json.loads(raw)
        version = manifest["format_version"]
        # Byte for byte what would be written: a flipped bit in white space shows, too.
        body = {key: manifest[key] for key in manifest if key != "manifest_sha256"}
        intact = raw == _sealed(body) and isinstance(manifest["files"], dict)
    except (KeyError, TypeError, ValueError, RecursionError):
        intact = False
    if not intact:
        raise DamagedFolderError(f"{folder}: {MANIFEST!r} was altered or truncated")
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{folder} has format version {version!r}, this reads {FORMAT_VERSION}")
    return manifest


def _verify_file(folder: Path, name: str, path: Path, manifest: Mapping[str, Any]) -> None:
    if name not in manifest["files"]:
        raise DamagedFolderError(f"{folder}: {name!r} is not in the manifest")
    if (actual := _fingerprint(path)) != (committed := manifest["files"][name]):
        raise DamagedFolderError(f"{folder}: {name!r} was altered: {actual} is not {committed}")


def _fingerprint(content: Path | bytes) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    with content.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": file.tell()}


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _list_files(folder: Path, prefix: str = "") -> dict[str, Path]:
    """Maps relative POSIX path to path of each file below `folder`; refuses links and special files."""
    files: dict[str, Path] = {}
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            files |= _list_files(Path(entry.path), f"{prefix}{entry.name}/")
        elif not entry.is_file(follow_symlinks=False):
            raise DamagedFolderError(f"{folder}: {entry.name!r} is a link or a special file")
        elif entry.name not in _DROPPINGS:
            files[prefix + entry.name] = Path(entry.path)
    return files
