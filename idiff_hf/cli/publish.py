"""`idiff publish`: a run, or a saved pipeline, on the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .shared import no_more


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "publish",
        allow_abbrev=False,
        help="put a run or a pipeline on the Hugging Face Hub: weights, results, figures and card in one commit",
        epilog="The access token is that of HF_TOKEN or of `hf auth login`; it is never an argument.",
    )
    parser.add_argument("folder", type=Path, help="the run's train.output_dir, or a pipeline's folder")
    parser.add_argument(
        "--repo", required=True, metavar="USER/NAME", help="the repository, created where it is missing"
    )
    parser.add_argument("--private", action="store_true", help="create it as a private one")
    parser.add_argument(
        "--revision", metavar="BRANCH", help="a branch, created where it is missing, not the main one"
    )
    parser.add_argument("--create_pr", action="store_true", help="open a pull request")
    parser.add_argument("--dry_run", action="store_true", help="only print what would be sent; asks nobody")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Publish, and print where."""
    no_more([flag.partition("=")[0] for flag in flags])
    from ..pipelines.hub_commit import describe_files
    from ..publishing import collect, publish

    if options.dry_run:
        for name, size in describe_files(collect(options.folder, options.repo, options.revision)):
            print(f"{size:>12,}  {name}")
        return
    print(
        publish(
            options.folder,
            options.repo,
            private=options.private,
            revision=options.revision,
            create_pr=options.create_pr,
        )
    )
