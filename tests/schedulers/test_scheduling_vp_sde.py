"""VPSDEScheduler: closed form of the SDE, Euler-Maruyama sampler, swap with the schedulers of diffusers.

The oracle of the sampling tests is Gaussian data N(m, s^2), of which all is known: x_t is Gaussian with mean
alpha m and variance v = alpha^2 s^2 + sigma^2, the exact noise prediction is sigma (x_t - alpha m) / v, and
each step of a sampler is linear in the sample and in the noise.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.training_utils import compute_snr
from scipy.integrate import quad
from torch import Tensor

from idiff_hf.schedulers import VPSDEScheduler, VPSDESchedulerOutput

# diffusers' own, of NumPy 2 and PyTorch tensors, thousands a run.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def gaussian_output(
    scheduler: VPSDEScheduler, x: Tensor, timestep: Tensor, mean: float, std: float
) -> Tensor:
    """The exact network output for data N(mean, std^2), in float64."""
    alpha, sigma = scheduler.alpha_sigma(scheduler.t_from_timestep(timestep.double()))
    centred = (x.double() - alpha * mean) / (alpha**2 * std**2 + sigma**2)
    eps = sigma * centred
    x_0 = mean + alpha * std**2 * centred
    return {"epsilon": eps, "v_prediction": alpha * eps - sigma * x_0, "sample": x_0}[
        scheduler.config.prediction_type
    ]


def sample_gaussian(
    scheduler: Any, source: VPSDEScheduler, num_steps: int, mean: float, std: float, shape: tuple[int, ...]
) -> Tensor:
    """Draws from data N(mean, std^2) by `scheduler`, with the network of `source`, seed 0.

    The first sample has mean 0 and standard deviation 1 exactly, so that an ODE solver shows its bias alone.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    scheduler.set_timesteps(num_steps)
    x = (x - x.mean()) / x.std() * scheduler.init_noise_sigma
    takes_noise = "generator" in inspect.signature(scheduler.step).parameters
    noise = {"generator": generator} if takes_noise else {}
    for timestep in scheduler.timesteps:
        output = gaussian_output(source, scheduler.scale_model_input(x, timestep), timestep, mean, std)
        x = scheduler.step(output.float(), timestep, x, **noise).prev_sample
    return x


# ---- the SDE on paper ----


def test_marginal_at_the_ends_and_in_the_middle_is_that_on_paper() -> None:
    # int_0^t beta = beta_min t + (beta_max - beta_min) t^2 / 2: 0, 0.05 + 19.9 / 8 = 2.5375 and 10.05
    alpha, sigma = VPSDEScheduler().alpha_sigma(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    expected = torch.tensor([1.0, math.exp(-1.26875), math.exp(-5.025)], dtype=torch.float64)
    torch.testing.assert_close(alpha, expected, rtol=1e-14, atol=0.0)
    torch.testing.assert_close(sigma, (1.0 - expected**2).sqrt(), rtol=1e-14, atol=0.0)


def test_marginal_is_the_integral_of_beta() -> None:
    scheduler = VPSDEScheduler(beta_min=0.3, beta_max=7.0)
    for t in (1e-3, 0.2, 0.77, 1.0):
        integral = quad(lambda s: 0.3 + s * 6.7, 0.0, t)[0]
        alpha, _ = scheduler.alpha_sigma(torch.tensor(t, dtype=torch.float64))
        assert float(alpha) == pytest.approx(math.exp(-0.5 * integral), rel=1e-12)


def test_variance_is_preserved_and_shape_and_dtype_kept() -> None:
    t = torch.linspace(1e-3, 1.0, 512)
    alpha, sigma = VPSDEScheduler().alpha_sigma(t)
    assert alpha.shape == sigma.shape == t.shape
    assert alpha.dtype == sigma.dtype == torch.float32
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(512), rtol=0.0, atol=1e-6)
    assert VPSDEScheduler().alpha_sigma(t.half())[1].dtype == torch.float32


def test_sigma_is_precise_at_small_times() -> None:
    # sigma^2 = 1 - exp(-beta_min t + O(t^2)) = beta_min t; 1 - alpha^2 in float32 would be 0 or 6e-8 here.
    _, sigma = VPSDEScheduler(beta_max=0.2).alpha_sigma(torch.tensor([1e-7]))
    torch.testing.assert_close(sigma, torch.tensor([1e-8]).sqrt(), rtol=1e-6, atol=0.0)


