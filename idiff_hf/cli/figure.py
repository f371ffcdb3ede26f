"""`idiff figure`: the paper's Figures 3 to 18."""

from __future__ import annotations

import argparse
from typing import Any

from .shared import print_lines, training_flags
from .table import experiment_flags

NUMBERS = range(3, 19)


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "figure",
        allow_abbrev=False,
        help="the paper's Figures 3 to 18, of the data and of the runs of idiff table",
        description="Draw one of the paper's figures, of the data or of the best run of a table's column.",
        epilog="Flags of training that the table was made with have to be given again.",
    )
    parser.add_argument(
        "number", type=int, choices=NUMBERS, metavar="number", help=f"{NUMBERS[0]} to {NUMBERS[-1]}"
    )
    experiment_flags(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Draw it."""
    from ..experiments.paper_figures import make_figure

    paths = make_figure(
        options.number,
        options.scale,
        options.root,
        options.out,
        configs=options.configs,
        flags=training_flags(flags),
        launcher=options.launcher,
        jobs=options.jobs,
    )
    print_lines([str(path) for path in paths], options.json)
