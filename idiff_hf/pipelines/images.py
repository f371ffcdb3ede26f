"""Images at the pipeline's edge: of any common kind, brought to the model's size only where that is asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..data.pictures import to_picture

ImageInput = Image.Image | np.ndarray | Tensor | Sequence[Image.Image]
OutputType = Literal["pil", "np", "pt"]


def prepare_images(images: ImageInput, channels: int, size: int, resize: bool = False) -> Tensor:
    """Images as the models take them, where they lie: `(B, channels, size, size)` float32 in [-1, 1].

    With `resize` the centre square is scaled to `size` by an antialiased bicubic filter, as for `data.resize` in training. Pictures become
    grey or RGB and lose their transparency as there, with `resize` or without.

    Args:
        images: One or a list of PIL images, a NumPy array `(B, H, W, C)` (uint8, or float in [0, 1]) or a tensor `(B, C, H, W)` (uint8, or
            float in [-1, 1]).
        channels: C of the model, 1 or 3.
        size: H = W of the model in pixels.
        resize: Whether images of another size are brought to `size`, or refused.

    Raises:
        ValueError: One line for images of another kind, number of channels or range, or of another size without `resize`.

    Warns:
        UserWarning: A float tensor without a negative number, which is likely to be in [0, 1], as a pipeline's `pt` output is; or uint8
            whose largest number is 1, which is likely to be 0 and 1.
    """
    if isinstance(images, Tensor | np.ndarray):
        _check_dtype(images)
    if isinstance(images, Tensor):
        tensor = images.float() / 127.5 - 1.0 if images.dtype == torch.uint8 else images.float()
    elif isinstance(images, np.ndarray):
        scale = 255.0 if images.dtype == np.uint8 else 1.0
        array = torch.from_numpy(images.astype(np.float32) / scale)
        tensor = (array.movedim(-1, 1) if array.ndim == 4 else array) * 2.0 - 1.0
    else:
        tensor = _from_pictures(images, channels, size, resize)
    shape = tuple(tensor.shape)
    if tensor.ndim != 4 or shape[1] != channels or 0 in shape:
        raise ValueError(
            f"images must be {channels}x{size}x{size} for this model (tensors channels first, arrays channels last), got {shape}"
        )
    low, high = float(tensor.min()), float(tensor.max())
    if not (low >= -1.001 and high <= 1.001):
        raise ValueError(
            f"images must lie in [-1, 1] (tensor), [0, 1] (array) or be uint8, got {getattr(images, 'dtype', 'pictures')} that "
            f"come to {low:.3g} to {high:.3g} in units of [-1, 1]"
        )
    if isinstance(images, Tensor) and _is_float(images) and 0.0 <= low < high:
        warnings.warn(
            f"float tensors are read as [-1, 1], and these lie in [{low:.3g}, {high:.3g}]: give 2 * images - 1 if they are in [0, 1]",
            stacklevel=3,
        )
    if isinstance(images, Tensor | np.ndarray) and not _is_float(images) and images.max() == 1:
        warnings.warn(
            "uint8 is read as 0 to 255, and the largest number here is 1: give 255 * images if they are 0 and 1",
            stacklevel=3,
        )
    if shape[2:] == (size, size):
        return tensor
    if not resize:
        raise ValueError(
            f"images must be {channels}x{size}x{size} for this model, got {shape}: resize them, or pass resize=True"
        )
    square = min(shape[2:])
    top, left = ((side - square) // 2 for side in shape[2:])
    cut = tensor[:, :, top : top + square, left : left + square]
    return functional.interpolate(cut, (size, size), mode="bicubic", antialias=True).clamp(-1.0, 1.0)


def _is_float(images: np.ndarray | Tensor) -> bool:
    return images.is_floating_point() if isinstance(images, Tensor) else images.dtype.kind == "f"


def _check_dtype(images: np.ndarray | Tensor) -> None:
    """Refuse numbers whose range nothing says."""
    if images.dtype in (torch.bool, np.bool_):
        raise ValueError("images of true and false have no range: give uint8, 255 times them")
    if images.dtype not in (torch.uint8, np.uint8) and not _is_float(images):
        raise ValueError(f"images must be uint8 in 0 to 255, or floats, got {images.dtype}: convert them")


def _from_pictures(given: Any, channels: int, size: int, resize: bool) -> Tensor:
    pictures = list(given) if isinstance(given, Iterable) else [given]
    others = sorted({type(item).__name__ for item in pictures if not isinstance(item, Image.Image)})
    if others or not pictures:
        listed = "a list of " if isinstance(given, Iterable) else ""
        raise ValueError(
            "images must be one or a list of PIL images, an array (B, H, W, C) or a tensor (B, C, H, W), "
            f"got {listed + ', '.join(others) if others else 'an empty list'}"
        )
    sizes = sorted({picture.size for picture in pictures})
    seen = ", ".join(f"{width}x{height}" for width, height in sizes)
    if any(0 in each for each in sizes):
        raise ValueError(f"images must have pixels, got {seen}")
    if not resize and sizes != [(size, size)]:
        raise ValueError(
            f"images must be {size}x{size} for this model, got {seen}: resize them, or pass resize=True"
        )
    color: Literal["rgb", "grey"] = "rgb" if channels == 3 else "grey"
    arrays = [
        to_picture(picture, size, color, resize, f"image {number}") for number, picture in enumerate(pictures)
    ]
    return torch.from_numpy(np.stack(arrays)).movedim(-1, 1).float() / 127.5 - 1.0


def prepare_vectors(vectors: Any, channels: int) -> Tensor:
    """Vectors, `(B, channels)` or `(B, channels, 1, 1)`, as images of one pixel `(B, channels, 1, 1)` float32.

    Raises:
        ValueError: One line for anything else, no vector, or numbers that are not finite.
    """
    if not isinstance(vectors, Tensor) or tuple(vectors.shape[1:]) not in ((channels,), (channels, 1, 1)):
        seen = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ValueError(f"this model takes vectors, a tensor (B, {channels}), got {seen}")
    if len(vectors) == 0 or vectors.is_complex():
        seen = f"{vectors.dtype} {tuple(vectors.shape)}"
        raise ValueError(f"this model takes one vector of real numbers or more, got {seen}")
    vectors = vectors.float()
    if not bool(torch.isfinite(vectors).all()):
        raise ValueError(
            "this model takes vectors that are finite in float32, got NaN, infinity or more than that holds"
        )
    return vectors.reshape(len(vectors), channels, 1, 1)
