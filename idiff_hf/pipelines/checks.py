"""What callers give, checked: numbers of any kind, rows, factors and callbacks, every fault one line that shows the value."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor


def check_rows(name: str, value: Any, width: int) -> None:
    """Refuse what is no tensor of rows of this width."""
    if not isinstance(value, Tensor) or value.ndim != 2 or value.shape[1] != width:
        seen = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must be a tensor (B, {width}), got {seen}")


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of `least` or more, as an int; `ValueError` in one line for anything else."""
    number = whole_number(value)
    if number is None:
        raise ValueError(f"{name} must be a whole number, got {shown(value)}")
    if number < least:
        raise ValueError(f"{name} must be {least} or more, got {number}")
    return number


def whole_number(value: Any) -> int | None:
    """A whole number of Python, NumPy or torch as an int; None for anything else, truth values and lists of one among them."""
    if _is_truth(value) or getattr(value, "ndim", 0) != 0:
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def real_number(value: Any) -> float | None:
    """A number, or an array or tensor of one, as a float; None for anything else, truth values and texts among them."""
    if _is_truth(value) or isinstance(value, str | bytes):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def shown(value: Any) -> str:
    """A value that was given, for a message of one line."""
    return f"{' '.join(repr(value).split()):.100}"


def _is_truth(value: Any) -> bool:
    if isinstance(value, np.ndarray | Tensor):
        return value.dtype in (torch.bool, np.bool_)
    return isinstance(value, bool | np.bool_)


def finite_number(value: Any) -> float:
    """What one latent is set to in every image."""
    number = real_number(value)
    # latents are float32
    if number is None or not abs(number) <= torch.finfo(torch.float32).max:
        raise ValueError(f"a latent must be set to one finite number for all images, got {shown(value)}")
    return number


def listed(values: Any) -> list[Any]:
    """What was given one by one; a single thing is one of them."""
    if isinstance(values, str):
        return [values]
    try:
        return list(values)
    except TypeError:
        return [values]


def numbers(value: Any) -> np.ndarray:
    """Factors as an array of the type that they were given in, so that a message shows them as they were."""
    given = value.detach().cpu() if isinstance(value, Tensor) else value
    if isinstance(given, Tensor) and given.dtype == torch.bfloat16:
        given = given.float()  # NumPy has no bfloat16
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in ("i", "u", "f"):
        raise ValueError(f"factors must be numbers, of one length where they are lists, got {shown(value)}")
    return array


def label_counts(factor_sizes: Any, num_factors: int) -> list[int]:
    """Numbers of labels, one for each factor."""
    given = listed(factor_sizes)
    sizes = [size for size in map(whole_number, given) if size is not None and size > 0]
    if len(sizes) < len(given):
        raise ValueError(f"factor_sizes must be whole numbers of 1 or more, got {shown(factor_sizes)}")
    if len(sizes) != num_factors:
        raise ValueError(f"factor_sizes must be {num_factors} numbers, one a factor, got {len(sizes)}")
    return sizes


def tensors_asked_for(callback: Any, names: Any, known: Sequence[str]) -> list[str]:
    """The tensors that a callback is given after each step: those named, or of a callback of diffusers those that it names itself.

    Raises:
        ValueError: One line for what can't be called, or names that are none of `known`.
    """
    if callback is not None and not callable(callback):
        raise ValueError(f"callback_on_step_end must be a function, got {shown(callback)}")
    if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
        names = callback.tensor_inputs
    if isinstance(names, str):
        raise ValueError(f"callback_on_step_end_tensor_inputs must be a list of names, got {names!r}")
    unknown = [name for name in listed(names) if name not in known]
    if unknown:
        raise ValueError(
            f"callback_on_step_end_tensor_inputs must be among {', '.join(known)}, got {', '.join(map(str, unknown))}"
        )
    return list(names)


def tensors_returned(changed: Any, tensors: Mapping[str, Tensor | None]) -> Mapping[str, Tensor | None]:
    """What a callback gives back in the place of `tensors`: any of them by name, of their shape, or None for nothing."""
    changed = {} if changed is None else changed
    if not isinstance(changed, Mapping):
        raise ValueError(
            f"callback_on_step_end must return a dict of tensors, or None, got {type(changed).__name__}"
        )
    if unknown := [name for name in changed if name not in tensors]:
        raise ValueError(
            f"callback_on_step_end must return any of {', '.join(tensors)} by name, got {', '.join(map(str, unknown))}"
        )
    for name, value in changed.items():
        before, after = (getattr(each, "shape", None) for each in (tensors[name], value))
        if before != after:
            raise ValueError(
                f"callback_on_step_end must return tensors of their shape, {name} {tuple(before or ())}, "
                f"got {type(value).__name__ if after is None else tuple(after)}"
            )
    return changed
