"""`idiff sweep`: many configs, by grid, at random or by what came out best."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .shared import training_flags, trial_flags


def add(commands: Any) -> None:
    """Describe the arguments."""
    parser = commands.add_parser(
        "sweep",
        allow_abbrev=False,
        help="train over a grid or a space of parameters (Optuna), go on with it, or show how far it is",
        description="Train over a grid of configs, or search a space of them with Optuna. The same command goes on with a sweep, any "
        "number of workers share one, and status shows its trials, the best first.",
        epilog="Flags of training, such as --train.seed 1, go on top of the config of all trials.",
    )
    parser.add_argument(
        "sweep",
        nargs="+",
        metavar="[status] SWEEP.yaml",
        help="the file that says what is varied (docs/sweeps.md); with status, its trials are shown and none is run",
    )
    parser.add_argument(
        "--storage", help="the URL of a database that workers share, in the place of the file's"
    )
    trial_flags(parser, None)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, flags: list[str]) -> None:
    """Run trials until the sweep is complete, or show them."""
    flags = training_flags(flags)
    *status, path = options.sweep
    if status not in ([], ["status"]):
        raise ValueError(f"give one SWEEP.yaml, or status and one, got {' '.join(options.sweep)}")
    if importlib.util.find_spec("optuna") is None:
        raise ValueError('idiff sweep needs Optuna: pip install "idiff_hf[sweep]"')
    from tqdm.auto import tqdm

    from ..arguments import load_config
    from ..experiments.studies import open_study, storage_errors
    from ..experiments.sweeps import read_sweep, run_sweep, sweep_rows
    from ..experiments.trials import refuse_taken
    from ..markdown import markdown_table

    sweep = read_sweep(Path(path), storage=options.storage)
    refuse_taken(flags, sweep.parameters, f"is what the trials of {path} differ in")
    base, _ = load_config(["--config", sweep.config, *flags], "idiff sweep")
    root = options.root or Path("runs/sweeps") / sweep.name

    def table(rows: list[dict[str, Any]]) -> str:
        return markdown_table(list(rows[0]), [_cells(row) for row in rows])

    def show(row: dict[str, Any]) -> None:
        lines = table([row]).splitlines()
        with tqdm.external_write_mode(file=sys.stdout):
            print("\n".join(lines if not shown else lines[2:]), flush=True)
        shown.append(row["trial"])

    shown: list[int] = []
    if status:
        study = open_study(sweep, base, root, create=False)
    else:
        done = None if options.json else lambda trial: show(sweep_rows(sweep, [trial])[0])
        study = run_sweep(sweep, base, root, launcher=options.launcher, jobs=options.jobs, done=done)
    with storage_errors(sweep):
        rows = sweep_rows(sweep, study.trials)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    ended = sum(row["state"] != "running" for row in rows)
    print(f"\n{sweep.name}: {ended} of {sweep.size} trials ended, the best first\n")
    if rows:
        print(table(rows))


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        "-"
        if value is None
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value).replace("|", "\\|")
        for value in row.values()
    ]
