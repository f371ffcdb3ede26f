"""Reading a saved pipeline: only the classes that belong there, only safetensors and JSON, and no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel, UNet2DModel, VQModel

from ..folders import MANIFEST, verify_folder
from ..models import CONDITIONINGS, IVAEModel, load_strict
from ..schedulers import VPSDEScheduler

LIBRARY = "idiff_hf"
PIPELINE = "IVAEDiffusionPipeline"


def load_components(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Every component of a saved folder, verified against its manifest where it has one.

    Args:
        folder: The folder.
        given: Keyword arguments of `from_pretrained`: `dtype` (or `torch_dtype`), `variant`, and components that replace the folder's.

    Raises:
        ValueError: One line, as `from_pretrained` says.
    """
    given = dict(given)
    for name in ("custom_pipeline", "trust_remote_code"):
        if given.pop(name, None):
            raise ValueError(f"{name} is refused: {PIPELINE} never runs code from a model folder")
    if (folder / MANIFEST).is_file():
        verify_folder(folder)
    classes = read_index(folder)
    loading = {key: given.pop(key) for key in ("variant",) if key in given}
    # both names are taken out: diffusers knows the old one, and its users the new
    dtypes = [given.pop(key, None) for key in ("dtype", "torch_dtype")]
    dtype = next((value for value in dtypes if value is not None), None)
    if dtype is not None:
        loading["torch_dtype"] = dtype
    components: dict[str, Any] = {}
    for name, component in classes.items():
        if name in given:
            components[name] = given.pop(name)
        elif component is None:
            components[name] = None
        elif issubclass(component, SchedulerMixin):
            components[name] = component.from_pretrained(folder / name)
        else:
            components[name] = load_strict(component, folder / name, **loading)
    if given:
        raise ValueError(f"unknown argument for {PIPELINE}.from_pretrained: {', '.join(sorted(given))}")
    return components


def read_index(folder: Path) -> dict[str, type[Any] | None]:
    """The class of each component of a saved folder; only ours, and only in the places where they belong."""
    import diffusers

    path = folder / "model_index.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is no saved pipeline: there is no model_index.json in it (training writes one to OUTPUT_DIR/pipeline)"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    ours: dict[str, dict[tuple[str, str], type[Any]]] = {
        "ivae": {(LIBRARY, IVAEModel.__name__): IVAEModel},
        "unet": {("diffusers", cls.__name__): cls for cls in (UNet2DModel, UNet2DConditionModel)},
        "conditioning": {(LIBRARY, name): cls for name, cls in CONDITIONINGS.items()},
        "scheduler": {
            **{("diffusers", name): getattr(diffusers, name) for name in VPSDEScheduler._compatibles},
            (LIBRARY, VPSDEScheduler.__name__): VPSDEScheduler,
        },
        "vae": {("diffusers", cls.__name__): cls for cls in (AutoencoderKL, VQModel)},
    }
    if not isinstance(index, dict) or index.get("_class_name") != PIPELINE:
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
        elif name == "scheduler":
            raise ValueError(
                f"{path}: scheduler must be {LIBRARY}.VPSDEScheduler or a diffusers scheduler compatible with it, got {entry}"
            )
        else:
            names = " or ".join(".".join(pair) for pair in allowed)
            raise ValueError(f"{path}: {name} must be {names}, got {entry}")
    if classes["ivae"] is None and classes["unet"] is None:
        raise ValueError(f"{path} names neither an ivae nor a unet: nothing to load")
    return classes
