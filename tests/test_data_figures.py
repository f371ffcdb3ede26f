"""The paper's figures of the data, by what their pixels say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from idiff_hf.data import ImageDataset, Rotation, Shapes3D
from idiff_hf.data_figures import (
    factor_distributions,
    factor_sheet,
    likelihood_figure,
    posterior_figure,
    write_data_figures,
)


class Grey(ImageDataset):
    """Seven grey images of which no factor is known; image i is i everywhere."""

    channels, image_size, device, source = 1, 16, torch.device("cpu"), "own"

    def __len__(self) -> int:
        return 7

    def images(self, rows: torch.Tensor, nuisance: torch.Tensor | None = None) -> torch.Tensor:
        return (rows[:, None, None, None] * 20).to(torch.uint8).expand(-1, 1, 16, 16)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_all_four_are_written_and_repeat_themselves(tmp_path: Path) -> None:
    paths = write_data_figures(Shapes3D(16), tmp_path / "a")
    assert [path.name for path in paths] == [f"figure_{number}.png" for number in (3, 4, 8, 9)]
    again = write_data_figures(Shapes3D(16), tmp_path / "b")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_the_sheet_has_a_row_for_each_factor_that_alone_changes(tmp_path: Path) -> None:
    dataset = Shapes3D(16)
    factor_sheet(dataset, tmp_path / "sheet.png")
    sheet = pixels(tmp_path / "sheet.png")
    side = 2 * 16 + 2
    assert sheet.shape[0] == 6 * side - 2
    left = sheet.shape[1] - (10 * side - 2)
    labels = torch.tensor(dataset.factor_space.sizes) // 2
    for row, column in ((0, 3), (4, 9), (5, 0)):
        changed = labels.clone()
        size = dataset.factor_space.sizes[row]
        changed[row] = torch.linspace(0, size - 1, 10).round().long()[column]
        expected = dataset.render(changed[None])[0].movedim(0, -1).numpy().repeat(2, 0).repeat(2, 1)
        y, x = row * side, left + column * side
        np.testing.assert_array_equal(sheet[y : y + 32, x : x + 32], expected)


def test_images_without_factors_have_a_sheet_and_no_distributions(tmp_path: Path) -> None:
    paths = write_data_figures(Grey(), tmp_path)
    assert [path.name for path in paths] == ["figure_3.png", "figure_4.png", "figure_8.png"]
    sheet = pixels(paths[2])
    assert sheet[5, -5].tolist() == [120, 120, 120]
    with pytest.raises(ValueError, match=r"no factor is known of these images: give data\.factor_columns"):
        factor_distributions(Grey(), tmp_path / "none.png")


def test_vectors_are_points(tmp_path: Path) -> None:
    factor_sheet(Rotation(3, seed=0), tmp_path / "one.png")
    factor_sheet(Rotation(3, seed=1), tmp_path / "other.png")
    assert (pixels(tmp_path / "one.png") != 255).any()
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "other.png").read_bytes()


def test_curves_follow_their_parameter(tmp_path: Path) -> None:
    likelihood_figure(tmp_path / "a.png", (0.02,))
    likelihood_figure(tmp_path / "b.png", (0.06,))
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    posterior_figure(tmp_path / "c.png", (0.1,), num_draws=200)
    posterior_figure(tmp_path / "d.png", (0.3,), num_draws=200)
    assert (tmp_path / "c.png").read_bytes() != (tmp_path / "d.png").read_bytes()
