"""What each latent tells of, on paper."""

from __future__ import annotations

import math

import numpy as np

from idiff_hf.demo.latents import Latent, describe_latents, unknown_latents

LABELS = np.repeat(np.arange(4), 250)[np.random.default_rng(0).permutation(1000)]
COIN = np.random.default_rng(1).integers(0, 2, 1000)
FACTORS = np.stack([LABELS, COIN], axis=1)


def test_a_latent_bears_the_name_of_the_factor_that_it_equals() -> None:
    codes = np.stack([COIN * 2.0 - 1.0, LABELS - 1.5], axis=1)
    coin, hue = describe_latents(codes, FACTORS, ("hue", "coin"))
    assert hue.label == "z1 hue (MI 1.4 nats)"  # ln 4 = 1.386
    assert hue.factors == (("hue", hue.factors[0][1]),) and math.isclose(hue.factors[0][1], math.log(4))
    assert coin.label == "z0 coin (MI 0.7 nats)"  # ln 2 = 0.693


def test_two_factors_in_one_latent_are_both_named() -> None:
    codes = (LABELS + 4.0 * COIN)[:, None]
    (both,) = describe_latents(codes, FACTORS, ("hue", "coin"))
    assert both.label == "z0 hue + coin (MI 1.4, 0.7 nats)"


def test_noise_tells_of_nothing_although_its_information_is_above_zero() -> None:
    noise = np.random.default_rng(2).normal(size=(1000, 1))
    (found,) = describe_latents(noise, FACTORS, ("hue", "coin"))
    assert found.label == "z0" and found.factors == () and found.used


def test_the_range_holds_99_percent_a_margin_and_what_is_shown() -> None:
    codes = np.linspace(-1.0, 1.0, 1001)[:, None]
    none = np.zeros((1001, 0), int)
    (plain,) = describe_latents(codes, none, ())
    # quantiles -0.99 and 0.99, a margin of 5 % of 1.98, two decimals outward
    assert (plain.low, plain.high) == (-1.09, 1.09)
    (shown,) = describe_latents(np.concatenate([[[3.0]], codes]), np.zeros((1002, 0), int), (), shown=1)
    assert shown.high >= 3.0 and shown.low < -0.99


def test_a_latent_that_hardly_varies_is_unused_and_can_still_be_moved() -> None:
    wide = np.random.default_rng(3).normal(size=1000)
    used, unused = describe_latents(np.stack([wide, 0.01 * wide], axis=1), FACTORS, ("hue", "coin"))
    assert used.used and unused.label == "z1 (unused)"
    assert 1.8 < unused.high < 2.2 and unused.low == -unused.high


def test_constant_codes_have_the_range_of_the_prior() -> None:
    (found,) = describe_latents(np.full((10, 1), 0.0), np.zeros((10, 1), int), ("hue",))
    assert not found.used and (found.low, found.high) == (-2.5, 2.5)


def test_classes_and_latents_of_which_nothing_is_known() -> None:
    (found,) = describe_latents(LABELS[:, None].astype(float), FACTORS, ("hue", "coin"), classes=5)
    assert (found.low, found.high, found.classes, found.label) == (0.0, 4.0, 5, "z0 hue (MI 1.4 nats)")
    assert unknown_latents(2, 0) == (Latent(0, -2.5, 2.5), Latent(1, -2.5, 2.5))
    assert unknown_latents(1, 3) == (Latent(0, 0.0, 2.0, 3),)
