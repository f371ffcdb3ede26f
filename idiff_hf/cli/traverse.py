"""`idiff traverse`: one latent at a time along its range."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .shared import DATA_HELP, MODEL_HELP, drawing_flags, no_more, own_data, pipeline_folder

NUM_VALUES = 7


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "traverse",
        allow_abbrev=False,
        help="move one latent at a time: a grid by the iVAE decoder and one by the diffusion model",
        description="Move one latent at a time along its range, or through its classes, and keep the others: each gives a row of a grid. "
        "The iVAE decoder draws one grid and the diffusion model another, from one noise everywhere.",
        epilog=f"The image to start from is held out of the model's training, or of other flags: {DATA_HELP}.",
    )
    parser.add_argument("model", type=Path, help=MODEL_HELP)
    parser.add_argument(
        "--dims",
        metavar="NAME|NUMBER,...",
        help="latents, by number or by their factor, such as floor_hue,3 (default: all)",
    )
    values = parser.add_mutually_exclusive_group()
    values.add_argument(
        "--values",
        type=float,
        nargs="+",
        metavar="Z",
        help="what each is set to, or classes of a categorical model (default: -1.5 to 1.5, or all classes)",
    )
    values.add_argument(
        "--range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help=f"the same as {NUM_VALUES} even values",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--row", type=int, default=0, help="start from this held-out image (default: 0)")
    start.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="start from a picture of any size: its centre square is scaled to the model's",
    )
    parser.add_argument("--decoder", choices=("ivae", "ddpm"), help="draw by this one only")
    drawing_flags(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("traversals"),
        help="the folder of traversal_ivae.png and traversal_ddpm.png (default: traversals)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON: files, rows, values, and the latents at the start"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Draw, and print the files."""
    if options.row < 0:
        raise ValueError(f"--row must be 0 or more, got {options.row}")
    folder = pipeline_folder(options.model)
    if options.image is not None:
        no_more(flags)
    data = None if options.image is not None else own_data(folder, flags, "idiff traverse")
    from ..pipeline_scores.opening import trained_decoders
    from ..samples import held_out_latents, open_model, picture_latents, write_traversals

    pipeline = open_model(folder)
    if data is None:
        latents = picture_latents(pipeline, [options.image])
        if len(latents) != 1:
            raise ValueError(f"--image must be one picture, got a folder of {len(latents)}")
    else:
        latents = held_out_latents(pipeline, folder, data, 1, first=options.row)
    values = options.values
    if options.range is not None:
        low, high = options.range
        values = [low + (high - low) * i / (NUM_VALUES - 1) for i in range(NUM_VALUES)]
    result = write_traversals(
        pipeline,
        folder,
        latents,
        options.out,
        decoders=[options.decoder] if options.decoder else trained_decoders(pipeline, folder),
        dims=None if options.dims is None else [_dim(text) for text in options.dims.split(",")],
        values=values,
        guidance_scale=options.guidance_scale,
        num_inference_steps=options.num_inference_steps,
        seed=options.seed,
    )
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(*result["files"], sep="\n")


def _dim(text: str) -> int | str:
    return int(text) if text.strip().isdigit() else text.strip()
