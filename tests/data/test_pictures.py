"""One picture as an array: sizes, channels and every fault as one line."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idiff_hf.data.pictures import decode_all, to_picture

SHADES = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.stack([SHADES, SHADES.T, 255 - SHADES], axis=2)


def encoded(image: Image.Image | np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, format, **options)
    return file.getvalue()


# What comes in


def test_one_picture_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(COLOURS))
    for value in (path, str(path), path.read_bytes(), Image.open(path), COLOURS):
        picture = to_picture(value, 16, "rgb", False, "row 0")
        assert picture.dtype == np.uint8
        assert np.array_equal(picture, COLOURS)


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_keep_grey_to_the_bit(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    assert np.array_equal(
        to_picture(encoded(SHADES, format, **options), 16, "grey", False, "")[:, :, 0], SHADES
    )


def test_jpeg_is_read() -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), dtype=np.uint8)
    picture = to_picture(encoded(flat, "JPEG", quality=95), 16, "rgb", False, "").astype(int)
    assert abs(picture - flat).max() <= 2


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 1)])
def test_grey_arrays_become_three_equal_channels(shape: tuple[int, ...]) -> None:
    picture = to_picture(SHADES.reshape(shape), 16, "rgb", False, "")
    assert picture.shape == (16, 16, 3)
    assert np.array_equal(picture, np.repeat(SHADES[:, :, None], 3, axis=2))


def test_grey_is_the_luma() -> None:
    colours = np.zeros((16, 16, 3), dtype=np.uint8)
    colours[0], colours[1], colours[2] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    picture = to_picture(colours, 16, "grey", False, "")
    assert picture.shape == (16, 16, 1)
    # 255 times 0.299, 0.587, 0.114
    assert picture[:4, 0, 0].tolist() == [76, 150, 29, 0]


def test_black_and_white_pictures_are_0_and_255() -> None:
    bits = SHADES > 100
    picture = to_picture(encoded(Image.fromarray(bits)), 16, "grey", False, "")
    assert np.array_equal(picture[:, :, 0], 255 * bits)


def test_transparent_becomes_white() -> None:
    colours = np.zeros((16, 16, 4), dtype=np.uint8)
    colours[0] = (200, 0, 0, 255)
    colours[1] = (200, 0, 0, 0)
    colours[2] = (0, 0, 0, 51)  # a fifth of black, four fifths of white
    for value in (colours, encoded(colours)):
        picture = to_picture(value, 16, "rgb", False, "")
        assert picture[:3, 0].tolist() == [[200, 0, 0], [255, 255, 255], [204, 204, 204]]


def test_a_photograph_is_turned_upright() -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6  # the camera was turned: the first row stored is the right edge
    stored = encoded(SHADES, "PNG", exif=orientation)
    assert np.array_equal(to_picture(stored, 16, "grey", False, "")[:, :, 0], np.rot90(SHADES, -1))


def test_the_first_frame_of_a_moving_picture() -> None:
    frames = [Image.fromarray(SHADES), Image.fromarray(SHADES.T.copy())]
    stored = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(to_picture(stored, 16, "grey", False, "")[:, :, 0], SHADES)


# Sizes


def test_the_centre_is_cut_out() -> None:
    wide = np.zeros((16, 48), dtype=np.uint8)
    wide[:, 16:32] = SHADES
    for value in (wide, wide.T):
        picture = to_picture(value.copy(), 16, "grey", True, "")[:, :, 0]
        assert np.array_equal(picture, SHADES if value is wide else SHADES.T)


def test_the_shorter_side_is_scaled() -> None:
    # Grey left of the middle, white right of it, twice the size: the edge stays in the middle.
    large = np.full((64, 32), 100, dtype=np.uint8)
    large[:, 16:] = 255
    picture = to_picture(large, 16, "grey", True, "")[:, :, 0]
    assert picture.shape == (16, 16)
    assert (picture[:, :6] == 100).all() and (picture[:, 10:] == 255).all()


def test_scaling_averages_instead_of_skipping() -> None:
    # A chequer board of single pixels is grey from afar.
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    picture = to_picture(board, 16, "grey", True, "").astype(int)
    assert abs(picture[2:-2, 2:-2] - 127.5).max() < 2


def test_scaling_leaves_the_right_size_as_it_is() -> None:
    assert np.array_equal(to_picture(COLOURS, 16, "rgb", True, ""), COLOURS)


def test_small_pictures_are_enlarged() -> None:
    picture = to_picture(np.full((4, 5), 77, dtype=np.uint8), 16, "grey", True, "")
    assert (picture == 77).all() and picture.shape == (16, 16, 1)


def test_a_large_jpeg_is_scaled_as_a_large_png_is() -> None:
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    large = np.stack(
        [np.tile(ramp, (512, 1)), np.tile(ramp[:, None], (1, 512)), np.full((512, 512), 60)], axis=2
    )
    from_jpeg, from_png = (
        to_picture(encoded(large.astype(np.uint8), format), 32, "rgb", True, "").astype(int)
        for format in ("JPEG", "PNG")
    )
    assert abs(from_jpeg - from_png).max() <= 4


# Faults


def test_every_cut_of_a_file_is_one_line_that_names_it() -> None:
    stored = encoded(COLOURS)
    for length in range(0, len(stored) - 20, 3):
        with pytest.raises(
            ValueError, match=r"^cats/7\.png: cannot be decoded as PNG, .* or PPM \("
        ) as caught:
            to_picture(stored[:length], 16, "rgb", False, "cats/7.png")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n"]
)
def test_other_files(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"row 3: cannot be decoded .*UnidentifiedImageError"):
        to_picture(value, 16, "rgb", False, "row 3")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 3: cannot be decoded .*FileNotFoundError"):
        to_picture(tmp_path / "a.png", 16, "rgb", False, "row 3")


def test_another_size() -> None:
    message = (
        r"row 3: 48 x 16 pixels \(width x height\), not 16 x 16; "
        r"set data\.resize=true, or data\.image_size to what all of them are"
    )
    with pytest.raises(ValueError, match=message):
        to_picture(np.zeros((16, 48, 3), dtype=np.uint8), 16, "rgb", False, "row 3")


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_more_than_eight_bits(dtype: type) -> None:
    stored = encoded(np.full((16, 16), 40_000, dtype=dtype), "TIFF")
    with pytest.raises(
        ValueError, match=r"row 3: a picture of mode I.*, more than 8 bits a channel; save it"
    ):
        to_picture(stored, 16, "grey", True, "row 3")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros(16, np.uint8),
            r"an array of shape \(16,\); give \(height, width\) or \(height, width, channels\)",
        ),
        (np.zeros((2, 16, 16, 3), np.uint8), r"an array of shape \(2, 16, 16, 3\); give \(height, width\)"),
        (np.zeros((3, 16, 16), np.uint8), r"an array of shape \(3, 16, 16\), channels first; move them last"),
        (np.zeros((1, 16, 16), np.uint8), r"an array of shape \(1, 16, 16\), channels first; move them last"),
        (np.zeros((16, 16, 2), np.uint8), r"an array of shape \(16, 16, 2\), 2 channels: .* 1, 3 or 4\)"),
        (np.zeros((16, 16, 3), np.float32), "an array of float32; give uint8 in 0..255"),
        (np.zeros((16, 16), bool), "an array of bool; give uint8 in 0..255"),
        (np.zeros((0, 16, 3), np.uint8), r"an array of shape \(0, 16, 3\) has no pixels"),
    ],
)
def test_bad_arrays(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"^row 3: {message}"):
        to_picture(array, 16, "rgb", True, "row 3")


def test_a_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(
        ValueError, match="row 3: more than 200 pixels, which may be an attack; scale it down"
    ):
        to_picture(encoded(SHADES), 16, "grey", True, "row 3")


# Many


def test_each_row_goes_where_it_belongs() -> None:
    target = np.random.Generator(np.random.Philox(0)).permutation(1000)
    out, done = np.zeros((1000, 1, 1, 2), np.int64), []
    decode_all(lambda row: np.array([row, -row]), out, done.append, target)
    assert out[target, 0, 0, 0].tolist() == list(range(1000))
    assert sum(done) == 1000 and max(done) < 100
    decode_all(lambda row: np.array([row, row]), out, done.append)
    assert out[:, 0, 0, 1].tolist() == list(range(1000))


def test_the_first_bad_row_is_told_and_ends_it() -> None:
    seen = []

    def picture(row: int) -> np.ndarray:
        seen.append(row)
        if row in (500, 700):
            raise ValueError(f"row {row} is bad")
        if row > 1000:
            time.sleep(1e-3)  # as decoding takes its time, so that the one who cancels gets a turn
        return np.zeros(1)

    with pytest.raises(ValueError, match=r"^row 500 is bad$"):
        decode_all(picture, np.zeros((100_000, 1)), lambda count: None)
    assert len(seen) < 50_000
