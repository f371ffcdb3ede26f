"""`idiff sensitivity`: how much a U-Net's prediction depends on each latent at each time."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .shared import DATA_HELP, MODEL_HELP, own_data, pipeline_folder


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "sensitivity",
        allow_abbrev=False,
        help="how much a U-Net's prediction depends on each latent at each time: a table and a heat map",
        description="How much a U-Net's prediction depends on each latent at each time: a table and a heat map.",
        epilog=f"On the data of its training, or of other flags: {DATA_HELP}.",
    )
    parser.add_argument("model", type=Path, help=MODEL_HELP)
    parser.add_argument(
        "--method",
        choices=("jacobian", "captum"),
        default="jacobian",
        help="exact derivatives, or captum's integrated gradients (needs idiff_hf[xai])",
    )
    parser.add_argument("--num_images", type=int, default=200, help="held-out images (default: 200)")
    parser.add_argument("--num_times", type=int, default=11, help="even points in time (default: 11)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("sensitivity"),
        help="the folder of METHOD.json and METHOD.png (default: sensitivity)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Measure, print the table and write it with its heat map."""
    from ..pipeline_scores.evaluation import pipeline_sensitivity

    folder = pipeline_folder(options.model)
    results = pipeline_sensitivity(
        folder,
        own_data(folder, flags, "idiff sensitivity"),
        options.out,
        num_images=options.num_images,
        num_times=options.num_times,
        method=options.method,
    )
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        rows = [("t", [f"{t:.3f}" for t in results["times"]])]
        columns = (*zip(*results["normalized"], strict=True), results["condition"])
        for name, values in zip((*results["latents"], "all, against none"), columns, strict=True):
            rows.append((name, [f"{value:.3g}" for value in values]))
        width = max(len(name) for name, _ in rows)
        for name, cells in rows:
            print(name.ljust(width), *(cell.rjust(8) for cell in cells))
    print(options.out / f"{options.method}.png", file=sys.stderr)
