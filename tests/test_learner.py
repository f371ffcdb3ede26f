"""The moving average is that of diffusers."""

from __future__ import annotations

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from idiff_hf.learner import average_weights


def test_the_moving_average_in_one_pass_is_that_of_diffusers():
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(64, 64), nn.Conv2d(3, 16, 3))
    theirs, ours = (EMAModel(part.parameters(), decay=0.995, foreach=True) for _ in range(2))
    for _ in range(300):
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        theirs.step(part.parameters())
        average_weights(ours, part)
        for one, other in zip(theirs.shadow_params, ours.shadow_params, strict=True):
            # one rounding less: a + w (b - a) is one instruction where theirs are three
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert ours.optimization_step == theirs.optimization_step == 300
    assert ours.cur_decay_value == theirs.cur_decay_value > 0.9


def test_no_averaging_keeps_the_weights_themselves():
    part = nn.Linear(3, 3)
    ema = EMAModel(part.parameters(), decay=0.0, foreach=True)
    with torch.no_grad():
        part.weight.add_(1.0)
    average_weights(ema, part)
    assert torch.equal(ema.shadow_params[0], part.weight)
