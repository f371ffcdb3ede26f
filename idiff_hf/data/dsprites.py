"""Procedural dSprites (Matthey et al. 2017) and its coloured variants: the images of the dataset, drawn from their factors.

A pixel is white when its centre lies in the shape. The outline crosses a row of pixels two or four times, and which pixels of the row
are inside follows from these crossings by parity. Where they are, relative to the centre of the shape, depends on shape, scale,
orientation and the height of the row above or below that centre. The centre moves by whole multiples of 1/31 of a pixel, so all heights
and crossings that occur are whole numbers in that unit: they are computed once, in float64, and an image is then looked up in integers.
The constants of the shapes were fitted to frames of the original dataset; with them a heart differs by one pixel now and then, a square
or an ellipse not at all.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
import torch
from torch import Tensor

from .dataset import GridDataset, row_uniform
from .factors import FactorSpace

# Lengths in pixels of the original, at scale 1 and orientation 0; x to the right, y down, from the centre of the shape.
_ORIGINAL_SIZE = 64
_SQUARE_HALF_WIDTH = 9.598
_ELLIPSE_HALF_WIDTH, _ELLIPSE_HALF_HEIGHT = 12.7659, 7.21235
_HEART_CORNERS, _HEART_WIDTH, _HEART_HEIGHT, _HEART_TOP = 128, 0.6002, 0.6622, 1.4398

_STEPS = (
    31  # in which the centre moves from a quarter to three quarters of the image; also the parts of a pixel
)
_POSITIONS = 32
_CROSSINGS = 4  # of a row and an outline, at most: the heart's lobes
_BLOCK = 128  # images drawn at a time on a CPU: they stay in its cache


def _square() -> np.ndarray:
    """Corners `(4, 2)` in order."""
    return _SQUARE_HALF_WIDTH * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def _heart() -> np.ndarray:
    """Corners `(128, 2)` in order, the tip down."""
    t = 2 * np.pi * np.arange(_HEART_CORNERS) / _HEART_CORNERS
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([_HEART_WIDTH * x, -_HEART_HEIGHT * y - _HEART_TOP], axis=1)


def _polygon_crossings(corners: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Where a polygon crosses horizontal lines: x `(H, _CROSSINGS)` in any order, the last ones NaN where there are fewer."""
    following = np.roll(corners, -1, axis=0)
    below, then_below = (points[:, 1] <= heights[:, None] for points in (corners, following))
    line, edge = np.nonzero(below != then_below)
    (x, y), (next_x, next_y) = corners[edge].T, following[edge].T
    # `line` ascends, so the number of a crossing on its line is its distance from the first one there.
    number = np.arange(len(line)) - np.searchsorted(line, line)
    crossings = np.full((len(heights), _CROSSINGS), np.nan)
    crossings[line, number] = x + (heights[line] - y) * (next_x - x) / (next_y - y)
    return crossings


def _ellipse_crossings(scale: float, angle: float, heights: np.ndarray) -> np.ndarray:
    """As `_polygon_crossings`: the roots x of `a x^2 + 2 half_b x + c = 0` on each line."""
    cos, sin = math.cos(angle), math.sin(angle)
    width, height = (scale * _ELLIPSE_HALF_WIDTH) ** 2, (scale * _ELLIPSE_HALF_HEIGHT) ** 2
    a = cos**2 / width + sin**2 / height
    half_b = heights * cos * sin * (1 / height - 1 / width)
    c = heights**2 * (sin**2 / width + cos**2 / height) - 1
    discriminant = half_b**2 - a * c
    root = np.sqrt(np.where(discriminant > 0, discriminant, np.nan))
    none = np.full_like(root, np.nan)
    return np.stack([(-half_b - root) / a, (-half_b + root) / a, none, none], axis=1)


