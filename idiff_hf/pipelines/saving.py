"""Writing a saved pipeline: whole or not at all, and nothing that loading would refuse."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError

from ..folders import MANIFEST, CheckpointError, os_errors, refuse_unwritable
from ..hub_folder import COMPONENTS, INDEX, model_patterns
from .loading import LIBRARY, PIPELINE, allowed_classes, unwrapped, wanted


def check_components(components: Mapping[str, Any]) -> None:
    """Refuse, before anything is written, what `loading.read_index` would refuse of the folder.

    Args:
        components: Of the pipeline by name, None for those that it does not have.

    Raises:
        ValueError: One line for a component of another class, a subclass among them, one of another name, or no model at all.
    """
    if unknown := sorted(components.keys() - set(COMPONENTS)):
        raise ValueError(
            f"{PIPELINE}.from_pretrained knows no {', '.join(unknown)}: save {', '.join(COMPONENTS)} only"
        )
    for name, part in components.items():
        if part is not None and type(unwrapped(part)) not in allowed_classes()[name].values():
            raise ValueError(
                f"{name} must be {wanted(name)} to be loaded again, got {type(unwrapped(part)).__name__}: replace it before saving"
            )
    if components.get("ivae") is None and components.get("unet") is None:
        raise ValueError("there is neither an ivae nor a unet: nothing to save")


def save_whole(write: Callable[[Path], None], target: Path, variant: str | None = None) -> None:
    """Have a pipeline written into a temporary folder in `target`, and then moved in, the index last.

    Weights of the same variant that are not written again are taken out, sharded ones and their index too; other variants stay. The index
    goes first and comes last, so that a kill in between leaves no mixture that loads.

    Args:
        write: Called with the folder to write to.
        target: The folder, created where it is missing.
        variant: Of the weights, such as `fp16`.

    Raises:
        ValueError: One line, for a folder that takes no files or a full disk. An existing folder is then what it was.
    """
    patterns = [pattern for pattern in model_patterns(variant) if "pytorch_model" in pattern]
    refuse_unwritable(target)
    with _writing(target), _made(target), TemporaryDirectory(dir=target, prefix=".tmp-") as place:
        staged, aside = Path(place, "new"), Path(place, "old")
        write(staged)
        tidy_saved(staged)
        new = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
        saved = {name.split("/")[0] for name in new if "/" in name}
        stale = [
            path.relative_to(target).as_posix()
            for part in sorted(saved)
            for path in sorted((target / part).glob("*"))
            if any(fnmatchcase(path.name, pattern) for pattern in patterns)
        ]
        # a manifest of what is overwritten here would be untrue
        old = [name for name in (MANIFEST, INDEX, *new, *stale) if os.path.lexists(target / name)]
        moves = [(target / name, aside / name) for name in dict.fromkeys(old)]
        moves += [(staged / name, target / name) for name in new if name != INDEX]
        _move([*moves, (staged / INDEX, target / INDEX)])


def tidy_saved(folder: Path) -> None:
    """Make what diffusers saved independent of where it was made: public names of our classes, no paths of this machine."""
    path = folder / INDEX
    index = json.loads(path.read_text(encoding="utf-8"))
    index.pop("_name_or_path", None)
    # that of a subclass would be loaded by the subclass alone, which reads the same components
    index["_class_name"] = PIPELINE
    for name, entry in index.items():
        if isinstance(entry, list) and str(entry[0]).startswith(LIBRARY):
            index[name] = [LIBRARY, entry[1]]
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in (folder / name / "config.json" for name in COMPONENTS):
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            if config.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """What writing raises as one line that names the folder."""
    with os_errors(f"cannot write {target}"):
        try:
            yield
        except SafetensorError as error:
            raise CheckpointError(f"cannot write {target}: {' '.join(str(error).split())}") from error


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder is there in the block; where it was made for it, it goes again if the block raises."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in missing:
            path.rmdir()
        raise


def _move(moves: list[tuple[Path, Path]]) -> None:
    """Rename files one by one, and all of them back if one cannot be."""
    done: list[tuple[Path, Path]] = []
    made: list[Path] = []
    try:
        for source, destination in moves:
            made += [path for path in (destination.parent,) if not path.exists()]
            destination.parent.mkdir(parents=True, exist_ok=True)
            os.rename(source, destination)
            done.append((source, destination))
    except BaseException:
        for source, destination in reversed(done):
            os.rename(destination, source)
        for path in reversed(made):
            path.rmdir()
        raise
