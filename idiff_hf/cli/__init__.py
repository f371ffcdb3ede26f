"""`idiff`: the command line beside `accelerate launch train_ivae_ddpm.py`.

Each module here is a command: `add` describes its arguments, `run` does it. What is heavy is imported by `run`, so that `--help` is quick.

Exit codes: 0 done, 2 an input was refused or training cannot go on (one line on stderr says which and what to do), 130 Ctrl-C, 143 a signal
ended training, and what was done is saved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..interruption import EXIT_CODE, Interrupted
from . import (
    bench,
    data,
    demo,
    evaluate,
    figure,
    figures,
    metrics,
    publish,
    replay,
    sample,
    seeds,
    sensitivity,
    sweep,
    table,
    train,
    traverse,
)

EXAMPLES = """\
  idiff train --config configs/quickstart.yaml --train.seed 1    train on one process
  idiff replay runs/quickstart                                   see what was not finite in a step that was skipped
  idiff evaluate runs/quickstart                                 measure a finished run again
  idiff evaluate runs/quickstart --real real_images.npz          add the factors read from real 3D Shapes images
  idiff evaluate runs/quickstart/pipeline --data.image_size 32   score a pipeline on any dataset that it fits
  idiff evaluate user/name --data.name shapes3d                  score a pipeline that is on the Hugging Face Hub
  idiff publish runs/quickstart --repo user/name --private       put it there: weights, results, figures, card
  idiff publish runs/best --repo user/name --space user/show     and a Space that shows it in the latent explorer
  idiff sample runs/quickstart --num_images 16                   draw held-out images anew, a PNG file each and a grid
  idiff sample user/name --factors floor_hue=0.2,scale=-0.5      draw images of these factors
  idiff sample runs/quickstart --images photo.png --json         encode pictures of your own, and draw them
  idiff traverse runs/quickstart --dims floor_hue,scale          move one latent at a time: a row of images for each
  idiff traverse runs/quickstart --image photo.png --range -2 2  from a picture of your own, along another range
  idiff demo runs/quickstart                                     move its latents by sliders, in a browser
  idiff sensitivity runs/quickstart                              how much the U-Net depends on each latent at each time
  idiff bench samplers runs/quickstart                           error and factors read back against calls of the U-Net
  idiff bench guidance runs/quickstart                           what a scale of guidance does, and at which times
  idiff bench interventions runs/quickstart                      set one latent at a time: do images follow, and only in its factor
  idiff bench precision runs/quickstart                          bfloat16, float16, torch.compile against float32
  idiff metrics codes.npz                                        score codes of any model: arrays codes and factors
  idiff data describe --data.name dsprites                       factors, sizes, speed and a contact sheet of a dataset
  idiff data describe --config configs/own_images.yaml           the same of the images that a config names
  idiff figures data --out figures                               the paper's Figures 3, 4, 8 and 9
  idiff seeds configs/quickstart.yaml --seeds 0..4               mean and deviation of every score over five seeds
  idiff sweep configs/sweeps/table1.yaml --jobs 2                search the paper's Table 1; the same command goes on with it
  idiff sweep status configs/sweeps/table1.yaml                  its trials, the best first
  idiff table 2 --scale tiny --jobs 2                            run what is missing of Table 2, print it beside the paper's
  idiff table 2 --limit 0                                        print what is there
  idiff table --report                                           all tables and figures on one page, docs/reproduction.md
  idiff figure 10 --scale tiny                                   latents of the best run of a table's column, moved one by one
"""
COMMANDS = (
    train,
    replay,
    evaluate,
    publish,
    sample,
    traverse,
    demo,
    sensitivity,
    metrics,
    data,
    figures,
    seeds,
    sweep,
    table,
    figure,
    bench,
)


EXIT_CODES = """exit codes:
  0    done
  2    an input was refused, or training cannot go on: one line on stderr says why, and what to do
  130  Ctrl-C
  143  a signal ended it; what training had done is saved
"""
CTRL_C = 130
"""128 + SIGINT, as a shell shows a program that Ctrl-C ended."""


class Parser(argparse.ArgumentParser):
    """A parser whose help ends with those lines of `EXAMPLES` that are of its command, and which refuses in one line."""

    def format_help(self) -> str:
        lines = [line for line in EXAMPLES.splitlines() if f"{line.strip()} ".startswith(f"{self.prog} ")]
        return "\n".join([super().format_help(), "examples:", *lines, "", EXIT_CODES])

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}: see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return CTRL_C


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        # its flags, --help among them, are those of the training program
        return train.run(arguments[1:])
    parser = Parser(
        prog="idiff",
        allow_abbrev=False,
        description="Identifiable diffusion models: train, look, measure, publish.",
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
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return EXIT_CODE
    return 0
