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


def test_reader_inverts_monotone_codes_in_any_order_and_sign() -> None:
    rng = np.random.default_rng(0)
    factors = rng.integers(0, [4, 10, 6], (2000, 3))
    codes = np.stack(
        [rng.normal(size=2000), -np.exp(factors[:, 1] / 4), factors[:, 0] ** 3.0, factors[:, 2]], axis=1
    )
    reader = FactorReader(codes, factors)
    assert list(reader.assignment) == [2, 1, 3]
    np.testing.assert_array_equal(reader(codes + 1e-3), factors)


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
    with pytest.raises(ValueError, match="is no npz file with images and factors"):
        real_image_file(tmp_path / "none.npz")
