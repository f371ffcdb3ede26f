"""`idiff publish`: a run, or a saved pipeline, on the Hugging Face Hub."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .shared import no_more, space_flags


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "publish",
        allow_abbrev=False,
        help="put a run or a pipeline on the Hugging Face Hub: weights, results, figures and card in one commit",
        description="Put a run or a pipeline on the Hugging Face Hub in one commit: weights and configurations, and of a run its results, "
        "figures and card. With --space, a Space that shows it in the latent explorer goes there, too.",
        epilog="The access token is that of HF_TOKEN or of `hf auth login`; it is never an argument.",
    )
    parser.add_argument("folder", type=Path, help="the run's train.output_dir, or a pipeline's folder")
    parser.add_argument(
        "--repo", required=True, metavar="USER/NAME", help="the repository, created where it is missing"
    )
    parser.add_argument("--private", action="store_true", help="create what is missing as private")
    parser.add_argument(
        "--revision", metavar="BRANCH", help="a branch, created where it is missing, not the main one"
    )
    parser.add_argument("--create_pr", action="store_true", help="open a pull request")
    parser.add_argument("--dry_run", action="store_true", help="only print what would be sent; asks nobody")
    parser.add_argument(
        "--space", metavar="USER/NAME", help="a Space with the latent explorer of the model, created likewise"
    )
    space_flags(parser)
    parser.add_argument("--json", action="store_true", help="print JSON: addresses, or sizes by name")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Publish, and print where."""
    no_more([flag.partition("=")[0] for flag in flags])
    space: str | None = options.space
    if space is None and (options.no_data or options.requirement is not None):
        raise ValueError("--no_data and --requirement are of a Space: give --space USER/NAME too")
    if space is not None and (options.revision is not None or options.create_pr):
        raise ValueError("a Space shows the main branch: leave out --revision and --create_pr, or --space")
    from ..demo.space import publish_space, space_files
    from ..pipelines.hub_commit import check_name, check_target, describe_files
    from ..publishing import collect, publish

    of_space = {"data": not options.no_data, "requirement": options.requirement}
    for name in (options.repo, *(() if space is None else (space,))):
        check_name(name)
    # before anything is sent
    in_space = {} if space is None else space_files(options.repo, **of_space)
    if options.dry_run:
        sizes = describe_files(collect(options.folder, options.repo, options.revision))
        if space is not None:
            sizes = [*sizes, *((f"{space}: {name}", size) for name, size in describe_files(in_space))]
        lines = [f"{size:>12,}  {name}" for name, size in sizes]
        print(json.dumps(dict(sizes), indent=2) if options.json else "\n".join(lines))
        return
    if space is not None:
        check_target(space)
    model_at = publish(
        options.folder,
        options.repo,
        private=options.private,
        revision=options.revision,
        create_pr=options.create_pr,
    )
    places = {"model": model_at}
    if space is not None:
        try:
            places["space"] = publish_space(space, options.repo, private=options.private or None, **of_space)
        except ValueError as error:
            raise ValueError(f"{error} (the model is at {model_at})") from None
    print(json.dumps(places, indent=2) if options.json else "\n".join(places.values()))
