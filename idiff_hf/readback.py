"""Codes of a dataset, and factors read back from codes or from images."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from .card_scores import by_name
from .data import GridDataset, ImageDataset, Shapes3D, to_float
from .distributions import DiagonalGaussian
from .metrics.mutual_information import mutual_information_from_labels
from .pipelines import IVAEDiffusionPipeline
from .processes import map_batches
from .random import generator


def encode_rows(
    pipeline: IVAEDiffusionPipeline,
    dataset: ImageDataset,
    rows: Tensor,
    batch_size: int = 500,
    *,
    widths: bool = False,
    shared: bool = False,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes, one number for each latent, and factors of rows of a dataset.

    Args:
        pipeline: The model, with an iVAE.
        dataset: The images.
        rows: Row numbers, `(N,)`.
        batch_size: Images encoded at once.
        widths: Take log-variances of q(z|x) for codes, see `baselines.learns_widths`.
        shared: All processes call this together, each encodes a part, and every one has all codes.
        progress: Show a bar.

    Returns:
        Codes `(N, D)` float64, posterior means, with `widths` log-variances, or, of categorical latents, the number of the
        likeliest class; and factors `(N, K)`, labels int64 or, where a factor is continuous, floats.
    """

    def encode(part: Tensor) -> tuple[Tensor, Tensor]:
        images = dataset.images(part)
        codes = _log_variances(pipeline, images) if widths else pipeline.codes(pipeline.encode(images))
        return codes.cpu(), dataset.factors(part).cpu()

    parts = map_batches(encode, rows, batch_size, shared=shared, progress="encode" if progress else None)
    codes, factors = zip(*parts, strict=True)
    return torch.cat(codes).double().numpy(), torch.cat(factors).numpy()


@torch.no_grad()
def _log_variances(pipeline: IVAEDiffusionPipeline, images: Tensor) -> Tensor:
    assert pipeline.ivae is not None
    law = pipeline.ivae.encode(pipeline.prepare_images(images).to(pipeline.ivae.dtype)).latent_dist
    assert isinstance(law, DiagonalGaussian)
    return law.logvar.float()


