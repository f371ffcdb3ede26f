"""Arguments, and what is printed, that several commands have in common."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import DataConfig

DATA_HELP = (
    "which images: the data flags of train_ivae_ddpm.py, such as --data.name dsprites, and --config FILE.yaml"
)
MODEL_HELP = "the run's train.output_dir, a pipeline's folder, or user/name"
METRIC_FLAGS = ("metrics", "seed", "jobs", "dci_regressor", "intervals")


def metric_flags(parser: argparse.ArgumentParser) -> None:
    """Add `METRIC_FLAGS`: which scores, and how."""
    parser.add_argument(
        "--metrics", help="names joined by commas, or all (default: all but dci, which takes minutes)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of whatever draws random numbers (default: 0)")
    parser.add_argument("--jobs", type=int, help="worker processes of dci; changes no result")
    parser.add_argument(
        "--dci_regressor",
        choices=("gradient_boosting", "presorted_boosting"),
        default="gradient_boosting",
        help="what dci fits: the field's, or the fast one",
    )
    parser.add_argument(
        "--intervals",
        type=_subsamples,
        default=0,
        metavar="N",
        help="95 %% intervals over samples by N subsamples, for mig, modularity and mcc",
    )


def _subsamples(text: str) -> int:
    if text.isdecimal() and int(text) != 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be 0, or a whole number of 2 or more, got {text!r}")


def drawing_flags(parser: argparse.ArgumentParser) -> None:
    """Add how the diffusion model draws."""
    parser.add_argument("--guidance_scale", type=float, default=1.0, help="gamma (default: 1)")
    parser.add_argument("--num_inference_steps", type=int, default=20, help="solver steps (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")


def space_flags(parser: argparse.ArgumentParser) -> None:
    """Add what a Space of the Hub is told."""
    parser.add_argument(
        "--no_data",
        action="store_true",
        help="the explorer opens no dataset: pictures are uploaded, latents have numbers only",
    )
    parser.add_argument(
        "--requirement",
        metavar="LINE",
        help="of a Space: how pip finds idiff_hf (default: this version of idiff-hf[demo])",
    )


def metric_names(text: str | None) -> list[str] | str | None:
    """What `--metrics` says."""
    return text if text in (None, "all") else [name.strip() for name in text.split(",")]


def print_lines(lines: Sequence[str], as_json: bool) -> None:
    """A line for each, or their list as JSON."""
    print(json.dumps(list(lines), indent=2) if as_json else "\n".join(lines))


def no_more(flags: list[str]) -> None:
    """Refuse the arguments that no command knows.

    Raises:
        ValueError: One line that names the first.
    """
    if flags:
        raise ValueError(f"unknown argument {flags[0]!r}: see idiff --help")


def local_folder(model: Path) -> Path:
    """`model`, or the folder in the Hub's cache of a pipeline of that name where there is nothing here.

    Raises:
        ValueError: One line: nothing here, and nothing that can be had from the Hub.
    """
    if model.exists():
        return model
    from ..hub_folder import download_pipeline, is_repo_id

    name = model.as_posix()
    if not is_repo_id(name):
        raise ValueError(f"{name} does not exist: give a folder, or a model on the Hub as user/name")
    return download_pipeline(name)


def pipeline_folder(model: Path) -> Path:
    """The pipeline in `model`, which is its folder, that of a run, or `user/name` on the Hub; raises ValueError where there is none."""
    from ..hub_folder import pipeline_in

    return pipeline_in(local_folder(model))


def own_data(folder: Path, flags: list[str], prog: str) -> DataConfig:
    """What the pipeline in `folder` was trained on, unless flags say otherwise."""
    from ..arguments import load_data_config

    own = folder / "config.yaml"
    return load_data_config([*(["--config", str(own)] if own.is_file() else []), *flags], prog)


def print_scores(scores: Mapping[str, object]) -> None:
    """A line for each number, with its interval where there is one, then what is undefined and why."""
    values, intervals = scores["values"], scores.get("intervals", {})
    assert isinstance(values, dict) and isinstance(intervals, dict)
    if "codes" in scores:
        print(f"codes: {scores['codes']}")
    print(
        f"{scores['num_samples']} rows, {scores['num_latents']} latents, {scores['num_factors']} factors, "
        f"{scores['num_train']} rows to fit on, {scores['num_bins']} bins, seed {scores['seed']}"
    )
    for key, value in values.items():
        if isinstance(value, int | float):
            interval = intervals.get(key)
            spread = "" if interval is None else f"   [{interval['low']:.4f}, {interval['high']:.4f}]"
            print(f"{key:<40} {value:.4f}{spread}")
    undefined = scores["undefined"]
    assert isinstance(undefined, dict)
    for key, reason in undefined.items():
        print(f"{key:<40} undefined: {reason}")


def trial_flags(parser: argparse.ArgumentParser, root: str | None) -> None:
    """Add where and how trials are run, which sweeps have too."""
    default = "runs/sweeps/NAME" if root is None else root
    parser.add_argument(
        "--root", type=Path, default=root and Path(root), help=f"folder of the runs (default: {default})"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time, which share the cores (default: 1)"
    )
    parser.add_argument(
        "--launcher",
        type=shlex.split,
        default=(),
        metavar="COMMAND",
        help='what starts the training program, such as "accelerate launch" (default: this Python, one process)',
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def training_flags(flags: list[str]) -> list[str]:
    """The flags that are left, all of them keys of the configuration.

    Raises:
        ValueError: One line that names the first that is none.
    """
    for flag in flags:
        if flag.startswith("--") and "." not in flag.partition("=")[0]:
            raise ValueError(
                f"unknown argument {flag!r}: give keys of the configuration, as in --train.seed 1"
            )
    return flags
