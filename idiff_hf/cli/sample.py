"""`idiff sample`: images that a model draws, as files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..folders import refuse_filled
from .shared import DATA_HELP, MODEL_HELP, drawing_flags, no_more, own_data, pipeline_folder

NUM_IMAGES = 8


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "sample",
        allow_abbrev=False,
        help="draw images by the diffusion model: a PNG file each, and a grid",
        description="Draw images by the diffusion model: a PNG file each, and a grid of the first 64. They are drawn from exactly one of "
        "these: held-out images, which are encoded (the default), --images, --latents, --factors; an unconditional model draws from noise "
        "alone.",
        epilog=f"Held-out images are those of the model's training, or of other flags: {DATA_HELP}.",
    )
    parser.add_argument("model", type=Path, help=MODEL_HELP)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--images",
        type=Path,
        nargs="+",
        metavar="FILE|FOLDER",
        help="pictures of any size, which are encoded: their centre square is scaled to the model's",
    )
    source.add_argument(
        "--latents", type=Path, metavar="FILE", help="z (N, D), npy, or npz with an array latents"
    )
    source.add_argument(
        "--factors",
        metavar="NAME=VALUE,...",
        help="factors in [-0.5, 0.5], such as floor_hue=0.2,scale=-0.5; those that are not named are free",
    )
    parser.add_argument(
        "--num_images",
        type=int,
        help=f"of held-out images, of --factors, or of an unconditional model (default: {NUM_IMAGES})",
    )
    drawing_flags(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("samples"),
        help="a new folder: 00000.png, 00001.png, ..., grid.png (default: samples)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: each file with its latents")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Draw, and print the files."""
    factors = None if options.factors is None else factor_values(options.factors)
    for name in ("images", "latents"):
        if getattr(options, name) is not None and options.num_images is not None:
            raise ValueError(f"--num_images is not for --{name}, of which each gives an image: leave it out")
    folder = pipeline_folder(options.model)
    # before the model is loaded, which takes seconds
    refuse_filled(options.out)
    held_out = options.images is None and options.latents is None and factors is None
    if not held_out:
        no_more(flags)
    data = own_data(folder, flags, "idiff sample") if held_out else None
    from ..samples import GRID, held_out_latents, open_model, picture_latents, read_latents, write_samples

    pipeline = open_model(folder)
    if pipeline.ivae is None:
        no_more(flags)
    num_images = NUM_IMAGES if options.num_images is None else options.num_images
    latents = None
    if options.images is not None:
        latents = picture_latents(pipeline, options.images)
    elif options.latents is not None:
        latents = read_latents(options.latents)
    elif data is not None and pipeline.ivae is not None:
        latents = held_out_latents(pipeline, folder, data, num_images)
        if len(latents) < num_images:
            print(f"{len(latents)} held-out images are all there are", file=sys.stderr)
    records = write_samples(
        pipeline,
        options.out,
        num_images if latents is None else len(latents),
        latents=latents,
        factors=factors,
        guidance_scale=options.guidance_scale,
        num_inference_steps=options.num_inference_steps,
        seed=options.seed,
    )
    if options.json:
        print(json.dumps({"grid": str(options.out / GRID), "images": records}, indent=2))
    else:
        for record in records:
            print(record["file"])
        print(options.out / GRID)


def factor_values(text: str) -> dict[str, float]:
    """Values by name of `NAME=VALUE,...`.

    Raises:
        ValueError: One line that shows the part that is none, or the name that is there twice.
    """
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"--factors must be NAME=VALUE joined by commas, got {part!r}") from None
        if name in values:
            raise ValueError(f"--factors names {name} twice")
        values[name] = number
    return values
