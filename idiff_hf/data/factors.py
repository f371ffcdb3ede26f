"""The grid of discrete factors behind an image dataset, its rows, and the values of labels on a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def check_labels(factors: Tensor, names: Sequence[str], sizes: Sequence[int]) -> None:
    """Refuse anything but a `(B, K)` integer tensor with `0 <= factors[:, k] < sizes[k]`.

    Args:
        factors: labels to check, `(B, K)`.
        names: K factor names, used in the message only.
        sizes: K numbers of values.

    Raises:
        ValueError: wrong dtype, shape or range.
    """
    if factors.is_floating_point() or factors.is_complex() or factors.dtype == torch.bool:
        raise ValueError(
            f"factors are {factors.dtype}; give integer labels (class indices), such as torch.int64"
        )
    if factors.ndim != 2 or factors.shape[1] != len(sizes):
        raise ValueError(
            f"factors have shape {tuple(factors.shape)}; give (B, {len(sizes)}), "
            f"one column for each of {', '.join(names)}"
        )
    outside = (factors < 0) | (factors >= torch.tensor(sizes, device=factors.device))
    if outside.any():
        row, k = outside.nonzero()[0].tolist()
        raise ValueError(
            f"factor {names[k]!r} is {int(factors[row, k])} in row {row}; labels must be in 0..{sizes[k] - 1}"
        )


@dataclass(frozen=True)
class FactorSpace:
    """All combinations of K discrete factors, numbered row-major: the last factor varies fastest.

    Attributes:
        names: K factor names.
        sizes: K numbers of values, each at least 1.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or len(self.names) != len(self.sizes):
            raise ValueError(
                f"{len(self.names)} factor names for {len(self.sizes)} sizes; give as many, at least one"
            )
        if min(self.sizes) < 1:
            raise ValueError(f"factor sizes are {self.sizes}; each must be at least 1")

    def __len__(self) -> int:
        """Number of combinations."""
        return math.prod(self.sizes)

    @property
    def _bases(self) -> list[int]:
        """Distance in rows between neighbouring values of each factor."""
        return [math.prod(self.sizes[k + 1 :]) for k in range(len(self.sizes))]

    def index(self, factors: Tensor) -> Tensor:
        """Row numbers of factor combinations.

        Args:
            factors: integer labels `(B, K)`, `0 <= factors[:, k] < sizes[k]`.

        Returns:
            `(B,)` int64 in `0 .. len(self) - 1`, on the device of `factors`.

        Raises:
            ValueError: wrong dtype, shape or range.
        """
        check_labels(factors, self.names, self.sizes)
        return (factors.long() * torch.tensor(self._bases, device=factors.device)).sum(dim=1)

    def factors(self, index: Tensor) -> Tensor:
        """Factor combinations of row numbers, the inverse of `index`.

        Args:
            index: integer row numbers `(B,)` in `0 .. len(self) - 1`.

        Returns:
            `(B, K)` int64 labels, on the device of `index`.

        Raises:
            ValueError: wrong dtype, shape or range.
        """
        check_labels(index[..., None], ("row number",), (len(self),))
        bases = torch.tensor(self._bases, device=index.device)
        return index.long()[:, None] // bases % torch.tensor(self.sizes, device=index.device)

    def split(self, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
        """Row numbers of training and held-out combinations, see `split_rows`."""
        return split_rows(len(self), held_out, seed)


def split_rows(total: int, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Split row numbers at random into those for training and held-out ones.

    The result depends on the arguments alone: raw Philox words are ranked, and these, unlike NumPy's
    `permutation` and torch's `randperm`, do not change with version or device.

    Args:
        total: number of rows, at least 2.
        held_out: fraction to hold out, in (0, 1); its rounded share is held out, but at least one row and at
            most all but one.
        seed: integer in `0 .. 2**64 - 1`.

    Returns:
        Row numbers `(train, held_out)`: int64, sorted, disjoint, together all of `0 .. total - 1`.

    Raises:
        ValueError: fraction or seed out of range, or fewer than two rows.
    """
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"held_out is {held_out}; give a fraction strictly between 0 and 1")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; give an integer in 0 .. 2**64 - 1")
    if total < 2:
        raise ValueError(
            f"{total} row{'' if total == 1 else 's'} cannot be split into training and held-out ones; give at least two"
        )
    count = min(max(round(held_out * total), 1), total - 1)
    key = np.array([seed, int.from_bytes(b"split", "big")], dtype=np.uint64)
    order = np.argsort(np.random.Philox(key=key).random_raw(total), kind="stable")
    train, rest = np.sort(order[count:]), np.sort(order[:count])
    return torch.from_numpy(train.astype(np.int64)), torch.from_numpy(rest.astype(np.int64))


def label_to_z(factors: Tensor, sizes: Sequence[int], mode: str, jitter: Tensor | None = None) -> Tensor:
    """Values of factors on a line, from their labels.

    Args:
        factors: integer labels `(B, K)`, `0 <= factors[:, k] < sizes[k]`.
        sizes: K numbers of values.
        mode: `"endpoints"`, label k of n has z = k/(n-1) - 0.5 (the extreme labels lie on the ends of
            [-0.5, 0.5], where `UniformPosterior` has a single value of u, which gives them away);
            `"centers"`, z = (k+0.5)/n - 0.5.
        jitter: uniform numbers `(B, K)` in [0, 1), only with `"centers"`: z = (k+jitter)/n - 0.5, which is
            exactly uniform on [-0.5, 0.5] when the labels are uniform.

    Returns:
        `(B, K)` float32 in [-0.5, 0.5].

    Raises:
        ValueError: unknown mode, jitter with `"endpoints"`, a size below 2 with `"endpoints"`, or bad labels.
    """
    check_labels(factors, [str(k) for k in range(len(sizes))], sizes)
    count = torch.tensor(sizes, dtype=torch.float32, device=factors.device)
    if mode == "endpoints":
        if jitter is not None:
            raise ValueError("jitter was given with mode 'endpoints'; use mode 'centers' or leave jitter out")
        if min(sizes) < 2:
            raise ValueError(f"sizes are {tuple(sizes)}; mode 'endpoints' needs at least two values a factor")
        return factors / (count - 1) - 0.5
    if mode == "centers":
        if jitter is None:
            return (factors + 0.5) / count - 0.5
        check_uniform(factors, jitter, len(sizes), (len(sizes),))
        return (factors + jitter) / count - 0.5
    raise ValueError(f"mode is {mode!r}; give 'endpoints' or 'centers'")


def check_uniform(z: Tensor, uniform: Tensor, num_factors: int, draws: tuple[int, ...]) -> None:
    """Refuse values that are not `(B, num_factors)`, or uniform numbers that are not `(B, *draws)` with the same B.

    Raises:
        ValueError: wrong shape.
    """
    if z.ndim != 2 or z.shape[1] != num_factors or uniform.shape != (len(z), *draws):
        raise ValueError(
            f"values have shape {tuple(z.shape)} and uniform numbers {tuple(uniform.shape)}; "
            f"give (B, {num_factors}) and (B, {', '.join(map(str, draws))})"
        )
