"""What the functions of this folder ask of their arguments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raises a ValueError that names the argument, what it must be and what it was, unless `holds`."""
    if not holds:
        raise ValueError(f"{name} must be {wanted}, got {value!r}.")


def require_one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """`require` for an argument with a few allowed values."""
    require(value in allowed, name, value, " or ".join(map(repr, allowed)))


def same_shape(sample: Tensor, other: Tensor) -> None:
    """Raises a ValueError if the shapes differ.

    Unequal shapes would broadcast, one noise for the whole batch for example, without a word.
    """
    if sample.shape != other.shape:
        raise ValueError(
            f"both tensors must have one shape, got {tuple(sample.shape)} and {tuple(other.shape)}."
        )


def working_dtype(x: Tensor) -> torch.dtype:
    """float32, or float64 for a float64 tensor: half precision is too coarse for times and coefficients."""
    return torch.promote_types(x.dtype, torch.float32)


def require_derived(name: str, given: Sequence[float] | float | None, derived: Tensor, settings: str) -> None:
    """Raises a ValueError if `given`, unless None, differs from `derived` by more than a relative 1e-6."""
    seen = derived if given is None else torch.as_tensor(given, dtype=torch.float64)
    if seen.shape != derived.shape or not torch.allclose(seen, derived, rtol=1e-6, atol=0.0):
        raise ValueError(
            f"{name} (shape {tuple(seen.shape)}, mean {seen.mean():g}) is not that of the SDE "
            f"(mean {derived.mean():g}) with {settings}: pass trained_betas, beta_start, beta_end as None to derive them."
        )
