"""Codes and factors from a file, for people who never train with us."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

MAX_BYTES = 4 * 2**30
"""Arrays that say they are larger, compressed or not, are refused before they are read."""


def load_codes(path: Path) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """The arrays `codes` and `factors` of an npz file, as `numpy.savez(path, codes=codes, factors=factors)` writes it.

    Args:
        path: The file. Nothing in it is executed: arrays of Python objects are refused.

    Returns:
        Codes and factors as they are stored; `check_codes_and_factors` says whether they are usable.

    Raises:
        ValueError: One line: no such file, no npz file, an array that is missing (and which are there), of Python objects, or too
            large; integer codes beside floating factors, which are most likely swapped.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file: give an npz file with the arrays codes and factors")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(
            f"{path} is no npz file ({error}): write it by numpy.savez(path, codes=codes, factors=factors)"
        ) from None
    missing = [name for name in ("codes", "factors") if name not in sizes]
    if missing:
        there = ", ".join(sorted(sizes)[:8]) or "none"
        raise ValueError(f"{path} has no array {' and no array '.join(missing)}; there are: {there}")
    large = [name for name in ("codes", "factors") if sizes[name] > MAX_BYTES]
    if large:
        raise ValueError(
            f"{path}: {large[0]} takes {sizes[large[0]]:,} bytes, more than {MAX_BYTES:,}: give fewer rows"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            codes, factors = arrays["codes"], arrays["factors"]
    # On a damaged file NumPy and zlib raise nearly anything.
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    # NumPy hands on what is no array, as a member's bytes.
    if not (isinstance(codes, np.ndarray) and isinstance(factors, np.ndarray)):
        raise ValueError(f"{path}: codes and factors must be arrays as numpy.savez writes them")
    if codes.dtype.kind in "biu" and factors.dtype.kind == "f":
        raise ValueError(
            f"{path}: codes are {codes.dtype} and factors {factors.dtype}, so they look swapped: exchange them, "
            "or save codes as floats if they are right"
        )
    return codes, factors