def test_grid_points_have_the_marginal_of_the_sde() -> None:
    for scheduler in (VPSDEScheduler(), VPSDEScheduler(num_train_timesteps=10, beta_min=0.5, beta_max=4.0)):
        n = len(scheduler)
        alpha, _ = scheduler.alpha_sigma(scheduler.t_from_timestep(torch.arange(n)))
        torch.testing.assert_close(scheduler.alphas_cumprod, alpha**2, rtol=0.0, atol=1e-6)
        torch.testing.assert_close(
            torch.cumprod(1.0 - scheduler.betas, 0), scheduler.alphas_cumprod, rtol=0.0, atol=1e-6
        )
        torch.testing.assert_close(scheduler.alphas, 1.0 - scheduler.betas, rtol=0.0, atol=1e-7)
        for name in ("betas", "alphas", "alphas_cumprod"):
            assert getattr(scheduler, name).shape == (n,)
            assert getattr(scheduler, name).dtype == torch.float32


def test_betas_are_the_linear_schedule_of_ddpm_to_first_order() -> None:
    linear = torch.linspace(1e-4, 0.02, 1000)
    torch.testing.assert_close(VPSDEScheduler().betas, linear, rtol=0.1, atol=2e-5)


def test_grid_points_are_the_integer_timesteps() -> None:
    scheduler = VPSDEScheduler()
    t = scheduler.t_from_timestep(torch.tensor([0, 499, 999]))
    torch.testing.assert_close(t, torch.tensor([0.001, 0.5, 1.0]))
    torch.testing.assert_close(
        scheduler.timestep_from_t(t), torch.tensor([0.0, 499.0, 999.0]), rtol=0.0, atol=1e-4
    )
    times = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(scheduler.t_from_timestep(scheduler.timestep_from_t(times)), times)


# ---- forward process and conversions ----


def test_noised_data_have_the_mean_and_std_of_the_marginal() -> None:
    scheduler, n = VPSDEScheduler(), 200_000
    noise = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for timestep in (0, 250.5, 999):
        tau = torch.tensor(timestep)
        alpha, sigma = (float(c) for c in scheduler.alpha_sigma(scheduler.t_from_timestep(tau.double())))
        x_t = scheduler.add_noise(torch.full_like(noise, 0.8), noise, tau)
        assert abs(float(x_t.mean()) - 0.8 * alpha) < 4.0 * sigma / math.sqrt(n)
        assert abs(float(x_t.std()) - sigma) < 4.0 * sigma / math.sqrt(2 * n)


def test_timesteps_may_be_integers_floats_one_or_one_a_sample() -> None:
    scheduler = VPSDEScheduler()
    x_0, noise = torch.randn(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    many = scheduler.add_noise(x_0, noise, torch.tensor([7, 500, 999]))
    torch.testing.assert_close(scheduler.add_noise(x_0, noise, torch.tensor([7.0, 500.0, 999.0])), many)
    for i, timestep in enumerate((7, 500, 999)):
        alpha_squared = scheduler.alphas_cumprod[timestep]
        expected = alpha_squared.sqrt() * x_0[i] + (1.0 - alpha_squared).sqrt() * noise[i]
        torch.testing.assert_close(many[i], expected, rtol=1e-4, atol=1e-6)
        for one in (torch.tensor(timestep), torch.tensor([timestep])):
            torch.testing.assert_close(scheduler.add_noise(x_0, noise, one)[i], many[i])


def test_noising_agrees_with_ddpm_on_the_grid() -> None:
    scheduler = VPSDEScheduler()
    other = DDPMScheduler.from_config(scheduler.config)
    x_0, noise = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0)).unbind()
    timesteps = torch.arange(0, 1000, 20)
    for method in ("add_noise", "get_velocity"):
        ours, theirs = (getattr(s, method)(x_0, noise, timesteps) for s in (scheduler, other))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_conversions_between_noise_velocity_data_and_score_are_identities(prediction_type: str) -> None:
    scheduler = VPSDEScheduler(prediction_type=prediction_type)
    x_0, noise = torch.randn(
        2, 6, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).unbind()
    tau = torch.tensor([0.0, 1.5, 200.0, 500.25, 900.0, 999.0], dtype=torch.float64)
    alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in scheduler.alpha_sigma(scheduler.t_from_timestep(tau)))
    x_t = scheduler.add_noise(x_0, noise, tau)
    target = scheduler.target(x_0, noise, tau)
    by_hand = {"epsilon": noise, "v_prediction": alpha * noise - sigma * x_0, "sample": x_0}[prediction_type]
    torch.testing.assert_close(target, by_hand)
    torch.testing.assert_close(scheduler.predict_original(target, x_t, tau), x_0)
    torch.testing.assert_close(scheduler.score(target, x_t, tau), -noise / sigma)
    torch.testing.assert_close(scheduler.score(target, x_t, tau), (alpha * x_0 - x_t) / sigma**2)


