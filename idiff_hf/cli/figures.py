"""`idiff figures`: the paper's figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .shared import DATA_HELP, print_lines


def add(commands: Any) -> None:
    """Describe the arguments."""
    actions = commands.add_parser(
        "figures", help="the paper's figures", description="The paper's figures."
    ).add_subparsers(dest="action", required=True)
    of_data = actions.add_parser(
        "data",
        allow_abbrev=False,
        help="Figures 3, 4, 8 and 9: u and z, and the factors",
        description="Figures 3, 4, 8 and 9: u and z, and the factors of a dataset.",
        epilog=f"{DATA_HELP}.",
    )
    of_data.add_argument("--out", type=Path, default=Path("figures"), help="their folder (default: figures)")
    of_data.add_argument("--json", action="store_true", help="print JSON: the list of files")
    of_data.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Draw them."""
    from ..arguments import load_data_config
    from ..builders import open_dataset
    from ..data_figures import write_data_figures

    dataset = open_dataset(load_data_config(flags, "idiff figures data"))
    print_lines([str(path) for path in write_data_figures(dataset, options.out)], options.json)
