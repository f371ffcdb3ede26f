"""Procedural 3D Shapes (Burgess & Kim 2018): the images of the dataset, drawn from their factors.

The geometry of an image (which pixel sees the floor, a wall, the object or the sky, and how brightly it is
lit) depends on scale, shape and orientation only: 480 cases. These are ray-cast once, when the dataset is
built, into an atlas of planes; a channel of an image is then the sum of four of them. The constants of the
scene were fitted to images of the original dataset, which these images match to about 3 of 255 (mean absolute
error).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .dataset import GridDataset
from .factors import FactorSpace

# Unit of length: half the side of the square room. x right, y away from the camera at orientation 0, z up.
_WALL_HEIGHT = 0.593
_CAMERA_RADIUS, _CAMERA_HEIGHT, _AIM_HEIGHT = 0.711, 0.222, 0.224
_FOCAL, _CENTRE_COLUMN, _CENTRE_ROW = 65.83 / 64, 31.87 / 64, 31.79 / 64  # in image heights
_CUBE_HALF_WIDTH, _CUBE_HALF_HEIGHT = 0.104, 0.103
_CYLINDER_RADIUS, _CYLINDER_HALF_HEIGHT = 0.1075, 0.111
_SPHERE_RADIUS = 0.1245
_CAPSULE_RADIUS, _CAPSULE_HALF_STRAIGHT = 0.097, 0.093
_LAMP = (-0.552, 0.296, 2.82)
_SPOT_CENTRE, _SPOT_WIDTH = (-0.46, 0.111), 0.73
_ROOM_AMBIENT, _ROOM_HEAD, _ROOM_SPOT = 0.354, 0.608, 0.938
_OBJECT_AMBIENT, _OBJECT_HEAD, _OBJECT_SPOT = 0.389, 0.569, 1.808
_HIGHLIGHT, _SHININESS = 0.258, 30
_SKY = (153.0, 226.0, 249.0)

# Channels of HSV(hue, 1, 1) at the ten hues, in fifths. That no other value occurs keeps the atlas small.
_LEVELS = 6
_HUE_LEVELS = (
    *((5, 0, 0), (5, 3, 0), (4, 5, 0), (1, 5, 0), (0, 5, 2)),
    *((0, 5, 5), (0, 2, 5), (1, 0, 5), (4, 0, 5), (5, 0, 3)),
)
_PLANES = 3 * _LEVELS + 3  # floor, wall and object at each level; red, green and blue of the sky
_BLOCK = 16  # images summed at a time on a CPU: their planes stay in its cache

Vector = tuple[Tensor, Tensor, Tensor]


def _dot(a: Vector, b: Vector) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _unit(a: Vector) -> Vector:
    scale = _dot(a, a).rsqrt()
    return a[0] * scale, a[1] * scale, a[2] * scale


def _slab(origin: Tensor, direction: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Where a ray enters and leaves `low <= coordinate <= high`."""
    a, b = (low - origin) / direction, (high - origin) / direction
    return torch.minimum(a, b), torch.maximum(a, b)


