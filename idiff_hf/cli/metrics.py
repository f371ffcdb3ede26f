"""`idiff metrics`: score the codes in a file, of whatever model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .shared import metric_flags, metric_names, no_more, print_scores


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "metrics",
        allow_abbrev=False,
        help="score the codes in an npz file with arrays codes and factors",
        description="Score the codes of any model, in an npz file with arrays codes and factors.",
    )
    parser.add_argument("file", type=Path, help="codes (N, D) and factors (N, K), rows in random order")
    parser.add_argument(
        "--num_train", type=int, help="leading rows that predictors are fitted on (default: 2/3)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: values, estimators, counts and seed")
    metric_flags(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Score and print."""
    no_more(flags)
    from ..metrics import evaluate, sampling_intervals
    from ..metrics.codes_file import load_codes

    codes, factors = load_codes(options.file)
    result = evaluate(
        codes,
        factors,
        metrics=metric_names(options.metrics),
        num_train=options.num_train,
        seed=options.seed,
        n_jobs=options.jobs,
        dci_regressor=options.dci_regressor,
        progress=True,
    )
    scores = result.to_dict()
    if options.intervals:
        scores["intervals"] = sampling_intervals(codes, factors, options.intervals, options.seed)
    if options.json:
        print(json.dumps(scores, indent=2))
    else:
        print_scores(scores)
