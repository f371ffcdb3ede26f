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
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        from train_ivae_ddpm import main as train_main

        return train_main(arguments[1:])
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
    options = parser.parse_args(arguments)
    try:
        _evaluate(options.run, options.real)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _evaluate(run: Path, real: Path | None) -> None:
    from .evaluation import evaluate_run, load_run, read_real_images, real_image_file
    from .hub import write_card
    from .provenance import write_text

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


if __name__ == "__main__":
    sys.exit(main())
