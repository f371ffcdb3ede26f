"""The procedural 3D Shapes images against real ones, against landmarks of real ones, and among themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from idiff_hf.data import Shapes3D

REFERENCE = Path(__file__).parents[1] / "reference" / "shapes3d_reference50.npz"
CUBE, CYLINDER, SPHERE, CAPSULE = range(4)
RED, CYAN = 0, 5  # hues whose blue channels are 0 and 255


@pytest.fixture(scope="module")
def shapes() -> Shapes3D:
    return Shapes3D(64)


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    arrays = np.load(REFERENCE, allow_pickle=False)
    return {
        "images": torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2),
        "factors": torch.from_numpy(arrays["factors"]),
        "index": torch.from_numpy(arrays["index"]),
        "printed": torch.from_numpy(arrays["index_printed_by_source"]),
    }


def draw(shapes: Shapes3D, *factors: int) -> Tensor:
    return shapes.render(torch.tensor([factors])).int()[0]


def random_factors(count: int, seed: int) -> Tensor:
    rows = torch.randint(480_000, (count,), generator=torch.Generator().manual_seed(seed))
    return Shapes3D.factor_space.factors(rows)


def test_length_shape_and_dtype(shapes: Shapes3D) -> None:
    assert len(shapes) == 480_000
    assert (shapes.image_size, shapes.channels) == (64, 3)
    for batch in (0, 1, 37):
        images = shapes.render(random_factors(batch, seed=batch))
        assert images.shape == (batch, 3, 64, 64)
        assert images.dtype == torch.uint8
        assert images.is_contiguous()


def test_an_image_does_not_depend_on_its_batch(shapes: Shapes3D) -> None:
    factors = random_factors(100, seed=1)
    together = shapes.render(factors)
    alone = torch.cat([shapes.render(row[None].to(torch.int32)) for row in factors])
    assert torch.equal(together, alone)


def test_sky_is_the_sky_of_the_dataset(shapes: Shapes3D) -> None:
    top_row = shapes.render(random_factors(64, seed=2))[:, :, 0]
    assert torch.equal(top_row, torch.tensor([153, 226, 249], dtype=torch.uint8)[:, None].expand_as(top_row))


def test_wall_top_and_floor_line(shapes: Shapes3D) -> None:
    # With everything else red, blue is sky only: its sum down a column is the number of sky rows.
    sky_rows = (draw(shapes, RED, RED, RED, 0, SPHERE, 7)[2].double() / 249).sum(dim=0)
    assert sky_rows.numpy() == pytest.approx(17.7, abs=0.4)
    floor = (draw(shapes, CYAN, RED, RED, 0, SPHERE, 7) - draw(shapes, RED, RED, RED, 0, SPHERE, 7))[2]
    for column in (2, 10, 53, 61):
        first = int((floor[:, column] > 0).nonzero()[0])
        assert first + 1 - floor[first, column] / floor[first + 1, column] == pytest.approx(40.5, abs=0.4)


@pytest.mark.parametrize(
    ("orientation", "column"),
    [
        *((0, 43.5), (1, 46.9), (2, 50.4), (3, 54.1), (4, 57.8), (5, 61.8)),
        *((9, 2.0), (10, 5.9), (11, 9.7), (12, 13.3), (13, 16.8), (14, 20.3)),
    ],
)
def test_column_of_the_back_corner(shapes: Shapes3D, orientation: int, column: float) -> None:
    step = draw(shapes, RED, RED, RED, 0, SPHERE, orientation)[0, 25].double().diff().abs()
    step[step < 10] = 0  # shading within a wall
    assert (step * torch.arange(1, 64)).sum() / step.sum() == pytest.approx(column, abs=0.5)


@pytest.mark.parametrize("orientation", [6, 7, 8])
def test_no_corner_in_view_ahead(shapes: Shapes3D, orientation: int) -> None:
    step = draw(shapes, RED, RED, RED, 0, SPHERE, orientation)[0, 25].diff().abs()
    assert step.max() <= 3


@pytest.mark.parametrize(
    ("shape", "scale", "width", "top", "bottom"),
    [
        *((CUBE, 0, 16, 37.5, 55), (CUBE, 3, 22, 34, 56), (CUBE, 7, 29, 28, 57)),
        *((CYLINDER, 0, 15, 36.5, 55), (CYLINDER, 3, 20, 32.5, 56), (CYLINDER, 7, 25, 26, 57)),
        *((SPHERE, 0, 17, 35, 53), (SPHERE, 3, 22, 30.5, 53), (SPHERE, 7, 29, 24, 53)),
        *((CAPSULE, 0, 14, 26, 53), (CAPSULE, 3, 17, 18.5, 53), (CAPSULE, 7, 23, 8, 53)),
    ],
)
def test_object_size(shapes: Shapes3D, shape: int, scale: int, width: int, top: float, bottom: float) -> None:
    seen = (draw(shapes, RED, RED, CYAN, scale, shape, 7) - draw(shapes, RED, RED, RED, scale, shape, 7))[
        2
    ] > 0
    rows = seen.any(dim=1).nonzero()
    assert abs(int(seen.sum(dim=1).max()) - width) <= 1
    assert abs(int(rows.min()) - top) <= 1
    assert abs(int(rows.max()) + 1 - bottom) <= 1


def test_shadow_falls_to_the_right(shapes: Shapes3D) -> None:
    def floor_light(scale: int) -> Tensor:
        return (
            draw(shapes, CYAN, RED, RED, scale, CYLINDER, 7) - draw(shapes, RED, RED, RED, scale, CYLINDER, 7)
        )[2]

    small, large = floor_light(0), floor_light(7)
    shadow = (large > 0) & (small - large > 60)
    assert shadow.sum() > 30
    assert shadow.nonzero()[:, 1].double().mean() > 40
    assert (
        large[shadow].median() == 90
    )  # ambient light alone, 0.354 x 255: the floor does not face the head lamp


def test_mean_absolute_error_against_real_images(shapes: Shapes3D, reference: dict[str, Tensor]) -> None:
    error = (shapes.render(reference["factors"]).double() - reference["images"]).abs().mean(dim=(1, 2, 3))
    assert error.mean() <= 3.5
    assert error.max() <= 6.0


def test_images_add_up_over_the_three_hues(shapes: Shapes3D) -> None:
    """The sum over hues that `test_every_printed_image_is_nearest_to_its_own_factors` rests on."""
    factors = random_factors(200, seed=3)
    base = factors.clone()
    base[:, :3] = 0
    ground = shapes.render(base).int()
    total = ground.clone()
    for k in range(3):
        one = base.clone()
        one[:, k] = factors[:, k]
        total += shapes.render(one).int() - ground
    assert torch.equal(total, shapes.render(factors).int())


def test_every_printed_image_is_nearest_to_its_own_factors(
    shapes: Shapes3D, reference: dict[str, Tensor]
) -> None:
    """Exact search over all 480,000: squared error is a quadratic form in the steps from hues (0, 0, 0)."""
    real = reference["images"][reference["printed"]].double().flatten(1)
    hues = torch.zeros(30, 3, dtype=torch.int64)
    for k in range(3):
        hues[10 * k : 10 * k + 10, k] = torch.arange(10)
    best = torch.full((len(real),), float("inf"), dtype=torch.float64)
    nearest = torch.zeros(len(real), dtype=torch.int64)
    for geometry in range(480):
        tail = Shapes3D.factor_space.factors(torch.tensor([geometry]))[:, 3:].expand(30, 3)
        images = shapes.render(torch.cat([hues, tail], dim=1)).double().flatten(1)
        ground, steps = images[0], images - images[0]
        rest = real - ground
        gram, cross = steps @ steps.T, rest @ steps.T
        linear = (gram.diagonal() - 2 * cross).view(-1, 3, 10)
        floor, wall, thing = linear.unbind(dim=1)
        pair = 2 * gram.view(3, 10, 3, 10)
        error = floor[:, :, None, None] + wall[:, None, :, None] + thing[:, None, None, :]
        error += pair[0, :, 1][:, :, None] + pair[0, :, 2][:, None, :] + pair[1, :, 2][None]
        least, hue = (error.flatten(1) + rest.square().sum(dim=1, keepdim=True)).min(dim=1)
        nearest = torch.where(least < best, hue * 480 + geometry, nearest)
        best = torch.minimum(least, best)
    assert len(real) == 25
    assert torch.equal(nearest, reference["index"][reference["printed"]])


@pytest.mark.parametrize(("image_size", "supersample"), [(128, 1), (32, 4), (16, 8)])
def test_sizes_show_the_same_picture(shapes: Shapes3D, image_size: int, supersample: int) -> None:
    """With as many rays, the larger image averaged over boxes is the smaller one, but for rounding."""
    other = Shapes3D(image_size, supersample=supersample)
    factors = random_factors(48, seed=4)
    pair = sorted(
        [shapes.render(factors).double(), other.render(factors).double()], key=lambda x: x.shape[-1]
    )
    small, large = pair
    boxes = torch.nn.functional.avg_pool2d(large, large.shape[-1] // small.shape[-1])
    assert (boxes - small).abs().max() <= 2.0


def test_more_rays_change_edges_only(shapes: Shapes3D) -> None:
    factors = random_factors(64, seed=5)
    finer = Shapes3D(32, supersample=4).render(factors).double()
    change = (Shapes3D(32).render(factors).double() - finer).abs()
    assert (change > 3).double().mean() < 0.12
    assert change.mean() < 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_bytes(shapes: Shapes3D) -> None:
    factors = random_factors(500, seed=6)
    images = Shapes3D(64, device="cuda").render(factors)
    assert images.is_cuda
    assert torch.equal(images.cpu(), shapes.render(factors))


@pytest.mark.parametrize("image_size", [63, 14, 130, 0])
def test_bad_image_sizes(image_size: int) -> None:
    with pytest.raises(
        ValueError, match=rf"image_size is {image_size}; give an even number of pixels in 16\.\.128"
    ):
        Shapes3D(image_size)


def test_bad_supersampling() -> None:
    with pytest.raises(ValueError, match="supersample is 0; give at least 1 ray"):
        Shapes3D(16, supersample=0)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (torch.zeros(1, 6), "factors are torch.float32; give integer labels"),
        (torch.zeros(1, 5, dtype=torch.int64), r"factors have shape \(1, 5\); give \(B, 6\)"),
        (torch.zeros(6, dtype=torch.int64), r"factors have shape \(6,\); give \(B, 6\)"),
        (torch.tensor([[0, 0, 0, 8, 0, 0]]), r"factor 'scale' is 8 in row 0; labels must be in 0\.\.7"),
    ],
)
def test_bad_labels(shapes: Shapes3D, factors: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shapes.render(factors)
