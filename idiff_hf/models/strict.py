"""Loading a model without guessing: what diffusers only logs is an error here."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin
from safetensors import SafetensorError, safe_open

from ..hub_folder import download_model, folder_of


def check_config_keys(cls: type[ConfigMixin], folder: str | os.PathLike[str]) -> None:
    """Refuse a `config.json` in `folder` that is missing, is not JSON or holds keys that `cls` does not know.

    Raises:
        ValueError: One line that names the file, and the unknown keys.
    """
    path = Path(folder) / str(cls.config_name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the folder of a {cls.__name__} holds one") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(config).__name__}")
    known = set(inspect.signature(cls.__init__).parameters) - {"self"}
    unknown = sorted(key for key in config if key not in known and not key.startswith("_"))
    if unknown:
        raise ValueError(f"{path} has keys that {cls.__name__} does not know: {', '.join(unknown)}")


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
        model, info = load(cls, str(folder), use_safetensors=True, output_loading_info=True, **kwargs)
        _check_kinds(model, Path(folder))
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{folder} can't be loaded as {cls.__name__}: {' '.join(str(error).split())}"
        ) from None
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


def _check_kinds(model: Any, folder: Path) -> None:
    """Refuse integers where the model has floating-point numbers, and the reverse, which loading casts and does not mention."""
    floats = {name: tensor.is_floating_point() for name, tensor in model.state_dict().items()}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  no dict
                kind = file.get_slice(name).get_dtype()
                if name in floats and floats[name] != ("F" in kind):
                    raise ValueError(
                        f"tensor {name!r} is {kind}, not {'a float' if floats[name] else 'an integer'}"
                    )


class StrictModelMixin(ModelMixin):
    """A diffusers model whose `from_pretrained` raises a `ValueError` for missing or unexpected tensors and unknown config keys."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
        """Load a folder, or from the Hub where there is no such folder: its configuration and safetensors, and no other file.

        Args:
            pretrained_model_name_or_path: A folder, or `user/name` on the Hub.
            **kwargs: `subfolder`, such as `ivae` for that of a pipeline, `torch_dtype`, `variant` and what else diffusers takes, and what
                `hub_folder.download_pipeline` takes.

        Raises:
            ValueError: One line, as in `load_strict` and `hub_folder.download_pipeline`, or for `use_safetensors=False`.
        """
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError(f"use_safetensors=False is refused: {cls.__name__} never reads pickles")
        folder, rest = folder_of(pretrained_model_name_or_path, kwargs, download_model)
        return load_strict(cls, folder, **rest)
