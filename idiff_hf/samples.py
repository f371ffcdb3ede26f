"""Pictures of a saved pipeline as files: what it draws, and one latent at a time along its range."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.lib.format import MAGIC_PREFIX
from torch import Tensor

from .config import DataConfig
from .data.pictures import to_picture
from .data.tables import PICTURE_SUFFIXES
from .drawing import DRAWN_AT_A_TIME
from .figures import image_grid, latent_labels, to_pil, to_uint8, traversal_figure
from .folders import os_errors, refuse_filled, refuse_unwritable
from .latent_names import named_latents
from .pipeline_scores.opening import held_out_rows
from .pipelines import IVAEDiffusionPipeline
from .pipelines.editing import Decoder
from .processes import process_state
from .random import generator

GRID = "grid.png"
GRID_COLUMNS = 8
GRID_ROWS = 8
MAX_LATENTS_BYTES = 2**30
"""A file of latents that says it is larger is refused before it is read."""


def open_model(folder: Path) -> IVAEDiffusionPipeline:
    """A saved pipeline, on the accelerator where there is one; its progress bars show on a terminal only.

    Raises:
        ValueError: One line: no pipeline, or a model of vectors, of which there are no pictures.
    """
    pipeline = IVAEDiffusionPipeline.from_pretrained(folder).to(process_state().device)
    if pipeline.takes_vectors:
        raise ValueError(f"{folder} is a model of vectors: there are no pictures to draw")
    pipeline.set_progress_bar_config(disable=None)
    return pipeline


def held_out_latents(
    pipeline: IVAEDiffusionPipeline, folder: Path, data: DataConfig, num_images: int, first: int = 0
) -> Tensor:
    """z of images that the pipeline of `folder` has not been trained on, `(N, latent_dim)`.

    Args:
        pipeline: The model, with an iVAE.
        folder: Where it lies.
        data: The dataset.
        num_images: N, at most.
        first: The number of the first in the order of `held_out_rows`.

    Raises:
        ValueError: One line: images of another size than the model's, or none of this number.
    """
    dataset, rows, _ = held_out_rows(folder, pipeline, data, first + num_images)
    if len(rows) <= first:
        raise ValueError(
            f"there are {len(rows)} held-out images, numbered from 0: there is no number {first}"
        )
    return pipeline.encode(dataset.images(rows[first:]))


def picture_latents(pipeline: IVAEDiffusionPipeline, paths: Iterable[Path]) -> Tensor:
    """z of pictures, `(N, latent_dim)`. The centre square of a picture of another size is scaled to the model's.

    Args:
        pipeline: The model, with an iVAE.
        paths: Files of pictures, and folders, of which every picture is taken in the order of names.

    Raises:
        ValueError: One line: a file that is no picture, or a folder without one.
    """
    size, color = pipeline.image_size, "rgb" if pipeline.channels == 3 else "grey"
    files = [file for path in paths for file in (_pictures(path) if path.is_dir() else [path])]
    images = [to_picture(file, size, color, True, str(file)) for file in files]  # type: ignore[arg-type]
    return pipeline.encode(np.stack(images))


def _pictures(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    if not files:
        raise ValueError(
            f"{folder} holds no picture: there is no file of {', '.join(PICTURE_SUFFIXES)} in it"
        )
    return files


def read_latents(path: Path) -> Tensor:
    """z from an npy file, or from the array `latents` of an npz file, float32. Nothing in it is executed: arrays of objects are refused.

    Raises:
        ValueError: One line: no such file, or another array than finite numbers `(N, latent_dim)`, N at least 1.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file: give latents (N, D), npy or npz with an array latents")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = archive.getinfo("latents.npy").file_size
            if size > MAX_LATENTS_BYTES:
                raise ValueError(f"latents takes {size:,} bytes, more than {MAX_LATENTS_BYTES:,}")
            with np.load(path, allow_pickle=False) as arrays:
                latents = arrays["latents"]
        else:
            with path.open("rb") as file:
                # of a file of another kind NumPy says how it could be read unsafely
                if file.read(len(MAGIC_PREFIX)) != MAGIC_PREFIX:
                    raise ValueError("it is neither")
            # mapped, a header cannot ask for more than the file has
            latents = np.load(path, mmap_mode="r", allow_pickle=False)
        if latents.dtype.kind not in "iuf":
            raise ValueError(f"latents are {latents.dtype}, not real numbers")
        with np.errstate(over="ignore"):  # what is too large is refused as infinite
            latents = np.array(latents, dtype=np.float32)
    # on a damaged file NumPy and zlib raise nearly anything
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as npy, or npz with an array latents: {reason}") from None
    if latents.ndim != 2 or len(latents) == 0 or not np.isfinite(latents).all():
        raise ValueError(f"{path}: latents must be finite numbers (N, D), got shape {latents.shape}")
    return torch.from_numpy(latents)