def test_half_precision_is_kept_outside_and_not_used_inside() -> None:
    scheduler = VPSDEScheduler()
    x_0, noise = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0)).half().unbind()
    tau = torch.tensor([0, 1, 500, 999])
    x_t = scheduler.add_noise(x_0, noise, tau)
    assert x_t.dtype == torch.float16
    assert torch.equal(x_t, scheduler.add_noise(x_0.float(), noise.float(), tau).half())
    for method in (scheduler.predict_original, scheduler.score):
        assert torch.equal(method(noise, x_t, tau), method(noise.float(), x_t.float(), tau).half())


def test_snr_of_diffusers_is_that_of_the_sde() -> None:
    scheduler = VPSDEScheduler()
    timesteps = torch.tensor([0, 10, 500, 999])
    alpha, sigma = scheduler.alpha_sigma(scheduler.t_from_timestep(timesteps))
    torch.testing.assert_close(compute_snr(scheduler, timesteps), (alpha / sigma) ** 2, rtol=1e-3, atol=0.0)


# ---- Euler-Maruyama ----

MEAN, STD = 0.7, 0.5


def linear_steps(scheduler: VPSDEScheduler, num_steps: int) -> np.ndarray:
    """The steps x' = a x + b + c z that `step` takes on the way to `sampling_eps`, `(num_steps, 3)`."""
    scheduler.set_timesteps(num_steps + 1)
    x = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    seeds = (0, 0, 1)
    z = [float(torch.randn(1, 1, generator=torch.Generator().manual_seed(s), dtype=x.dtype)) for s in seeds]
    steps = []
    for timestep in scheduler.timesteps[:-1]:
        output = gaussian_output(scheduler, x, timestep, MEAN, STD)
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        x_next, _ = scheduler.step(output, timestep, x, generators, return_dict=False)
        at_0, at_1, other = x_next.flatten().tolist()
        c = (other - at_0) / (z[2] - z[0])
        steps.append((at_1 - at_0, at_0 - c * z[0], c))
    return np.array(steps)


def exact_law(scheduler: VPSDEScheduler, t: float) -> tuple[float, float]:
    """Mean and variance of x_t."""
    alpha, sigma = (float(c) for c in scheduler.alpha_sigma(torch.tensor(t, dtype=torch.float64)))
    return alpha * MEAN, alpha**2 * STD**2 + sigma**2


def law_after(scheduler: VPSDEScheduler, num_steps: int) -> tuple[float, float]:
    """Mean and variance at `sampling_eps` when sampling starts from the exact law at t = 1."""
    mean, variance = exact_law(scheduler, 1.0)
    for a, b, c in linear_steps(scheduler, num_steps):
        mean, variance = a * mean + b, a**2 * variance + c**2
    return mean, variance


def slope(errors: list[float]) -> float:
    """Order of convergence, from errors at step counts that double."""
    return -float(np.polyfit(np.arange(len(errors)) * math.log(2.0), np.log(errors), 1)[0])


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_step_is_euler_maruyama_on_the_reverse_sde(prediction_type: str) -> None:
    scheduler = VPSDEScheduler(prediction_type=prediction_type, num_train_timesteps=100)
    steps = linear_steps(scheduler, 10)
    dt = (1.0 - 1e-3) / 10
    for i, (a, b, c) in enumerate(steps):
        t = 1.0 - i * dt
        beta = 0.1 + 19.9 * t
        mean, variance = exact_law(scheduler, t)
        # dx = (1/2 beta x + beta score) dt + sqrt(beta) dw, with score = -(x - mean) / variance
        assert a == pytest.approx(1.0 + (0.5 - 1.0 / variance) * beta * dt, abs=1e-5)
        assert b == pytest.approx(mean / variance * beta * dt, abs=1e-5)
        assert c == pytest.approx(math.sqrt(beta * dt), rel=1e-9)