def _edges(image_size: int) -> np.ndarray:
    """Crossings of every shape, scale, orientation and line with the centre at its leftmost, `(720 * 31 * image_size / 2, 4)` int16.

    Edge e of a row: the crossing lies to the left of the centre of column j exactly where `31 j >= e`. Line l: row i with the centre at
    posY class p, where `l = 31 i - p image_size / 2`; the lines 0 .. 31 image_size / 2 - 1 go from a quarter of the image above the centre
    to a quarter below it, and no shape reaches the first or the last of them.
    """
    num_shapes, num_scales, num_orientations = DSprites.factor_space.sizes[:3]
    zoom = image_size / _ORIGINAL_SIZE
    lines = np.arange(_STEPS * image_size // 2)
    heights = ((lines / _STEPS + 0.5) - image_size / 4) / zoom
    edges = np.empty((num_shapes, num_scales, num_orientations, len(lines), _CROSSINGS), dtype=np.int16)
    square, heart = _square(), _heart()
    for orientation, angle in enumerate(np.linspace(0.0, 2 * math.pi, num_orientations).tolist()):
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        for label, scale in enumerate(np.linspace(0.5, 1.0, num_scales).tolist()):
            crossings = np.stack(
                [
                    _polygon_crossings(scale * square @ turn, heights),
                    _ellipse_crossings(scale, angle, heights),
                    _polygon_crossings(scale * heart @ turn, heights),
                ]
            )
            exact = np.ceil(_STEPS * (crossings * zoom + image_size / 4 - 0.5))
            # Missing crossings come in pairs, which cancel wherever they are put.
            edges[:, label, orientation] = np.nan_to_num(exact)
    return edges.reshape(-1, _CROSSINGS)


class DSprites(GridDataset):
    """The 737,280 images of dSprites, drawn from their factors.

    Factor values: shape square, ellipse, heart; scale linspace(0.5, 1, 6); orientation linspace(0, 2 pi, 40), both ends included,
    counter-clockwise, so that its first and last label give the same image; posX to the right and posY down, linspace(0, 1, 32). Rows are
    numbered as in the original file, whose factor of one value, `color`, is left out. Lookups are in integers, so every device draws the
    same bytes.

    Attributes:
        factor_space: Names and sizes of the factors.
        image_size: Height and width in pixels.
        channels: 1.
        device: Where `render` puts its images.
    """

    channels = 1
    factor_space = FactorSpace(
        names=("shape", "scale", "orientation", "posX", "posY"), sizes=(3, 6, 40, 32, 32)
    )

    def __init__(self, image_size: int = 64, device: torch.device | str = "cpu") -> None:
        """Find where the outlines cross the rows of pixels: `89280 * image_size` bytes (6 MB at 64).

        Args:
            image_size: Height and width in pixels, even, 16..128; 64 is the original's, others sample the same picture at the centres of
                their own pixels, without antialiasing.
            device: Where the tables are kept and images are drawn.

        Raises:
            ValueError: Image size out of range.
        """
        if not 16 <= image_size <= 128 or image_size % 2:
            raise ValueError(f"image_size is {image_size}; give an even number of pixels in 16..128")
        self.image_size = image_size
        self.device = torch.device(device)
        self._edge_table = torch.from_numpy(_edges(image_size)).to(self.device)
        self._row_starts = _STEPS * torch.arange(image_size, device=self.device)
        # `_step_table[e]` is a row of pixels, white from edge e on.
        edges = torch.arange(_STEPS * image_size, device=self.device)
        self._step_table = (self._row_starts >= edges[:, None]).to(torch.uint8) * 255

    def render(self, factors: Tensor, nuisance: Tensor | None = None) -> Tensor:
        """Draw images.

        Args:
            factors: Integer labels `(B, K)` in the order of `factor_space.names`.
            nuisance: Uniform numbers in [0, 1), `(B, *nuisance_shape)`, for the variants that have a nuisance; None draws those that
                belong to each row for good.

        Returns:
            `(B, channels, image_size, image_size)` uint8 in 0..255, on the dataset's device; of `DSprites` itself 0 and 255 only.

        Raises:
            ValueError: Wrong dtype, shape or range of the labels; wrong shape of the nuisance.
        """
        rows = self.factor_space.index(factors)
        uniform = None if self.nuisance_shape is None else self._uniform(rows, nuisance, self.nuisance_shape)
        rows = rows.to(self.device)
        size = (self.channels, self.image_size, self.image_size)
        images = torch.empty((len(rows), *size), dtype=torch.uint8, device=self.device)
        block = _BLOCK if self.device.type == "cpu" else max(len(rows), 1)
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            self._draw(rows[part], None if uniform is None else uniform[part], images[part])
        return images

    def _uniform(self, rows: Tensor, nuisance: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        """The numbers given, or else those that belong to the rows, on the dataset's device."""
        if nuisance is None:
            nuisance = row_uniform(rows, shape, "nuisance")
        if nuisance.shape != (len(rows), *shape):
            wanted = ", ".join(map(str, (len(rows), *shape)))
            raise ValueError(f"nuisance has shape {tuple(nuisance.shape)}; give ({wanted})")
        return nuisance.to(self.device)

    def _draw(self, rows: Tensor, uniform: Tensor | None, out: Tensor) -> None:
        """Fill `out` `(B, channels, image_size, image_size)` with the images of row numbers `(B,)`."""
        self._masks(rows, out)

    def _masks(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Images 0/255 of row numbers of `DSprites` `(B,)`: `(B, 1, image_size, image_size)`."""
        size, half = self.image_size, self.image_size // 2
        geometry, x, y = rows // _POSITIONS**2, rows // _POSITIONS % _POSITIONS, rows % _POSITIONS
        lines = (self._row_starts - half * y[:, None]).clamp_(0, _STEPS * half - 1)
        lines += _STEPS * half * geometry[:, None]
        edges = self._edge_table.index_select(0, lines.flatten()).int().view(len(rows), size, _CROSSINGS)
        edges += (half * x).int()[:, None, None]
        first, *others = edges.view(-1, _CROSSINGS).T.contiguous()
        pixels = None if out is None else out.view(-1, size)
        pixels = torch.index_select(self._step_table, 0, first, out=pixels)
        for edge in others:
            pixels ^= self._step_table.index_select(0, edge)
        return pixels.view(-1, 1, size, size)


class ColorDSprites(DSprites):
    """dSprites in a random colour on black (Locatello et al. 2019, `disentanglement_lib`).

    Each channel is the white shape times a factor from U(0.5, 1) of that image and channel. The colour is a nuisance: the factors and
    the row numbers are those of `DSprites`.

    Attributes:
        channels: 3.
        nuisance_shape: `(3,)`, a uniform number for each channel.
    """

    channels = 3
    nuisance_shape = (3,)

    def _draw(self, rows: Tensor, uniform: Tensor | None, out: Tensor) -> None:
        assert uniform is not None
        colour = (255 * (0.5 + 0.5 * uniform)).round_().to(torch.uint8)
        torch.bitwise_and(self._masks(rows), colour[:, :, None, None], out=out)


class NoisyDSprites(DSprites):
    """dSprites, white on coloured noise (Locatello et al. 2019, `disentanglement_lib`).

    Noise from U(0, 1) of each pixel and channel is added to the image, which stays at most 1. The noise is a nuisance: the factors and
    the row numbers are those of `DSprites`.

    Attributes:
        channels: 3.
        nuisance_shape: `(3, image_size, image_size)`, a uniform number for each pixel and channel.
    """

    channels = 3

    def __init__(self, image_size: int = 64, device: torch.device | str = "cpu") -> None:
        """As `DSprites`."""
        super().__init__(image_size, device)
        self.nuisance_shape = (self.channels, image_size, image_size)

    def _draw(self, rows: Tensor, uniform: Tensor | None, out: Tensor) -> None:
        assert uniform is not None
        noise = (255 * uniform).round_().to(torch.uint8)
        torch.bitwise_or(self._masks(rows), noise, out=out)


class HueDSprites(DSprites):
    """dSprites in one of ten hues on black, the hue being a sixth factor; a variant of this package, not of the literature.

    The colours are those of 3D Shapes, HSV(hue, 1, 1) with hue 0, 0.1 ... 0.9. The factor `hue` comes first: label h adds
    `737280 * h` to the row number of `DSprites`, 7,372,800 rows in all.

    Attributes:
        factor_space: Names and sizes of the six factors.
        channels: 3.
    """

    channels = 3
    factor_space = FactorSpace(
        names=("hue", *DSprites.factor_space.names), sizes=(10, *DSprites.factor_space.sizes)
    )

    def __init__(self, image_size: int = 64, device: torch.device | str = "cpu") -> None:
        """As `DSprites`."""
        super().__init__(image_size, device)
        num_hues = self.factor_space.sizes[0]
        colours = torch.tensor([colorsys.hsv_to_rgb(hue / num_hues, 1.0, 1.0) for hue in range(num_hues)])
        self._colours = (255 * colours).round().to(self.device, torch.uint8)

    def _draw(self, rows: Tensor, uniform: Tensor | None, out: Tensor) -> None:
        sprites = len(DSprites.factor_space)
        colours = self._colours[rows // sprites]
        torch.bitwise_and(self._masks(rows % sprites), colours[:, :, None, None], out=out)
