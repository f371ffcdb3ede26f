"""Rotation data through the real program: the vector iVAE finds the factors, and u alone does not give them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from train_ivae_ddpm import main

CONFIG = Path(__file__).parents[1] / "configs" / "rotation.yaml"


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "dim"), [(20, 3), (21, 3), (20, 6)])
def test_vector_ivae_finds_the_factors(seed: int, dim: int, tmp_path: Path) -> None:
    """Held-out rows, seeds that chose no setting. A uniform prior does as well without u: this tests the parts, not what u adds."""
    flags = {
        "train.seed": seed,
        "train.output_dir": tmp_path,
        "data.rotation_dim": dim,
        "model.latent_dim": dim,
        "eval.supervision_baseline": "true" if seed == 21 else "false",
    }
    assert main(["--config", str(CONFIG), *(f"--{key}={value}" for key, value in flags.items())]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["model"]["metrics"]["mcc_pearson"] >= 0.99
    assert results["data"]["num_samples"] == 10000
    if seed == 21:
        # the known prior has mean 0 whatever u: nothing of z is learned from it without reconstruction
        assert results["supervision_baseline"]["metrics"]["mcc_pearson"] < 0.5