def test_weak_order_is_one() -> None:
    scheduler = VPSDEScheduler()
    mean, variance = exact_law(scheduler, 1e-3)
    laws = [law_after(scheduler, n) for n in (64, 128, 256)]
    assert slope([abs(law[0] - mean) for law in laws]) == pytest.approx(1.0, abs=0.1)
    assert slope([abs(law[1] - variance) for law in laws]) == pytest.approx(1.0, abs=0.1)


def test_strong_order_is_one_as_the_noise_is_additive() -> None:
    scheduler, paths, finest = VPSDEScheduler(), 500, 1024
    rng = np.random.default_rng(0)
    start_mean, start_variance = exact_law(scheduler, 1.0)
    start = start_mean + math.sqrt(start_variance) * rng.standard_normal(paths)
    increments = rng.standard_normal((finest, paths))

    def end(num_steps: int) -> np.ndarray:
        x = start
        # The sum of the fine increments of a coarse step, scaled to unit variance: the same Brownian path.
        z = increments.reshape(num_steps, -1, paths).sum(axis=1) / math.sqrt(finest / num_steps)
        for (a, b, c), noise in zip(linear_steps(scheduler, num_steps), z, strict=True):
            x = a * x + b + c * noise
        return x

    reference = end(finest)
    errors = [float(np.sqrt(np.mean((end(n) - reference) ** 2))) for n in (16, 32, 64)]
    assert slope(errors) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_samples_have_the_mean_and_std_of_gaussian_data(prediction_type: str) -> None:
    scheduler, num_steps = VPSDEScheduler(prediction_type=prediction_type), 400
    shape = (1, 1, 200, 200)
    x = sample_gaussian(scheduler, scheduler, num_steps, MEAN, STD, shape)
    standard_error = STD / math.sqrt(math.prod(shape))
    # The bias of the time steps, by the recursion; the last step maps the law at eps by E[x_0 | x_eps].
    mean, variance = law_after(scheduler, num_steps - 1)
    alpha, _ = scheduler.alpha_sigma(torch.tensor(1e-3, dtype=torch.float64))
    eps_mean, eps_variance = exact_law(scheduler, 1e-3)
    gain = float(alpha) * STD**2 / eps_variance
    mean, std = MEAN + gain * (mean - eps_mean), gain * math.sqrt(variance)
    assert abs(float(x.mean()) - mean) < 4.0 * standard_error
    assert abs(float(x.std()) - std) < 4.0 * standard_error / math.sqrt(2.0)
    assert abs(mean - MEAN) < 0.005
    assert abs(std - STD) < 0.005


def test_sampling_grid_is_uniform_from_one_to_eps() -> None:
    scheduler = VPSDEScheduler(sampling_eps=0.01)
    assert torch.equal(scheduler.timesteps, torch.arange(999.0, -1.0, -1.0))
    assert scheduler.num_inference_steps is None
    scheduler.set_timesteps(100)
    assert scheduler.num_inference_steps == len(scheduler.timesteps) == 100
    assert scheduler.timesteps.dtype == torch.float32
    torch.testing.assert_close(scheduler.t_from_timestep(scheduler.timesteps), torch.linspace(1.0, 0.01, 100))
    assert float(scheduler.timesteps[0]) == len(scheduler) - 1
    assert scheduler.init_noise_sigma == 1.0
    assert scheduler.order == 1


def test_last_step_returns_the_posterior_mean_without_noise() -> None:
    scheduler = VPSDEScheduler()
    x = torch.tensor([[0.3], [-1.2]], dtype=torch.float64)
    for num_steps in (1, 2):
        scheduler.set_timesteps(num_steps)
        scheduler.set_begin_index(num_steps - 1)
        timestep = scheduler.timesteps[-1]
        output = gaussian_output(scheduler, x, timestep, MEAN, STD)
        generator = torch.Generator().manual_seed(0)
        state = generator.get_state()
        step = scheduler.step(output, timestep, x, generator)
        alpha, sigma = scheduler.alpha_sigma(scheduler.t_from_timestep(timestep.double()))
        posterior_mean = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)
        torch.testing.assert_close(step.prev_sample, posterior_mean, rtol=1e-6, atol=1e-6)
        assert torch.equal(step.prev_sample, step.pred_original_sample)
        assert torch.equal(generator.get_state(), state)


