"""`idiff`: the command line beside `accelerate launch train_ivae_ddpm.py`.

Each module here is a command: `add` describes its arguments, `run` does it. What is heavy is imported by `run`, so that `--help` is quick.

Exit codes: 0 done, 2 an input was refused or training cannot go on (one line on stderr says which and what to do), 143 a signal ended
training, and what was done is saved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import bench, data, demo, evaluate, figures, metrics, publish, replay, sensitivity, train

EXAMPLES = """examples:
  idiff train --config configs/quickstart.yaml --train.seed 1    train on one process
  idiff replay runs/quickstart                                   see what was not finite in a step that was skipped
  idiff evaluate runs/quickstart                                 measure a finished run again
  idiff evaluate runs/quickstart --real real_images.npz          add the factors read from real 3D Shapes images
  idiff evaluate runs/quickstart/pipeline --data.image_size 32   score a pipeline on any dataset that it fits
  idiff evaluate user/name --data.name shapes3d                  score a pipeline that is on the Hugging Face Hub
  idiff publish runs/quickstart --repo user/name --private       put it there: weights, results, figures, card
  idiff demo runs/quickstart                                     move its latents by sliders, in a browser
  idiff sensitivity runs/quickstart                              how much the U-Net depends on each latent at each time
  idiff bench samplers runs/quickstart                           error and factors read back against calls of the U-Net
  idiff bench precision runs/quickstart                          bfloat16, float16, torch.compile against float32
  idiff metrics codes.npz                                        score codes of any model: arrays codes and factors
  idiff data describe --data.name dsprites                       factors, sizes, speed and a contact sheet of a dataset
  idiff data describe --config configs/own_images.yaml           the same of the images that a config names
  idiff figures data --out figures                               the paper's Figures 3, 4, 8 and 9
"""
COMMANDS = (train, replay, evaluate, publish, demo, sensitivity, metrics, data, figures, bench)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        # its flags, --help among them, are those of the training program
        return train.run(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="idiff",
        allow_abbrev=False,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add(commands)
    options, flags = parser.parse_known_args(arguments)
    try:
        options.run(options, flags)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
