"""Stages, weights and learning rates, each against its closed form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from idiff_hf.config import OptimConfig
from idiff_hf.stages import learning_rate, phase
from tests.tiny import tiny_config


def test_kl_weight_is_held_then_falls_geometrically_to_its_final_value(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, max_train_steps=1000)
    config = replace(
        config,
        loss=replace(config.loss, kl=1e-4, kl_anneal_factor=9.0, kl_anneal_hold=0.2, kl_anneal_end=0.6),
        optim_ivae=replace(config.optim_ivae, stop_step=None),
        optim_unet=replace(config.optim_unet, start_step=0),
    )
    weights = [phase(config, step).kl_weight for step in (0, 199, 200, 400, 600, 999)]
    assert weights == pytest.approx([9e-4, 9e-4, 9e-4, 3e-4, 1e-4, 1e-4])


def test_kl_weight_before_the_release_of_the_prior(tmp_path: Path) -> None:
    """A hundredth of it until 60 %, on top of the annealing: 1e-3 x 1e-2 x 1e4 = .1 at first."""
    config = tiny_config(tmp_path, max_train_steps=1000)
    config = replace(
        config,
        loss=replace(
            config.loss,
            kl=1e-3,
            kl_before_release=0.01,
            kl_anneal_factor=1e4,
            kl_anneal_hold=0.2,
            kl_anneal_end=0.4,
        ),
        model=replace(config.model, prior_type="released", prior_release=0.6),
        optim_ivae=replace(config.optim_ivae, stop_step=None),
        optim_unet=replace(config.optim_unet, start_step=0),
    )
    weights = [phase(config, step).kl_weight for step in (0, 200, 300, 400, 599, 600, 999)]
    assert weights == pytest.approx([0.1, 0.1, 1e-3, 1e-5, 1e-5, 1e-3, 1e-3])


def test_temperature_of_the_kl_from_its_start_on(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, max_train_steps=1000)
    config = replace(
        config,
        loss=replace(config.loss, kl_temperature=0.1, kl_temperature_start=0.8),
        optim_ivae=replace(config.optim_ivae, stop_step=None),
        optim_unet=replace(config.optim_unet, start_step=0),
    )
    assert [phase(config, step).kl_temperature for step in (0, 799, 800, 999)] == [1.0, 1.0, 0.1, 0.1]


def test_stages_follow_their_windows(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    assert [(phase(config, s).ivae, phase(config, s).unet) for s in (0, 3, 4, 7)] == [
        (True, False),
        (True, False),
        (False, True),
        (False, True),
    ]
    assert [phase(config, s).released for s in (0, 1, 2, 3)] == [False, False, True, True]


def test_learning_rate_is_a_function_of_the_step() -> None:
    optim = OptimConfig(
        start_step=10, learning_rate=1.0, lr_scheduler="cosine", lr_warmup_steps=10, lr_end_factor=0.1
    )
    assert learning_rate(optim, 120, 10) == pytest.approx(0.1)
    assert learning_rate(optim, 120, 19) == pytest.approx(1.0)
    assert learning_rate(optim, 120, 70) == pytest.approx(0.55)
    assert learning_rate(optim, 120, 120) == pytest.approx(0.1)
    assert learning_rate(replace(optim, lr_scheduler="constant"), 120, 119) == 1.0
