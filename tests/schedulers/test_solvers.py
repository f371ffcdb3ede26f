"""The solvers: order, law at twenty times, corrector, grids, use in a plain sampling loop, configs old and new.

Laws of solvers for Gaussian data come by recursion (`gaussian.py`), without sampling noise. A law at 2n steps and one at
n steps extrapolate to that of an infinitely fine grid, to the next order; this limit is what is held to the closed form.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    UNet2DModel,
)
from scipy import stats
from torch import Tensor

from idiff_hf.schedulers import VPSDEScheduler
from idiff_hf.schedulers.solvers import SOLVERS, TIME_GRIDS, langevin, time_grid
from tests.schedulers.gaussian import (
    MEAN,
    STD,
    affine_steps,
    exact_law,
    gaussian_output,
    law_at,
    slope,
    strong_error,
)

# diffusers' own, of NumPy 2 and PyTorch tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
ORDER = {"euler_maruyama": 1, "heun_ode": 2}
STEPS = {"euler_maruyama": (80, 160, 320, 640), "heun_ode": (20, 40, 80, 160)}


@functools.cache
def steps(solver: str, grid: str, num_steps: int) -> np.ndarray:
    return affine_steps(VPSDEScheduler(solver=solver, time_grid=grid, final_denoise=False), num_steps)


def laws(solver: str, grid: str) -> np.ndarray:
    """Time, mean and variance at twenty times, by number of steps, `(4, 20, 3)`."""
    return np.array([law_at(VPSDEScheduler(), steps(solver, grid, n), 20) for n in STEPS[solver]])


def extrapolated(law: np.ndarray, order: int) -> np.ndarray:
    return (2**order * law[-1] - law[-2]) / (2**order - 1)


def dummy_output(x: Tensor, timestep: Tensor) -> Tensor:
    """A network that is not linear and depends on the time."""
    return torch.tanh(x + 0.1) * (1.0 + timestep / 1000.0)


def draw(scheduler: Any, x: Tensor, num_steps: int, generator: Any = None) -> Tensor:
    """The loop that every pipeline of diffusers has."""
    scheduler.set_timesteps(num_steps)
    for timestep in scheduler.timesteps:
        output = dummy_output(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(output, timestep, x, generator=generator).prev_sample
    return x


# ---- order of convergence and law ----


@pytest.mark.parametrize("grid", TIME_GRIDS)
@pytest.mark.parametrize("solver", ORDER)
def test_law_at_twenty_times_converges_to_the_closed_form_at_the_stated_weak_order(
    solver: str, grid: str
) -> None:
    law, order = laws(solver, grid), ORDER[solver]
    exact = np.array([exact_law(VPSDEScheduler(), t) for t in law[0, :, 0]])
    error = np.abs(law[:, :, 1:] - exact).max(axis=1)
    # At the coarsest grid used, the next term of the error is a few per cent of the first, whence 0.1.
    assert slope(error[:, 1]) == pytest.approx(order, abs=0.1)
    if solver == "heun_ode":
        # Along the mean eps is 0, and a solver in sigma / alpha keeps it exactly; timesteps are float32.
        assert error[:, 0].max() < 1e-6
    else:
        assert slope(error[:, 0]) == pytest.approx(order, abs=0.1)
    limit = np.abs(extrapolated(law, order)[:, 1:] - exact).max()
    assert limit < {"euler_maruyama": 1e-3, "heun_ode": 1e-5}[solver]
    assert limit < error[-1].max() / 10


def test_sde_and_ode_agree_in_law_at_twenty_times() -> None:
    sde, ode = laws("euler_maruyama", "uniform"), laws("heun_ode", "uniform")
    np.testing.assert_allclose(sde[0, :, 0], ode[0, :, 0], atol=1e-6)
    np.testing.assert_allclose(extrapolated(sde, 1)[:, 1:], extrapolated(ode, 2)[:, 1:], atol=2e-4)
    # Their paths differ: one draws noise and forgets its start, the other does neither.
    noise = {
        solver: affine_steps(VPSDEScheduler(solver=solver, final_denoise=False), 20)[:, 4] for solver in ORDER
    }
    assert noise["euler_maruyama"].min() > 0.0
    assert np.abs(noise["heun_ode"]).max() == 0.0


@pytest.mark.parametrize("grid", TIME_GRIDS)
def test_strong_order_is_one_as_the_noise_is_additive(grid: str) -> None:
    found = [strong_error(steps("euler_maruyama", grid, n)) for n in STEPS["euler_maruyama"]]
    errors = [error for error, _ in found]
    for _, variance in found:
        assert variance == pytest.approx(exact_law(VPSDEScheduler(), 1e-3)[1], rel=1e-6)
    assert slope(errors) == pytest.approx(1.0, abs=0.1)
    assert errors[-1] < 0.01


@pytest.mark.parametrize(
    ("solver", "bias"), [("euler_maruyama", 0.01), ("heun_ode", 0.002), ("predictor_corrector", 0.01)]
)
def test_solvers_draw_from_a_mixture_of_two_gaussians(solver: str, bias: float) -> None:
    # Weights 0.3 and 0.7, means -1 and 0.5, deviation 0.2: the score is not linear.
    scheduler = VPSDEScheduler(solver=solver, time_grid="quadratic", final_denoise=False, snr=0.02)
    weights, means = (
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([-1.0, 0.5], dtype=torch.float64),
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 10_000, generator=generator, dtype=torch.float64)
    scheduler.set_timesteps(100)
    for timestep in scheduler.timesteps:
        alpha, sigma = scheduler.alpha_sigma(scheduler.t_from_timestep(timestep.double()))
        variance = alpha**2 * 0.04 + sigma**2
        distance = x[..., None] - alpha * means
        share = torch.softmax(weights.log() - 0.5 * distance**2 / variance, dim=-1)
        eps = sigma * (share * distance).sum(dim=-1) / variance
        x = scheduler.step(eps, timestep, x, generator).prev_sample

    alpha, sigma = (float(c) for c in scheduler.alpha_sigma(torch.tensor(1e-3, dtype=torch.float64)))
    std = math.sqrt(alpha**2 * 0.04 + sigma**2)

    def distribution(y: np.ndarray) -> np.ndarray:
        parts = [w * stats.norm.cdf(y, alpha * m, std) for w, m in zip((0.3, 0.7), (-1.0, 0.5), strict=True)]
        return np.sum(parts, axis=0)

    # Kolmogorov's distance exceeds 1.95 / sqrt(n) by chance once in a thousand; `bias` is for the time steps.
    assert stats.kstest(x.flatten().numpy(), distribution).statistic < 1.95 / 100 + bias


# ---- the corrector ----


def test_langevin_step_has_the_signal_to_noise_ratio_given() -> None:
    # ||score|| = 3 and ||z|| = 4: step = 2 (0.3 * 4 / 3)^2 = 0.32; the two terms are orthogonal and of ratio 0.3.
    x, score, z = torch.zeros(1, 2), torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    drift, noise = langevin(x, score, 0.3, z)[0].tolist()
    assert drift == pytest.approx(0.32 * 3.0)
    assert noise == pytest.approx(math.sqrt(0.64) * 4.0)
    assert drift / noise == pytest.approx(0.3)


def test_langevin_steps_settle_at_the_variance_stated() -> None:
    # Fixed point of v = (1 - step / V)^2 v + 2 step with step = 2 snr^2 V^2 / v: v = (1 + snr^2) V.
    generator, variance, count = torch.Generator().manual_seed(0), 0.3, 40_000
    for start in (0.4, 1.0):
        x = start * torch.randn(1, count, generator=generator, dtype=torch.float64)
        for _ in range(40):
            z = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            x = langevin(x, -x / variance, 0.5, z)
        assert float(x.var()) == pytest.approx(1.25 * variance, rel=4.0 * math.sqrt(2.0 / count))


def test_langevin_step_size_is_each_samples_own_and_a_score_of_zero_is_left_alone() -> None:
    x, score, z = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()
    score[1] = 0.0
    y = langevin(x, score, 0.2, z)
    assert torch.equal(y[1], x[1])
    for i in range(4):
        torch.testing.assert_close(langevin(x[i : i + 1], score[i : i + 1], 0.2, z[i : i + 1])[0], y[i])
    assert langevin(torch.zeros(3), torch.ones(3), 0.2, torch.ones(3)).shape == (3,)


def test_a_network_that_says_no_noise_moves_no_sample_by_langevin() -> None:
    scheduler = VPSDEScheduler(solver="predictor_corrector")
    scheduler.set_timesteps(10)
    sample = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = []
    for timestep in scheduler.timesteps:
        before = sample
        sample = scheduler.step(torch.zeros_like(sample), timestep, sample).prev_sample  # type: ignore[union-attr]
        moved.append(not torch.equal(sample, before))
    # predictor and corrector in turns, the denoising last
    assert moved == [True, False] * 9 + [True]


def test_predictor_corrector_sampling_has_the_law_of_its_recursion() -> None:
    # In many dimensions ||z||^2 / D = 1 and ||score||^2 / D = (v + (m - mu)^2) / V^2, of the marginal N(mu, V).
    snr, num_steps, count = 0.3, 60, 40_000
    scheduler = VPSDEScheduler(solver="predictor_corrector", snr=snr, final_denoise=False)
    mean, variance, uncorrected = 0.0, 1.0, 0.0
    for _, t, a, b, c in steps("euler_maruyama", "uniform", num_steps):
        mean, variance, uncorrected = a * mean + b, a**2 * variance + c**2, a * uncorrected + b
        exact_mean, exact_variance = exact_law(scheduler, t)
        step = 2.0 * snr**2 * exact_variance**2 / (variance + (mean - exact_mean) ** 2)
        mean -= step * (mean - exact_mean) / exact_variance
        variance = (1.0 - step / exact_variance) ** 2 * variance + 2.0 * step
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, count, generator=generator, dtype=torch.float64)
    scheduler.set_timesteps(num_steps)
    for timestep in scheduler.timesteps:
        x = scheduler.step(gaussian_output(scheduler, x, timestep), timestep, x, generator).prev_sample
    assert float(x.mean()) == pytest.approx(mean, abs=4.0 * math.sqrt(variance / count))
    assert float(x.var()) == pytest.approx(variance, rel=4.0 * math.sqrt(2.0 / count))
    # The corrector mends more than half of the predictor's error in the mean, and leaves its own 1 + snr^2.
    exact_mean, exact_variance = exact_law(scheduler, 1e-3)
    assert abs(mean - exact_mean) < 0.5 * abs(uncorrected - exact_mean)
    assert variance == pytest.approx((1.0 + snr**2) * exact_variance, rel=0.02)


# ---- Heun's method ----


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_heun_steps_are_those_of_diffusers_on_the_same_grid(prediction_type: str) -> None:
    # With sampling_eps = 1 / n the uniform grid is the "trailing" one of diffusers: t = 1, 1 - 1/n, .., 1/n, then 0.
    scheduler = VPSDEScheduler(prediction_type=prediction_type, solver="heun_ode", sampling_eps=1 / 20)
    other = HeunDiscreteScheduler.from_config(scheduler.config)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for s in (scheduler, other):
        s.set_timesteps(20)
    torch.testing.assert_close(scheduler.timesteps, other.timesteps, rtol=0.0, atol=1e-3)
    # They sample x / alpha, with sigma / alpha for sigma
    scaled = x * math.sqrt(float(other.sigmas[0]) ** 2 + 1.0)
    for i, (ours, theirs) in enumerate(zip(scheduler.timesteps, other.timesteps, strict=True)):
        x = scheduler.step(dummy_output(x, ours), ours, x).prev_sample
        output = dummy_output(other.scale_model_input(scaled, theirs), theirs)
        scaled = other.step(output, theirs, scaled).prev_sample
        if i % 2 == 0:
            # after each whole step: x / alpha = x sqrt(1 + (sigma / alpha)^2)
            sigma = float(other.sigmas[min(i + 1, len(other.sigmas) - 1)])
            expected = scaled / math.sqrt(sigma**2 + 1.0)
            torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(x, scaled, rtol=1e-3, atol=1e-3)


def test_heun_draws_no_noise_and_starts_afresh_after_set_timesteps() -> None:
    scheduler = VPSDEScheduler(solver="heun_ode")
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    expected = draw(scheduler, x, 6, generator)
    assert torch.equal(generator.get_state(), state)
    scheduler.set_timesteps(6)
    scheduler.step(dummy_output(x, scheduler.timesteps[0]), scheduler.timesteps[0], x)
    assert torch.equal(draw(scheduler, x, 6), expected)
    assert torch.equal(draw(copy.deepcopy(scheduler), x, 6), expected)


def test_heun_step_may_not_begin_nor_change_shape_at_its_second_call() -> None:
    scheduler = VPSDEScheduler(solver="heun_ode")
    scheduler.set_timesteps(6)
    message = "begin_index must be that of the first call of a Heun step, got 3: pass 2 or 4."
    with pytest.raises(ValueError, match=re.escape(message)):
        scheduler.set_begin_index(3)
    x = torch.zeros(2, 5)
    scheduler.set_begin_index(2)
    y = scheduler.step(x, scheduler.timesteps[2], x).prev_sample
    with pytest.raises(
        ValueError, match=re.escape("both tensors must have one shape, got (1, 5) and (2, 5).")
    ):
        scheduler.step(y[:1], scheduler.timesteps[3], y[:1])
    # the refused call is no step
    assert scheduler.step(y, scheduler.timesteps[3], y).prev_sample.shape == (2, 5)


def test_sampling_may_begin_within_the_grid_of_every_solver() -> None:
    for solver in SOLVERS:
        scheduler = VPSDEScheduler(solver=solver)
        x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
        outputs = []
        for skip in (False, True):
            scheduler.set_timesteps(6)
            generator, y = torch.Generator().manual_seed(1), x
            if skip:
                scheduler.set_begin_index(4)
            else:
                for timestep in scheduler.timesteps[:4]:
                    scheduler.step(x, timestep, x)
            for timestep in scheduler.timesteps[4:]:
                y = scheduler.step(dummy_output(y, timestep), timestep, y, generator).prev_sample
            outputs.append(y)
        assert torch.equal(*outputs)


# ---- time grids and the final step ----


def test_time_grids_go_from_one_to_the_end_uniformly_in_t_or_in_its_root() -> None:
    for last in (1e-3, 0.04):
        uniform, quadratic = (time_grid(kind, last, 11) for kind in TIME_GRIDS)
        for grid in (uniform, quadratic):
            assert (float(grid[0]), float(grid[-1]), len(grid)) == (1.0, last, 11)
            assert bool((grid.diff() < 0).all())
        torch.testing.assert_close(uniform.diff(), torch.full((10,), (last - 1.0) / 10, dtype=torch.float64))
        root = quadratic.sqrt().diff()
        torch.testing.assert_close(root, torch.full((10,), (math.sqrt(last) - 1.0) / 10, dtype=torch.float64))
    for kind in TIME_GRIDS:
        assert time_grid(kind, 0.04, 1).tolist() == [1.0]
    # by hand: sqrt(t) = 1, 0.6, 0.2
    assert time_grid("quadratic", 0.04, 3).tolist() == pytest.approx([1.0, 0.36, 0.04])


@pytest.mark.parametrize("solver", SOLVERS)
def test_timesteps_hold_one_entry_for_each_call_of_the_network(solver: str) -> None:
    for final_denoise in (True, False):
        scheduler = VPSDEScheduler(
            solver=solver, sampling_eps=0.2, final_denoise=final_denoise, time_grid="quadratic"
        )
        scheduler.set_timesteps(4, device="cpu")
        times = time_grid("quadratic", 0.2, 4 if final_denoise else 5).tolist()
        if solver == "euler_maruyama":
            expected = times if final_denoise else times[:-1]
        else:
            expected = [times[0], *(t for t in times[1:] for _ in range(2))]
            expected = expected if final_denoise else expected[:-1]
        actual = scheduler.t_from_timestep(scheduler.timesteps).tolist()
        assert actual == pytest.approx(expected, abs=1e-6)
        assert len(actual) == {
            ("euler_maruyama", True): 4,
            ("euler_maruyama", False): 4,
        }.get((solver, final_denoise), 7 if final_denoise else 8)
        assert scheduler.num_inference_steps == 4
        assert scheduler.order == (1 if solver == "euler_maruyama" else 2)
        assert scheduler.timesteps.dtype == torch.float32


@pytest.mark.parametrize("solver", SOLVERS)
def test_final_denoising_is_the_posterior_mean_of_the_draw_at_sampling_eps(solver: str) -> None:
    with_it, without = (
        VPSDEScheduler(solver=solver, sampling_eps=0.05, final_denoise=f) for f in (True, False)
    )
    start = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    draws = []
    for scheduler, num_steps in ((with_it, 5), (without, 4)):
        scheduler.set_timesteps(num_steps)
        x, generator = start.double(), torch.Generator().manual_seed(1)
        for timestep in scheduler.timesteps:
            x = scheduler.step(gaussian_output(scheduler, x, timestep), timestep, x, generator).prev_sample
        draws.append(x)
    alpha, sigma = with_it.alpha_sigma(torch.tensor(0.05, dtype=torch.float64))
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    torch.testing.assert_close(draws[0], MEAN + gain * (draws[1] - alpha * MEAN), rtol=1e-5, atol=1e-5)
    assert float((draws[0] - draws[1]).abs().max()) > 0.01


# ---- every solver, as diffusers uses it ----


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_generator_a_sample_makes_it_independent_of_the_batch(solver: str) -> None:
    scheduler = VPSDEScheduler(solver=solver)
    start = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(indices: list[int]) -> Tensor:
        return draw(scheduler, start[indices], 10, [torch.Generator().manual_seed(9 + i) for i in indices])

    batch = run([0, 1, 2, 3])
    for i in range(4):
        assert torch.equal(run([i])[0], batch[i])
    assert torch.equal(run([2, 0]), batch[[2, 0]])
    assert float((batch[0] - batch[1]).abs().max()) > 0.1


@pytest.mark.parametrize("solver", SOLVERS)
def test_step_reads_no_value_from_the_device(solver: str) -> None:
    scheduler = VPSDEScheduler(solver=solver, clip_sample=True)
    scheduler.set_timesteps(3, device="meta")
    x = torch.zeros(2, 1, 4, 4, device="meta")
    for timestep in scheduler.timesteps:  # on the meta device, reading a value raises
        x = scheduler.step(x, timestep, x).prev_sample
    assert x.shape == (2, 1, 4, 4)


@pytest.mark.parametrize("solver", SOLVERS)
def test_half_precision_stays_outside(solver: str) -> None:
    scheduler = VPSDEScheduler(solver=solver, prediction_type="sample")
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    half = draw(scheduler, x, 8, torch.Generator().manual_seed(1))
    single = draw(scheduler, x.float(), 8, torch.Generator().manual_seed(1))
    assert half.dtype == torch.bfloat16
    # 8 bits of mantissa at each of 15 calls
    assert float((half.float() - single).abs().max()) < 0.1


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_limits_the_prediction_of_the_data(solver: str) -> None:
    scheduler = VPSDEScheduler(
        solver=solver, prediction_type="sample", clip_sample=True, clip_sample_range=0.5
    )
    plain = VPSDEScheduler(solver=solver, prediction_type="sample")
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    ends = []
    for s, limit in ((scheduler, math.inf), (plain, 0.5)):
        s.set_timesteps(5)
        y, generator = x, torch.Generator().manual_seed(1)
        for timestep in s.timesteps:
            y = s.step((3.0 * y).clamp(-limit, limit), timestep, y, generator).prev_sample
        ends.append(y)
    torch.testing.assert_close(*ends)
    assert float(ends[0].abs().max()) <= 0.5


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_pipeline_of_diffusers_runs_every_solver(solver: str) -> None:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(4,),
        layers_per_block=1,
        add_attention=False,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=2,
    )
    scheduler = VPSDEScheduler(solver=solver)
    pipeline = DDPMPipeline(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=2, generator=torch.Generator().manual_seed(0), num_inference_steps=3, output_type="np"
    ).images
    assert images.shape == (2, 8, 8, 1)
    assert (
        pipeline.scheduler.step_index
        == len(pipeline.scheduler.timesteps)
        == (3 if scheduler.order == 1 else 5)
    )


# ---- configs ----

# Written by the release before there were solvers, with the draws that it made from seed 3 (see below).
OLD_CONFIG = {
    "_class_name": "VPSDEScheduler",
    "_diffusers_version": "0.42.1",
    "beta_end": 5.0,
    "beta_max": 20.0,
    "beta_min": 0.1,
    "beta_schedule": "linear",
    "beta_start": 0.025,
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995,
    "num_train_timesteps": 4,
    "prediction_type": "sample",
    "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0,
    "sampling_eps": 0.001,
    "steps_offset": 0,
    "thresholding": False,
    "timestep_spacing": "trailing",
    "trained_betas": [0.4763202784776236, 0.8490225815440853, 0.9564730503267379, 0.9874511343005119],
}
OLD_DRAWS = {
    ("epsilon", False): (
        "0x1.099d37c67b331p-3 0x1.30504f1edf1b0p-1 -0x1.62bf743bc99f0p+4 "
        "0x1.5547c18e73d6bp-5 -0x1.40f53ab58a51fp-4 0x1.336b42b27f299p+2"
    ),
    ("epsilon", True): (
        "0x1.a4802549d91adp-3 0x1.269b95e21826fp-1 -0x1.0000000000000p+0 "
        "0x1.0b74e22ad2409p-5 -0x1.39131ad2a1e41p-1 0x1.ff7fe232c7ae4p-4"
    ),
    ("v_prediction", False): (
        "0x1.655f8612681d4p-3 0x1.8503370b71668p-1 -0x1.cfeec092e2cd1p+0 "
        "0x1.b7bdb337e269dp-4 -0x1.55607675357e3p-1 0x1.856b5c78d907cp-6"
    ),
    ("sample", True): (
        "0x1.43c6f44210339p-1 0x1.84f25d5f10215p-1 -0x1.d76b3afe37525p-1 "
        "0x1.2faa40feb9f34p-1 0x1.3d074bdd2add0p-7 0x1.764f6a5e1aa65p-2"
    ),
}


@pytest.mark.parametrize(("prediction_type", "clip_sample"), OLD_DRAWS)
def test_a_config_saved_before_there_were_solvers_draws_what_it_drew(
    prediction_type: str, clip_sample: bool, tmp_path: Path
) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps(OLD_CONFIG))
    loaded = VPSDEScheduler.from_pretrained(tmp_path)
    assert (loaded.config.solver, loaded.config.snr) == ("euler_maruyama", 0.16)
    assert (loaded.config.time_grid, loaded.config.final_denoise) == ("uniform", True)
    scheduler = VPSDEScheduler.from_config(
        loaded.config,
        num_train_timesteps=1000,
        trained_betas=None,
        beta_start=None,
        beta_end=None,
        prediction_type=prediction_type,
        clip_sample=clip_sample,
    )
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    scheduler.set_timesteps(7)
    for timestep in scheduler.timesteps:
        x = scheduler.step(torch.tanh(x + 0.1), timestep, x, generator).prev_sample
    expected = [float.fromhex(number) for number in OLD_DRAWS[prediction_type, clip_sample].split()]
    assert x.flatten().tolist() == pytest.approx(expected, rel=1e-9)


def test_solver_keys_survive_saving_and_the_way_through_another_scheduler(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = {"solver": "predictor_corrector", "snr": 0.1, "time_grid": "quadratic", "final_denoise": False}
    scheduler = VPSDEScheduler(**keys)
    scheduler.save_pretrained(tmp_path / "ours")
    logger = logging.getLogger("diffusers.configuration_utils")
    logger.addHandler(caplog.handler)
    try:
        for cls in (DPMSolverMultistepScheduler, DDPMScheduler, HeunDiscreteScheduler):
            cls.from_config(scheduler.config).save_pretrained(tmp_path / cls.__name__)
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records
    for folder in ("ours", "DPMSolverMultistepScheduler", "DDPMScheduler", "HeunDiscreteScheduler"):
        back = VPSDEScheduler.from_pretrained(tmp_path / folder)
        for key in inspect.signature(VPSDEScheduler.__init__).parameters:
            if key != "self":
                assert back.config[key] == scheduler.config[key], key


def test_solvers_swap_by_their_config_key() -> None:
    scheduler = VPSDEScheduler(sampling_eps=0.02)
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    for solver in SOLVERS:
        swapped = VPSDEScheduler.from_config(scheduler.config, solver=solver)
        made = VPSDEScheduler(sampling_eps=0.02, solver=solver)
        ends = [draw(s, x, 5, torch.Generator().manual_seed(1)) for s in (swapped, made)]
        assert torch.equal(*ends)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"solver": "euler"},
            "solver must be 'euler_maruyama' or 'predictor_corrector' or 'heun_ode', got 'euler'.",
        ),
        ({"snr": 0.0}, "snr must be above 0 and finite, got 0.0."),
        ({"snr": math.nan}, "snr must be above 0 and finite, got nan."),
        ({"snr": math.inf}, "snr must be above 0 and finite, got inf."),
        ({"time_grid": "cosine"}, "time_grid must be 'uniform' or 'quadratic', got 'cosine'."),
        ({"final_denoise": "no"}, "final_denoise must be True or False, got 'no'."),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        VPSDEScheduler(**arguments)
    assert str(error.value) == message