def test_step_returns_the_prediction_of_the_data_in_a_dataclass_or_a_tuple() -> None:
    scheduler = VPSDEScheduler()
    output, x = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    results = []
    for return_dict in (True, False):
        scheduler.set_timesteps(10)
        generator = torch.Generator().manual_seed(1)
        results.append(scheduler.step(output, scheduler.timesteps[0], x, generator, return_dict=return_dict))
        assert scheduler.step_index == 1
    assert isinstance(results[0], VPSDESchedulerOutput)
    assert isinstance(results[1], tuple)
    assert torch.equal(results[0].prev_sample, results[1][0])
    assert torch.equal(results[0].pred_original_sample, results[1][1])
    torch.testing.assert_close(
        results[1][1], scheduler.predict_original(output, x, scheduler.timesteps[0]), rtol=1e-4, atol=1e-4
    )


def test_a_generator_a_sample_makes_it_independent_of_the_batch() -> None:
    scheduler = VPSDEScheduler()
    start = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(indices: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(100 + i) for i in indices]
        x = start[indices]
        scheduler.set_timesteps(20)
        for timestep in scheduler.timesteps:
            output = gaussian_output(scheduler, x, timestep, MEAN, STD).float()
            x = scheduler.step(output, timestep, x, generators).prev_sample
        return x

    batch = run([0, 1, 2, 3])
    for i in range(4):
        assert torch.equal(run([i])[0], batch[i])
    assert torch.equal(run([2, 0]), batch[[2, 0]])


def test_half_precision_sampling_draws_the_noise_of_single_precision() -> None:
    scheduler = VPSDEScheduler()
    output, x = torch.randn(2, 2, 64, generator=torch.Generator().manual_seed(0)).bfloat16().unbind()
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        scheduler.set_timesteps(50)
        generator = torch.Generator().manual_seed(1)
        step = scheduler.step(output.to(dtype), scheduler.timesteps[0], x.to(dtype), generator)
        assert step.prev_sample.dtype == step.pred_original_sample.dtype == dtype
        results.append(step.prev_sample)
    assert torch.equal(results[0], results[1].bfloat16())


def test_step_reads_no_value_from_the_device() -> None:
    scheduler = VPSDEScheduler(clip_sample=True)
    scheduler.set_timesteps(3, device="meta")
    x = torch.zeros(2, 1, 4, 4, device="meta")
    for timestep in scheduler.timesteps:  # on the meta device, reading a value raises
        x = scheduler.step(x, timestep, x).prev_sample
    assert x.shape == (2, 1, 4, 4)


