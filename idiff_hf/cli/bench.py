"""`idiff bench`: solvers, scales of guidance, latents set one at a time, and precisions, side by side on one model."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .shared import DATA_HELP, MODEL_HELP, own_data, pipeline_folder


def add(commands: Any) -> None:
    """Describe the arguments."""
    actions = commands.add_parser(
        "bench",
        help="what a model draws, and what that costs",
        description="What a model draws, and what that costs.",
    ).add_subparsers(dest="action", required=True)
    samplers = actions.add_parser(
        "samplers",
        allow_abbrev=False,
        help="error and factors read back against calls of the U-Net, for eight solvers: a table and a plot",
        description="Error against the images that were encoded, and factors read back from what is drawn, against calls of the U-Net, "
        "for eight solvers: a table and a plot.",
        epilog=f"On the data of its training, or of other flags: {DATA_HELP}.",
    )
    _common(samplers)
    _guidance_scale(samplers)
    samplers.add_argument(
        "--solvers", help='names joined by commas, such as "UniPC,DDIM" (default: all eight)'
    )
    samplers.add_argument("--steps", help="numbers joined by commas (default: 3,5,10,20,50,100)")
    samplers.add_argument(
        "--reference_steps", type=int, default=1000, help="steps of Euler-Maruyama, the limit (default: 1000)"
    )
    samplers.set_defaults(run=run_samplers)
    guidance = actions.add_parser(
        "guidance",
        allow_abbrev=False,
        help="error and factors read back for scales of guidance, and for the times at which they hold: a table",
        description="Error against the images that were encoded, and factors read back from what is drawn, for scales of guidance and for "
        "the times at which they hold (0 is data, 1 noise): a table.",
        epilog=f"On the data of its training, or of other flags: {DATA_HELP}.",
    )
    _common(guidance)
    guidance.add_argument("--scales", help="numbers joined by commas (default: 1,2,4)")
    guidance.add_argument(
        "--intervals", help="START:END joined by commas, between 0 and 1 (default: 0:1,0.2:1,0:0.2)"
    )
    _num_inference_steps(guidance)
    guidance.set_defaults(run=run_guidance)
    moved = actions.add_parser(
        "interventions",
        allow_abbrev=False,
        help="set one latent at a time to each class of its factor: does the image follow, and are the other factors kept? a table",
        description="Set one latent at a time to each class of its factor, and read all factors from what is drawn: how often it has the "
        "class that was set, and how often each other factor keeps its own: a table.",
        epilog=f"On the data of its training, or of other flags: {DATA_HELP}.",
    )
    _common(moved, num_images=24)
    _guidance_scale(moved)
    _num_inference_steps(moved)
    moved.set_defaults(run=run_interventions)
    precision = actions.add_parser(
        "precision",
        allow_abbrev=False,
        help="difference to float32, and time, of bfloat16, float16, channels_last and torch.compile",
        description="Difference to float32, and time, of bfloat16, float16, channels_last and torch.compile: a table.",
        epilog=f"On the data of its training, or of other flags: {DATA_HELP}.",
    )
    _common(precision)
    _guidance_scale(precision)
    precision.add_argument("--variants", help="names joined by commas (default: all)")
    precision.set_defaults(run=run_precision)


def _common(parser: argparse.ArgumentParser, num_images: int = 96) -> None:
    parser.add_argument("model", type=Path, help=MODEL_HELP)
    parser.add_argument(
        "--num_images", type=int, default=num_images, help=f"held-out images (default: {num_images})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("bench"), help="the folder of what is written (default: bench)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _guidance_scale(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--guidance_scale", type=float, default=1.0, help="gamma (default: 1)")


def _num_inference_steps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num_inference_steps", type=int, default=20, help="steps (default: 20)")


def run_samplers(options: argparse.Namespace, flags: list[str]) -> None:
    """Draw by every solver, print the table and write it with its plot."""
    from ..pipeline_scores.benches import pipeline_sampler_curve
    from ..sampler_curve import SOLVERS, STEPS, curve_table

    folder = pipeline_folder(options.model)
    records = pipeline_sampler_curve(
        folder,
        own_data(folder, flags, "idiff bench samplers"),
        options.out,
        num_images=options.num_images,
        solvers=tuple(SOLVERS) if options.solvers is None else options.solvers.split(","),
        steps=STEPS if options.steps is None else _joined("--steps", options.steps, int, "whole numbers"),
        reference_steps=options.reference_steps,
        guidance_scale=options.guidance_scale,
        seed=options.seed,
    )
    _report(records, curve_table(records), options.json, options.out / "samplers.png")


def run_guidance(options: argparse.Namespace, flags: list[str]) -> None:
    """Draw under every scale and interval, print the table and write it."""
    from ..pipeline_scores.benches import pipeline_guidance_curve
    from ..sampler_curve import INTERVALS, SCALES, guidance_table

    folder = pipeline_folder(options.model)
    records, names = pipeline_guidance_curve(
        folder,
        own_data(folder, flags, "idiff bench guidance"),
        options.out,
        num_images=options.num_images,
        scales=SCALES if options.scales is None else _joined("--scales", options.scales, float, "numbers"),
        intervals=INTERVALS if options.intervals is None else _intervals(options.intervals),
        steps=options.num_inference_steps,
        seed=options.seed,
    )
    _report(records, guidance_table(records, names), options.json, options.out / "guidance.json")


def run_interventions(options: argparse.Namespace, flags: list[str]) -> None:
    """Set each latent to each class, draw, print the table and write it."""
    from ..pipeline_scores.benches import pipeline_interventions
    from ..pipeline_scores.interventions import interventions_table

    folder = pipeline_folder(options.model)
    records, names = pipeline_interventions(
        folder,
        own_data(folder, flags, "idiff bench interventions"),
        options.out,
        num_images=options.num_images,
        guidance_scale=options.guidance_scale,
        steps=options.num_inference_steps,
        seed=options.seed,
    )
    _report(records, interventions_table(records, names), options.json, options.out / "interventions.json")


def run_precision(options: argparse.Namespace, flags: list[str]) -> None:
    """Draw in every precision, print the table and write it."""
    from ..pipeline_scores.benches import pipeline_variants
    from ..sampler_curve import VARIANTS, precision_table

    folder = pipeline_folder(options.model)
    records = pipeline_variants(
        folder,
        own_data(folder, flags, "idiff bench precision"),
        options.out,
        num_images=options.num_images,
        variants=tuple(VARIANTS) if options.variants is None else options.variants.split(","),
        guidance_scale=options.guidance_scale,
        seed=options.seed,
    )
    _report(records, precision_table(records), options.json, options.out / "precision.json")


def _report(records: Sequence[Any], table: str, as_json: bool, path: Path) -> None:
    print(json.dumps([asdict(record) for record in records], indent=2) if as_json else table)
    print(path, file=sys.stderr)


def _intervals(text: str) -> list[tuple[float, float]]:
    try:
        return [(float(start), float(end)) for start, end in (span.split(":") for span in text.split(","))]
    except ValueError:
        raise ValueError(f"--intervals must be as in 0:1,0.2:1, got {text!r}") from None


def _joined(flag: str, text: str, kind: Callable[[str], Any], words: str) -> list[Any]:
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag} must be {words} joined by commas, got {text!r}") from None
