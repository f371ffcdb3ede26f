"""Pictures of any kind as arrays: decoded, their size and channels settled, every fault one line that names the picture."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

Color = Literal["rgb", "grey"]

# What may be decoded. Pillow knows others; of these, EPS is a program that it hands to Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

_MOST_WORKERS = 16
_BLOCK = 64  # rows that a thread decodes at a time


def to_picture(value: Any, image_size: int, color: Color, resize: bool, where: str) -> np.ndarray:
    """Decode one picture.

    Transparent parts become white; a photograph is turned upright as its EXIF data say; of a moving picture the first frame counts.
    Grey is the luma of ITU-R BT.601. With `resize` the centre square is scaled to `image_size` by Pillow's antialiased bicubic filter,
    which is the same as scaling the shorter side to `image_size` and cutting out the centre.

    Args:
        value: A path or the bytes of a file in one of `FORMATS`, a PIL image of 8 bits a channel, or a uint8 array `(H, W)` or
            `(H, W, 1 | 3 | 4)` in 0..255.
        image_size: Height and width wanted, in pixels.
        color: `rgb` for three channels, `grey` for one.
        resize: Scale and crop; False refuses any other size.
        where: The file or row, for messages.

    Returns:
        `(image_size, image_size, 3)` or `(image_size, image_size, 1)` uint8 in 0..255.

    Raises:
        ValueError: Corrupt or unknown file, a picture of more than 8 bits a channel, wrong size with `resize` False, more pixels than
            Pillow's limit against decompression bombs, or an array of wrong rank, dtype or channel order.
    """
    if isinstance(value, np.ndarray):
        _check_array(value, where)
        value = Image.fromarray(value[:, :, 0] if value.shape[2:] == (1,) else value)
    try:
        image = value if isinstance(value, Image.Image) else _open(value)
        if resize and image is not value:
            # A JPEG decoder can halve the size as it reads; twice what is wanted leaves the filter its work. Not of a caller's own image.
            image.draft(None, (2 * image_size, 2 * image_size))
        image.load()
        image = ImageOps.exif_transpose(image)
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(
            f"{where}: more than {limit:,} pixels, which may be an attack; scale it down first"
        ) from None
    except Exception as error:
        # By format and by fault: OSError, SyntaxError, ValueError, TypeError, struct.error, zlib.error ...
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{where}: cannot be decoded as {', '.join(FORMATS[:-1])} or {FORMATS[-1]} ({reason})"
        ) from None
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{where}: a picture of mode {image.mode}, more than 8 bits a channel; save it with 8 bits"
        )
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB" if color == "rgb" else "L")
    if resize:
        image = ImageOps.fit(image, (image_size, image_size))
    elif image.size != (image_size, image_size):
        raise ValueError(
            f"{where}: {image.width} x {image.height} pixels (width x height), not {image_size} x {image_size}; "
            "set data.resize=true, or data.image_size to what all of them are"
        )
    return np.asarray(image).reshape(image_size, image_size, -1)


def decode_all(
    picture: Callable[[int], np.ndarray],
    out: np.ndarray,
    advance: Callable[[int], None],
    target: np.ndarray | None = None,
) -> None:
    """Fill an array with pictures, in threads.

    Args:
        picture: From a row number to its picture.
        out: `(N, H, W, C)`, which takes the picture of each row.
        advance: Called with the number of rows done since the last call.
        target: `(N,)`, where in `out` each row goes; None keeps the order.

    Raises:
        ValueError: What `picture` raises of the first bad row; rows far behind it are not decoded any more.
    """

    def block(start: int) -> int:
        rows = range(start, min(start + _BLOCK, len(out)))
        for row in rows:
            out[row if target is None else target[row]] = picture(row)
        return len(rows)

    workers = ThreadPoolExecutor(min(_MOST_WORKERS, os.cpu_count() or 1))
    try:
        for count in workers.map(block, range(0, len(out), _BLOCK)):
            advance(count)
    finally:
        workers.shutdown(cancel_futures=True)


def _open(value: bytes | str | Path) -> Image.Image:
    return Image.open(BytesIO(value) if isinstance(value, bytes) else value, formats=FORMATS)


def _check_array(array: np.ndarray, where: str) -> None:
    shape = array.shape
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{where}: an array of shape {shape}; give (height, width) or (height, width, channels)"
        )
    if array.ndim == 3 and shape[2] not in (1, 3, 4):
        order = "channels first; move them last" if shape[0] in (1, 3, 4) else f"{shape[2]} channels"
        raise ValueError(f"{where}: an array of shape {shape}, {order}: (height, width, 1, 3 or 4)")
    if array.dtype != np.uint8:
        raise ValueError(f"{where}: an array of {array.dtype}; give uint8 in 0..255")
    if 0 in shape:
        raise ValueError(f"{where}: an array of shape {shape} has no pixels")