def test_sampling_may_begin_within_the_grid() -> None:
    scheduler = VPSDEScheduler()
    output, x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).unbind()
    scheduler.set_timesteps(10)
    for timestep in scheduler.timesteps[:4]:
        scheduler.step(output, timestep, x)
    expected = scheduler.step(output, scheduler.timesteps[4], x, torch.Generator().manual_seed(1)).prev_sample
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(4)
    timestep = float(scheduler.timesteps[4])
    actual = scheduler.step(output, timestep, x, torch.Generator().manual_seed(1)).prev_sample
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_clipping_limits_the_prediction_of_the_data_and_moves_the_step_with_it(prediction_type: str) -> None:
    scheduler = VPSDEScheduler(prediction_type=prediction_type, clip_sample=True, clip_sample_range=0.6)
    plain = VPSDEScheduler(prediction_type="sample")
    x = torch.tensor([[-3.0], [0.1], [2.0]], dtype=torch.float64)
    for s in (scheduler, plain):
        s.set_timesteps(20)
        s.set_begin_index(10)
    timestep = scheduler.timesteps[10]
    output = gaussian_output(scheduler, x, timestep, MEAN, STD)
    x_0 = scheduler.predict_original(output, x, timestep)
    assert float(x_0.abs().max()) > 0.6
    clipped = scheduler.step(output, timestep, x, torch.Generator().manual_seed(0))
    expected = plain.step(x_0.clamp(-0.6, 0.6), timestep, x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(clipped.pred_original_sample, x_0.clamp(-0.6, 0.6), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(clipped.prev_sample, expected.prev_sample, rtol=1e-5, atol=1e-6)


def test_dynamic_thresholding_is_that_of_ddpm() -> None:
    scheduler = VPSDEScheduler(
        prediction_type="sample", thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=2.0
    )
    ddpm = DDPMScheduler.from_config(scheduler.config)
    scale = torch.tensor([0.2, 1.0, 5.0]).reshape(3, 1, 1, 1)
    output = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * scale
    scheduler.set_timesteps(5)
    ours = scheduler.step(output, scheduler.timesteps[0], output).pred_original_sample
    theirs = ddpm.step(output, 999, output).pred_original_sample
    torch.testing.assert_close(ours, theirs)
    assert float(ours.abs().max()) <= 1.0


# ---- saving, loading, and the swap with other schedulers ----


def test_config_is_json_and_survives_saving_and_loading(tmp_path: Path) -> None:
    scheduler = VPSDEScheduler(
        num_train_timesteps=200, beta_max=18.0, prediction_type="sample", clip_sample=True
    )
    scheduler.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "VPSDEScheduler"
    assert saved["beta_start"] == pytest.approx(0.1 / 200)
    assert saved["beta_end"] == pytest.approx(18.0 / 200)
    assert len(saved["trained_betas"]) == 200
    loaded = VPSDEScheduler.from_pretrained(tmp_path)
    for key in inspect.signature(VPSDEScheduler.__init__).parameters:
        if key != "self":
            assert loaded.config[key] == scheduler.config[key] == saved[key], key
    assert torch.equal(loaded.alphas_cumprod, scheduler.alphas_cumprod)


def test_no_config_value_is_listed_as_a_default(tmp_path: Path) -> None:
    VPSDEScheduler().save_pretrained(tmp_path)
    for scheduler in (VPSDEScheduler(), VPSDEScheduler.from_pretrained(tmp_path)):
        assert scheduler.config["_use_default_values"] == []


# Standard deviations that schedulers of diffusers gave for data N(0, 0.5^2) in 50 steps of the discrete
# schedule 1e-4 .. 0.02, on 128 x 128 draws: the reference, with a standard error of
# 0.5 / sqrt(2 * 128^2) = 0.003.
REFERENCE_STD = {
    "UniPCMultistepScheduler": 0.500,
    "DPMSolverMultistepScheduler": 0.502,
    "PNDMScheduler": 0.502,
    "LMSDiscreteScheduler": 0.502,
    "SASolverScheduler": 0.503,
    "HeunDiscreteScheduler": 0.503,
    "KDPM2DiscreteScheduler": 0.506,
    "KDPM2AncestralDiscreteScheduler": 0.511,
    "DDIMScheduler": 0.474,
    "DDIMParallelScheduler": 0.474,
    "EulerDiscreteScheduler": 0.474,
    "DDPMScheduler": 0.442,
    "EulerAncestralDiscreteScheduler": 0.442,
    "DPMSolverSinglestepScheduler": 0.489,
    "DEISMultistepScheduler": 0.508,
}
STANDARD_ERROR = 0.003
WITH_SAMPLE_PREDICTION = [
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "SASolverScheduler",
    "HeunDiscreteScheduler",
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
]
SWAPS = [
    *((name, "epsilon") for name in REFERENCE_STD),
    *((name, "sample") for name in WITH_SAMPLE_PREDICTION),
    *((name, "v_prediction") for name in WITH_SAMPLE_PREDICTION),
]


@pytest.mark.parametrize(("name", "prediction_type"), SWAPS)
def test_swapped_scheduler_samples_the_same_model(name: str, prediction_type: str, tmp_path: Path) -> None:
    scheduler = VPSDEScheduler(prediction_type=prediction_type)
    scheduler.save_pretrained(tmp_path)
    cls = getattr(diffusers, name)
    swapped, loaded = cls.from_config(scheduler.config), cls.from_pretrained(tmp_path)
    for other in (swapped, loaded):
        torch.testing.assert_close(other.alphas_cumprod, scheduler.alphas_cumprod, rtol=0.0, atol=1e-6)
        assert other.config.prediction_type == prediction_type
    samples = [sample_gaussian(s, scheduler, 50, 0.0, 0.5, (1, 1, 128, 128)) for s in (swapped, loaded)]
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(swapped.timesteps, loaded.timesteps)
    assert int(swapped.timesteps[0]) == 999
    reference_error = abs(REFERENCE_STD[name] - 0.5)
    assert abs(float(samples[0].std()) - 0.5) < reference_error + STANDARD_ERROR


@pytest.mark.parametrize("name", ["DDIMScheduler", "HeunDiscreteScheduler", "DDPMScheduler"])
def test_clipping_is_the_same_after_a_swap(name: str, tmp_path: Path) -> None:
    for clip_sample in (False, True):
        scheduler = VPSDEScheduler(clip_sample=clip_sample, clip_sample_range=2.0)
        scheduler.save_pretrained(tmp_path)
        cls = getattr(diffusers, name)
        for swapped in (cls.from_config(scheduler.config), cls.from_pretrained(tmp_path)):
            assert swapped.config.clip_sample is clip_sample
            assert swapped.config.clip_sample_range == 2.0


@pytest.mark.parametrize("name", REFERENCE_STD)
def test_swapping_back_restores_the_scheduler(name: str, tmp_path: Path) -> None:
    scheduler = VPSDEScheduler(beta_min=0.2, beta_max=15.0, sampling_eps=0.01, clip_sample_range=3.0)
    swapped = getattr(diffusers, name).from_config(scheduler.config)
    swapped.save_pretrained(tmp_path)
    for back in (VPSDEScheduler.from_config(swapped.config), VPSDEScheduler.from_pretrained(tmp_path)):
        for key in inspect.signature(VPSDEScheduler.__init__).parameters:
            if key != "self":
                assert back.config[key] == scheduler.config[key], key


def test_compatible_schedulers_are_those_of_diffusers() -> None:
    compatibles = VPSDEScheduler().compatibles
    assert DPMSolverMultistepScheduler in compatibles
    assert all(cls.__module__.startswith("diffusers.") for cls in compatibles)


def test_a_ddpm_config_with_the_same_betas_to_first_order_is_taken() -> None:
    config = DDPMScheduler(beta_start=1e-4, beta_end=0.02, num_train_timesteps=1000).config
    scheduler = VPSDEScheduler.from_config(config)
    assert (scheduler.config.beta_min, scheduler.config.beta_max) == (0.1, 20.0)


# ---- refusals ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train_timesteps": 0}, "num_train_timesteps must be an integer of 1 or more, got 0."),
        ({"num_train_timesteps": 10.0}, "num_train_timesteps must be an integer of 1 or more, got 10.0."),
        ({"beta_min": 20.0}, "beta_min must be above 0 and below beta_max=20.0, got 20.0."),
        ({"beta_min": 0.0}, "beta_min must be above 0 and below beta_max=20.0, got 0.0."),
        ({"beta_min": math.nan}, "beta_min must be above 0 and below beta_max=20.0, got nan."),
        ({"beta_max": math.inf}, "beta_max must be finite, got inf."),
        (
            {"prediction_type": "eps"},
            "prediction_type must be 'epsilon' or 'v_prediction' or 'sample', got 'eps'.",
        ),
        ({"sampling_eps": 0.0}, "sampling_eps must be above 0 and below 1, got 0.0."),
        ({"sampling_eps": 1.0}, "sampling_eps must be above 0 and below 1, got 1.0."),
        ({"clip_sample_range": 0.0}, "clip_sample_range must be above 0, got 0.0."),
        ({"dynamic_thresholding_ratio": 1.5}, "dynamic_thresholding_ratio must be in [0, 1], got 1.5."),
        ({"sample_max_value": 0.5}, "sample_max_value must be 1 or more, got 0.5."),
        (
            {"timestep_spacing": "even"},
            "timestep_spacing must be 'trailing' or 'leading' or 'linspace', got 'even'.",
        ),
        ({"steps_offset": -1}, "steps_offset must be 0 or more, got -1."),
        ({"beta_schedule": "scaled_linear"}, "beta_schedule must be 'linear', got 'scaled_linear'."),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr must be False, got True."),
        (
            {"beta_end": 0.012},
            "beta_end (shape (), mean 0.012) is not that of the SDE (mean 0.02) with "
            "num_train_timesteps=1000, beta_min=0.1, beta_max=20.0: pass trained_betas, beta_start, beta_end "
            "as None to derive them.",
        ),
        (
            {"trained_betas": [0.01, 0.02]},
            "trained_betas (shape (2,), mean 0.015) is not that of the SDE (mean 0.00998333) with "
            "num_train_timesteps=1000, beta_min=0.1, beta_max=20.0: pass trained_betas, beta_start, beta_end "
            "as None to derive them.",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        VPSDEScheduler(**arguments)
    assert str(error.value) == message


def test_betas_of_another_sde_are_refused_on_loading() -> None:
    config = VPSDEScheduler().config
    with pytest.raises(ValueError, match=r"trained_betas .* is not that of the SDE .* beta_max=10.0: pass"):
        VPSDEScheduler.from_config(config, beta_max=10.0)
    other = VPSDEScheduler.from_config(
        config, beta_max=10.0, trained_betas=None, beta_start=None, beta_end=None
    )
    assert torch.equal(other.betas, VPSDEScheduler(beta_max=10.0).betas)
    # A relative 1e-6 admits betas stored in single precision and nothing else.
    VPSDEScheduler(trained_betas=VPSDEScheduler().betas.tolist())
    betas = list(config.trained_betas)
    betas[0] *= 1.0 + 1e-5
    with pytest.raises(ValueError, match=r"trained_betas .* is not that of the SDE"):
        VPSDEScheduler(trained_betas=betas)


def stepping(scheduler: VPSDEScheduler) -> Callable[..., object]:
    x = torch.zeros(2, 3)

    def step(
        timestep: Tensor | float = 999.0, sample: Tensor = x, generator: list[torch.Generator] | None = None
    ) -> object:
        return scheduler.step(x, timestep, sample, generator)

    return step


def test_steps_out_of_place_are_refused() -> None:
    scheduler = VPSDEScheduler()
    step = stepping(scheduler)
    with pytest.raises(ValueError, match=r"^step has no grid: call set_timesteps first.$"):
        step()
    with pytest.raises(ValueError, match=r"^num_inference_steps must be 1 or more, got 0.$"):
        scheduler.set_timesteps(0)
    with pytest.raises(ValueError, match=r"^num_inference_steps must be a whole number, got 2.5.$"):
        scheduler.set_timesteps(2.5)  # type: ignore[arg-type]
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match=r"^timestep 0 is not next, 999 \(index 0\) is: pass the elements"):
        step(0)
    with pytest.raises(ValueError, match=r"^timestep must be one element of timesteps, got shape \(2,\).$"):
        step(torch.tensor([999.0, 999.0]))
    with pytest.raises(ValueError, match=r"^both tensors must have one shape, got \(1, 3\) and \(2, 3\).$"):
        step(sample=torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"^generator must be a list of 2, one a sample, got 1.$"):
        step(generator=[torch.Generator()])
    assert scheduler.step_index == 0
    step(torch.tensor(999.0))
    step(torch.tensor([0.0]))
    with pytest.raises(ValueError, match=r"^all 2 steps are done: call set_timesteps to sample again.$"):
        step(0.0)
    with pytest.raises(ValueError, match=r"^begin_index must be in \[0, 2\), the grid set, got 2.$"):
        scheduler.set_begin_index(2)


def test_shapes_that_would_broadcast_are_refused() -> None:
    scheduler, x = VPSDEScheduler(), torch.zeros(3, 2)
    for method in (scheduler.add_noise, scheduler.get_velocity, scheduler.predict_original, scheduler.score):
        for pair in ((x, x[:1]), (x[:1], x)):
            with pytest.raises(
                ValueError, match=r"^both tensors must have one shape, got \(\d, 2\) and \(\d, 2\).$"
            ):
                method(*pair, torch.tensor(5))
        with pytest.raises(ValueError, match=r"^timesteps must hold one value or one a sample: 3, got 2.$"):
            method(x, x, torch.tensor([5, 6]))


def test_only_the_warning_about_the_keys_of_the_sde_is_silenced(caplog: pytest.LogCaptureFixture) -> None:
    config = dict(VPSDEScheduler().config)
    DPMSolverMultistepScheduler.from_config(config)
    assert not caplog.messages
    DPMSolverMultistepScheduler.from_config({**config, "beta_mim": 0.2})
    assert "beta_mim" in caplog.text
