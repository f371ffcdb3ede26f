"""Figures of codes against factors as PNG files, from arrays alone: equal arrays give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from .figures import save_figure
from .metrics.inputs import check_codes_and_factors
from .metrics.mcc import mcc
from .metrics.mig import mig

DEFAULT_SCATTER_POINTS = 1000
DEFAULT_TSNE_POINTS = 2000
DEFAULT_PERPLEXITY = 30.0

_DPI = 100
_CELL = 0.62
_PANEL = 1.25
_TSNE_PANEL = 3.0
_TSNE_COLUMNS = 3


def _latent_names(num_latents: int) -> list[str]:
    return [f"z{latent}" for latent in range(num_latents)]


def _check_names(names: Sequence[str], num_factors: int) -> None:
    if len(names) != num_factors:
        raise ValueError(f"factor_names must be {num_factors}, one for each factor, got {len(names)}")


def _draw_rows(num_rows: int, num_points: int, seed: int) -> npt.NDArray[np.intp]:
    """Which rows to show: all of them, or `num_points` drawn without replacement, in their order."""
    if num_points < 1:
        raise ValueError(f"num_points must be at least 1, got {num_points}")
    if num_points >= num_rows:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, size=num_points, replace=False))


def _heatmap(
    matrix: npt.ArrayLike,
    factor_names: Sequence[str],
    path: Path,
    *,
    name: str,
    title: str,
    unit: str,
    highest: float | None,
) -> None:
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.size == 0 or not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(
            f"{name} must be finite and non-negative of shape (n_latents, n_factors), got shape {values.shape}"
        )
    num_latents, num_factors = values.shape
    _check_names(factor_names, num_factors)
    # Room for the names, the title and the colour bar beside the cells.
    figure = Figure(
        figsize=(_CELL * num_factors + 2.4, _CELL * 0.6 * num_latents + 1.9), dpi=_DPI, layout="constrained"
    )
    panel = figure.subplots()
    # A range of colours cannot be empty, even if no latent tells anything.
    top = highest if highest is not None else float(values.max()) or 1.0
    picture = panel.imshow(values, cmap="viridis", vmin=0.0, vmax=top, aspect="auto")
    panel.set_xticks(range(num_factors), factor_names, rotation=40, ha="right", fontsize=8)
    panel.set_yticks(range(num_latents), _latent_names(num_latents), fontsize=8)
    panel.set_title(title, fontsize=10)
    for (latent, factor), value in np.ndenumerate(values):
        # The upper end of the colours is light.
        colour = "black" if value > 0.6 * top else "white"
        panel.text(factor, latent, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(picture, ax=panel)
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    save_figure(figure, path)


def mutual_information_heatmap(mi_matrix: npt.ArrayLike, factor_names: Sequence[str], path: Path) -> None:
    """Write what each latent tells about each factor as coloured cells with their values.

    Colours go from 0 to the largest value, so that two figures are compared by the numbers only.

    Args:
        mi_matrix: Mutual information in nats, shape (n_latents, n_factors), as in `MIGResult.mi_matrix`.
        factor_names: The names of the factors.
        path: The PNG file; its folder is made.

    Raises:
        ValueError: A matrix that is not 2-D, finite and non-negative, or a wrong number of names.
    """
    _heatmap(
        mi_matrix,
        factor_names,
        path,
        name="mi_matrix",
        title="Mutual information of latents and factors",
        unit="nats",
        highest=None,
    )


def importance_heatmap(importance: npt.ArrayLike, factor_names: Sequence[str], path: Path) -> None:
    """Write how much each latent matters for predicting each factor as coloured cells with their values.

    Colours go from 0 to 1 in every figure.

    Args:
        importance: Importances, shape (n_latents, n_factors), columns of sum 1, as in `DCIResult.importance`.
        factor_names: The names of the factors.
        path: The PNG file; its folder is made.

    Raises:
        ValueError: A matrix that is not 2-D, finite and non-negative, or a wrong number of names.
    """
    _heatmap(
        importance,
        factor_names,
        path,
        name="importance",
        title="Importance of latents for factors",
        unit="share of the factor's importance",
        highest=1.0,
    )


def sensitivity_heatmap(
    effect: npt.ArrayLike,
    sigma_over_alpha: npt.ArrayLike,
    times: npt.ArrayLike,
    labels: Sequence[str],
    path: Path,
) -> None:
    """Write how much a U-Net's prediction depends on each latent (row) at each time (column), of eps and of x_0.

    Each picture has a scale of its own, from its lowest value, or 0 where none is negative, to its highest: of eps logarithmic over four
    decades, of x_0 linear.

    Args:
        effect: Of eps, shape (n_times, n_latents), as in `Sensitivity.normalized`.
        sigma_over_alpha: What it is multiplied by to be of x_0, shape (n_times,).
        times: t, shape (n_times,).
        labels: The names of the latents.
        path: The PNG file; its folder is made.

    Raises:
        ValueError: Arrays that are not finite or of other shapes, or a wrong number of labels.
    """
    of_eps, ratio, columns = (np.asarray(a, dtype=np.float64) for a in (effect, sigma_over_alpha, times))
    shape = (columns.size, len(labels))
    if of_eps.shape != shape or ratio.shape != columns.shape or not np.isfinite(of_eps).all():
        raise ValueError(
            f"effect must be finite of shape (n_times, n_latents), {shape} by times and labels, got shape {of_eps.shape}"
        )
    num_times, num_latents = shape
    figure = Figure(
        figsize=(2 * (_CELL * 0.75 * num_times + 2.4), _CELL * 0.6 * num_latents + 1.5),
        dpi=_DPI,
        layout="constrained",
    )
    panels = figure.subplots(1, 2, sharey=True)
    for panel, values, name in zip(panels, (of_eps, of_eps * ratio[:, None]), ("eps", "x_0"), strict=True):
        low, high = min(0.0, float(values.min())), float(values.max())
        # A range of colours cannot be empty, even if nothing has an effect.
        high = high if high > low else low + 1.0
        # eps near t = 0 is a small difference over a small sigma: linear colours would show nothing else.
        scale = (
            SymLogNorm(linthresh=1e-4 * max(high, -low), vmin=low, vmax=high)
            if name == "eps"
            else Normalize(low, high)
        )
        picture = panel.imshow(values.T, cmap="viridis", norm=scale, aspect="auto")
        panel.set_xticks(range(num_times), [f"{t:.2g}" for t in columns], fontsize=8)
        panel.set_yticks(range(num_latents), labels, fontsize=8)
        panel.set_xlabel("t (1 is noise)", fontsize=8)
        panel.set_title(f"Effect of each latent on the predicted {name}", fontsize=10)
        bar = figure.colorbar(picture, ax=panel)
        bar.set_label("Euclidean norm", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    save_figure(figure, path)


def factor_latent_scatter(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    factor_names: Sequence[str],
    path: Path,
    *,
    num_points: int = DEFAULT_SCATTER_POINTS,
    seed: int = 0,
) -> None:
    """Write a scatter plot of every factor (row) against every latent (column), as in Figure 5.

    The latent that MCC matches to a factor is drawn in orange in a frame of its own, the others in blue. Each
    row is labelled with its factor's gap (MIG) and matched correlation (Pearson), the figure with both means.
    The metrics are those of all rows, the points those of `num_points` rows.

    Args:
        codes: Latent codes, shape (n_samples, n_latents), two latents or more.
        factors: Factors, shape (n_samples, n_factors); labels are drawn as the numbers they are.
        factor_names: The names of the factors.
        path: The PNG file; its folder is made.
        num_points: Number of rows drawn, without replacement; stated in the figure.
        seed: Seed of that draw.

    Raises:
        ValueError: Arrays that MIG or MCC is not defined on, a wrong number of names, or `num_points` below 1.
    """
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    (num_samples, num_latents), num_factors = checked_codes.shape, checked_factors.shape[1]
    _check_names(factor_names, num_factors)
    rows = _draw_rows(num_samples, num_points, seed)
    gap, correlation = mig(checked_codes, checked_factors), mcc(checked_codes, checked_factors)

    figure = Figure(
        figsize=(_PANEL * num_latents + 1.2, _PANEL * num_factors + 0.6), dpi=_DPI, layout="constrained"
    )
    figure.suptitle(
        f"MIG {gap.mean:.3f}, MCC (Pearson) {correlation.mean:.3f}; {rows.size} of {num_samples} samples",
        fontsize=10,
    )
    panels = figure.subplots(num_factors, num_latents, squeeze=False, sharex="col", sharey="row")
    for factor, name in enumerate(factor_names):
        for latent, latent_name in enumerate(_latent_names(num_latents)):
            panel, matched = panels[factor, latent], correlation.assignment[factor] == latent
            panel.scatter(
                checked_codes[rows, latent],
                checked_factors[rows, factor],
                s=4,
                linewidths=0,
                color="tab:orange" if matched else "tab:blue",
            )
            panel.tick_params(labelsize=6)
            for side in panel.spines.values():
                side.set_color("tab:orange" if matched else "0.7")
                side.set_linewidth(1.6 if matched else 0.8)
            if factor == 0:
                panel.set_title(latent_name, fontsize=9)
        panels[factor, 0].set_ylabel(
            f"{name}\nMIG {gap.per_factor[factor]:.2f}\nMCC {correlation.per_factor[factor]:.2f}", fontsize=7
        )
    save_figure(figure, path)


def tsne_scatter(
    codes: npt.ArrayLike,
    factors: npt.ArrayLike,
    factor_names: Sequence[str],
    path: Path,
    *,
    num_points: int = DEFAULT_TSNE_POINTS,
    perplexity: float | None = None,
    seed: int = 0,
) -> None:
    """Write a t-SNE map of codes, coloured by each factor in turn, as in Figure 6.

    All panels show one map (van der Maaten & Hinton 2008; scikit-learn, Euclidean distances of the codes as
    they are, started from the principal components). Distances between clusters mean nothing in it, and
    another seed draws other points and another map.

    Args:
        codes: Latent codes, shape (n_samples, n_latents), two latents or more.
        factors: Factors, shape (n_samples, n_factors); labels are coloured as the numbers they are.
        factor_names: The names of the factors.
        path: The PNG file; its folder is made.
        num_points: Number of rows drawn, without replacement; stated in the figure. 2000 take some 10 s.
        perplexity: About how many neighbours a point has, above 0 and below the number of points; stated in
            the figure. None is 30, or a third of the other points where that is less.
        seed: Seed of the draw and of the map.

    Raises:
        ValueError: Arrays that no metric is defined on, one latent only, drawn codes that are all equal, a
            wrong number of names, `num_points` below 1, or a perplexity out of range.
    """
    checked_codes, checked_factors = check_codes_and_factors(codes, factors)
    num_samples, num_factors = checked_factors.shape
    _check_names(factor_names, num_factors)
    rows = _draw_rows(num_samples, num_points, seed)
    shown = checked_codes[rows]
    if shown.shape[1] < 2 or (shown == shown[0]).all():
        raise ValueError(
            f"codes need 2 latents and different rows to be mapped, got {shown.shape[1]} latents, "
            f"{len(np.unique(shown, axis=0))} different rows among {rows.size}"
        )
    if perplexity is None:
        # Beyond three perplexities from a point, the method looks at no neighbour.
        perplexity = min(DEFAULT_PERPLEXITY, (rows.size - 1) / 3)
    if not 0 < perplexity < rows.size:
        raise ValueError(f"perplexity must be above 0 and below the {rows.size} points, got {perplexity}")
    places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(shown)

    columns = min(_TSNE_COLUMNS, num_factors)
    lines = -(-num_factors // columns)
    figure = Figure(
        figsize=(_TSNE_PANEL * columns, _TSNE_PANEL * lines + 0.4), dpi=_DPI, layout="constrained"
    )
    figure.suptitle(
        f"t-SNE of {rows.size} of {num_samples} codes, perplexity {perplexity:.3g}, seed {seed}", fontsize=10
    )
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel, name, factor in zip(panels, factor_names, checked_factors.T, strict=False):
        points = panel.scatter(places[:, 0], places[:, 1], c=factor[rows], cmap="turbo", s=6, linewidths=0)
        panel.set_title(name, fontsize=9)
        panel.set_xticks([])
        panel.set_yticks([])
        figure.colorbar(points, ax=panel).ax.tick_params(labelsize=7)
    for panel in panels[num_factors:]:
        panel.remove()
    save_figure(figure, path)
