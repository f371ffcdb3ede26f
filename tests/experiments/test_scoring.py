"""Scores of a factor whose sign u does not tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from idiff_hf.data import label_to_z
from idiff_hf.experiments.scoring import unsigned_scores
from idiff_hf.metrics import mcc


def test_unsigned_scores_are_those_of_distances_from_the_middle() -> None:
    generator = np.random.default_rng(0)
    z = generator.choice([-0.5, -0.25, 0.0, 0.25, 0.5], size=(400, 2))
    # the first latent has the second factor folded, the second the first with the sign of each image drawn anew
    codes = np.column_stack([np.abs(z[:, 1]), z[:, 0] * generator.choice([-1.0, 1.0], size=400)])
    found = unsigned_scores(codes, z, ("one", "other"))
    assert found["mcc_spearman_unsigned"] == pytest.approx(1.0)
    assert found["mcc_spearman_unsigned_per_factor"] == pytest.approx({"one": 1.0, "other": 1.0})
    assert mcc(codes, z, correlation="spearman").mean < 0.2


@pytest.mark.parametrize("size", (3, 6, 10, 15, 40))
def test_mirrored_labels_are_equally_far_from_the_middle(size: int) -> None:
    labels = torch.arange(size)[:, None]
    codes = (2 * labels - (size - 1)).double().numpy()
    found = unsigned_scores(codes, label_to_z(labels, [size], "centers").numpy(), ("one",))
    assert found["mcc_spearman_unsigned"] == pytest.approx(1.0, abs=1e-12)


def test_a_factor_of_two_values_has_no_unsigned_score() -> None:
    z = np.array([[-0.5, 0.0], [0.5, 0.5], [-0.5, -0.5], [0.5, 0.0]])
    found = unsigned_scores(z, z, ("two", "three"))
    assert found["mcc_spearman_unsigned_per_factor"] == pytest.approx({"three": 1.0})
    assert unsigned_scores(z[:, :1], z[:, :1], ("two",)) == {}
