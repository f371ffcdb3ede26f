"""Factors read back from codes and from images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from idiff_hf import IVAEDiffusionPipeline, IVAEModel
from idiff_hf.data import Shapes3D, to_float
from idiff_hf.readback import FactorReader, encode_rows, nearest_rendered, real_image_file


def test_rendered_images_are_read_back_through_noise() -> None:
    """At 16x16 some classes differ by a few levels: noise well below that changes nothing."""
    dataset = Shapes3D(16)
    rows = torch.randint(len(dataset.factor_space), (12,), generator=torch.Generator().manual_seed(0))
    factors = dataset.factor_space.factors(rows)
    images = to_float(dataset.render(factors))
    noisy = images + 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(nearest_rendered(dataset, noisy), rows)


def test_reader_finds_levels_in_any_order_sign_and_place() -> None:
    """An order of its own, as a hue's where the circle is cut; a factor of two levels, which are 1 and 3; a latent that says nothing."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, [4, 10, 2], (2000, 3)) * [1, 1, 2] + [0, 0, 1]
    circle = np.array([3, 4, 5, 6, 7, 8, 9, 0, 1, 2])[factors[:, 1]]
    codes = np.stack(
        [rng.normal(size=2000), -np.exp(circle / 4), factors[:, 0] ** 3.0, factors[:, 2]], axis=1
    )
    reader = FactorReader(codes, factors)
    assert list(reader.latents) == [2, 1, 3]
    np.testing.assert_array_equal(reader(codes + 1e-3), factors)


def test_reader_takes_the_nearest_mean_of_a_level() -> None:
    factors = np.repeat([[0], [1], [2]], 100, axis=0)
    # means 0, 2 and 10
    codes = np.concatenate([np.tile([-1.0, 1.0], 50), np.full(100, 2.0), np.tile([8.0, 12.0], 50)])[:, None]
    read = FactorReader(codes, factors)(np.array([[-50.0], [0.9], [1.1], [5.9], [6.1], [50.0]]))
    np.testing.assert_array_equal(read[:, 0], [0, 0, 1, 1, 2, 2])


def test_two_factors_in_one_latent_are_both_read_from_it() -> None:
    """There are fewer latents than factors: none is left without one."""
    first = np.repeat([0, 1], 500)
    factors = np.stack([first, np.tile(np.arange(5), 200)], axis=1)
    reader = FactorReader((10.0 * first + factors[:, 1])[:, None], factors)
    assert list(reader.latents) == [0, 0]
    np.testing.assert_array_equal(reader(np.array([[0.0], [14.0]]))[:, 0], [0, 1])


def test_widths_are_the_log_variances_of_the_posterior() -> None:
    dataset = Shapes3D(16)
    torch.manual_seed(0)
    ivae = IVAEModel(image_size=16, channels=(8, 8, 8, 16), hidden_dim=16, latent_dim=6, prior_hidden_dim=8)
    rows = torch.arange(0, 480000, 60000)
    codes, factors = encode_rows(IVAEDiffusionPipeline(ivae=ivae), dataset, rows, widths=True)
    with torch.no_grad():
        expected = ivae.encode(to_float(dataset.images(rows))).latent_dist.logvar
    np.testing.assert_allclose(codes, expected.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(factors, dataset.factors(rows).numpy())


def test_a_file_that_is_not_of_real_images_is_refused(tmp_path: Path) -> None:
    stray = tmp_path / "stray.npz"
    np.savez(stray, images=np.zeros((2, 3)), factors=np.zeros((2, 6)))
    with pytest.raises(ValueError, match=r"images must be uint8 \(N, 64, 64, 3\)"):
        real_image_file(stray)
    with pytest.raises(ValueError, match=r"is no npz file with images and factors: .*No such file"):
        real_image_file(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("images")
    with pytest.raises(ValueError, match="is no npz file with images and factors: it is no zip archive"):
        real_image_file(tmp_path / "text.npz")
    images = np.zeros((2, 64, 64, 3), np.uint8)
    for factors in (np.full((2, 6), 0.5), np.full((2, 6), 100), np.full((2, 6), "red")):
        np.savez(stray, images=images, factors=factors)
        with pytest.raises(ValueError, match="factors must be whole numbers from 0 to "):
            real_image_file(stray)
    np.savez(stray, images=images[:0], factors=np.zeros((0, 6), int))
    with pytest.raises(ValueError, match="holds no image"):
        real_image_file(stray)
    np.savez(stray, images=images, factors=np.zeros((2, 6), int))
    damaged = bytearray(stray.read_bytes())
    damaged[1000] ^= 1
    stray.write_bytes(damaged)
    with pytest.raises(ValueError, match="is no npz file with images and factors: Bad CRC-32"):
        real_image_file(stray)
