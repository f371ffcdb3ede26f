"""Loading a model without guessing: what diffusers only logs is an error here."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin
from safetensors import SafetensorError, safe_open

from ..hub_folder import download_model, folder_of, model_patterns


def check_config_keys(cls: type[ConfigMixin], folder: str | os.PathLike[str]) -> None:
    """Refuse a `config.json` in `folder` that is missing, is not JSON or holds keys that `cls` does not know.

    Raises:
        ValueError: One line that names the file, and the unknown keys.
    """
    path = Path(folder) / str(cls.config_name)
    config = read_json_object(path, cls.__name__)
    known = set(inspect.signature(cls.__init__).parameters) - {"self"}
    unknown = sorted(key for key in config if key not in known and not key.startswith("_"))
    if unknown:
        raise ValueError(f"{path} has keys that {cls.__name__} does not know: {', '.join(unknown)}")


def read_json_object(path: Path, owner: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: The file.
        owner: What the file is of, for the message where it is missing.

    Raises:
        ValueError: One line that names the file, where it is missing, can't be read or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the folder of a {owner} holds one") from None
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def load_strict(cls: Any, folder: str | os.PathLike[str], **kwargs: Any) -> Any:
    """`cls.from_pretrained(folder)` for a diffusers model, from safetensors only, where every tensor has to be there and no other.

    Args:
        cls: A `ModelMixin` class.
        folder: Holds `config.json` and `diffusion_pytorch_model.safetensors` (or a variant of it).
        **kwargs: Passed to diffusers, such as `torch_dtype` or `variant`.

    Raises:
        ValueError: One line naming the folder and the missing, unexpected or misshapen tensors, those of another kind of number, or
            unknown config keys.
    """
    check_config_keys(cls, folder)
    load = ModelMixin.from_pretrained.__func__  # type: ignore[attr-defined]
    try:
        _check_shards(Path(folder))
        kinds = _kinds_of_tensors(Path(folder), kwargs.get("variant"))
        model, info = load(cls, str(folder), use_safetensors=True, output_loading_info=True, **kwargs)
        _check_kinds(model, kinds)
    except Exception as error:  # a bad value of a config shows as anything: TypeError, KeyError, AttributeError, ZeroDivisionError ...
        said = (
            str(error)
            if isinstance(error, OSError | RuntimeError | ValueError)
            else f"{type(error).__name__}: {error}"
        )
        raise ValueError(f"{folder} can't be loaded as {cls.__name__}: {' '.join(said.split())}") from None
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(what):
            names = ", ".join(sorted(map(str, info[what])))
            raise ValueError(f"{folder}: {what.replace('_keys', '')} tensors for {cls.__name__}: {names}")
    for tensor in (*model.parameters(), *model.buffers()):
        # a tensor mapped from the file need not be aligned, and then some convolutions round otherwise than before it was saved
        tensor.data = tensor.data.clone()
    return model


def _check_shards(folder: Path) -> None:
    """Refuse an index of shards that names anything but safetensors of this folder: diffusers would read a pickle that it names."""
    for path in sorted(folder.glob("*.index*.json")):
        index = json.loads(path.read_text(encoding="utf-8"))
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict):
            raise ValueError(f"{path.name} has no weight_map")
        for name in shards.values():
            if not isinstance(name, str) or "/" in name or not name.endswith(".safetensors"):
                raise ValueError(f"{path.name} names {name!r}: weights are safetensors in the same folder")


def _kinds_of_tensors(folder: Path, variant: str | None) -> dict[str, str]:
    """What kind of number each tensor has in the files of a variant, such as `F32`; a file that is damaged is named."""
    patterns = model_patterns(variant)
    kinds: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if not any(fnmatchcase(path.name, pattern) for pattern in patterns):
            continue
        try:
            with safe_open(path, "pt") as file:
                kinds |= {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  no dict
        except SafetensorError as error:
            raise ValueError(f"{path.name} is damaged ({error}): copy or save it again") from None
    return kinds


def _check_kinds(model: Any, kinds: Mapping[str, str]) -> None:
    """Refuse integers where the model has floating-point numbers, and the reverse, which loading casts and does not mention."""
    floats = {name: tensor.is_floating_point() for name, tensor in model.state_dict().items()}
    for name, kind in kinds.items():
        if name in floats and floats[name] != ("F" in kind):
            raise ValueError(f"tensor {name!r} is {kind}, not {'a float' if floats[name] else 'an integer'}")


class StrictModelMixin(ModelMixin):
    """A diffusers model whose `from_pretrained` raises a `ValueError` for missing or unexpected tensors and unknown config keys.

    It writes and reads safetensors only.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load a folder, or from the Hub where there is no such folder: its configuration and safetensors, and no other file.

        Args:
            pretrained_model_name_or_path: A folder, or `user/name` on the Hub.
            **kwargs: `subfolder`, such as `ivae` for that of a pipeline, `torch_dtype`, `variant` and what else diffusers takes, and what
                `hub_folder.download_pipeline` takes.

        Raises:
            ValueError: One line, as in `load_strict` and `hub_folder.download_pipeline`, or for `use_safetensors=False` or
                `output_loading_info=True`.
        """
        if kwargs.pop("output_loading_info", False):
            raise ValueError(
                f"output_loading_info=True is refused: {cls.__name__} loads with every tensor in its place or not at all, leave it out"
            )
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError(f"use_safetensors=False is refused: {cls.__name__} never reads pickles")
        folder, rest = folder_of(pretrained_model_name_or_path, kwargs, download_model)
        return load_strict(cls, folder, **rest)

    # diffusers passes a pipeline's arguments on by the names that it sees here
    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        *,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        **kwargs: Any,
    ) -> None:
        """Save `config.json` and safetensors.

        Args:
            save_directory: The folder, created where it is missing.
            safe_serialization: Only True.
            variant: Of the weights, such as `fp16`.
            max_shard_size: Of a file, in bytes or as text.
            **kwargs: As in diffusers.

        Raises:
            ValueError: One line, for `safe_serialization=False`.
        """
        if not safe_serialization:
            raise ValueError("safe_serialization=False would write pickles: idiff_hf saves safetensors only")
        super().save_pretrained(
            save_directory,
            safe_serialization=True,
            variant=variant,
            max_shard_size=max_shard_size,
            **kwargs,
        )
