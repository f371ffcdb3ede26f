"""`idiff`: the command line beside `accelerate launch train_ivae_ddpm.py`.

Exit codes: 0 done, 2 an input was refused (one line on stderr says which and what to do).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .config import DataConfig

EXAMPLES = """examples:
  idiff train --config configs/quickstart.yaml --train.seed 1    train on one process
  idiff evaluate runs/quickstart                                 measure a finished run again
  idiff evaluate runs/quickstart --real real_images.npz          add the factors read from real 3D Shapes images
  idiff evaluate runs/quickstart/pipeline --data.image_size 32   score a pipeline on any dataset that it fits
  idiff sensitivity runs/quickstart                              how much the U-Net depends on each latent at each time
  idiff metrics codes.npz                                        score codes of any model: arrays codes and factors
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
            _evaluate(options, data_flags)
        elif options.command == "sensitivity":
            _sensitivity(options, data_flags)
        elif options.command == "metrics":
            _no_more(data_flags)
            _metrics(options)
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
    evaluate = commands.add_parser(
        "evaluate",
        allow_abbrev=False,
        help="measure a finished run (results.json, figures, card), or a pipeline on a dataset",
        epilog=f"With a pipeline's folder: {_DATA_HELP}.",
    )
    evaluate.add_argument("run", type=Path, help="the run's train.output_dir, or a pipeline's folder")
    evaluate.add_argument(
        "--real",
        type=Path,
        help="npz with uint8 `images` (N, 64, 64, 3) and `factors` (N, 6): real 3D Shapes images",
    )
    evaluate.add_argument(
        "--out", type=Path, help="of a pipeline: the folder of results.json and figures (default: evaluation)"
    )
    evaluate.add_argument("--num_samples", type=int, default=10000, help="of a pipeline: images scored")
    _metric_flags(evaluate)
    evaluate.set_defaults(flags_of_a_pipeline=("out", "num_samples", *_METRIC_FLAGS), parser=evaluate)
    sensitive = commands.add_parser(
        "sensitivity",
        allow_abbrev=False,
        help="how much a U-Net's prediction depends on each latent at each time: a table and a heat map",
        epilog=f"On the data of its training, or of other flags: {_DATA_HELP}.",
    )
    sensitive.add_argument("model", type=Path, help="the run's train.output_dir, or a pipeline's folder")
    sensitive.add_argument(
        "--method",
        choices=("jacobian", "captum"),
        default="jacobian",
        help="exact derivatives, or captum's integrated gradients (needs idiff_hf[xai])",
    )
    sensitive.add_argument("--num_images", type=int, default=200, help="held-out images (default: 200)")
    sensitive.add_argument("--num_times", type=int, default=11, help="even points in time (default: 11)")
    sensitive.add_argument(
        "--out",
        type=Path,
        default=Path("sensitivity"),
        help="the folder of METHOD.json and METHOD.png (default: sensitivity)",
    )
    sensitive.add_argument("--json", action="store_true", help="print JSON")
    metrics = commands.add_parser(
        "metrics", allow_abbrev=False, help="score the codes in an npz file with arrays codes and factors"
    )
    metrics.add_argument("file", type=Path, help="codes (N, D) and factors (N, K), rows in random order")
    metrics.add_argument(
        "--num_train", type=int, help="leading rows that predictors are fitted on (default: 2/3)"
    )
    metrics.add_argument(
        "--json", action="store_true", help="print JSON: values, estimators, counts and seed"
    )
    _metric_flags(metrics)
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


_METRIC_FLAGS = ("metrics", "seed", "jobs", "dci_regressor", "intervals")


def _metric_flags(parser: argparse.ArgumentParser) -> None:
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
        type=int,
        default=0,
        metavar="N",
        help="95 %% intervals over samples by N subsamples, for mig, modularity and mcc",
    )


def _no_more(flags: list[str]) -> None:
    if flags:
        raise ValueError(f"unknown argument {flags[0]!r}: see idiff --help")


