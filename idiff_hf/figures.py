"""The paper's figures as PNG files, from arrays alone: equal arrays give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .folders import os_errors

_GAP = 2
_PAD = 6
_FONT_SIZE = 12
_HISTOGRAM_BINS = 60
_HISTOGRAM_COLUMNS = 5


def image_grid(
    rows: Sequence[np.ndarray],
    row_labels: Sequence[str],
    path: Path,
    scale: int = 2,
    column_labels: Sequence[str] | None = None,
) -> None:
    """Write rows of images as one picture, each row labelled on its left.

    Args:
        rows: Arrays of one shape `(n, H, W, C)`, uint8, C 1 (grey) or 3.
        row_labels: One text for each row.
        path: The PNG file; its folder is made.
        scale: Each pixel becomes a square of this side.
        column_labels: One text for each of the n columns, written above them.

    Raises:
        ValueError: No rows, rows that are not uint8 `(n, H, W, C)` or differ in shape, or a wrong number
            of labels.
    """
    if not rows or len({row.shape for row in rows}) != 1:
        raise ValueError(
            f"rows must be one or more arrays of one shape, got shapes {[row.shape for row in rows]}"
        )
    shape = rows[0].shape
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape or any(row.dtype != np.uint8 for row in rows):
        raise ValueError(f"rows must be uint8 (n, H, W, 1 or 3), got {rows[0].dtype} {shape}")
    if len(row_labels) != len(rows):
        raise ValueError(f"row_labels must be {len(rows)}, one for each row, got {len(row_labels)}")
    columns, height, width = shape[0], shape[1] * scale, shape[2] * scale
    if column_labels is not None and len(column_labels) != columns:
        raise ValueError(f"column_labels must be {columns}, one for each column, got {len(column_labels)}")

    font = ImageFont.load_default(size=_FONT_SIZE)
    left = int(max(font.getlength(label) for label in row_labels)) + 2 * _PAD
    top = _FONT_SIZE + _PAD if column_labels is not None else 0
    size = (left + columns * (width + _GAP) - _GAP, top + len(rows) * (height + _GAP) - _GAP)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for j, label in enumerate(column_labels or ()):
        draw.text(
            (left + j * (width + _GAP) + width // 2, top // 2), label, fill="black", font=font, anchor="mm"
        )
    for i, (row, label) in enumerate(zip(rows, row_labels, strict=True)):
        y = top + i * (height + _GAP)
        draw.text((left - _PAD, y + height // 2), label, fill="black", font=font, anchor="rm")
        for j, image in enumerate(row):
            tile = to_pil(image).resize((width, height), Image.Resampling.NEAREST)
            picture.paste(tile, (left + j * (width + _GAP), y))
    with os_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, format="PNG")


def reconstruction_figure(
    originals: np.ndarray, ivae: np.ndarray | None, ddpm: Mapping[float, np.ndarray], path: Path
) -> None:
    """Write the input above what the iVAE decoder and the diffusion model make of its latents (Figure 7).

    Args:
        originals: The images that were encoded, `(n, H, W, C)` uint8.
        ivae: Images of the iVAE decoder, of the same shape; None if it is untrained.
        ddpm: Images of the diffusion model for each guidance gamma (Eq. 10), of the same shape;
            empty if there is no U-Net.
        path: The PNG file.

    Raises:
        ValueError: As in `image_grid`.
    """
    gammas = sorted(ddpm)
    drawn = {"input": originals, "iVAE decoder": ivae} | {f"DDPM, guidance {g:g}": ddpm[g] for g in gammas}
    rows = {label: images for label, images in drawn.items() if images is not None}
    image_grid(list(rows.values()), list(rows), path)


def traversal_figure(images: np.ndarray, values: Sequence[float], labels: Sequence[str], path: Path) -> None:
    """Write one row for each latent, which alone moves along it (Figures 10 and 11).

    Args:
        images: `(D, S, H, W, C)` uint8: latent d set to `values[s]`.
        values: The S values of the moving latent.
        labels: The D names of the latents.
        path: The PNG file.

    Raises:
        ValueError: Images of another shape, or as in `image_grid`.
    """
    if images.ndim != 5:
        raise ValueError(f"images must be (D, S, H, W, C), got {images.shape}")
    image_grid(list(images), labels, path, column_labels=[f"{value:g}" for value in values])


def latent_histograms(codes: np.ndarray, labels: Sequence[str], path: Path) -> None:
    """Write the histogram of each latent over a dataset (Figure 12).

    All panels have one range of z, so that a latent that carries nothing is seen as a spike. Each panel is
    scaled to its own largest density.

    Args:
        codes: `(N, D)`, finite.
        labels: The D names of the latents.
        path: The PNG file; its folder is made.

    Raises:
        ValueError: Codes that are not finite `(N, D)`, or a wrong number of labels.
    """
    if codes.ndim != 2 or codes.size == 0 or not np.isfinite(codes).all():
        raise ValueError(
            f"codes must be finite (N, D), got shape {codes.shape}, {np.isfinite(codes).mean():.0%} finite"
        )
    if len(labels) != codes.shape[1]:
        raise ValueError(f"labels must be {codes.shape[1]}, one for each latent, got {len(labels)}")
    columns = min(_HISTOGRAM_COLUMNS, len(labels))
    lines = -(-len(labels) // columns)
    figure = Figure(figsize=(2.4 * columns, 1.7 * lines), dpi=100, layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True).flatten()
    edges = np.histogram_bin_edges(codes, bins=_HISTOGRAM_BINS)
    for panel, code, label in zip(panels, codes.T, labels, strict=False):
        panel.hist(code, bins=edges, density=True, histtype="stepfilled", color="tab:blue")
        panel.set_title(label, fontsize=9)
        panel.set_yticks([])
        panel.tick_params(labelsize=8)
    for panel in panels[len(labels) :]:
        panel.remove()
    save_figure(figure, path)


def sampler_figure(curves: Mapping[str, np.ndarray], reference: tuple[float, float], path: Path) -> None:
    """Write error, and what is read back, of each solver against calls of the U-Net.

    Args:
        curves: For each solver `(n, 3)`: calls, mean squared error, fraction of factors read back (NaN where none is read).
        reference: Error and fraction of the solution they are compared with, drawn as a line.
        path: The PNG file.
    """
    read = not all(np.isnan(curve[:, 2]).all() for curve in curves.values())
    figure = Figure(figsize=(5.2 * (1 + read), 4.0), dpi=100, layout="constrained")
    panels = figure.subplots(1, 1 + read, squeeze=False)[0]
    for panel, column, title in zip(panels, (1, 2), ("squared error", "factors read back"), strict=False):
        for (name, curve), marker in zip(curves.items(), "os^vD<>pP*X", strict=False):
            panel.plot(curve[:, 0], curve[:, column], marker=marker, markersize=4, linewidth=1, label=name)
        panel.axhline(reference[column - 1], color="grey", linestyle=":", linewidth=1)
        panel.set_xscale("log")
        panel.set_xlabel("calls of the U-Net")
        panel.set_title(title, fontsize=10)
    # at few calls some solvers leave noise, which would hide the rest
    panels[0].set_yscale("log")
    panels[0].legend(fontsize=7)
    save_figure(figure, path)


def latent_labels(num_latents: int, matched: Mapping[str, int]) -> list[str]:
    """`z0`, `z1`, ... , each with the name of the factor that it is matched to, where there is one.

    Args:
        num_latents: D.
        matched: The latent of each factor; -1 for none.
    """
    factors = {latent: name for name, latent in matched.items()}
    return [f"z{dim} {factors[dim]}" if dim in factors else f"z{dim}" for dim in range(num_latents)]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a matplotlib figure as a PNG file, whose folder is made; equal figures give equal bytes."""
    # Without its version in the file, the bytes depend on the picture alone.
    with os_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})


def channels_last(images: Tensor) -> np.ndarray:
    """Images `(n, C, H, W)` on any device as an array `(n, H, W, C)`."""
    return images.movedim(1, -1).cpu().numpy()


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Float images in [0, 1] to uint8.

    Raises:
        ValueError: One line for numbers that are not finite, as too high a scale of guidance leads to.
    """
    if not np.isfinite(images).all():
        raise ValueError("the images hold numbers that are not finite: is the scale of guidance too high?")
    return np.round(images * 255.0).astype(np.uint8)


def to_pil(image: np.ndarray) -> Image.Image:
    """An image `(H, W, C)` uint8, of one channel or three."""
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
