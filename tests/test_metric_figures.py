"""Figures of codes against factors: layout, pixels, and bytes that depend on the arrays alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idiff_hf.metric_figures import (
    factor_latent_scatter,
    importance_heatmap,
    mutual_information_heatmap,
    tsne_scatter,
)

ORANGE, BLUE, YELLOW, VIOLET = (255, 127, 14), (31, 119, 180), (253, 231, 36), (68, 1, 84)
HEATMAPS = [mutual_information_heatmap, importance_heatmap]


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Three latents: noisy factor 1, noisy factor 0, noise."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 4, size=(120, 2))
    codes = np.column_stack([factors[:, ::-1], np.zeros(120)]) + 0.1 * rng.normal(size=(120, 3))
    return codes, factors


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def _of(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour).all(axis=2)


def _centre(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(axis=0)


@pytest.mark.parametrize("heatmap", HEATMAPS)
def test_heatmap_puts_latents_in_rows_and_factors_in_columns(
    heatmap: Callable[..., None], tmp_path: Path
) -> None:
    centres = {}
    for latent, factor in ((0, 0), (2, 0), (0, 1)):
        matrix = np.zeros((3, 2))
        matrix[latent, factor] = 1.0
        heatmap(matrix, ["first", "second"], tmp_path / "figure.png")
        # The colour bar, right of the cells, holds a few pixels of each colour as well.
        picture = _read(tmp_path / "figure.png")[:, :290]
        assert _of(picture, YELLOW).sum() > 500
        assert _of(picture, VIOLET).sum() > 3 * _of(picture, YELLOW).sum()
        centres[latent, factor] = _centre(_of(picture, YELLOW))
    down, across = centres[2, 0] - centres[0, 0], centres[0, 1] - centres[0, 0]
    assert down[0] > 50 and abs(down[1]) < 5
    assert across[1] > 50 and abs(across[0]) < 5


def test_heatmap_grows_with_the_matrix(tmp_path: Path) -> None:
    for num_latents, num_factors in ((3, 2), (10, 6)):
        names = [f"factor {factor}" for factor in range(num_factors)]
        mutual_information_heatmap(np.ones((num_latents, num_factors)), names, tmp_path / "figure.png")
        assert _read(tmp_path / "figure.png").shape == (
            int(37.2 * num_latents + 190),
            62 * num_factors + 240,
            3,
        )


def test_colours_of_information_are_relative_and_those_of_importance_absolute(tmp_path: Path) -> None:
    matrix = np.array([[0.5, 0.0], [0.0, 0.25]])
    mutual_information_heatmap(matrix, ["a", "b"], tmp_path / "mi.png")
    importance_heatmap(matrix, ["a", "b"], tmp_path / "importance.png")
    assert _of(_read(tmp_path / "mi.png")[:, :290], YELLOW).sum() > 500
    assert not _of(_read(tmp_path / "importance.png")[:, :290], YELLOW).any()


def test_values_are_written_in_the_cells(tmp_path: Path) -> None:
    # The same colours and the same marks of the colour bar, other numbers.
    for name, scale in (("a", 1.0), ("b", 1.02)):
        mutual_information_heatmap(scale * np.eye(2), ["x", "y"], tmp_path / f"{name}.png")
    a, b = (_read(tmp_path / f"{name}.png")[:, :290] for name in "ab")
    np.testing.assert_array_equal(_of(a, VIOLET), _of(b, VIOLET))
    assert (a != b).any()


def test_heatmap_of_no_information_at_all_is_dark(tmp_path: Path) -> None:
    mutual_information_heatmap(np.zeros((3, 2)), ["a", "b"], tmp_path / "figure.png")
    picture = _read(tmp_path / "figure.png")[:, :290]
    assert _of(picture, VIOLET).sum() > 5000 and not _of(picture, YELLOW).any()


def _orange_panel(picture: np.ndarray, line: int) -> float:
    """Horizontal centre, as a share of the width, of what is orange in a line of two."""
    half = picture.shape[0] // 2
    orange = _of(picture[line * half : (line + 1) * half], ORANGE)
    assert orange.sum() > 300
    return _centre(orange)[1] / picture.shape[1]


def test_scatter_shows_the_matched_latent_of_each_factor_in_orange(
    rows: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    codes, factors = rows
    factor_latent_scatter(codes, factors, ["a", "b"], tmp_path / "figure.png")
    picture = _read(tmp_path / "figure.png")
    assert picture.shape == (int(1.25 * 2 * 100 + 60), int(1.25 * 3 * 100 + 120), 3)
    # Factor 0 is in latent 1, factor 1 in latent 0.
    assert _orange_panel(picture, 0) == pytest.approx(0.6, abs=0.1)
    assert _orange_panel(picture, 1) == pytest.approx(0.27, abs=0.1)
    assert _of(picture, BLUE).sum() > 300
    factor_latent_scatter(codes[:, ::-1], factors, ["a", "b"], tmp_path / "reversed.png")
    assert _orange_panel(_read(tmp_path / "reversed.png"), 1) == pytest.approx(0.88, abs=0.1)


def test_scatter_without_a_latent_for_a_factor_has_no_frame_in_its_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 4, size=(100, 3))
    factor_latent_scatter(factors[:, :2] + 0.0, factors, ["a", "b", "c"], tmp_path / "figure.png")
    picture = _read(tmp_path / "figure.png")
    orange = _of(picture, ORANGE).any(axis=1)
    assert orange[: len(orange) // 2].any() and not orange[2 * len(orange) // 3 + 10 :].any()


def test_scatter_draws_as_many_points_as_asked_for(
    rows: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    ink = []
    for num_points in (5, 60, 120, 1000):
        factor_latent_scatter(*rows, ["a", "b"], tmp_path / "figure.png", num_points=num_points)
        picture = _read(tmp_path / "figure.png")
        # The title states the number.
        ink.append(_of(picture, BLUE).sum())
    assert ink[0] < ink[1] < ink[2] == ink[3]
    np.testing.assert_array_equal(picture[:15], _title(*rows, tmp_path, num_points=120))
    assert (picture[:15] != _title(*rows, tmp_path, num_points=60)).any()


def _title(codes: np.ndarray, factors: np.ndarray, folder: Path, **settings: int) -> np.ndarray:
    factor_latent_scatter(codes, factors, ["a", "b"], folder / "title.png", **settings)
    return _read(folder / "title.png")[:15]


def test_scatter_states_metrics_of_all_rows(rows: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    codes, factors = rows
    plain = _title(codes, factors, tmp_path, num_points=20)
    # Another draw of points, the same metrics.
    np.testing.assert_array_equal(_title(codes, factors, tmp_path, num_points=20, seed=1), plain)
    noisy = codes + np.random.default_rng(1).normal(size=codes.shape)
    assert (_title(noisy, factors, tmp_path, num_points=20) != plain).any()


def _map(codes: np.ndarray, factors: np.ndarray, path: Path, **settings: float) -> np.ndarray:
    names = [f"factor {factor}" for factor in range(factors.shape[1])]
    tsne_scatter(codes, factors, names, path, **{"num_points": 60, "perplexity": 5, **settings})  # type: ignore[arg-type]
    return _read(path)


def test_tsne_has_one_panel_for_each_factor(rows: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    codes, factors = rows
    assert _map(codes, factors, tmp_path / "two.png").shape == (340, 600, 3)
    four = _map(codes, np.column_stack([factors, factors]), tmp_path / "four.png")
    assert four.shape == (640, 900, 3)
    # Three panels above, one below.
    assert (four[60:320, 700:800] != 255).any() and (four[360:620, 50:150] != 255).any()
    assert (four[345:, 330:] == 255).all()


def test_tsne_is_one_map_coloured_by_each_factor(rows: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    codes, factors = rows
    plain = _map(codes, factors, tmp_path / "plain.png")
    recoloured = _map(codes, 3 - factors, tmp_path / "recoloured.png")
    dots = [(picture[45:, 10:220] < 250).any(axis=2) for picture in (plain, recoloured)]
    # The same places, up to the shade of a dot's rim.
    assert (dots[0] != dots[1]).mean() < 0.02
    assert (plain[45:, 10:220] != recoloured[45:, 10:220]).any(axis=2).sum() > 200


def test_tsne_follows_codes_and_seed(rows: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    codes, factors = rows
    plain = _map(codes, factors, tmp_path / "a.png")[45:]
    for other in (
        _map(codes**3, factors, tmp_path / "b.png"),
        _map(codes, factors, tmp_path / "c.png", seed=1),
        _map(codes, factors, tmp_path / "d.png", num_points=40),
        _map(codes, factors, tmp_path / "e.png", perplexity=9),
    ):
        assert (other[45:] != plain).any(axis=2).mean() > 0.005


@pytest.mark.parametrize(("num_points", "perplexity"), [(2, 1 / 3), (20, 19 / 3), (30, 29 / 3), (120, 30.0)])
def test_tsne_of_few_points_has_fewer_neighbours(
    num_points: int, perplexity: float, rows: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    codes, factors = (array[:num_points] for array in rows)
    tsne_scatter(codes, factors, ["a", "b"], tmp_path / "default.png")
    tsne_scatter(codes, factors, ["a", "b"], tmp_path / "given.png", perplexity=perplexity)
    assert (tmp_path / "default.png").read_bytes() == (tmp_path / "given.png").read_bytes()


def test_equal_arrays_give_equal_bytes(rows: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).uniform(size=(3, 2))
    for name in ("a", "b"):
        folder = tmp_path / "new" / name
        mutual_information_heatmap(matrix, ["x", "y"], folder / "information.png")
        importance_heatmap(matrix, ["x", "y"], folder / "importance.png")
        factor_latent_scatter(*rows, ["x", "y"], folder / "scatter.png", num_points=50)
        tsne_scatter(*rows, ["x", "y"], folder / "tsne.png", num_points=50, perplexity=5)
    figures = sorted(path.name for path in (tmp_path / "new" / "a").iterdir())
    assert figures == ["importance.png", "information.png", "scatter.png", "tsne.png"]
    for figure in figures:
        one, other = ((tmp_path / "new" / name / figure).read_bytes() for name in ("a", "b"))
        assert one == other and b"Software" not in one


@pytest.mark.parametrize("heatmap", HEATMAPS)
def test_heatmap_refusals_are_one_clear_line(heatmap: Callable[..., None], tmp_path: Path) -> None:
    path, name = tmp_path / "figure.png", "mi_matrix" if heatmap is HEATMAPS[0] else "importance"
    for matrix in (np.ones(3), np.ones((0, 2)), -np.eye(2), np.array([[np.nan]])):
        shape = str(matrix.shape).replace("(", r"\(").replace(")", r"\)")
        message = (
            rf"^{name} must be finite and non-negative of shape \(n_latents, n_factors\), got shape {shape}$"
        )
        with pytest.raises(ValueError, match=message):
            heatmap(matrix, ["a", "b"], path)
    with pytest.raises(ValueError, match=r"^factor_names must be 2, one for each factor, got 3$"):
        heatmap(np.eye(2), ["a", "b", "c"], path)
    assert not path.exists()


def test_refusals_are_one_clear_line(rows: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    (codes, factors), path, names = rows, tmp_path / "figure.png", ["a", "b"]
    for figure in (factor_latent_scatter, tsne_scatter):
        with pytest.raises(ValueError, match=r"^factor_names must be 2, one for each factor, got 1$"):
            figure(codes, factors, ["a"], path)
        with pytest.raises(ValueError, match=r"^num_points must be at least 1, got 0$"):
            figure(codes, factors, names, path, num_points=0)
        with pytest.raises(ValueError, match=r"^codes and factors must have the same number of rows"):
            figure(codes[1:], factors, names, path)
    with pytest.raises(
        ValueError, match=r"^MIG is the gap between the two most informative latents, got 1: "
    ):
        factor_latent_scatter(codes[:, :1], factors, names, path)
    with pytest.raises(ValueError, match=r"^codes need 2 latents .*, got 1 latents, 120 different rows "):
        tsne_scatter(codes[:, :1], factors, names, path)
    with pytest.raises(ValueError, match=r"^codes need .*, got 3 latents, 1 different rows among 120$"):
        tsne_scatter(np.full((120, 3), 0.3), factors, names, path)
    for perplexity in (0, 120):
        message = rf"^perplexity must be above 0 and below the 120 points, got {perplexity}$"
        with pytest.raises(ValueError, match=message):
            tsne_scatter(codes, factors, names, path, perplexity=perplexity)
    assert not path.exists()
