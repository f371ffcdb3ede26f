"""Checkpoints that survive a kill, a full disk and bit rot; safetensors and JSON, nothing pickled.

A folder is written beside its target, a manifest with size and SHA-256 of each file comes last, all is
synced, and one rename makes it visible: a folder under its final name is complete. Loading verifies the whole
folder before it returns anything, so that no live tensor changes because of a damaged file. The hashes find
damage; they do not prove who wrote.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

logger = logging.getLogger(__name__)

NamedParameters = Iterable[tuple[str, nn.Parameter]]

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"
_LEFTOVER = re.compile(r"\.(tmp|old|del)-(.+)-[0-9a-f]{32}")
# File browsers drop these into any folder they show; nothing reads them.
_DROPPINGS = (".DS_Store", "Thumbs.db")


class CheckpointError(ValueError):
    """A checkpoint could not be written, read or used; the message is one line."""


class DamagedFolderError(CheckpointError):
    """What is on disk is not what was committed."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: what `save_checkpoint` was given, with tensors on the CPU, and the manifest."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    config_text: str
    manifest: dict[str, Any]


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
    with _os_errors(f"cannot write {target}"):
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
        _remove(aside)


def verify_folder(folder: Path) -> dict[str, Any]:
    """Checks that a committed folder holds exactly the bytes that were committed.

    Returns:
        The manifest: `format_version`, `metadata`, `files` (relative path to `size` in bytes and `sha256`).

    Raises:
        DamagedFolderError: A file is missing, altered, extra, a link or special, or the manifest is.
        CheckpointError: The folder cannot be read or has another format version.
    """
    with _os_errors(f"cannot read {folder}"):
        # Only paths found by walking the folder are opened, never one that the manifest names.
        found = _list_files(folder)
        if MANIFEST not in found:
            raise DamagedFolderError(f"{folder}: {MANIFEST!r} is missing")
        raw = found.pop(MANIFEST).read_bytes()
        try:
            manifest: dict[str, Any] = json.loads(raw)
            version, files = manifest["format_version"], manifest["files"]
            # Byte for byte what would be written: a flipped bit in white space shows, too.
            body = {key: manifest[key] for key in manifest if key != "manifest_sha256"}
            intact = raw == _sealed(body) and isinstance(files, dict)
        except (KeyError, TypeError, ValueError, RecursionError):
            intact = False
        if not intact:
            raise DamagedFolderError(f"{folder}: {MANIFEST!r} was altered or truncated")
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{folder} has format version {version!r}, this reads {FORMAT_VERSION}")
        for name in sorted(found.keys() | files.keys()):
            if name not in found:
                raise DamagedFolderError(f"{folder}: {name!r} is missing")
            if name not in files:
                raise DamagedFolderError(f"{folder}: {name!r} is not in the manifest")
            if (actual := _fingerprint(found[name])) != files[name]:
                raise DamagedFolderError(f"{folder}: {name!r} was altered: {actual} is not {files[name]}")
    return manifest


def clean_leftovers(root: Path) -> None:
    """Removes what killed writers left in `root`; a folder moved aside and never replaced gets its name back.

    For the start of a run, with the `RunLock` held: another writer's temporary folder would be removed too.

    Raises:
        CheckpointError: `root` cannot be read or changed.
    """
    with _os_errors(f"cannot clean {root}"):
        # The newest first: of two folders moved aside from one name, the later state returns.
        for folder in sorted(_subfolders(root), key=lambda path: path.stat().st_mtime, reverse=True):
            leftover = _LEFTOVER.fullmatch(folder.name)
            if leftover and leftover[1] == "old" and not os.path.lexists(root / leftover[2]):
                os.rename(folder, root / leftover[2])
                logger.warning("restored %s: a run was killed while replacing it", root / leftover[2])
            elif leftover:
                shutil.rmtree(folder)


