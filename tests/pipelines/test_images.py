"""Images at the pipeline's edge."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from idiff_hf.pipelines.images import prepare_images, prepare_vectors

ARRAY = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
UINT8 = torch.from_numpy(ARRAY).movedim(-1, 1)


@pytest.mark.parametrize(
    "images",
    [[Image.fromarray(a) for a in ARRAY], ARRAY, ARRAY.astype(np.float64) / 255, UINT8, UINT8 / 127.5 - 1],
    ids=("pil", "uint8 array", "float array", "uint8 tensor", "float tensor"),
)
def test_every_kind_of_image_becomes_the_same(images: Any) -> None:
    prepared = prepare_images(images, 3, 16)
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared, UINT8 / 127.5 - 1, atol=1e-6, rtol=0.0)


def test_pictures_become_grey_or_rgb_and_what_is_transparent_white() -> None:
    seen = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    hidden = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    rgb = prepare_images([seen, hidden], 3, 4)
    assert rgb[0, :, 0, 0].tolist() == [1.0, -1.0, -1.0] and torch.equal(rgb[1], torch.ones(3, 4, 4))
    assert prepare_images(seen, 1, 4).shape == (1, 1, 4, 4)


def test_resize_scales_the_centre_square() -> None:
    """By hand: in a 8x4 picture of vertical bands the middle 4x4 are the bands 2 to 5."""
    bands = torch.linspace(-1, 1, 8).expand(1, 1, 4, 8).contiguous()
    torch.testing.assert_close(
        prepare_images(bands, 1, 2, resize=True).mean(), bands[..., 2:6].mean(), atol=1e-6, rtol=0.0
    )
    assert torch.equal(prepare_images(bands[..., :4], 1, 4, resize=True), bands[..., :4])


def test_resize_of_tensors_and_of_pictures_agree() -> None:
    """Smooth images by both filters, within two grey levels."""
    y, x = np.mgrid[0:48, 0:48] / 48
    smooth = np.stack([127 + 120 * np.sin(3 * x + c) * np.cos(2 * y) for c in range(3)], axis=-1).astype(
        np.uint8
    )
    of_picture = prepare_images(Image.fromarray(smooth), 3, 16, resize=True)
    of_array = prepare_images(smooth[None], 3, 16, resize=True)
    assert of_picture.shape == (1, 3, 16, 16)
    torch.testing.assert_close(of_array, of_picture, atol=2 / 127.5, rtol=0.0)


def test_a_photograph_of_the_caller_stays_whole() -> None:
    """A JPEG that is not read yet could be read at half its size; others would then see that."""
    coarse = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    photograph = Image.fromarray(coarse).resize((512, 512), Image.Resampling.BILINEAR)
    file = BytesIO()
    photograph.save(file, "JPEG")
    given, untouched = (Image.open(BytesIO(file.getvalue())) for _ in range(2))
    prepare_images(given, 3, 16, resize=True)
    assert given.size == (512, 512)
    assert np.array_equal(np.asarray(given), np.asarray(untouched))


def test_pictures_of_several_sizes_are_brought_to_one() -> None:
    pictures = [Image.new("RGB", size, "white") for size in ((16, 16), (40, 20), (8, 8))]
    assert torch.equal(prepare_images(pictures, 3, 16, resize=True), torch.ones(3, 3, 16, 16))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(1, 3, 32, 32),
            r"images must be 3x16x16 for this model, got \(1, 3, 32, 32\): resize them, or pass resize=True",
        ),
        (
            [Image.new("RGB", (16, 16)), Image.new("RGB", (8, 16))],
            "images must be 16x16 for this model, got 8x16, 16x16: resize them, or pass",
        ),
        (torch.full((1, 3, 16, 16), 7.0), r"images must lie in \[-1, 1\].*come to 7 to 7"),
        (torch.full((1, 3, 16, 16), float("nan")), r"images must lie in \[-1, 1\].*come to nan to nan"),
        (
            np.full((1, 16, 16, 3), 7.0),
            r"images must lie in \[-1, 1\].*got float64 that come to 13 to 13 in units of \[-1, 1\]",
        ),
        (torch.zeros(1, 1, 16, 16), r"images must be 3x16x16 for this model \(tensors channels first"),
        (torch.zeros(3, 16, 16), r"images must be 3x16x16 for this model .* got \(3, 16, 16\)"),
        (torch.zeros(0, 3, 16, 16), r"images must be 3x16x16 for this model .* got \(0, 3, 16, 16\)"),
        (np.zeros((16, 16, 3)), r"images must be 3x16x16 for this model .* got \(16, 16, 3\)"),
        ([np.zeros((16, 16, 3))], "images must be one or a list of PIL images, .* got a list of ndarray"),
        ([], "images must be one or a list of PIL images, .* got an empty list"),
        (None, "images must be one or a list of PIL images, .* got NoneType$"),
        (5, "images must be one or a list of PIL images, .* got int$"),
        (Path("a.png"), "images must be one or a list of PIL images, .* got PosixPath$"),
        (torch.zeros(1, 3, 0, 0), r"images must be 3x16x16 for this model .* got \(1, 3, 0, 0\)"),
        (Image.new("RGB", (0, 4)), "^images must have pixels, got 0x4$"),
        (
            torch.zeros(1, 3, 16, 16, dtype=torch.int64),
            r"^images must be uint8 in 0 to 255, or floats, got torch\.int64: convert them$",
        ),
        (
            np.zeros((1, 16, 16, 3), int),
            "^images must be uint8 in 0 to 255, or floats, got int64: convert them$",
        ),
        (np.zeros((1, 16, 16, 3), complex), "^images must be uint8 .*, got complex128: convert them$"),
        (np.array(["a"]), "^images must be uint8 .*, got <U1: convert them$"),
        ([Image.new("I;16", (16, 16))], "image 0: a picture of mode I;16, more than 8 bits a channel"),
    ],
)
def test_refusals(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        prepare_images(images, 3, 16)
    assert "\n" not in str(caught.value)


def test_a_float_tensor_that_is_likely_in_0_to_1_is_warned_of() -> None:
    drawn = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(0.25, 0.75)
    with pytest.warns(
        UserWarning, match=r"^float tensors are read as \[-1, 1\], and these lie in \[0\.25, 0\.75\]: "
    ):
        given = prepare_images(drawn, 3, 4)
    assert torch.equal(given, drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # dark somewhere; all of one grey; bytes and arrays, whose range is known
        for images in (
            2.0 * drawn - 1.0,
            torch.zeros(1, 3, 4, 4),
            (drawn * 255).to(torch.uint8),
            drawn.movedim(1, -1).numpy(),
        ):
            prepare_images(images, 3, 4)


def test_uint8_that_is_likely_0_and_1_is_warned_of() -> None:
    ones = (ARRAY > 127).astype(np.uint8)
    for images in (ones, torch.from_numpy(ones).movedim(-1, 1)):
        with pytest.warns(
            UserWarning,
            match=r"^uint8 is read as 0 to 255, and the largest number here is 1: give 255 \* images",
        ):
            prepare_images(images, 3, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in (ARRAY, 0 * ARRAY, 255 * ones, [Image.fromarray(one) for one in ones]):
            prepare_images(images, 3, 16)


def test_vectors() -> None:
    assert prepare_vectors(torch.ones(2, 3), 3).shape == (2, 3, 1, 1)
    with pytest.raises(ValueError, match=r"this model takes vectors, a tensor \(B, 3\), got \(2, 4\)"):
        prepare_vectors(torch.ones(2, 4), 3)
    with pytest.raises(ValueError, match=r"this model takes vectors, a tensor \(B, 3\), got list"):
        prepare_vectors([[1.0, 2.0, 3.0]], 3)
    assert prepare_vectors(torch.ones(2, 3, dtype=torch.int64), 3).dtype == torch.float32
    for vectors in (torch.zeros(0, 3), torch.zeros(1, 3, dtype=torch.complex64)):
        with pytest.raises(
            ValueError, match=r"^this model takes one vector of real numbers or more, got torch"
        ):
            prepare_vectors(vectors, 3)
    for bad in (torch.full((1, 3), float("nan")), torch.full((1, 3), 1e300, dtype=torch.float64)):
        with pytest.raises(
            ValueError, match=r"^this model takes vectors that are finite in float32, got NaN, inf"
        ):
            prepare_vectors(bad, 3)