def _evaluate(options: argparse.Namespace, flags: list[str]) -> None:
    run: Path = options.run
    if (run / "model_index.json").is_file():
        if options.real is not None:
            raise ValueError(f"--real is for a run's folder, {run} is a pipeline's: give {run.parent}")
        _evaluate_pipeline(options, flags)
        return
    _no_more(flags)
    for name in options.flags_of_a_pipeline:
        if getattr(options, name) != options.parser.get_default(name):
            raise ValueError(f"--{name} is for a pipeline's folder, {run} is none: give {run / 'pipeline'}")
    from .evaluation import evaluate_run, load_run
    from .hub import write_card
    from .provenance import write_text
    from .readback import read_real_images, real_image_file

    if options.real is None:
        evaluate_run(run)
    else:
        images, factors = real_image_file(options.real)
        report = read_real_images(load_run(run)[1], images, factors)
        path = run / "results.json"
        results = json.loads(path.read_text(encoding="utf-8"))
        write_text(path, json.dumps({**results, "real_images": report}, indent=2) + "\n")
        print(json.dumps(report, indent=2))
    print(write_card(run), file=sys.stderr)


def _evaluate_pipeline(options: argparse.Namespace, flags: list[str]) -> None:
    from .pipeline_scores import evaluate_pipeline

    config = _own_data(options.run, flags, "idiff evaluate")
    out = options.out or Path("evaluation")
    scores = evaluate_pipeline(
        options.run,
        config,
        out,
        num_samples=options.num_samples,
        metrics=_names(options.metrics),
        seed=options.seed,
        n_jobs=options.jobs,
        dci_regressor=options.dci_regressor,
        intervals=options.intervals,
    )
    if scores is not None:
        _print_scores(scores)
        print(out / "results.json", file=sys.stderr)


def _own_data(folder: Path, flags: list[str], prog: str) -> DataConfig:
    """What the pipeline in `folder` was trained on, unless flags say otherwise."""
    from .arguments import load_data_config

    own = folder / "config.yaml"
    return load_data_config([*(["--config", str(own)] if own.is_file() else []), *flags], prog)


def _sensitivity(options: argparse.Namespace, flags: list[str]) -> None:
    from .pipeline_scores import pipeline_sensitivity

    model: Path = options.model
    folder = model if (model / "model_index.json").is_file() else model / "pipeline"
    results = pipeline_sensitivity(
        folder,
        _own_data(folder, flags, "idiff sensitivity"),
        options.out,
        num_images=options.num_images,
        num_times=options.num_times,
        method=options.method,
    )
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        rows = [("t", [f"{t:.3f}" for t in results["times"]])]
        columns = (*zip(*results["normalized"], strict=True), results["condition"])
        for name, values in zip((*results["latents"], "all, against none"), columns, strict=True):
            rows.append((name, [f"{value:.3g}" for value in values]))
        width = max(len(name) for name, _ in rows)
        for name, cells in rows:
            print(name.ljust(width), *(cell.rjust(8) for cell in cells))
    print(options.out / f"{options.method}.png", file=sys.stderr)


def _metrics(options: argparse.Namespace) -> None:
    from .metrics import evaluate, sampling_intervals
    from .metrics.codes_file import load_codes

    codes, factors = load_codes(options.file)
    result = evaluate(
        codes,
        factors,
        metrics=_names(options.metrics),
        num_train=options.num_train,
        seed=options.seed,
        n_jobs=options.jobs,
        dci_regressor=options.dci_regressor,
    )
    scores = result.to_dict()
    if options.intervals:
        scores["intervals"] = sampling_intervals(codes, factors, options.intervals, options.seed)
    if options.json:
        print(json.dumps(scores, indent=2))
    else:
        _print_scores(scores)


def _names(text: str | None) -> list[str] | str | None:
    return text if text in (None, "all") else text.split(",")


def _print_scores(scores: Mapping[str, object]) -> None:
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
