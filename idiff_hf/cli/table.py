"""`idiff table`: the paper's tables beside ours."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..experiments.paper_tables import TABLES
from ..experiments.scales import SCALES
from .shared import training_flags, trial_flags


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "table",
        allow_abbrev=False,
        help="the paper's Tables 2 to 9: run what is missing, print the paper's figures beside ours",
        description="Run what is missing of one of the paper's tables, and print the paper's figures beside ours.",
        epilog="Flags of training, such as --train.max_train_steps 50, go on top of the scale.",
    )
    parser.add_argument("number", type=int, nargs="?", choices=sorted(TABLES), help="the table")
    experiment_flags(parser)
    parser.add_argument(
        "--records", type=Path, help="a further folder of files of tables, whose runs are not run again"
    )
    parser.add_argument("--limit", type=int, metavar="K", help="begin K runs at most; 0 prints what is there")
    parser.add_argument(
        "--report",
        action="store_true",
        help="write OUT.md: all tables and figures of OUT on one page, with the words of OUT/explained.yaml, by tableN.SCALE and all",
    )
    parser.set_defaults(run=run)


def experiment_flags(parser: argparse.ArgumentParser) -> None:
    """Add what tables and figures of the paper have in common."""
    parser.add_argument(
        "--scale",
        choices=sorted(SCALES),
        default="tiny",
        help="budgets: minutes, or the paper's (default: tiny)",
    )
    trial_flags(parser, "runs/tables")
    parser.add_argument(
        "--out",
        type=_folder,
        default=Path("docs/reproduction"),
        help="folder of what is written (default: docs/reproduction)",
    )
    parser.add_argument(
        "--configs", type=Path, default=Path("configs"), help="folder of paper/NAME.yaml (default: configs)"
    )


def _folder(text: str) -> Path:
    """A folder's name; an empty one, say of a variable that is not set, would stand for the folder that one is in."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty, give that of a folder")
    return Path(text)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Make the table, print it, and write the page of all."""
    from ..experiments.reproduction import report_path, table_markdown, write_report
    from ..experiments.tables import make_table
    from ..provenance import refuse_no_file

    if options.number is None and not options.report:
        raise ValueError(f"give the number of a table, {min(TABLES)} to {max(TABLES)}, or --report")
    if options.number is None and flags:
        raise ValueError(f"unknown argument {flags[0]!r}: --report reads what is in --out")

    if options.report:
        refuse_no_file(report_path(options.out))  # before the runs, which take long

    def show(document: dict[str, Any]) -> None:
        print(json.dumps(document, indent=1) if options.json else table_markdown(document))
        print(options.out / f"table{options.number}.{options.scale}.json", file=sys.stderr)

    if options.number is not None:
        make_table(
            options.number,
            options.scale,
            options.root,
            options.out,
            configs=options.configs,
            records=options.records,
            flags=training_flags(flags),
            launcher=options.launcher,
            jobs=options.jobs,
            limit=options.limit,
            show=show,
        )
    if options.report:
        print(write_report(options.out), file=sys.stderr)
