"""`idiff`: the command line beside `accelerate launch train_ivae_ddpm.py`.

Exit codes: 0 done, 2 an input was refused (one line on stderr says which and what to do).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = """examples:
  idiff train --config configs/quickstart.yaml --train.seed 1    train on one process
  idiff evaluate runs/quickstart                                 measure a finished run again
  idiff evaluate runs/quickstart --real real_images.npz          add the factors read from real 3D Shapes images
  idiff data describe --data.name dsprites                       factors, sizes, speed and a contact sheet of a dataset
  idiff data describe --config configs/own_images.yaml           the same of the images that a config names
  idiff figures data --out figures                               the paper's Figures 3, 4, 8 and 9
"""
_DATA_HELP = (
    "which images: the data flags of train_ivae_ddpm.py, such as --data.name dsprites, and --config FILE.yaml"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        from train_ivae_ddpm import main as train_main

        return train_main(arguments[1:])
    options, data_flags = _parser().parse_known_args(arguments)
    try:
        if options.command == "evaluate":
            _no_more(data_flags)
            _evaluate(options.run, options.real)
        elif options.command == "data":
            _describe(data_flags, options.out, options.json)
        else:
            _data_figures(data_flags, options.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="idiff",
        allow_abbrev=False,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="train a model: the arguments of train_ivae_ddpm.py")
    evaluate = commands.add_parser("evaluate", help="measure a finished run: results.json, figures, card")
    evaluate.add_argument("run", type=Path, help="the run's train.output_dir")
    evaluate.add_argument(
        "--real",
        type=Path,
        help="npz with uint8 `images` (N, 64, 64, 3) and `factors` (N, 6): real 3D Shapes images",
    )
    data = commands.add_parser("data", help="look at a dataset").add_subparsers(dest="action", required=True)
    describe = data.add_parser(
        "describe", allow_abbrev=False, help="factors, sizes, images/s, contact sheet", epilog=_DATA_HELP
    )
    describe.add_argument(
        "--out", type=Path, help="the contact sheet, a PNG file (default: contact_sheet_NAME.png)"
    )
    describe.add_argument("--json", action="store_true", help="print JSON")
    figures = commands.add_parser("figures", help="the paper's figures").add_subparsers(
        dest="action", required=True
    )
    of_data = figures.add_parser(
        "data", allow_abbrev=False, help="Figures 3, 4, 8 and 9: u and z, and the factors", epilog=_DATA_HELP
    )
    of_data.add_argument("--out", type=Path, default=Path("figures"), help="their folder (default: figures)")
    return parser


def _no_more(flags: list[str]) -> None:
    if flags:
        raise ValueError(f"unknown argument {flags[0]!r}: see idiff --help")


def _evaluate(run: Path, real: Path | None) -> None:
    from .evaluation import evaluate_run, load_run
    from .hub import write_card
    from .provenance import write_text
    from .readback import read_real_images, real_image_file

    if real is None:
        evaluate_run(run)
    else:
        images, factors = real_image_file(real)
        report = read_real_images(load_run(run)[1], images, factors)
        path = run / "results.json"
        results = json.loads(path.read_text(encoding="utf-8"))
        write_text(path, json.dumps({**results, "real_images": report}, indent=2) + "\n")
        print(json.dumps(report, indent=2))
    print(write_card(run), file=sys.stderr)


def _describe(flags: list[str], out: Path | None, as_json: bool) -> None:
    from .arguments import load_data_config
    from .builders import open_dataset
    from .data_figures import factor_sheet
    from .describe import describe_dataset, describe_text

    config = load_data_config(flags, "idiff data describe")
    dataset = open_dataset(config)
    description = {"name": config.name, **describe_dataset(dataset)}
    path = out or Path(f"contact_sheet_{config.name}.png")
    factor_sheet(dataset, path)
    print(json.dumps(description, indent=2) if as_json else f"{config.name}\n{describe_text(description)}")
    print(path, file=sys.stderr)


def _data_figures(flags: list[str], out: Path) -> None:
    from .arguments import load_data_config
    from .builders import open_dataset
    from .data_figures import write_data_figures

    dataset = open_dataset(load_data_config(flags, "idiff figures data"))
    for path in write_data_figures(dataset, out):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