def _quadric(a: Tensor, half_b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Where `a t^2 + 2 half_b t + c <= 0` begins and ends; NaN (no comparison holds) if nowhere."""
    root = (half_b * half_b - a * c).sqrt()
    return (-half_b - root) / a, (-half_b + root) / a


def _enter(spans: list[tuple[Tensor, Tensor]]) -> Tensor:
    """First point of a ray that lies in all spans; infinity where there is none in front of its origin."""
    first, last = spans[0]
    for low, high in spans[1:]:
        first, last = torch.maximum(first, low), torch.minimum(last, high)
    return torch.where((first < last) & (last > 0), first, math.inf)


def _ball(o: Vector, d: Vector, height: float, radius: float) -> Tensor:
    z = o[2] - height
    half_b = o[0] * d[0] + o[1] * d[1] + z * d[2]
    return _enter([_quadric(_dot(d, d), half_b, o[0] ** 2 + o[1] ** 2 + z * z - radius**2)])


def _tube(o: Vector, d: Vector, radius: float, low: float, high: float) -> Tensor:
    half_b = o[0] * d[0] + o[1] * d[1]
    round_part = _quadric(d[0] ** 2 + d[1] ** 2, half_b, o[0] ** 2 + o[1] ** 2 - radius**2)
    return _enter([round_part, _slab(o[2], d[2], low, high)])


def _hit_object(shape: int, o: Vector, d: Vector) -> Tensor:
    """Ray parameter at which `o + t d` meets the object of scale 1, infinity where it misses."""
    if shape == 0:
        w = _CUBE_HALF_WIDTH
        sides = [_slab(o[0], d[0], -w, w), _slab(o[1], d[1], -w, w)]
        return _enter([*sides, _slab(o[2], d[2], 0.0, 2 * _CUBE_HALF_HEIGHT)])
    if shape == 1:
        return _tube(o, d, _CYLINDER_RADIUS, 0.0, 2 * _CYLINDER_HALF_HEIGHT)
    if shape == 2:
        return _ball(o, d, _SPHERE_RADIUS, _SPHERE_RADIUS)
    low, high = _CAPSULE_RADIUS, _CAPSULE_RADIUS + 2 * _CAPSULE_HALF_STRAIGHT
    ends = torch.minimum(_ball(o, d, low, _CAPSULE_RADIUS), _ball(o, d, high, _CAPSULE_RADIUS))
    return torch.minimum(ends, _tube(o, d, _CAPSULE_RADIUS, low, high))


def _object_normal(shape: int, p: Vector) -> Vector:
    """Outward unit normal at a point of the surface of the object of scale 1."""
    x, y, z = p
    zero = torch.zeros_like(x)
    if shape == 0:
        faces = torch.stack([x / _CUBE_HALF_WIDTH, y / _CUBE_HALF_WIDTH, z / _CUBE_HALF_HEIGHT - 1])
        side = faces.abs().argmax(dim=0)
        nx, ny, nz = (torch.where(side == axis, faces[axis].sign(), 0.0) for axis in range(3))
        return nx, ny, nz
    if shape == 1:
        lid = (x * x + y * y).sqrt() / _CYLINDER_RADIUS < z / _CYLINDER_HALF_HEIGHT - 1
        nx, ny, _ = _unit((x, y, zero))
        return torch.where(lid, 0.0, nx), torch.where(lid, 0.0, ny), lid.float()
    if shape == 2:
        return _unit((x, y, z - _SPHERE_RADIUS))
    axis = z.clamp(_CAPSULE_RADIUS, _CAPSULE_RADIUS + 2 * _CAPSULE_HALF_STRAIGHT)
    return _unit((x, y, z - axis))


def _to_lamp(p: Vector) -> Vector:
    return _LAMP[0] - p[0], _LAMP[1] - p[1], _LAMP[2] - p[2]


def _spot(p: Vector) -> Tensor:
    """Strength of the spot lamp at a point: Gaussian around the centre of its beam, measured on the floor."""
    stretch = _LAMP[2] / (_LAMP[2] - p[2])
    x = _LAMP[0] + (p[0] - _LAMP[0]) * stretch - _SPOT_CENTRE[0]
    y = _LAMP[1] + (p[1] - _LAMP[1]) * stretch - _SPOT_CENTRE[1]
    return torch.exp(-(x * x + y * y) / (2 * _SPOT_WIDTH**2))


class _View:
    """Rays of one orientation, one a sample, and the empty room as they see it; tensors are `(1, N)`."""

    def __init__(self, degrees: float, image_size: int, supersample: int) -> None:
        angle = math.radians(degrees)
        self.pixels = image_size**2
        self.eye = (_CAMERA_RADIUS * math.sin(angle), -_CAMERA_RADIUS * math.cos(angle), _CAMERA_HEIGHT)
        pitch = math.atan2(_AIM_HEIGHT - _CAMERA_HEIGHT, _CAMERA_RADIUS)
        ahead = (-math.sin(angle) * math.cos(pitch), math.cos(angle) * math.cos(pitch), math.sin(pitch))
        up = (math.sin(angle) * math.sin(pitch), -math.cos(angle) * math.sin(pitch), math.cos(pitch))
        self.back = (-ahead[0], -ahead[1], -ahead[2])

        # Sub-samples lead, pixels follow, so that a pixel is averaged over the leading axis of a reshape.
        samples = image_size * supersample
        grid = (torch.arange(samples, dtype=torch.float32) + 0.5) / samples
        grid = grid.reshape(image_size, supersample).T
        columns = (grid - _CENTRE_COLUMN)[None, :, None, :] / _FOCAL
        rows = (grid - _CENTRE_ROW)[:, None, :, None] / _FOCAL
        shape = (supersample, supersample, image_size, image_size)
        columns, rows = (part.expand(shape).reshape(1, -1) for part in (columns, rows))
        self.ray: Vector = (
            ahead[0] + math.cos(angle) * columns - up[0] * rows,
            ahead[1] + math.sin(angle) * columns - up[1] * rows,
            ahead[2] - up[2] * rows,
        )
        x, y, z = self.ray
        to_x, to_y = (x.sign() - self.eye[0]) / x, (y.sign() - self.eye[1]) / y
        to_floor = torch.where(z < 0, -self.eye[2] / z, math.inf)
        self.room_distance = torch.minimum(torch.minimum(to_x, to_y), to_floor)
        self.floor = to_floor == self.room_distance
        point = self.at(self.room_distance)
        self.sky = point[2] > _WALL_HEIGHT
        side = ~self.floor & (to_x < to_y)
        rear = ~self.floor & ~side
        normal = (torch.where(side, -x.sign(), 0.0), torch.where(rear, -y.sign(), 0.0), self.floor.float())
        self.floor_point: Vector = (point[0][self.floor], point[1][self.floor], point[2][self.floor])
        self.room_unlit = _ROOM_AMBIENT + _ROOM_HEAD * self._facing_camera(normal)
        facing_lamp = _dot(normal, _unit(_to_lamp(point))).clamp_min(0)
        self.room_lit = self.room_unlit + _ROOM_SPOT * _spot(point) * facing_lamp

    def at(self, distance: Tensor) -> Vector:
        x, y, z = self.ray
        return self.eye[0] + distance * x, self.eye[1] + distance * y, self.eye[2] + distance * z

    def _facing_camera(self, normal: Vector) -> Tensor:
        return (normal[0] * self.back[0] + normal[1] * self.back[1] + normal[2] * self.back[2]).clamp_min(0)

    def planes(self, shape: int, scales: Tensor) -> Tensor:
        """Planes of one shape at several scales: `(S,)` scales to `(S, _PLANES, pixels)` uint8.

        The object stands on the origin of the world, so `o + t d` meets it at scale s where
        `o / s + (t / s) d` meets it at scale 1.
        """
        scale = scales[:, None]
        eye: Vector = (self.eye[0] / scale, self.eye[1] / scale, self.eye[2] / scale)
        distance = _hit_object(shape, eye, self.ray)
        is_object = distance.isfinite()

        light = self.room_lit.repeat(len(scales), 1)
        on_floor = self.floor_point
        foot: Vector = (on_floor[0] / scale, on_floor[1] / scale, on_floor[2] / scale)
        in_shadow = _hit_object(shape, foot, _to_lamp(on_floor)).isfinite()
        unlit = self.room_unlit[self.floor]
        light[:, self.floor[0]] = torch.where(in_shadow, unlit, light[:, self.floor[0]])

        which, sample = is_object.nonzero(as_tuple=True)
        t, s = distance[which, sample], scales[which]
        x, y, z = (eye[axis][which, 0] + t * self.ray[axis][0, sample] for axis in range(3))
        normal = _object_normal(shape, (x, y, z))
        point = (x * s, y * s, z * s)
        lamp = _unit(_to_lamp(point))
        to_eye = _unit((self.eye[0] - point[0], self.eye[1] - point[1], self.eye[2] - point[2]))
        half_way = _unit((lamp[0] + to_eye[0], lamp[1] + to_eye[1], lamp[2] + to_eye[2]))
        spot = _spot(point)
        matt = _OBJECT_SPOT * spot * _dot(normal, lamp).clamp_min(0)
        light[which, sample] = _OBJECT_AMBIENT + _OBJECT_HEAD * self._facing_camera(normal) + matt
        highlight = torch.zeros_like(light)
        highlight[which, sample] = _HIGHLIGHT * spot * _dot(normal, half_way).clamp_min(0) ** _SHININESS

        is_sky = self.sky & ~is_object
        is_floor = self.floor & ~is_object
        is_wall = ~(is_object | is_floor | is_sky)
        surfaces = [mask.float() for mask in (is_floor, is_wall, is_object)]
        planes = torch.empty(len(scales), _PLANES, self.pixels)
        for level in range(_LEVELS):
            colour = (255 * level / (_LEVELS - 1) * light + 255 * highlight).clamp_max(255)
            for which_surface, mask in enumerate(surfaces):
                planes[:, which_surface * _LEVELS + level] = self._average(mask * colour)
        sky = self._average(is_sky.float())
        for channel in range(3):
            planes[:, 3 * _LEVELS + channel] = _SKY[channel] * sky
        # Four surfaces may share a pixel: roundings that add less than 1/4 each cannot push the sum past 255.
        return (planes + 0.24).to(torch.uint8)

    def _average(self, samples: Tensor) -> Tensor:
        return samples.reshape(len(samples), -1, self.pixels).mean(dim=1)


class Shapes3D(GridDataset):
    """The 480,000 images of 3D Shapes, drawn from their factors.

    Factor values: hues 0, 0.1 ... 0.9; scale linspace(0.75, 1.25, 8); shape cube, cylinder, sphere, capsule;
    orientation linspace(-30, 30, 15) degrees. Rows are numbered as in the original file. The planes are built
    on the CPU and summed in integers, so every device draws the same bytes.

    Attributes:
        factor_space: names and sizes of the six factors.
        image_size: height and width in pixels.
        channels: 3.
        device: where `render` puts its images.
    """

    channels = 3
    factor_space = FactorSpace(
        names=("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"),
        sizes=(10, 10, 10, 8, 4, 15),
    )

    def __init__(
        self, image_size: int = 64, device: torch.device | str = "cpu", supersample: int = 2
    ) -> None:
        """Ray-cast the atlas: `10080 * image_size**2` bytes (41 MB at 64).

        Args:
            image_size: height and width in pixels, even, 16..128; 64 is the original's, others show the same
                picture.
            device: where the atlas is kept and images are drawn.
            supersample: rays along each side of a pixel, at least 1.

        Raises:
            ValueError: image size or supersampling out of range.
        """
        if not 16 <= image_size <= 128 or image_size % 2:
            raise ValueError(f"image_size is {image_size}; give an even number of pixels in 16..128")
        if supersample < 1:
            raise ValueError(f"supersample is {supersample}; give at least 1 ray along each side of a pixel")
        self.image_size = image_size
        self.device = torch.device(device)
        _, _, _, num_scales, num_shapes, num_orientations = self.factor_space.sizes
        scales = torch.linspace(0.75, 1.25, num_scales, dtype=torch.float32)
        atlas = torch.empty(
            num_scales, num_shapes, num_orientations, _PLANES, image_size**2, dtype=torch.uint8
        )
        for orientation in range(num_orientations):
            view = _View(-30.0 + 60.0 * orientation / (num_orientations - 1), image_size, supersample)
            for shape in range(num_shapes):
                atlas[:, shape, orientation] = view.planes(shape, scales)
        self._geometries = num_scales * num_shapes * num_orientations
        self._atlas = atlas.reshape(self._geometries * _PLANES, -1).to(self.device)
        self._hue_levels = torch.tensor(_HUE_LEVELS, device=self.device)

    def render(self, factors: Tensor, nuisance: Tensor | None = None) -> Tensor:
        """Draw images.

        Args:
            factors: integer labels `(B, 6)` in the order of `factor_space.names`.
            nuisance: None; 3D Shapes has none.

        Returns:
            `(B, 3, image_size, image_size)` uint8 in 0..255, on the dataset's device.

        Raises:
            ValueError: wrong dtype, shape or range of the labels.
        """
        rows = self.factor_space.index(factors).to(self.device)
        hues = factors.to(self.device, torch.int64)[:, :3]
        first_plane = (rows % self._geometries * _PLANES)[:, None]
        floor, wall, thing = (
            (first_plane + surface * _LEVELS + self._hue_levels[hues[:, surface]]).flatten()
            for surface in range(3)
        )
        sky = (first_plane + 3 * _LEVELS + torch.arange(3, device=self.device)).flatten()
        images = torch.empty(3 * len(rows), self.image_size**2, dtype=torch.uint8, device=self.device)
        block = 3 * _BLOCK if self.device.type == "cpu" else max(len(images), 1)
        for start in range(0, len(images), block):
            part = slice(start, start + block)
            total = torch.index_select(self._atlas, 0, sky[part], out=images[part])
            for planes in (floor, wall, thing):
                total += self._atlas.index_select(0, planes[part])
        return images.view(-1, 3, self.image_size, self.image_size)
