"""Figures: layout, pixels, and bytes that depend on the arrays alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idiff_hf.figures import image_grid, latent_histograms, reconstruction_figure, to_uint8, traversal_figure
from idiff_hf.folders import CheckpointError


def _colours(n: int, size: int = 8) -> np.ndarray:
    """n images, image i all of colour (10 i + 5, 200, 250 - 10 i)."""
    colours = np.array([(10 * i + 5, 200, 250 - 10 * i) for i in range(n)], dtype=np.uint8)
    return np.broadcast_to(colours[:, None, None], (n, size, size, 3)).copy()


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_grid_holds_every_pixel_in_its_place(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, 5, 7, 3), dtype=np.uint8)
    image_grid([images[:3], images[3:]], ["a", "bb"], tmp_path / "grid.png", scale=3)
    picture = _read(tmp_path / "grid.png")
    height, width = 5 * 3, 7 * 3
    left = picture.shape[1] - (3 * width + 2 * 2)
    assert left > 0 and picture.shape[0] == 2 * height + 2
    for i in range(2):
        for j in range(3):
            y, x = i * (height + 2), left + j * (width + 2)
            tile = picture[y : y + height, x : x + width]
            np.testing.assert_array_equal(tile, images[3 * i + j].repeat(3, axis=0).repeat(3, axis=1))


def test_grid_labels_are_drawn_in_the_margins_only(tmp_path: Path) -> None:
    white = np.full((2, 16, 16, 3), 255, dtype=np.uint8)
    image_grid([white, white], ["input", ""], tmp_path / "rows.png", scale=2)
    rows = _read(tmp_path / "rows.png")
    dark = rows.min(axis=2) < 128
    left = rows.shape[1] - (2 * 32 + 2)
    assert dark[:32, :left].sum() > 20  # the text of row 0
    assert not dark[32:].any() and not dark[:, left:].any()
    image_grid([white, white], ["input", ""], tmp_path / "columns.png", scale=2, column_labels=["x", "y"])
    columns = _read(tmp_path / "columns.png")
    top = columns.shape[0] - rows.shape[0]
    np.testing.assert_array_equal(columns[top:], rows)
    assert (columns[:top, left:].min(axis=2) < 128).any()


def test_reconstruction_figure_orders_guidance(tmp_path: Path) -> None:
    images = _colours(4)
    reconstruction_figure(
        images[:1], images[1:2], {4.0: images[3:4], 1.0: images[2:3]}, tmp_path / "new" / "figure.png"
    )
    picture = _read(tmp_path / "new" / "figure.png")
    assert picture.shape[0] == 4 * 16 + 3 * 2
    np.testing.assert_array_equal(picture[8::18, -8], images[:, 0, 0])


def test_reconstruction_figure_without_a_unet(tmp_path: Path) -> None:
    images = _colours(2)
    reconstruction_figure(images[:1], images[1:], {}, tmp_path / "figure.png")
    assert _read(tmp_path / "figure.png").shape[0] == 2 * 16 + 2


def test_reconstruction_figure_without_a_decoder(tmp_path: Path) -> None:
    images = _colours(2)
    reconstruction_figure(images[:1], None, {1.0: images[1:]}, tmp_path / "figure.png")
    picture = _read(tmp_path / "figure.png")
    assert picture.shape[0] == 2 * 16 + 2
    np.testing.assert_array_equal(picture[8::18, -8], images[:, 0, 0])


def test_traversal_figure_has_a_row_for_each_latent(tmp_path: Path) -> None:
    images = _colours(6).reshape(2, 3, 8, 8, 3)
    traversal_figure(images, [-1.5, 0.0, 1.5], ["z0", "z1"], tmp_path / "figure.png")
    picture = _read(tmp_path / "figure.png")
    centres = picture[-2 * 16 - 2 + 8 :: 18, picture.shape[1] - 3 * 16 - 4 + 8 :: 18]
    np.testing.assert_array_equal(centres, images[:, :, 0, 0])


def test_histograms_have_one_panel_for_each_latent(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).normal(size=(500, 7))
    latent_histograms(codes, [f"z{i}" for i in range(7)], tmp_path / "figure.png")
    picture = _read(tmp_path / "figure.png")
    assert picture.shape == (2 * 170, 5 * 240, 3)
    blue = (picture == (31, 119, 180)).all(axis=2)  # tab:blue
    filled = [
        [blue[170 * i : 170 * i + 170, 240 * j : 240 * j + 240].any() for j in range(5)] for i in range(2)
    ]
    assert filled == [[True] * 5, [True, True, False, False, False]]


def test_histogram_of_a_dead_latent_is_a_spike(tmp_path: Path) -> None:
    codes = np.stack([np.linspace(-2, 2, 600), np.zeros(600)], axis=1)
    latent_histograms(codes, ["live", "dead"], tmp_path / "figure.png")
    blue = (_read(tmp_path / "figure.png") == (31, 119, 180)).all(axis=2)
    half = blue.shape[1] // 2
    assert blue[:, :half].any(axis=0).sum() > 20 * blue[:, half:].any(axis=0).sum()


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    images = _colours(4)
    codes = np.random.default_rng(0).normal(size=(100, 3))
    for name in ("a", "b"):
        image_grid([images], ["row"], tmp_path / f"{name}_grid.png", column_labels=list("1234"))
        latent_histograms(codes, ["z0", "z1", "z2"], tmp_path / f"{name}_latents.png")
    for figure in ("grid", "latents"):
        assert (tmp_path / f"a_{figure}.png").read_bytes() == (tmp_path / f"b_{figure}.png").read_bytes()


def test_refusals_are_one_clear_line(tmp_path: Path) -> None:
    path, images = tmp_path / "figure.png", _colours(2)
    with pytest.raises(ValueError, match=r"^rows must be one or more arrays of one shape, got shapes \[\]$"):
        image_grid([], [], path)
    with pytest.raises(ValueError, match=r"one shape, got shapes \[\(2, 8, 8, 3\), \(1, 8, 8, 3\)\]$"):
        image_grid([images, images[:1]], ["a", "b"], path)
    with pytest.raises(
        ValueError, match=r"^rows must be uint8 \(n, H, W, 1 or 3\), got float64 \(2, 8, 8, 3\)$"
    ):
        image_grid([images / 255], ["a"], path)
    with pytest.raises(ValueError, match=r"^row_labels must be 1, one for each row, got 2$"):
        image_grid([images], ["a", "b"], path)
    with pytest.raises(ValueError, match=r"^column_labels must be 2, one for each column, got 1$"):
        image_grid([images], ["a"], path, column_labels=["x"])
    with pytest.raises(ValueError, match=r"^images must be \(D, S, H, W, C\), got \(2, 8, 8, 3\)$"):
        traversal_figure(images, [0.0, 1.0], ["z0"], path)
    with pytest.raises(ValueError, match=r"^codes must be finite \(N, D\), got shape \(2, 1\), 50% finite$"):
        latent_histograms(np.array([[0.0], [np.nan]]), ["z0"], path)
    with pytest.raises(ValueError, match=r"^labels must be 2, one for each latent, got 1$"):
        latent_histograms(np.zeros((3, 2)), ["z0"], path)
    with pytest.raises(
        ValueError, match=r"^the images hold numbers that are not finite: is the scale of guid"
    ):
        to_uint8(np.array([0.5, np.inf]))
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "figure.png"
    for draw in (
        lambda: image_grid([_colours(2)], ["a"], path),
        lambda: latent_histograms(np.eye(3), list("abc"), path),
    ):
        with pytest.raises(
            CheckpointError, match=r"^cannot write .*figure\.png: .*(File exists|Not a directory)"
        ) as error:
            draw()
        assert "\n" not in str(error.value)
