"""`idiff evaluate`: measure a finished run, or a pipeline on a dataset."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .shared import (
    DATA_HELP,
    METRIC_FLAGS,
    MODEL_HELP,
    local_folder,
    metric_flags,
    metric_names,
    no_more,
    own_data,
    print_scores,
)


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "evaluate",
        allow_abbrev=False,
        help="measure a finished run (results.json, figures, card), or a pipeline on a dataset",
        description="Measure a finished run again, and write its results.json, figures and card, or score a pipeline on any dataset.",
        epilog=f"With a pipeline's folder: {DATA_HELP}.",
    )
    parser.add_argument("model", type=Path, help=MODEL_HELP)
    parser.add_argument(
        "--real",
        type=Path,
        help="npz with uint8 `images` (N, 64, 64, 3) and `factors` (N, 6): real 3D Shapes images",
    )
    parser.add_argument(
        "--out", type=Path, help="of a pipeline: the folder of results.json and figures (default: evaluation)"
    )
    parser.add_argument(
        "--num_samples",
        type=_number_or_all,
        default=10000,
        metavar="N",
        help="of a pipeline: held-out images scored, or all: every image, those of training too, as FactorVAE and BetaVAE need them "
        "(default: 10000)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: what results.json holds")
    metric_flags(parser)
    of_a_pipeline = ("out", "num_samples", *METRIC_FLAGS)
    parser.set_defaults(run=run, defaults={name: parser.get_default(name) for name in of_a_pipeline})


def _number_or_all(text: str) -> int | None:
    try:
        return None if text == "all" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number or all, got {text!r}") from None


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Measure, and write what was measured beside the model."""
    model: Path = local_folder(options.model)
    if (model / "model_index.json").is_file():
        if options.real is not None:
            raise ValueError(f"--real is for a run's folder, {model} is a pipeline's: give {model.parent}")
        _evaluate_pipeline(model, options, flags)
        return
    no_more(flags)
    for name, default in options.defaults.items():
        if getattr(options, name) != default:
            raise ValueError(
                f"--{name} is for a pipeline's folder, {model} is none: give {model / 'pipeline'}"
            )
    from ..evaluation import evaluate_run, load_run
    from ..hub import write_card
    from ..provenance import write_text
    from ..readback import read_real_images, real_image_file
    from ..results import read_results

    if options.real is None:
        written = evaluate_run(model)
        if written is None:  # not the first of several processes
            return
        if options.json:
            print(written.read_text(encoding="utf-8"), end="")
    else:
        images, factors = real_image_file(options.real)
        results = read_results(model)
        config, pipeline = load_run(model)
        if config.data.name != "shapes3d":
            raise ValueError(f"--real is of 3D Shapes, {model} was trained on data.name={config.data.name}")
        report = read_real_images(pipeline, images, factors)
        write_text(model / "results.json", json.dumps({**results, "real_images": report}, indent=2) + "\n")
        print(json.dumps(report, indent=2))
    print(write_card(model), file=sys.stderr)


def _evaluate_pipeline(model: Path, options: argparse.Namespace, flags: list[str]) -> None:
    from ..pipeline_scores.evaluation import evaluate_pipeline

    config = own_data(model, flags, "idiff evaluate")
    out = options.out or Path("evaluation")
    scores = evaluate_pipeline(
        model,
        config,
        out,
        num_samples=options.num_samples,
        metrics=metric_names(options.metrics),
        seed=options.seed,
        n_jobs=options.jobs,
        dci_regressor=options.dci_regressor,
        intervals=options.intervals,
    )
    if scores is not None:
        if options.json:
            print(json.dumps(scores, indent=2))
        else:
            print_scores(scores)
        print(out / "results.json", file=sys.stderr)
