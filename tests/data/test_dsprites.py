"""The procedural dSprites images against real ones, against their definition, and among themselves."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from torch import Tensor

from idiff_hf.data.dsprites import ColorDSprites, DSprites, HueDSprites, NoisyDSprites

REFERENCE = Path(__file__).parents[1] / "reference" / "dsprites_reference160.npz"
SQUARE, ELLIPSE, HEART = range(3)
VARIANTS = (DSprites, ColorDSprites, NoisyDSprites, HueDSprites)


@cache
def dataset(kind: type[DSprites] = DSprites, image_size: int = 64) -> DSprites:
    return kind(image_size)


@pytest.fixture(scope="module")
def sprites() -> DSprites:
    return dataset()


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    arrays = np.load(REFERENCE, allow_pickle=False)
    return {key: torch.from_numpy(arrays[key]) for key in arrays}


def draw(sprites: DSprites, *factors: int) -> Tensor:
    """The mask `(S, S)` of one combination."""
    return sprites.render(torch.tensor([factors]))[0, 0] > 0


def random_rows(count: int, seed: int) -> Tensor:
    return torch.randint(737_280, (count,), generator=torch.Generator().manual_seed(seed))


def mask_by_definition(
    image_size: int, shape: int, scale: int, orientation: int, x: int, y: int
) -> np.ndarray:
    """Each pixel centre of one combination tested by itself, in the coordinates of the shape."""
    centres = (np.arange(image_size) + 0.5) * 64 / image_size
    dx, dy = np.meshgrid(centres - 16 - 32 * x / 31, centres - 16 - 32 * y / 31)
    angle, size = 2 * np.pi * orientation / 39, 0.5 + 0.1 * scale
    u = (dx * np.cos(angle) - dy * np.sin(angle)) / size
    v = (dx * np.sin(angle) + dy * np.cos(angle)) / size
    if shape == SQUARE:
        return np.maximum(abs(u), abs(v)) <= 9.598
    if shape == ELLIPSE:
        return (u / 12.7659) ** 2 + (v / 7.21235) ** 2 <= 1
    t = np.linspace(0, 2 * np.pi, 128, endpoint=False)
    height = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    heart = np.stack([0.6002 * 16 * np.sin(t) ** 3, -0.6622 * height - 1.4398], axis=1)
    inside = Outline(heart).contains_points(np.stack([u.ravel(), v.ravel()], axis=1))
    return inside.reshape(image_size, image_size)


@pytest.mark.parametrize(
    ("kind", "length", "channels"),
    [
        (DSprites, 737_280, 1),
        (ColorDSprites, 737_280, 3),
        (NoisyDSprites, 737_280, 3),
        (HueDSprites, 7_372_800, 3),
    ],
)
def test_length_shape_and_dtype(kind: type[DSprites], length: int, channels: int) -> None:
    sprites = dataset(kind)
    assert len(sprites) == length
    assert (sprites.image_size, sprites.channels) == (64, channels)
    for batch in (0, 1, 3):
        images = sprites.images(random_rows(batch, seed=batch))
        assert images.shape == (batch, channels, 64, 64)
        assert images.dtype == torch.uint8
        assert images.is_contiguous()


@pytest.mark.parametrize(
    ("row", "factors"),
    [
        (1, [0, 0, 0, 0, 1]),
        (32, [0, 0, 0, 1, 0]),
        (1024, [0, 0, 1, 0, 0]),
        (40_960, [0, 1, 0, 0, 0]),
        (245_760, [1, 0, 0, 0, 0]),
        (737_279, [2, 5, 39, 31, 31]),
    ],
)
def test_row_numbers_are_those_of_the_file(sprites: DSprites, row: int, factors: list[int]) -> None:
    assert sprites.factor_names == ("shape", "scale", "orientation", "posX", "posY")
    assert sprites.factor_space.index(torch.tensor([factors])).tolist() == [row]
    assert sprites.factors(torch.tensor([row])).tolist() == [factors]
    assert torch.equal(sprites.images(torch.tensor([row])), sprites.render(torch.tensor([factors])))


@pytest.mark.parametrize(
    ("shape", "areas"),
    [
        (SQUARE, (100, 144, 196, 256, 324, 400)),
        (ELLIPSE, (76, 104, 144, 184, 228, 288)),
        (HEART, (58, 84, 108, 140, 182, 222)),
    ],
)
def test_areas_at_angle_0(sprites: DSprites, shape: int, areas: tuple[int, ...]) -> None:
    """Pixels of the original dataset."""
    for scale, area in enumerate(areas):
        assert draw(sprites, shape, scale, 0, 0, 0).sum() == area


def test_the_smallest_square_in_the_corner(sprites: DSprites) -> None:
    """Centre (16, 16), half-width 4.799: pixel centres 11.5 to 20.5."""
    mask = draw(sprites, SQUARE, 0, 0, 0, 0)
    assert mask[11:21, 11:21].all()
    assert mask.sum() == 100


def test_real_images(sprites: DSprites, reference: dict[str, Tensor]) -> None:
    real, factors = reference["images"].bool(), reference["classes"][:, 1:]
    assert len(real) == 160
    assert torch.equal(sprites.factor_space.index(factors), reference["index"])
    images = sprites.images(reference["index"])
    assert torch.equal(sprites.render(factors), images)
    drawn = images[:, 0] > 0
    assert torch.equal(images[:, 0], 255 * drawn.to(torch.uint8))
    wrong = (drawn != real).sum(dim=(1, 2))
    assert wrong.max() <= 1
    assert not wrong[factors[:, 0] != HEART].any()
    assert (drawn & real).sum() / (drawn | real).sum() >= 0.9995


@pytest.mark.parametrize("image_size", [16, 34, 64, 128])
def test_images_are_their_definition(image_size: int) -> None:
    sprites = dataset(DSprites, image_size)
    rows = random_rows(150, seed=image_size)
    expected = [mask_by_definition(image_size, *factors) for factors in sprites.factors(rows).tolist()]
    assert np.array_equal(sprites.images(rows)[:, 0].numpy() > 0, np.stack(expected))


@settings(deadline=None)
@given(row=st.integers(0, 737_279))
def test_any_image_is_its_definition(row: int) -> None:
    factors = dataset().factors(torch.tensor([row]))
    expected = mask_by_definition(64, *factors[0].tolist())
    assert np.array_equal(dataset().render(factors)[0, 0].numpy() > 0, expected)


def all_geometries() -> Tensor:
    """Shape, scale and orientation, `(720, 3)`."""
    return DSprites.factor_space.factors(torch.arange(720) * 1024)[:, :3]


def at(geometries: Tensor, x: int, y: int) -> Tensor:
    return torch.cat([geometries, torch.tensor([[x, y]]).expand(len(geometries), 2)], dim=1)


def test_a_whole_turn_is_no_turn(sprites: DSprites) -> None:
    first = at(all_geometries()[::40], 13, 22)
    last = first.clone()
    last[:, 2] = 39
    assert torch.equal(sprites.render(first), sprites.render(last))


@pytest.mark.parametrize("image_size", [16, 50, 64])
def test_mirror_images(image_size: int) -> None:
    """Every shape is its own mirror image at angle 0, so the mirror image of any is the one turned the other way."""
    sprites, geometries = dataset(DSprites, image_size), all_geometries()
    mirrored = geometries.clone()
    mirrored[:, 2] = 39 - geometries[:, 2]
    images = sprites.render(at(geometries, 3, 20)).flip(-1)
    assert torch.equal(images, sprites.render(at(mirrored, 28, 20)))


def test_square_and_ellipse_turned_by_half_are_themselves(sprites: DSprites) -> None:
    geometries = all_geometries()[:480]
    images = sprites.render(at(geometries, 3, 20)).flip(-1, -2)
    assert torch.equal(images, sprites.render(at(geometries, 28, 11)))


def test_the_square_at_angle_0_is_its_own_quarter_turn(sprites: DSprites) -> None:
    geometries = all_geometries()[:240:40]
    image = sprites.render(at(geometries, 7, 9))
    assert torch.equal(image.mT, sprites.render(at(geometries, 9, 7)))


def test_growing_angle_turns_counter_clockwise(sprites: DSprites) -> None:
    """The tip of the heart, down at 0, points right after a quarter of a turn, up after a half, left after three."""

    def tip(orientation: int) -> str:
        rows, columns = draw(sprites, HEART, 5, orientation, 15, 15).nonzero().T
        ends = {"up": rows.min() == rows, "down": rows.max() == rows}
        ends |= {"left": columns.min() == columns, "right": columns.max() == columns}
        return min(ends, key=lambda end: int(ends[end].sum()))

    assert [tip(orientation) for orientation in (0, 10, 20, 29)] == ["down", "right", "up", "left"]


def test_position_moves_the_mask_right_and_down(sprites: DSprites) -> None:
    geometries = all_geometries()
    corner = sprites.render(at(geometries, 0, 0))
    assert torch.equal(corner.roll(32, dims=-1), sprites.render(at(geometries, 31, 0)))
    assert torch.equal(corner.roll(32, dims=-2), sprites.render(at(geometries, 0, 31)))


def test_centre_of_the_mask(sprites: DSprites) -> None:
    """It gives the labels of the position away, being at 16 + 32 / 31 of them, for shapes that are symmetric about it."""
    factors = sprites.factors(random_rows(500, seed=1) % 491_520)
    masks = sprites.render(factors)[:, 0].double() / 255
    centres = torch.arange(64) + 0.5
    area = masks.sum(dim=(1, 2))
    for label, dim in ((3, 1), (4, 2)):
        centre = masks.sum(dim=dim) @ centres.double() / area
        assert torch.equal(((centre - 16) * 31 / 32).round().long(), factors[:, label])


@pytest.mark.parametrize(("small", "large"), [(16, 48), (32, 96), (42, 126)])
def test_sizes_show_the_same_picture(small: int, large: int) -> None:
    """With three times as many pixels, the middle one of each three has the same centre."""
    rows = random_rows(300, seed=2)
    finer = dataset(DSprites, large).images(rows)[:, :, 1::3, 1::3]
    assert torch.equal(finer, dataset(DSprites, small).images(rows))


@pytest.mark.parametrize("kind", VARIANTS)
def test_an_image_does_not_depend_on_its_batch(kind: type[DSprites]) -> None:
    sprites = dataset(kind, 16)
    rows = random_rows(300, seed=3)
    alone = torch.cat([sprites.images(row[None]) for row in rows])
    assert torch.equal(sprites.images(rows), alone)
    assert torch.equal(sprites.render(sprites.factors(rows).to(torch.int32)), alone)


def test_colour_stays_a_nuisance(sprites: DSprites) -> None:
    for kind, shape in ((ColorDSprites, (3,)), (NoisyDSprites, (3, 64, 64))):
        assert dataset(kind).factor_space == sprites.factor_space
        assert dataset(kind).nuisance_shape == shape
    assert dataset(HueDSprites).nuisance_shape is None


def test_given_colours() -> None:
    """Factor 0.5 + n / 2 of each channel: 0.5, 0.75 and just below 1 of 255."""
    rows = random_rows(2, seed=4)
    nuisance = torch.tensor([[0.0, 0.5, 1 - 2**-24], [0.2, 0.4, 0.6]])
    masks = dataset().images(rows) > 0
    expected = torch.tensor([[128, 191, 255], [153, 178, 204]], dtype=torch.uint8)[:, :, None, None] * masks
    assert torch.equal(dataset(ColorDSprites).images(rows, nuisance), expected)


def test_given_noise() -> None:
    """min(m + n, 1) for n in steps of 1 / 1024, of which float32 holds 255 n exactly."""
    rows = random_rows(20, seed=5)
    steps = torch.randint(1024, (20, 3, 64, 64), generator=torch.Generator().manual_seed(6))
    masks = dataset().images(rows).double() / 255
    expected = (255 * (masks + steps / 1024).clamp(max=1)).round()
    assert torch.equal(dataset(NoisyDSprites).images(rows, steps / 1024).double(), expected)


def test_colours_of_rows() -> None:
    """U(0.5, 1) in each channel by itself: mean 0.75, standard deviation 0.5 / sqrt(12), no correlation."""
    rows = random_rows(3000, seed=7).unique()
    images = dataset(ColorDSprites, 16).images(rows)
    peaks = images.amax(dim=(2, 3))
    assert torch.equal(images, (dataset(DSprites, 16).images(rows) > 0) * peaks[:, :, None, None])
    colours = peaks.double()
    assert colours.min() >= 128
    assert colours.mean(dim=0).numpy() / 255 == pytest.approx([0.75] * 3, abs=0.01)
    assert colours.std(dim=0).numpy() / 255 == pytest.approx([0.5 / 12**0.5] * 3, abs=0.005)
    assert (colours.T.corrcoef() - torch.eye(3)).abs().max() < 0.06


def test_noise_of_rows() -> None:
    """U(0, 1) in each pixel and channel by itself, and white where the shape is."""
    rows = random_rows(40, seed=8).unique()
    images = dataset(NoisyDSprites).images(rows)
    shown = (dataset().images(rows) > 0).expand_as(images)
    assert (images[shown] == 255).all()
    noise = images[~shown].double() / 255
    assert noise.mean() == pytest.approx(0.5, abs=0.002)
    assert noise.std() == pytest.approx(12**-0.5, abs=0.002)
    assert (
        torch.stack([images[:, c][~shown[:, c]] for c in range(3)]).double().corrcoef().triu(1).abs().max()
        < 0.01
    )


@pytest.mark.parametrize("kind", [ColorDSprites, NoisyDSprites])
def test_a_row_keeps_its_nuisance(kind: type[DSprites]) -> None:
    """Rows look different even where only the position does, and the same in another dataset object."""
    rows = torch.tensor([5000, 5001, 5032])
    images = dataset(kind).images(rows)
    assert torch.equal(kind(64).images(rows.flip(0)).flip(0), images)
    assert len({tuple(image.double().mean(dim=(1, 2)).tolist()) for image in images}) == 3


def test_hues_are_those_of_3d_shapes() -> None:
    sprites = dataset(HueDSprites)
    assert sprites.factor_names == ("hue", "shape", "scale", "orientation", "posX", "posY")
    rows = random_rows(10, seed=9)
    images = sprites.images(rows + 737_280 * torch.arange(10))
    masks = dataset().images(rows) > 0
    colours = torch.tensor(
        [
            *((255, 0, 0), (255, 153, 0), (204, 255, 0), (51, 255, 0), (0, 255, 102)),
            *((0, 255, 255), (0, 102, 255), (51, 0, 255), (204, 0, 255), (255, 0, 153)),
        ],
        dtype=torch.uint8,
    )
    assert torch.equal(images, masks * colours[:, :, None, None])
    factors = torch.cat([torch.arange(10)[:, None], dataset().factors(rows)], dim=1)
    assert torch.equal(sprites.render(factors), images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", VARIANTS)
def test_a_gpu_draws_the_same_bytes(kind: type[DSprites]) -> None:
    rows = random_rows(500, seed=10)
    images = kind(64, device="cuda").images(rows)
    assert images.is_cuda
    assert torch.equal(images.cpu(), dataset(kind).images(rows))


@pytest.mark.parametrize("image_size", [63, 14, 130, 0])
@pytest.mark.parametrize("kind", VARIANTS)
def test_bad_image_sizes(kind: type[DSprites], image_size: int) -> None:
    with pytest.raises(
        ValueError, match=rf"image_size is {image_size}; give an even number of pixels in 16\.\.128"
    ):
        kind(image_size)


@pytest.mark.parametrize(
    ("kind", "factors", "message"),
    [
        (DSprites, torch.zeros(1, 5), "factors are torch.float32; give integer labels"),
        (DSprites, torch.zeros(1, 6, dtype=torch.int64), r"factors have shape \(1, 6\); give \(B, 5\)"),
        (HueDSprites, torch.zeros(1, 5, dtype=torch.int64), r"factors have shape \(1, 5\); give \(B, 6\)"),
        (DSprites, torch.zeros(5, dtype=torch.int64), r"factors have shape \(5,\); give \(B, 5\)"),
        (
            DSprites,
            torch.tensor([[0, 0, 40, 0, 0]]),
            r"factor 'orientation' is 40 in row 0; labels must be in 0\.\.39",
        ),
        (
            NoisyDSprites,
            torch.tensor([[0, 0, 0, 0, -1]]),
            r"factor 'posY' is -1 in row 0; labels must be in 0\.\.31",
        ),
        (
            HueDSprites,
            torch.tensor([[10, 0, 0, 0, 0, 0]]),
            r"factor 'hue' is 10 in row 0; labels must be in 0\.\.9",
        ),
    ],
)
def test_bad_labels(kind: type[DSprites], factors: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataset(kind).render(factors)


@pytest.mark.parametrize(
    ("kind", "shape", "wanted"),
    [(ColorDSprites, (2, 1), r"\(2, 3\)"), (NoisyDSprites, (1, 3, 64, 64), r"\(2, 3, 64, 64\)")],
)
def test_bad_nuisance(kind: type[DSprites], shape: tuple[int, ...], wanted: str) -> None:
    with pytest.raises(
        ValueError, match=rf"nuisance has shape \({', '.join(map(str, shape))}\); give {wanted}"
    ):
        dataset(kind).images(torch.tensor([0, 1]), torch.zeros(shape))