def save_checkpoint(
    root: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    config_text: str,
    *,
    metadata: Mapping[str, Any],
    total_limit: int | None = None,
    protect: Path | None = None,
) -> Path:
    """Commits `<root>/step-<8 digits>`, then removes the oldest checkpoints beyond `total_limit`.

    Rotation leaves higher steps alone: a run continued from an earlier point does not delete the later ones.

    Args:
        root: Folder of the checkpoints, created when missing.
        step: Number of optimizer steps taken, 0 or more.
        tensors: Group (`model`, `ema`, `optimizer`) to tensor name to tensor, a `<group>.safetensors` each;
            any device, dtype, shape and memory layout, memory may be shared.
        state: Plain JSON values of the trainer, for `trainer.json`.
        config_text: The run's configuration, for `config.yaml`.
        metadata: Plain JSON values for the manifest (seed, world size, config hash, ...); `step` is added.
        total_limit: How many to keep with this one, at least 2; None keeps all.
        protect: A checkpoint neither deleted nor counted: the best by validation, or the one resumed from.

    Raises:
        CheckpointError: An argument is refused, a tensor is not finite or writing failed; nothing changed.
    """
    if step < 0:
        raise CheckpointError(f"step is {step}: it must be 0 or more")
    if total_limit is not None and total_limit < 2:
        raise CheckpointError(f"total_limit is {total_limit}: it must be 2 or more, for one to fall back to")
    for group, named in tensors.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]+", group):
            raise CheckpointError(f"tensor group {group!r} is no file name: use letters, digits, '-' and '_'")
        _check_finite(f"step {step}", group, named)
    state_bytes = _json_bytes(state)
    if json.loads(state_bytes) != state:
        raise CheckpointError("state does not come back equal from JSON: use string keys, lists for tuples")

    target = root / f"step-{step:08d}"
    with commit_folder(target, metadata={**metadata, "step": step}) as folder:
        for group, named in tensors.items():
            # safetensors wants contiguous tensors that share no memory: copies are both. `save_file` makes
            # files that only their owner can read.
            copies = {
                name: x.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, x in named.items()
            }
            (folder / f"{group}.safetensors").write_bytes(save(copies, metadata={"format": "pt"}))
        (folder / "trainer.json").write_bytes(state_bytes)
        (folder / "config.yaml").write_bytes(config_text.encode())

    if total_limit is not None:
        kept = protect.resolve() if protect else None
        older = [path for number, path in _committed(root) if number < step and path.resolve() != kept]
        for folder in older[: 1 - total_limit]:
            _remove(folder)
    return target


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads what `save_checkpoint` wrote, after verifying every file of it.

    Raises:
        DamagedFolderError: See `verify_folder`.
        CheckpointError: It is no checkpoint, cannot be read, or a tensor holds NaN or infinity.
    """
    manifest = verify_folder(folder)
    names = (name.rpartition(".") for name in manifest["files"])
    groups = [group for group, _, kind in names if kind == "safetensors"]
    try:
        step = int(manifest["metadata"]["step"])
        state = dict(json.loads((folder / "trainer.json").read_bytes()))
        config_text = (folder / "config.yaml").read_bytes().decode()
        tensors = {group: load((folder / f"{group}.safetensors").read_bytes()) for group in groups}
    except (KeyError, TypeError, ValueError, RecursionError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds what was committed, but no checkpoint: {error!r}") from error
    for group, named in tensors.items():
        _check_finite(str(folder), group, named)
    return Checkpoint(step, tensors, state, config_text, manifest)


def latest_checkpoint(root: Path) -> Path | None:
    """Finds the checkpoint with the highest step that verifies, or None.

    A damaged one is renamed to `<name>.corrupt-<8 hex digits>` with a warning, and the step below is tried;
    whatever is not a real folder named `step-<digits>` is ignored.

    Raises:
        CheckpointError: One cannot be read or renamed or has another format version: its work may be good.
    """
    with _os_errors(f"cannot search {root}"):
        for _, folder in reversed(_committed(root)):
            try:
                verify_folder(folder)
                return folder
            except DamagedFolderError as error:
                corrupt = folder.with_name(f"{folder.name}.corrupt-{uuid4().hex[:8]}")
                os.rename(folder, corrupt)
                logger.warning("damaged checkpoint renamed to %s: %s", corrupt.name, error)
    return None


def match_tensors(live: Mapping[str, Tensor], saved: Mapping[str, Tensor], what: str) -> None:
    """Checks that saved tensors fit live ones by name, shape and dtype, for a message about `what`.

    Call it for every group before the first live tensor is changed.

    Raises:
        CheckpointError: A name is missing or unexpected, or a shape or dtype differs.
    """
    if odd := sorted(live.keys() ^ saved.keys()):
        problem = "missing from" if odd[0] in live else "unexpected in"
        raise CheckpointError(f"{what}: {odd[0]!r} is {problem} the checkpoint ({len(odd)} names differ)")
    for name, x in live.items():
        here, there = (f"shape {tuple(y.shape)} and dtype {y.dtype}" for y in (x, saved[name]))
        if here != there:
            raise CheckpointError(f"{what}: {name!r} has {here}, saved was {there}")


def optimizer_tensors(optimizer: torch.optim.Optimizer, named_params: NamedParameters) -> dict[str, Tensor]:
    """Names the tensors of an optimizer's state `<parameter name>/<key>`; the live tensors, not copies.

    A parameter not stepped yet has no state and is absent. Learning rate and other hyperparameters are left
    out: they follow from the configuration and the step.

    Raises:
        CheckpointError: A parameter with state has no name, or a state value is not a tensor.
    """
    names: dict[Tensor, str] = {param: name for name, param in named_params}
    flat = {}
    for param, values in optimizer.state.items():
        for key, value in values.items():
            if param not in names or not isinstance(value, Tensor):
                name = names.get(param, "a parameter without a name")
                raise CheckpointError(f"optimizer: cannot save {key!r} of {name}: {type(value).__name__}")
            flat[f"{names[param]}/{key}"] = value
    return flat


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, named_params: NamedParameters, tensors: Mapping[str, Tensor]
) -> None:
    """Restores the state of `optimizer_tensors` by name; hyperparameters stay, other state is dropped.

    All is checked before anything changes. To restore a run whole or not at all: `match_tensors` for the
    other groups, then this, then the weights.

    Raises:
        CheckpointError: A tensor is missing, of no parameter, or has neither its shape nor one element.
    """
    params = dict(named_params)
    # The optimizer's own format numbers parameters by their place in the groups.
    order = {p: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    states: dict[str, dict[str, Tensor]] = {}
    for full_name, x in tensors.items():
        name, _, key = full_name.rpartition("/")
        if name not in params or params[name] not in order:
            raise CheckpointError(f"optimizer: {full_name!r} was saved, but {name!r} is not optimized")
        if x.shape not in ((), shape := params[name].shape):
            raise CheckpointError(f"optimizer: {full_name!r} has shape {tuple(x.shape)}, not {tuple(shape)}")
        states.setdefault(name, {})[key] = x.clone()
    keys = {key for state in states.values() for key in state}
    for name, state in states.items():
        if missing := keys - state.keys():
            raise CheckpointError(f"optimizer: '{name}/{min(missing)}' is missing from the checkpoint")
    numbered = {order[params[name]]: state for name, state in states.items()}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": numbered})


class RunLock:
    """An exclusive lock on an output folder (created when missing): two runs cannot write into it at once.

    It ends with the process, by kill -9 too. The `.lock` file stays: removing it would race with a next run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None

    def acquire(self) -> None:
        """Takes the lock; raises `CheckpointError` when another run has it or the folder is not writable."""
        with _os_errors(f"cannot lock {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / ".lock").open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise CheckpointError(f"{self.folder} is in use by another run: use another folder") from None
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


def _json_bytes(payload: Mapping[str, Any]) -> bytes:
    try:
        # Through JSON once, so that all keys are strings before they are sorted.
        plain = json.loads(json.dumps(payload, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"not plain JSON, cannot be saved: {error}") from error
    return (json.dumps(plain, indent=1, sort_keys=True) + "\n").encode()


def _sealed(body: Mapping[str, Any]) -> bytes:
    """Renders a manifest that carries its own hash."""
    return _json_bytes({**body, "manifest_sha256": hashlib.sha256(_json_bytes(body)).hexdigest()})


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
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


def _subfolders(root: Path) -> list[Path]:
    entries = os.scandir(root) if root.is_dir() else ()
    return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def _committed(root: Path) -> list[tuple[int, Path]]:
    """Lists (step, folder) of what looks like a checkpoint, the lowest step first."""
    matches = [(re.fullmatch("step-([0-9]{8,})", folder.name), folder) for folder in _subfolders(root)]
    return sorted((int(match[1]), folder) for match, folder in matches if match)


def _remove(folder: Path) -> None:
    """Deletes a committed folder, renamed first: a kill half way leaves nothing that looks committed."""
    doomed = folder.with_name(f".del-{folder.name}-{uuid4().hex}")
    try:
        os.rename(folder, doomed)
        shutil.rmtree(doomed)
    except OSError as error:
        # What had to be written is safe by now: a leftover is no reason to stop a run.
        logger.warning("cannot remove %s: %s", folder, error)


def _check_finite(where: str, group: str, named: Mapping[str, Tensor]) -> None:
    for name, x in named.items():
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise CheckpointError(f"{where}: tensor {f'{group}/{name}'!r} holds NaN or infinity")


@contextmanager
def _os_errors(problem: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{problem}: {error}") from error
