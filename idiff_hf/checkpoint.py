"""Checkpoints that survive a kill, a full disk and bit rot; safetensors and JSON, nothing pickled.

Loading verifies the whole folder before it returns anything, so that no live tensor changes because of a
damaged file. How a folder is committed and verified is in `folders.py`.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from .config import Config
from .folders import (
    CheckpointError,
    DamagedFolderError,
    commit_folder,
    json_bytes,
    os_errors,
    remove_folder,
    subfolders,
    verify_folder,
)

logger = logging.getLogger(__name__)

NamedParameters = Iterable[tuple[str, nn.Parameter]]

MODEL_KEYS = ("data.", "aux.", "model.", "unet.", "autoencoder.", "scheduler.", "train.seed")
"""What a resumed run has to share with its checkpoint."""
FREE_KEYS = ("data.num_workers", "data.cache_dir")
"""Of these, what changes no image."""
RUN_PATHS = ("train.output_dir", "train.resume_from_checkpoint")


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: what `save_checkpoint` was given, with tensors on the CPU, and the manifest."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    config_text: str
    manifest: dict[str, Any]


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
    state_bytes = json_bytes(state)
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
        rotate_checkpoints(root, step, total_limit, protect)
    return target


def rotate_checkpoints(root: Path, step: int, total_limit: int, protect: Path | None = None) -> None:
    """Removes the oldest checkpoints beyond `total_limit`, that of `step` counted; those of higher steps stay.

    Each save ends with it. A kill in between leaves it to the run that goes on.

    Args:
        root: Folder of the checkpoints.
        step: Of the newest that counts.
        total_limit: As in `save_checkpoint`, like `protect`.
        protect: As there.
    """
    kept = protect.resolve() if protect else None
    older = [path for number, path in _committed(root) if number < step and path.resolve() != kept]
    for folder in older[: 1 - total_limit]:
        remove_folder(folder)


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
    with os_errors(f"cannot search {root}"):
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


def compare_configs(saved: Config, current: Config, folder: Path) -> list[str]:
    """Checks that a run may go on under `current` from a checkpoint that was made under `saved`.

    Returns:
        What differs and may, as `key: before -> after`; where the run writes and resumes from is left out.

    Raises:
        CheckpointError: What defines the model or its data differs, or the seed.
    """
    before, after = _flat(saved.to_dict()), _flat(current.to_dict())
    changed = {
        name: f"{name}: {before.get(name)} -> {after[name]}"
        for name in after
        if before.get(name) != after[name]
    }
    refused = [
        text for name, text in changed.items() if name.startswith(MODEL_KEYS) and name not in FREE_KEYS
    ]
    if refused:
        raise CheckpointError(
            f"{folder} is another model than this config ({', '.join(refused)}): resume with the config it was made with"
        )
    return [text for name, text in changed.items() if name not in RUN_PATHS]


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


def _committed(root: Path) -> list[tuple[int, Path]]:
    """Lists (step, folder) of what looks like a checkpoint, the lowest step first."""
    matches = [(re.fullmatch("step-([0-9]{8,})", folder.name), folder) for folder in subfolders(root)]
    return sorted((int(match[1]), folder) for match, folder in matches if match)


def _check_finite(where: str, group: str, named: Mapping[str, Tensor]) -> None:
    for name, x in named.items():
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise CheckpointError(f"{where}: tensor {f'{group}/{name}'!r} holds NaN or infinity")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat
