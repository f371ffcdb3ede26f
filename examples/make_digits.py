"""Makes examples/digits: 300 real pictures with factors and bounds, as an example of a set of your own.

    python examples/make_digits.py OUT

writes OUT/0000.png ... OUT/0299.png and OUT/metadata.csv. The pictures are the first 300 of scikit-learn's digits, each pixel enlarged to
4 x 4. They come with that package, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

COUNT = 300
ENLARGE = 4
HEADER = ("file_name", "digit", "ink", "slant", "ink_lower", "ink_upper")


def slant_degrees(strokes: np.ndarray) -> float:
    """How far a digit leans to the right: the angle of its axis from the vertical, in degrees.

    The axis is the regression of columns on rows, the pixels weighted by their ink: tan(slant) = -cov(column, row) / var(row), rows
    counted downwards.

    Args:
        strokes: Ink `(H, W)`, not negative and not all zero.
    """
    row, column = np.indices(strokes.shape)
    weight = strokes / strokes.sum()
    row, column = row - (weight * row).sum(), column - (weight * column).sum()
    return float(np.degrees(np.arctan2(-(weight * column * row).sum(), (weight * row * row).sum())))


def make(folder: Path) -> None:
    """Write pictures and metadata.csv into a folder, which is made.

    Columns: `digit`, 0 to 9; `ink`, the mean of the picture in 0..1; `slant` in degrees; `ink_lower` and `ink_upper`, between which
    quartiles of all pictures `ink` lies, as someone might tell who sorts them by eye into four heaps. In every tenth picture no bound is
    told, in others no lower or no upper one.
    """
    data = load_digits()
    strokes, digits = data.images[:COUNT], data.target[:COUNT]
    ink = (strokes.mean(axis=(1, 2)) / 16).round(4)
    edges = np.quantile(ink, (0, 0.25, 0.5, 0.75, 1)).round(4)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(HEADER)
        for k in range(COUNT):
            name = f"{k:04}.png"
            # 0..16 to 0..255
            pixels = (strokes[k] * 255 / 16).round().astype(np.uint8)
            Image.fromarray(pixels.repeat(ENLARGE, axis=0).repeat(ENLARGE, axis=1)).save(
                folder / name, optimize=True
            )
            quarter = int(np.searchsorted(edges[1:-1], ink[k], side="right"))
            lower = "" if k % 10 in (0, 3) else f"{edges[quarter]:.4f}"
            upper = "" if k % 10 in (0, 6) else f"{edges[quarter + 1]:.4f}"
            table.writerow(
                (name, digits[k], f"{ink[k]:.4f}", f"{slant_degrees(strokes[k]):.2f}", lower, upper)
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, metavar="OUT")
    make(parser.parse_args().folder)
