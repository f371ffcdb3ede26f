"""`idiff seeds`: one config under several seeds."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from .shared import training_flags, trial_flags


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "seeds",
        allow_abbrev=False,
        help="train a config under several seeds: mean, deviation, extremes of each score, a row a seed",
        description="Train a config under several seeds, and print mean, deviation and extremes of each score, and a row a seed. Runs that "
        "are finished are not run again, others go on from their checkpoints (docs/sweeps.md).",
        epilog="Flags of training, such as --loss.kl 1e-3, go on top of the config.",
    )
    parser.add_argument("config", type=Path, help="the config file of a training run")
    parser.add_argument("--seeds", default="0..9", help="as in 0..9 or 0,3,5 (default: 0..9)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the table and all records")
    trial_flags(parser, "runs/seeds")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Run what is missing, and print the table."""
    from ..arguments import load_config
    from ..experiments.records import record_to_json
    from ..experiments.seeds import parse_seeds, seed_configs, seeds_markdown, seeds_table
    from ..experiments.trials import refuse_taken, run_trials
    from ..provenance import refuse_no_file, write_text

    seeds = parse_seeds(options.seeds)
    refuse_taken(flags, {"train.seed"}, "is what --seeds gives")
    config, _ = load_config(["--config", str(options.config), *training_flags(flags)], "idiff seeds")
    configs = seed_configs(config, seeds)
    if options.out is not None:
        refuse_no_file(options.out)  # before the runs, which take long
    records = run_trials(configs, options.root, launcher=options.launcher, jobs=options.jobs)
    table = seeds_table(records)
    print(json.dumps(table, indent=1) if options.json else seeds_markdown(table))
    if options.out is not None:
        # where files lie, and how the runs were started, is of this machine
        written = {
            "command": shlex.join(["idiff", "seeds", str(options.config), "--seeds", options.seeds, *flags]),
            "table": table,
            "records": [record_to_json(record) for record in records],
        }
        write_text(options.out, json.dumps(written, indent=1) + "\n")
        print(options.out, file=sys.stderr)
