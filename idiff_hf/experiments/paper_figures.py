"""Figures 3 to 18 of the paper: of the data, of rotated vectors, and of the best run of a column of a table."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..builders import open_dataset
from ..config import AuxConfig, Config, DataConfig
from ..data import to_float
from ..data_figures import factor_distributions, factor_sheet, likelihood_figure, posterior_figure
from ..drawing import draw_rows
from ..evaluation import NUM_SHOWN
from ..figures import channels_last, latent_histograms, latent_labels, reconstruction_figure, to_uint8
from ..folders import os_errors
from ..metric_figures import tsne_scatter
from ..processes import map_batches
from ..provenance import write_text
from ..random import generator
from ..readback import encode_rows
from .records import TrialRecord, load_record
from .reported import PAPER_METRICS
from .reproduction import SCHEMA
from .scales import SCALES
from .scoring import open_run
from .tables import plan, read_config
from .trials import run_trials

Kind = Literal[
    "data", "rotation", "tsne", "reconstructions", "histograms", "traversal_ddpm", "traversal_ivae"
]
GUIDANCE = (1.0, 4.0)
"""Of Figure 7: without, and the paper's."""


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper.

    Attributes:
        title: Its caption, shortened.
        kind: What is drawn.
        table: The table whose best run is shown; None where it shows none.
        column: And the column.
    """

    title: str
    kind: Kind
    table: int | None = None
    column: str = ""


_CNN, _RESNET = "best iVAE + DDPM with a CNN", "best iVAE + DDPM with a ResNet-50"
FIGURES = {
    3: PaperFigure("Likelihood of z given the variance", "data"),
    4: PaperFigure("Posterior of the variance given z", "data"),
    5: PaperFigure("Latents against factors of rotated vectors: (a) with u, (b) without", "rotation"),
    6: PaperFigure(f"t-SNE of latents, {_RESNET}", "tsne", 3, "iVAE + DDPM"),
    7: PaperFigure(f"Images from their latents, {_CNN}", "reconstructions", 2, "iVAE + DDPM"),
    8: PaperFigure("Factors of 3D Shapes, each moved alone", "data"),
    9: PaperFigure("Distributions of the factors of 3D Shapes", "data"),
    10: PaperFigure(f"Latents moved, DDPM, {_CNN}", "traversal_ddpm", 2, "iVAE + DDPM"),
    11: PaperFigure(f"Latents moved, decoder, {_CNN}", "traversal_ivae", 2, "iVAE + DDPM"),
    12: PaperFigure(f"Distributions of sampled latents, {_CNN}", "histograms", 2, "iVAE + DDPM"),
    13: PaperFigure("Latents moved, decoder, best iVAE with a CNN", "traversal_ivae", 2, "iVAE"),
    14: PaperFigure("Latents moved, decoder, best VAE with a CNN", "traversal_ivae", 2, "VAE"),
    15: PaperFigure(f"Distributions of sampled latents, {_RESNET}", "histograms", 3, "iVAE + DDPM"),
    16: PaperFigure(f"Latents moved, decoder, {_RESNET}", "traversal_ivae", 3, "iVAE + DDPM"),
    17: PaperFigure(f"Latents moved, DDPM, {_RESNET}", "traversal_ddpm", 3, "iVAE + DDPM"),
    18: PaperFigure("Latents moved, DDPM, dSprites, ResNet-18", "traversal_ddpm", 8, "iVAE + DDPM"),
}
"""Figures 3 to 18 by number. Best is the greatest MIG among the runs of the column that are there."""


def make_figure(
    number: int,
    scale: str,
    root: Path,
    out: Path,
    *,
    configs: Path = Path("configs"),
    flags: Sequence[str] = (),
    launcher: Sequence[str] = (),
    jobs: int = 1,
) -> list[Path]:
    """Draw a figure as `out/figureN.SCALE.png`, and write beside it, as JSON, what it shows.

    Figure 5 trains its two models where they are missing, which takes minutes; the others show runs of `idiff table`.

    Args:
        number: 3 to 18.
        scale: A name in `SCALES`.
        root: Folder of the runs.
        out: The folder of what is written.
        configs: The folder of the configs.
        flags: Flags of training that the runs were made with.
        launcher: What starts the training program, see `trials.run_trial`.
        jobs: Runs at a time.

    Returns:
        The pictures.

    Raises:
        ValueError: One line: the runs that it shows are missing, or as in `tables.plan`.
    """
    figure = FIGURES[number]
    if figure.kind == "data" and flags:
        raise ValueError(f"Figure {number} shows no run and takes no {flags[0]}: see idiff figures data")
    records = [] if figure.table is None else [best_record(number, scale, root, configs, flags)]
    with os_errors(f"cannot write {out}"):
        out.mkdir(parents=True, exist_ok=True)
    if figure.kind == "data":
        paths = [out / f"figure{number}.png"]
        _draw_data(number, paths[0])
    elif figure.kind == "rotation":
        paths = [out / f"figure{number}{letter}.png" for letter in "ab"]
        pair = rotation_pair(configs, flags)
        records = run_trials(pair, root, launcher=launcher, jobs=jobs)
        for record, path in zip(records, paths, strict=True):
            _copy(root / record.id / "figures" / "scatter.png", path)
    else:
        paths = [out / f"figure{number}.{scale}.png"]
        draw = _DRAWN.get(figure.kind)
        if draw is None:
            # the run has drawn it when it was measured
            _copy(root / records[0].id / "figures" / f"{figure.kind}.png", paths[0])
        else:
            draw(root / records[0].id, records[0], paths[0])
    scaled = [] if figure.table is None else ["--scale", scale]
    document = {
        "schema": SCHEMA,
        "figure": number,
        "title": figure.title,
        "files": [path.name for path in paths],
        "command": shlex.join(["idiff", "figure", f"{number}", *scaled, *flags]),
        "runs": [
            {"id": record.id, **{score: record.scores[score] for score in PAPER_METRICS}}
            for record in records
        ],
    }
    name = ".".join([f"figure{number}", *scaled[1:], "json"])
    write_text(out / name, json.dumps(document, indent=1) + "\n")
    return paths


def best_record(
    number: int, scale: str, root: Path, configs: Path = Path("configs"), flags: Sequence[str] = ()
) -> TrialRecord:
    """The record of the run with the greatest MIG in the column that a figure shows.

    Raises:
        ValueError: One line that names the command to run first, where none is finished.
    """
    figure = FIGURES[number]
    assert figure.table is not None
    (column,) = (
        column for column in plan(figure.table, scale, configs, flags) if column.name == figure.column
    )
    records = (load_record(root, config) for config in column.configs)
    there = [record for record in records if record is not None and record.scores["mig"] is not None]
    if not there:
        place = () if configs == Path("configs") else ("--configs", str(configs))
        first = ["idiff", "table", str(figure.table), "--scale", scale, "--root", str(root), *place, *flags]
        raise ValueError(
            f"Figure {number} shows the best {figure.column} of Table {figure.table}, of which {root} holds no finished run: "
            f"run {shlex.join(first)} --out FOLDER first, with a folder that has no file of this table, for runs in it are not run again"
        )
    return max(there, key=lambda record: record.scores["mig"])


def rotation_pair(configs: Path = Path("configs"), flags: Sequence[str] = ()) -> list[Config]:
    """The two models of Figure 5: `rotation.yaml`, and the same without u.

    Both have the budget of the file at any scale, for it is small.
    """
    told = read_config(configs / "rotation.yaml", SCALES["full"], flags)
    untold = replace(told, aux=AuxConfig(name="none"), model=replace(told.model, prior_type="standard"))
    return [told, untold]


def _draw_data(number: int, path: Path) -> None:
    if number == 3:
        likelihood_figure(path)
    elif number == 4:
        posterior_figure(path)
    else:
        draw = {8: factor_sheet, 9: factor_distributions}[number]
        draw(open_dataset(DataConfig(name="shapes3d", image_size=64)), path)


def _copy(source: Path, path: Path) -> None:
    with os_errors(f"cannot copy {source} to {path}"):
        shutil.copyfile(source, path)


def _draw_tsne(folder: Path, record: TrialRecord, path: Path) -> None:
    _, pipeline, dataset, rows = open_run(folder)
    codes, factors = encode_rows(pipeline, dataset, rows)
    tsne_scatter(codes, factors, dataset.factor_names, path)


def _draw_reconstructions(folder: Path, record: TrialRecord, path: Path) -> None:
    config, pipeline, dataset, rows = open_run(folder)
    shown = rows[:NUM_SHOWN]
    guided = replace(config, eval=replace(config.eval, guidance_scales=GUIDANCE))
    drawn = draw_rows(guided, pipeline, dataset, shown)
    pictures = {name: to_uint8(channels_last(images)) for name, images in drawn.items()}
    by_decoder = pictures.pop("ivae")
    by_ddpm = {float(name): images for name, images in pictures.items()}
    reconstruction_figure(channels_last(dataset.images(shown)), by_decoder, by_ddpm, path)


def _draw_histograms(folder: Path, record: TrialRecord, path: Path) -> None:
    """Of samples of q(z|x), not of means: a latent that says nothing of the image has the prior's width."""
    config, pipeline, dataset, rows = open_run(folder)
    ivae = pipeline.ivae
    assert ivae is not None

    def sample(part: Tensor) -> Tensor:
        law = ivae.encode(to_float(dataset.images(part))).latent_dist
        source = generator(config.train.seed, "latent histograms", int(part[0]))
        noise = torch.randn(len(part), *law.noise_shape, generator=source)
        return law.sample(noise.to(pipeline.device)).cpu()

    with torch.no_grad():
        codes = torch.cat(map_batches(sample, rows, 500, shared=False)).double().numpy()
    latent_histograms(codes, latent_labels(codes.shape[1], record.scores["matched_latent"]), path)


_DRAWN: dict[str, Callable[[Path, TrialRecord, Path], None]] = {
    "tsne": _draw_tsne,
    "reconstructions": _draw_reconstructions,
    "histograms": _draw_histograms,
}
