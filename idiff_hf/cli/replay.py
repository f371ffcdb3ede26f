"""`idiff replay`: a step of a run once more, to see what in it was not finite."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from .shared import no_more


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "replay",
        allow_abbrev=False,
        help="run one step of a run again and show which terms and gradients are not finite",
        description="Run one step of a run again and show which terms and gradients are not finite.",
        epilog="Its batch and random draws are the very same. Its weights are those of the checkpoint at or before it: the first line says "
        "whether they are also the step's own, that is, whether no step between was taken. Where they are not, what was not finite then "
        "may be finite now: then the weights had a part in it, and a run with a smaller train.checkpointing_steps shows more.",
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="the run's train.output_dir")
    parser.add_argument(
        "--step",
        type=int,
        help="the optimiser step, 0 is the first (default: the last in RUN/nonfinite.jsonl, of the steps that were skipped)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Run the step and print what is not finite."""
    no_more(flags)
    from ..processes import process_state
    from ..replay import replay

    found = replay(options.run_dir, options.step, process_state().device)
    if options.json:
        print(json.dumps(_plain(found), indent=2))
        return
    weights = "the step's own weights" if found["exact"] else "not the step's own weights"
    print(f"step {found['step']}, seed {found['seed']}, checkpoint of step {found['checkpoint']}: {weights}")
    for micro in found["micro_batches"]:
        images = micro["images"]
        odd = "" if images["finite"] else ", not finite"
        last = micro["first_row"] + micro["num_rows"] - 1
        print(
            f"rows {micro['first_row']} to {last}: images in [{images['min']:.4g}, {images['max']:.4g}]{odd}"
        )
        for name, value in micro["terms"].items():
            print(f"  {name:<20} {value:.6g}{'' if math.isfinite(value) else '   not finite'}")
        if micro["anomaly"]:
            print(f"  backward: {micro['anomaly']}")
    names = found["parameters"]
    print(f"gradients that are not finite: {len(names) or 'none'}")
    for name in names:
        print(f"  {name}")


def _plain(value: Any) -> Any:
    """Numbers that are not finite as the words nan, inf and -inf, for JSON has none."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
