"""Eq. 2: where gradients flow, and what each term is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from idiff_hf.stages import Phase
from idiff_hf.timesteps import loss_weight
from tests.tiny import joint, objective_and_inputs, tiny_config

BOTH = Phase(ivae=True, unet=True, released=True, kl_weight=1e-4)


def gradient_norm(module: torch.nn.Module) -> float:
    return sum(float(p.grad.norm()) for p in module.parameters() if p.grad is not None)


def test_total_is_the_weighted_sum_of_its_terms(tmp_path: Path) -> None:
    config = joint(tiny_config(tmp_path))
    objective, inputs = objective_and_inputs(config)
    terms = objective(*inputs, BOTH)
    expected = terms["ddpm"] + config.loss.rec * terms["rec"] + 1e-4 * terms["kl"]
    torch.testing.assert_close(terms["loss"], expected)


def test_temperature_of_the_kl_is_that_of_the_phase(tmp_path: Path) -> None:
    objective, inputs = objective_and_inputs(joint(tiny_config(tmp_path)))
    warm, cold = (objective(*inputs, replace(BOTH, kl_temperature=value)) for value in (1.0, 0.25))
    entropy = objective.ivae.encode(inputs[0]).latent_dist.entropy().sum(dim=1).mean()
    torch.testing.assert_close(cold["loss"], warm["loss"] + 1e-4 * 0.75 * entropy)
    assert torch.equal(cold["kl"], warm["kl"])


@pytest.mark.parametrize(("scale", "reaches"), [(0.0, False), (1.0, True)])
def test_gradient_of_the_unet_reaches_the_encoder_only_when_asked(
    tmp_path: Path, scale: float, reaches: bool
) -> None:
    config = joint(tiny_config(tmp_path))
    config = replace(config, loss=replace(config.loss, latent_grad_scale=scale, rec=0.0, kl=0.0))
    objective, inputs = objective_and_inputs(config)
    # the projection starts small: any nonzero gradient counts
    objective(*inputs, replace(BOTH, kl_weight=0.0))["loss"].backward()
    assert (gradient_norm(objective.ivae.encoder) > 0) == reaches


def test_gradient_scale_scales_the_encoders_gradient_and_not_the_unets(tmp_path: Path) -> None:
    norms = {}
    for scale in (1.0, 0.5):
        config = joint(tiny_config(tmp_path))
        config = replace(config, loss=replace(config.loss, latent_grad_scale=scale, rec=0.0, kl=0.0))
        objective, inputs = objective_and_inputs(config)
        objective(*inputs, replace(BOTH, kl_weight=0.0))["loss"].backward()
        assert objective.unet is not None
        norms[scale] = gradient_norm(objective.ivae.encoder), gradient_norm(objective.unet)
    assert norms[0.5][0] == pytest.approx(0.5 * norms[1.0][0], rel=1e-5)
    assert norms[0.5][1] == pytest.approx(norms[1.0][1], rel=1e-6)


def test_a_frozen_ivae_has_no_gradient_and_an_inactive_unet_none_either(tmp_path: Path) -> None:
    objective, inputs = objective_and_inputs(tiny_config(tmp_path))
    assert objective.unet is not None
    objective(*inputs, replace(BOTH, ivae=False))["loss"].backward()
    assert gradient_norm(objective.ivae) == 0 and gradient_norm(objective.unet) > 0
    objective.zero_grad()
    objective(*inputs, replace(BOTH, unet=False))["loss"].backward()
    assert gradient_norm(objective.ivae) > 0 and gradient_norm(objective.unet) == 0


def test_a_prior_that_is_not_released_has_no_gradient(tmp_path: Path) -> None:
    objective, inputs = objective_and_inputs(tiny_config(tmp_path))
    objective(*inputs, replace(BOTH, released=False))["loss"].backward()
    assert gradient_norm(objective.ivae.prior_encoder) == 0
    objective(*inputs, BOTH)["loss"].backward()
    assert gradient_norm(objective.ivae.prior_encoder) > 0


def test_dropping_every_condition_makes_the_ddpm_term_independent_of_z(tmp_path: Path) -> None:
    config = joint(tiny_config(tmp_path))
    config = replace(config, cfg=replace(config.cfg, drop_prob=1.0))
    objective, (image, aux, random) = objective_and_inputs(config)
    before = objective(image, aux, random, BOTH)["ddpm"]
    with torch.no_grad():
        for parameter in objective.ivae.encoder.parameters():
            parameter.add_(0.3)
    assert torch.equal(before, objective(image, aux, random, BOTH)["ddpm"])


def test_the_unet_is_shown_the_mean_where_it_is_asked_for(tmp_path: Path) -> None:
    config = joint(tiny_config(tmp_path))
    terms = {}
    for shown in ("sample", "mean"):
        for wide in (False, True):
            asked = replace(config, unet=replace(config.unet, condition_on=shown))
            objective, inputs = objective_and_inputs(asked)
            if wide:
                with torch.no_grad():
                    # the second half of the last layer's outputs are log-variances
                    last = [m for m in objective.ivae.encoder.modules() if isinstance(m, torch.nn.Linear)][-1]
                    last.bias[len(last.bias) // 2 :] += 3.0
            terms[shown, wide] = objective(*inputs, BOTH)
    # the width of q changes what is drawn from it, and what the decoder sees, but no mean
    assert torch.equal(terms["mean", False]["ddpm"], terms["mean", True]["ddpm"])
    assert not torch.equal(terms["sample", False]["ddpm"], terms["sample", True]["ddpm"])
    assert torch.equal(terms["mean", True]["rec"], terms["sample", True]["rec"])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddpm_term_is_the_squared_error_of_the_prediction(tmp_path: Path, prediction: str) -> None:
    """A U-Net whose output is zero has the mean square of its target as loss; for eps that is 1 up to sampling."""
    config = joint(tiny_config(tmp_path))
    config = replace(config, unet=replace(config.unet, prediction_type=prediction))  # type: ignore[arg-type]
    objective, (image, aux, random) = objective_and_inputs(config)
    assert objective.unet is not None
    torch.nn.init.zeros_(objective.unet.conv_out.weight)
    torch.nn.init.zeros_(objective.unet.conv_out.bias)
    value = objective(image, aux, random, BOTH)["ddpm"].item()
    noise = random.normal("noise", image.shape[1:])
    if prediction == "epsilon":
        assert value == pytest.approx(noise.square().mean().item(), rel=1e-5)
    elif prediction == "sample":
        assert value == pytest.approx(image.square().mean().item(), rel=1e-5)
    else:
        eps = config.scheduler.sampling_eps
        t = eps + (1 - eps) * random.uniform("timestep", ())
        alpha, sigma = (value.view(-1, 1, 1, 1) for value in objective.scheduler.alpha_sigma(t))
        assert value == pytest.approx((alpha * noise - sigma * image).square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("weighting", ["sigma2", "likelihood", "min_snr", "min_snr_plus_one"])
def test_a_weighting_weighs_each_sample_at_its_time(tmp_path: Path, prediction: str, weighting: str) -> None:
    """The same U-Net output 0: the term is the mean over samples of lambda(t) and the squared target."""
    config = joint(tiny_config(tmp_path))
    config = replace(
        config,
        unet=replace(config.unet, prediction_type=prediction),  # type: ignore[arg-type]
        loss=replace(config.loss, weighting=weighting),  # type: ignore[arg-type]
    )
    objective, (image, aux, random) = objective_and_inputs(config)
    assert objective.unet is not None
    torch.nn.init.zeros_(objective.unet.conv_out.weight)
    torch.nn.init.zeros_(objective.unet.conv_out.bias)
    t = config.scheduler.sampling_eps + (1 - config.scheduler.sampling_eps) * random.uniform("timestep", ())
    target = objective.scheduler.target(
        image, random.normal("noise", image.shape[1:]), objective.scheduler.timestep_from_t(t)
    )
    weight = loss_weight(objective.scheduler, t, weighting)  # type: ignore[arg-type]
    expected = torch.stack(
        [w * sample.square().mean() for w, sample in zip(weight, target, strict=True)]
    ).mean()
    torch.testing.assert_close(objective(image, aux, random, BOTH)["ddpm"], expected)


def test_a_frozen_ivae_is_in_evaluation_mode_so_that_norms_over_the_batch_stay_as_they_are(
    tmp_path: Path,
) -> None:
    config = tiny_config(tmp_path)
    config = replace(config, model=replace(config.model, norm="batch"))
    objective, inputs = objective_and_inputs(config)
    assert objective.ivae is not None
    objective.train()
    before = {name: buffer.clone() for name, buffer in objective.ivae.named_buffers()}
    assert before
    objective(*inputs, replace(BOTH, ivae=False))
    assert all(torch.equal(before[name], buffer) for name, buffer in objective.ivae.named_buffers())
    objective(*inputs, BOTH)
    changed = [
        name for name, buffer in objective.ivae.named_buffers() if not torch.equal(before[name], buffer)
    ]
    assert len(changed) == len(before)
