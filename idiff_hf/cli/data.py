"""`idiff data describe`: look at a dataset."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .shared import DATA_HELP


def add(commands: Any) -> None:
    """Describe the arguments."""
    actions = commands.add_parser(
        "data", help="look at a dataset", description="Look at a dataset."
    ).add_subparsers(dest="action", required=True)
    describe = actions.add_parser(
        "describe",
        allow_abbrev=False,
        help="factors, sizes, images/s, contact sheet",
        description="Factors, sizes and images/s of a dataset, and a contact sheet of it.",
        epilog=f"{DATA_HELP}.",
    )
    describe.add_argument(
        "--out", type=Path, help="the contact sheet, a PNG file (default: contact_sheet_NAME.png)"
    )
    describe.add_argument("--json", action="store_true", help="print JSON")
    describe.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Print the description and draw the contact sheet."""
    from ..arguments import load_data_config
    from ..builders import open_dataset
    from ..data_figures import factor_sheet
    from ..describe import describe_dataset, describe_text

    config = load_data_config(flags, "idiff data describe")
    dataset = open_dataset(config)
    description = {"name": config.name, **describe_dataset(dataset)}
    path = options.out or Path(f"contact_sheet_{config.name}.png")
    factor_sheet(dataset, path)
    print(
        json.dumps(description, indent=2) if options.json else f"{config.name}\n{describe_text(description)}"
    )
    print(path, file=sys.stderr)
