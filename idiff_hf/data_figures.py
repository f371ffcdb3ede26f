"""The paper's figures of the data: Figures 3 and 4 (u and z), 8 (the factors) and 9 (their distributions)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from .data import FactorDataset, GridDataset, ImageDataset, NormalFirst, UniformPosterior
from .figures import channels_last, image_grid, save_figure
from .random import generator

SHOWN_VARIANCES = (0.02, 0.06)
SHOWN_VALUES = (0.1, 0.35)
_COLUMNS = 10
_CURVE_POINTS = 2001


def likelihood_figure(path: Path, variances: tuple[float, ...] = SHOWN_VARIANCES) -> None:
    """Write p(z | sigma^2) of Eq. 6 for some variances (Figure 3).

    Args:
        path: The PNG file; its folder is made.
        variances: Values of sigma^2, in (0, 1/12].
    """
    z = np.linspace(-0.6, 0.6, _CURVE_POINTS)
    figure = Figure(figsize=(4.8, 3.2), dpi=100, layout="constrained")
    panel = figure.subplots()
    for variance in variances:
        half_width = math.sqrt(3 * variance)
        panel.plot(
            z, np.where(np.abs(z) <= half_width, 0.5 / half_width, 0.0), label=f"$\\sigma_z^2$ = {variance:g}"
        )
    panel.set(xlabel="z", ylabel="density", title="likelihood of z")
    panel.legend()
    save_figure(figure, path)


def posterior_figure(path: Path, values: tuple[float, ...] = SHOWN_VALUES, num_draws: int = 20000) -> None:
    """Write p(sigma^2 | z) of Eq. 7 for some z: the curve, and a histogram of what `UniformPosterior` draws (Figure 4).

    Args:
        path: The PNG file; its folder is made.
        values: Values of z, in (-0.5, 0.5).
        num_draws: Draws of each histogram.
    """
    auxiliary = UniformPosterior(1)
    figure = Figure(figsize=(4.8, 3.2), dpi=100, layout="constrained")
    panel = figure.subplots()
    for i, value in enumerate(values):
        low, high = max(auxiliary.eps, value**2 / 3), 1 / 12
        variance = np.linspace(low, high, _CURVE_POINTS)
        density = 0.5 / np.sqrt(variance) / (math.sqrt(high) - math.sqrt(low))
        uniform = torch.rand(num_draws, 1, generator=generator(0, "figure 4", i))
        drawn = auxiliary.sample(torch.full((num_draws, 1), value), uniform) / 12
        panel.hist(drawn.flatten().numpy(), bins=40, density=True, alpha=0.3, color=f"C{i}")
        panel.plot(variance, density, color=f"C{i}", label=f"z = {value:g}")
    panel.set(xlabel="$\\sigma_z^2$", ylabel="density", title="posterior of the variance")
    panel.legend()
    save_figure(figure, path)


def factor_sheet(dataset: ImageDataset, path: Path) -> None:
    """Write a contact sheet: a row of images for each factor of a grid, which alone changes (Figure 8), or the first rows of other images.

    Vectors are drawn as points, the first two numbers of each against each other, coloured by the first factor.

    Args:
        dataset: The images.
        path: The PNG file; its folder is made.
    """
    if dataset.image_size == 1:
        rows = torch.arange(min(len(dataset), 4000))
        x, z = dataset.images(rows).flatten(1).cpu().numpy(), dataset.factors(rows).cpu().numpy()
        figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
        panel = figure.subplots()
        panel.scatter(x[:, 0], x[:, 1], c=z[:, 0], s=3, cmap="viridis")
        panel.set(xlabel="x0", ylabel="x1", title=f"colour: {dataset.factor_names[0]}", aspect="equal")
        save_figure(figure, path)
        return
    if isinstance(dataset, GridDataset):
        sizes = torch.tensor(dataset.factor_space.sizes)
        sheet = []
        for k, size in enumerate(dataset.factor_space.sizes):
            labels = (sizes // 2).repeat(_COLUMNS, 1)
            labels[:, k] = torch.linspace(0, size - 1, _COLUMNS).round().long()
            sheet.append(channels_last(dataset.images(dataset.factor_space.index(labels))))
        image_grid(sheet, list(dataset.factor_names), path)
        return
    count = min(len(dataset), _COLUMNS**2)
    columns = min(count, _COLUMNS)
    shown = channels_last(dataset.images(torch.arange(count // columns * columns)))
    sheet = list(shown.reshape(-1, columns, *shown.shape[1:]))
    image_grid(sheet, [f"{i * columns}" for i in range(len(sheet))], path)


def factor_distributions(dataset: ImageDataset, path: Path, num_draws: int = 50000) -> None:
    """Write how often each value of each factor occurs in the dataset, beside how often the first stage's sampling draws it (Figure 9).

    Args:
        dataset: Has factors; for a grid, `NormalFirst` is drawn beside it.
        path: The PNG file; its folder is made.
        num_draws: Rows, and draws, that are counted.

    Raises:
        ValueError: No factor is known.
    """
    names = dataset.factor_names
    if not names:
        raise ValueError(
            "no factor is known of these images: give data.factor_columns to see their distributions"
        )
    rows = torch.randperm(len(dataset), generator=generator(0, "figure 9"))[:num_draws]
    columns = {"dataset": dataset.factors(rows).cpu().numpy()}
    if isinstance(dataset, FactorDataset):
        first = NormalFirst(len(names))
        uniform = torch.rand(num_draws, *first.draws, generator=generator(0, "figure 9", 1))
        normal = torch.randn(num_draws, len(names), generator=generator(0, "figure 9", 2))
        columns["normal first"] = dataset.nearest(first.sample_first(uniform, normal)[1]).cpu().numpy()
    across = min(len(names), 3)
    down = -(-len(names) // across)
    figure = Figure(figsize=(3 * across, 2.2 * down), dpi=100, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for k, (panel, name) in enumerate(zip(panels, names, strict=False)):
        for label, factors in columns.items():
            values = factors[:, k]
            labels = values.dtype.kind == "i"
            edges = np.arange(values.max() + 2) - 0.5 if labels else np.linspace(*_range(values), 21)
            share = np.full(len(values), 1 / len(values))
            panel.hist(values, bins=edges, weights=share, alpha=0.5, label=label)
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=8)
    for panel in panels[len(names) :]:
        panel.remove()
    panels[0].legend(fontsize=7)
    save_figure(figure, path)


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def write_data_figures(dataset: ImageDataset, folder: Path) -> list[Path]:
    """Write Figures 3, 4, 8 and 9 into `folder` as figure_3.png and so on; 9 only where factors are known. Returns their paths."""
    paths = [folder / f"figure_{number}.png" for number in (3, 4, 8, 9)]
    likelihood_figure(paths[0])
    posterior_figure(paths[1])
    factor_sheet(dataset, paths[2])
    if not dataset.factor_names:
        return paths[:3]
    factor_distributions(dataset, paths[3])
    return paths
