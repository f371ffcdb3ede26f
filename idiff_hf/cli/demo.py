"""`idiff demo`: move the latents of a model by sliders, in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .shared import DATA_HELP, MODEL_HELP, no_more, own_data, pipeline_folder, space_flags


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "demo",
        allow_abbrev=False,
        help="the latent explorer: a slider for each latent of a model, in a browser (needs idiff_hf[demo])",
        description="The latent explorer: a slider for each latent of a model, in a browser.",
        epilog=f"Images to start from are those held out of its training, or of other flags: {DATA_HELP}. With --auth_user the password is "
        "read from IDIFF_DEMO_PASSWORD; it is never an argument.",
    )
    parser.add_argument("model", type=Path, help=MODEL_HELP)
    parser.add_argument(
        "--num_images",
        type=int,
        default=2000,
        help="held-out images that ranges and mutual information are from (default: 2000)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="listen there instead of on this machine alone; needs --auth_user",
    )
    parser.add_argument("--port", type=int, help="(default: the first free one from 7860)")
    parser.add_argument(
        "--hostname", metavar="NAME", help="by which browsers reach --host, if not by that address"
    )
    parser.add_argument("--auth_user", metavar="USER", help="who may log in")
    parser.add_argument(
        "--space",
        type=Path,
        metavar="FOLDER",
        help="serve nothing: write a Space of the Hugging Face Hub that shows the model user/name",
    )
    space_flags(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Serve the explorer, or write a Space."""
    if options.space is not None:
        no_more(flags)
        from ..demo.space import write_space

        written = write_space(
            options.space,
            options.model.as_posix(),
            data=not options.no_data,
            requirement=options.requirement,
        )
        for path in written:
            print(path)
        return
    if options.requirement is not None:
        raise ValueError("--requirement is of a Space: give --space FOLDER too")
    if options.no_data:
        no_more(flags)
    from ..demo.app import exposure, serve
    from ..demo.explorer import Explorer

    # before the model is loaded
    exposure(options.host, options.hostname, options.auth_user)
    folder = pipeline_folder(options.model)
    data = None if options.no_data else own_data(folder, flags, "idiff demo")
    serve(
        Explorer.open(folder, data, num_images=options.num_images),
        host=options.host,
        port=options.port,
        hostname=options.hostname,
        auth_user=options.auth_user,
    )