class FactorReader:
    """Reads factors from codes: for each factor the latent that tells most of it, and the level whose mean on rendered data is nearest.

    Levels may lie along the latent in any order, as those of a hue that goes round a circle.

    Args:
        codes: `(N, D)` of rendered images.
        factors: Their labels, `(N, K)`, int64.
    """

    def __init__(self, codes: np.ndarray, factors: np.ndarray) -> None:
        self.latents = mutual_information_from_labels(codes, factors).matrix.argmax(axis=0)
        self.levels = [np.unique(labels) for labels in factors.T]
        self.means = [
            np.array([codes[labels == level, latent].mean() for level in levels])
            for labels, latent, levels in zip(factors.T, self.latents, self.levels, strict=True)
        ]

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Labels `(N, K)` for codes `(N, D)`."""
        columns = [
            levels[np.abs(codes[:, [latent]] - means).argmin(axis=1)]
            for latent, levels, means in zip(self.latents, self.levels, self.means, strict=True)
        ]
        return np.stack(columns, axis=1)


def reader_of_rows(
    pipeline: IVAEDiffusionPipeline, dataset: ImageDataset, num_rows: int = 10000
) -> FactorReader:
    """A reader made on so many rows of a dataset, or on all where there are fewer."""
    order = torch.randperm(len(dataset), generator=generator(0, "means of levels"))
    return FactorReader(*encode_rows(pipeline, dataset, order[:num_rows]))


def every_image(dataset: ImageDataset) -> GridDataset | None:
    """The dataset where an image of every combination is known; with a nuisance, which is no factor, none need be near another."""
    return dataset if isinstance(dataset, GridDataset) and dataset.nuisance_shape is None else None


def nearest_rendered(
    dataset: GridDataset, images: Tensor, batch_size: int = 4000, *, shared: bool = False
) -> Tensor:
    """Row of the dataset's image that is nearest to each given one, by squared error over all factor combinations.

    Args:
        dataset: Has an image of every combination.
        images: `(N, C, H, W)` float in [-1, 1].
        batch_size: Images of the dataset compared at once.
        shared: All processes call this together with the same images, and each searches a part of the dataset.

    Returns:
        `(N,)` int64 on the CPU.
    """
    queries = images.flatten(1)

    def nearest(rows: Tensor) -> tuple[Tensor, Tensor]:
        candidates = to_float(dataset.images(rows)).flatten(1)
        # |r - q|^2 without |q|^2, which does not decide between the dataset's images
        distance = candidates.square().sum(dim=1) - 2.0 * queries @ candidates.T
        value, position = distance.min(dim=1)
        return value.cpu(), rows[position.cpu()]

    found = map_batches(nearest, torch.arange(len(dataset)), batch_size, shared=shared)
    values, rows = (torch.stack(parts) for parts in zip(*found, strict=True))
    return rows.gather(0, values.argmin(dim=0, keepdim=True))[0]


def read_real_images(
    pipeline: IVAEDiffusionPipeline, images: np.ndarray, factors: np.ndarray
) -> dict[str, Any]:
    """Read the factors of real 3D Shapes images with a model that has seen rendered ones only.

    Args:
        pipeline: A model of rendered Shapes3D.
        images: uint8 `(N, 64, 64, 3)`; averaged down to the model's image size.
        factors: Their labels, `(N, 6)`.

    Returns:
        `num_images`, and for each factor the rates `exact` and `within_one`.

    Raises:
        ValueError: One line, for a model without Gaussian latents.
    """
    size = pipeline.image_size
    if pipeline.ivae is None or pipeline.ivae.config["latent_type"] != "gaussian":
        raise ValueError(
            "factors of real images are read from Gaussian latents, which this model does not have: leave --real out"
        )
    dataset = Shapes3D(image_size=size, device=pipeline.device)
    reader = reader_of_rows(pipeline, dataset)
    tensor = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(images).movedim(-1, 1).float(), size)
    read = reader(pipeline.encode(tensor / 127.5 - 1.0).cpu().double().numpy())
    distance = np.abs(read - factors)
    names = dataset.factor_names
    return {
        "num_images": len(images),
        "exact": by_name(names, (distance == 0).mean(axis=0)),
        "within_one": by_name(names, (distance <= 1).mean(axis=0)),
    }


def real_image_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `(N, 64, 64, 3)` and labels `(N, 6)` from an npz file with `images` and `factors`.

    Raises:
        ValueError: One line, for a file that is missing or holds something else.
    """
    try:
        # of a file of another kind NumPy says how it could be read unsafely
        if path.is_file() and not is_zipfile(path):
            raise ValueError("it is no zip archive")
        with np.load(path, allow_pickle=False) as arrays:
            images, factors = arrays["images"], arrays["factors"]
    # on a damaged file NumPy and zlib raise nearly anything
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no npz file with images and factors: {reason}") from None
    if not (isinstance(images, np.ndarray) and isinstance(factors, np.ndarray)):
        raise ValueError(f"{path}: images and factors must be arrays as numpy.savez writes them")
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[1:] != (64, 64, 3)
        or factors.shape != (len(images), 6)
    ):
        raise ValueError(
            f"{path}: images must be uint8 (N, 64, 64, 3) and factors (N, 6), got {images.dtype} {images.shape} and {factors.shape}"
        )
    if len(images) == 0:
        raise ValueError(f"{path} holds no image")
    sizes = np.array(Shapes3D(image_size=64).factor_sizes)
    if factors.dtype.kind not in "iu" or (factors < 0).any() or (factors >= sizes).any():
        raise ValueError(
            f"{path}: factors must be whole numbers from 0 to {sizes.tolist()} less one, the number of each class, got {factors.dtype} "
            f"such as {factors[0].tolist()}"
        )
    return images, factors
