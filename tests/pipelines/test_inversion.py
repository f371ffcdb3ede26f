"""The probability-flow ODE of Gaussian data, whose paths are known on paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from idiff_hf import VPSDEScheduler
from idiff_hf.pipelines.inversion import flow_times, probability_flow
from tests.schedulers.gaussian import exact_law, gaussian_output, slope

X_0 = torch.tensor([[-0.4], [0.7], [1.9]], dtype=torch.float64)


def follow(sde: VPSDEScheduler, sample: Tensor, times: list[float]) -> Tensor:
    return probability_flow(sample, lambda x, tau, t: gaussian_output(sde, x, tau), sde, times)


def test_times_run_from_the_first_to_one_evenly_in_log_sigma_over_alpha() -> None:
    sde = VPSDEScheduler()
    times = flow_times(sde, 1e-3, 8)
    assert (times[0], times[-1], len(times)) == (1e-3, 1.0, 9)
    steps = sde.sde.log_noise_ratio(torch.tensor(times, dtype=torch.float64)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(8), rtol=1e-6, atol=0.0)
    assert flow_times(sde, 0.5, 1) == [0.5, 1.0]


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_it_follows_the_exact_path_with_order_2(prediction_type: str) -> None:
    """Along the ODE (x_t - mean_t) / std_t stays what it is, the law being Gaussian at all times."""
    sde = VPSDEScheduler(prediction_type=prediction_type)
    (mean, variance), (last_mean, last_variance) = exact_law(sde, 1e-3), exact_law(sde, 1.0)
    exact = last_mean + math.sqrt(last_variance / variance) * (X_0 - mean)
    errors = [float((follow(sde, X_0, flow_times(sde, 1e-3, n)) - exact).abs().max()) for n in (32, 64, 128)]
    assert 1.8 < slope(errors) < 2.3 and errors[-1] < 2e-3


def test_down_after_up_is_where_it_began_with_order_2() -> None:
    sde = VPSDEScheduler(prediction_type="sample")
    errors = []
    for n in (16, 32, 64):
        times = flow_times(sde, 1e-3, n)
        errors.append(float((follow(sde, follow(sde, X_0, times), times[::-1]) - X_0).abs().max()))
    assert slope(errors) > 1.8 and errors[-1] < 1e-3