def write_samples(
    pipeline: IVAEDiffusionPipeline,
    out: Path,
    num_images: int,
    *,
    latents: Tensor | None = None,
    factors: Mapping[str, float] | None = None,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 20,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Draw images, and write each as a PNG file, and the first of them side by side as `grid.png`.

    Args:
        pipeline: The model.
        out: A new or empty folder; it is there, with all files in it, only after the last image was drawn.
        num_images: How many.
        latents: z of each, `(num_images, latent_dim)`.
        factors: Or what is asked for in all of them, see `IVAEDiffusionPipeline.sample_factors`. Neither for an unconditional model.
        guidance_scale: gamma (Eq. 10).
        num_inference_steps: Solver steps.
        seed: Image i is drawn from noise of its own, a function of the seed and of i.

    Returns:
        For each image its `file` and the `latents` it was drawn from.

    Raises:
        ValueError: One line: a folder that holds files or cannot be made, or what the pipeline refuses.
    """
    if num_images < 1:
        raise ValueError(f"the number of images must be 1 or more, got {num_images}")
    refuse_filled(out)
    refuse_unwritable(out.absolute().parent)
    images: list[np.ndarray] = []
    drawn_from: list[list[float]] = []
    for part in torch.arange(num_images).split(DRAWN_AT_A_TIME):
        call: dict[str, Any] = {
            "guidance_scale": guidance_scale,
            "num_inference_steps": num_inference_steps,
            "generator": [generator(seed, "samples", i, device=pipeline.device) for i in part.tolist()],
            "output_type": "np",
        }
        if latents is not None:
            drawn = pipeline(latents=latents[part], **call)
        elif factors is not None:
            drawn = pipeline.sample_factors(factors, num_images_per_input=len(part), **call)
        else:
            drawn = pipeline(batch_size=len(part), **call)
        images.append(to_uint8(drawn.images))
        drawn_from += drawn.latents.tolist()
    names = [f"{number:05d}.png" for number in range(num_images)]
    _write_pictures(np.concatenate(images), names, out)
    return [{"file": str(out / name), "latents": z} for name, z in zip(names, drawn_from, strict=True)]


def _write_pictures(images: np.ndarray, names: Sequence[str], out: Path) -> None:
    """PNG files of images `(N, H, W, C)` uint8, and their grid, as a folder that is there whole or not at all."""
    target = out.resolve()
    staged = target.with_name(f".tmp-{target.name}")
    with os_errors(f"cannot write {out}"):
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        try:
            for name, image in zip(names, images, strict=True):
                to_pil(image).save(staged / name)
            shown = images[: GRID_COLUMNS * GRID_ROWS]
            columns = min(GRID_COLUMNS, len(shown))
            blank = np.full((-len(shown) % columns, *shown.shape[1:]), 255, np.uint8)
            rows = np.concatenate([shown, blank]).reshape(-1, columns, *shown.shape[1:])
            image_grid(list(rows), [str(columns * row) for row in range(len(rows))], staged / GRID)
            os.replace(staged, target)
        except BaseException:
            shutil.rmtree(staged)
            raise


def write_traversals(
    pipeline: IVAEDiffusionPipeline,
    folder: Path,
    latents: Tensor,
    out: Path,
    *,
    decoders: Sequence[Decoder],
    dims: Sequence[int | str] | None = None,
    values: Sequence[float] | None = None,
    guidance_scale: float = 1.0,
    num_inference_steps: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """Move one latent at a time and write a grid for each decoder, `traversal_ivae.png` and `traversal_ddpm.png` (Figures 10 and 11).

    Args:
        pipeline: The model, with an iVAE.
        folder: Where it lies, by which latents have names (`named_latents`).
        latents: One z, `(1, latent_dim)`, that is kept but for the latent that moves.
        out: The folder of the grids.
        decoders: Of them, which draw.
        dims: Latents by number, or by the name of their factor; all by default.
        values: As in `IVAEDiffusionPipeline.traverse`, as for the rest.
        guidance_scale: As there.
        num_inference_steps: As there.
        seed: As there.

    Returns:
        `files`, `dims` (the label of each row), `values` and `latents`.

    Raises:
        ValueError: One line: an `out` that takes no files, or as in `traverse`.
    """
    refuse_unwritable(out)
    assert pipeline.ivae is not None  # it has encoded z
    config = pipeline.ivae.config
    named = named_latents(folder, config)
    asked: Sequence[Any] = range(config["latent_dim"]) if dims is None else dims
    # a name that is not known is for `traverse` to refuse
    chosen = [named.get(dim, dim) for dim in asked]
    if values is None:
        values = pipeline.traversed
    grids = {
        decoder: pipeline.traverse(
            latents,
            chosen,
            values,
            decoder,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            seed=seed,
            output_type="np",
        )
        for decoder in decoders
    }
    labels = latent_labels(config["latent_dim"], named)
    shown = [labels[dim] for dim in chosen]
    files = {decoder: out / f"traversal_{decoder}.png" for decoder in grids}
    with os_errors(f"cannot write {out}"):
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=out, prefix=".tmp-") as staged:
            for decoder, images in grids.items():
                traversal_figure(to_uint8(images), values, shown, Path(staged) / files[decoder].name)
            for path in files.values():
                os.replace(Path(staged) / path.name, path)
    return {
        "files": [str(path) for path in files.values()],
        "dims": shown,
        "values": list(values),
        "latents": latents[0].tolist(),
    }
