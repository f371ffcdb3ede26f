"""Reading a saved pipeline: only the classes that belong there, only safetensors and JSON, and no code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel, UNet2DModel, VQModel

from ..folders import MANIFEST, DamagedFolderError, verify_files
from ..hub_folder import (
    COMPONENTS,
    INDEX,
    cached_repository,
    download_pipeline,
    files_to_read,
    folder_of,
    hub_arguments,
)
from ..models import CONDITIONINGS, IVAEModel, load_strict
from ..models.strict import read_json_object
from ..schedulers import VPSDEScheduler

LIBRARY = "idiff_hf"
PIPELINE = "IVAEDiffusionPipeline"


def open_folder(name: str | os.PathLike[str], given: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The folder that `from_pretrained` is given, from the Hub where there is none here, and the arguments that are left for loading it."""
    check_arguments(given)
    return folder_of(name, given, download_pipeline)


def check_arguments(given: Mapping[str, Any]) -> None:
    """Refuse what would run code, and what `from_pretrained` does not know, before anything is fetched."""
    for name in ("custom_pipeline", "trust_remote_code"):
        if given.get(name):
            raise ValueError(f"{name} is refused: {PIPELINE} never runs code from a model folder")
    if given.get("use_safetensors") is False:
        raise ValueError(f"use_safetensors=False is refused: {PIPELINE} never reads pickles")
    known = {"dtype", "torch_dtype", "custom_pipeline", "trust_remote_code", "use_safetensors", *COMPONENTS}
    unknown = sorted(given.keys() - known - hub_arguments(given).keys())
    if unknown:
        raise ValueError(f"unknown argument for {PIPELINE}.from_pretrained: {', '.join(unknown)}")


def load_components(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every component of a saved folder; what is read is verified against the folder's manifest where it has one.

    Args:
        folder: The folder.
        given: Keyword arguments of `from_pretrained`: `dtype` (or `torch_dtype`), `variant`, and components that replace the folder's.

    Raises:
        ValueError: One line, as `from_pretrained` says.
    """
    variant = given.get("variant")
    read = files_to_read(folder, variant)
    if MANIFEST in read:
        try:
            verify_files(folder, [name for name in read if name != MANIFEST])
        except DamagedFolderError as error:
            cache = cached_repository(folder)
            raise DamagedFolderError(
                f"{error}; remove {cache} to fetch it anew" if cache else str(error)
            ) from None
    loading: dict[str, Any] = {"variant": variant} if variant else {}
    # diffusers knows the old name, and its users the new one
    dtype = given.get("torch_dtype") if given.get("dtype") is None else given["dtype"]
    if dtype is not None:
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"dtype must be one torch.dtype for all components, got {dtype!r}")
        loading["torch_dtype"] = dtype
    components: dict[str, Any] = {}
    for name, component in read_index(folder).items():
        if name in given:
            components[name] = given[name]
        elif component is None:
            components[name] = None
        elif issubclass(component, SchedulerMixin):
            components[name] = _load_scheduler(component, folder / name)
        else:
            components[name] = load_strict(component, folder / name, **loading)
    return components


def _load_scheduler(cls: Any, folder: Path) -> Any:
    """The scheduler of a folder, by its config, which is read here: diffusers would follow a path, or a name on the Hub, that is in it."""
    path = folder / str(cls.config_name)
    config = read_json_object(path, cls.__name__)
    # never written: it would have diffusers put its own defaults in the place of what the file says
    config.pop("_use_default_values", None)
    schedulers = allowed_classes()["scheduler"].values()
    known = {key for each in schedulers for key in signature(each.__init__).parameters} - {
        "self",
        "args",
        "kwargs",
    }
    unknown = sorted(key for key in config if key not in known and not key.startswith("_"))
    if unknown:
        raise ValueError(f"{path} has keys that no scheduler knows: {', '.join(unknown)}")
    for key in ("num_train_timesteps", "prediction_type"):
        if key not in config:
            raise ValueError(f"{path} has no {key}: images drawn by a default would be others")
    betas, count = config.get("trained_betas"), config["num_train_timesteps"]
    if isinstance(betas, list) and len(betas) != count:
        raise ValueError(
            f"{path} has {len(betas)} trained_betas for num_train_timesteps {count!r}: one each is needed"
        )
    try:
        return cls.from_config(config)
    except Exception as error:  # by scheduler and by value: TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError ...
        raise ValueError(
            f"{folder} can't be loaded as {cls.__name__}: {' '.join(f'{type(error).__name__}: {error}'.split())}"
        ) from None


def read_index(folder: Path) -> dict[str, type[Any] | None]:
    """The class of each component of a saved folder; only ours, and only in the places where they belong."""
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(
            f"{folder} is no saved pipeline: there is no {INDEX} in it (training writes one to OUTPUT_DIR/pipeline)"
        )
    index, ours = read_json_object(path, PIPELINE), allowed_classes()
    if index.get("_class_name") != PIPELINE:
        raise ValueError(f"{path} must name _class_name {PIPELINE!r}")
    unknown = sorted(name for name in index if not name.startswith("_") and name not in ours)
    if unknown:
        raise ValueError(f"{path} names components that {PIPELINE} does not have: {', '.join(unknown)}")
    classes: dict[str, type[Any] | None] = {}
    for name, allowed in ours.items():
        entry = index.get(name, [None, None])
        known = (
            isinstance(entry, list)
            and all(isinstance(part, str) for part in entry)
            and tuple(entry) in allowed
        )
        if entry == [None, None]:
            classes[name] = None
        elif known:
            classes[name] = allowed[cast(tuple[str, str], tuple(entry))]
        else:
            raise ValueError(f"{path}: {name} must be {wanted(name)}, got {entry}")
    if classes["ivae"] is None and classes["unet"] is None:
        raise ValueError(f"{path} names neither an ivae nor a unet: nothing to load")
    return classes


@cache
def allowed_classes() -> dict[str, dict[tuple[str, str], type[Any]]]:
    """The classes that each component may have, by what `model_index.json` says of them: library and name."""
    import diffusers

    return {
        "ivae": {(LIBRARY, IVAEModel.__name__): IVAEModel},
        "unet": {("diffusers", cls.__name__): cls for cls in (UNet2DModel, UNet2DConditionModel)},
        "conditioning": {(LIBRARY, name): cls for name, cls in CONDITIONINGS.items()},
        "scheduler": {
            **{("diffusers", name): getattr(diffusers, name) for name in VPSDEScheduler._compatibles},
            (LIBRARY, VPSDEScheduler.__name__): VPSDEScheduler,
        },
        "vae": {("diffusers", cls.__name__): cls for cls in (AutoencoderKL, VQModel)},
    }


def wanted(name: str) -> str:
    """The classes that a component may have, in words."""
    if name == "scheduler":
        return f"{LIBRARY}.VPSDEScheduler or a diffusers scheduler compatible with it"
    return " or ".join(".".join(pair) for pair in allowed_classes()[name])


def unwrapped(part: Any) -> Any:
    """The component itself, of one that `torch.compile` wrapped."""
    return getattr(part, "_orig_mod", part)


def check_place(name: str, part: Any) -> None:
    """Refuse a component that belongs in another place; `ValueError` in one line."""
    cls = type(unwrapped(part))
    for place, allowed in allowed_classes().items():
        if place != name and issubclass(cls, tuple(allowed.values())):
            raise ValueError(f"{name} must be {wanted(name)}, got {cls.__name__}: that belongs in {place}")
