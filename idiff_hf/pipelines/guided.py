"""One call of the U-Net under classifier-free guidance (Section 2.5), and what its scale is at each time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor

from ..guidance import guide
from ..models import Conditioning, denoise
from ..schedulers import VPSDEScheduler


@dataclass(frozen=True)
class Guidance:
    """How strongly z is followed.

    Args:
        scale: gamma of Eq. 10, 0 or more: 1 is the plain conditional model, 0 the unconditional one.
        interval: Times (start, end) with 0 <= start < end <= 1. The scale holds for start <= t <= end, and is 1 elsewhere (Kynkäänniemi et
            al., arXiv:2404.07724). A large scale spoils pictures most at the times of little noise.
        rescale: In [0, 1]: how far the guided x_0 is brought back to the standard deviation of the conditional one, over each image (Lin
            et al., arXiv:2305.08891, section 3.4, where 0.7 is used), against the over-saturation of large scales.

    Raises:
        ValueError: One line for what is no number, or is outside its range.
    """

    scale: float
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def __post_init__(self) -> None:
        numbers = [
            self.scale,
            self.rescale,
            *(self.interval if isinstance(self.interval, Sequence) else [None]),
        ]
        if not all(isinstance(number, Real) for number in numbers):
            raise ValueError(
                "guidance_scale and guidance_rescale must be numbers, guidance_interval two of them, got "
                f"{self.scale!r}, {self.rescale!r}, {self.interval!r}"
            )
        if not self.scale >= 0:
            raise ValueError(f"guidance_scale must be 0 or more, got {self.scale}")
        if self.scale == math.inf:
            raise ValueError("guidance_scale must be finite, got inf")
        if len(self.interval) != 2 or not 0.0 <= self.interval[0] < self.interval[1] <= 1.0:
            raise ValueError(
                f"guidance_interval must be two times with 0 <= start < end <= 1, got {tuple(self.interval)}"
            )
        if not 0.0 <= self.rescale <= 1.0:
            raise ValueError(f"guidance_rescale must lie in [0, 1], got {self.rescale}")

    def at(self, t: float) -> float:
        """The scale at time t."""
        start, end = self.interval
        return self.scale if start <= t <= end else 1.0


class GuidedUNet:
    """The U-Net's prediction for x_t, of the scheduler's `prediction_type`, under a condition and guidance.

    Args:
        unet: Stock U-Net.
        conditioning: What the conditions are from.
        scheduler_config: Of the pipeline's scheduler.
    """

    def __init__(self, unet: Any, conditioning: Conditioning, scheduler_config: Mapping[str, Any]) -> None:
        self.unet = unet
        self.conditioning = conditioning
        self.scheduler_config = scheduler_config

    @cached_property
    def sde(self) -> VPSDEScheduler:
        """The SDE that the scheduler was made from, for its conversions."""
        return VPSDEScheduler.from_config(self.scheduler_config)

    def __call__(
        self,
        sample: Tensor,
        timestep: Tensor,
        scale: float,
        condition: Tensor | None,
        null_condition: Tensor | None,
        rescale: float = 0.0,
    ) -> Tensor:
        """One forward: of both conditions as one batch, or at the scales 0 and 1 of the one that counts.

        Args:
            sample: x_t, `(B, C, H, W)`, float32.
            timestep: tau, on the device of the sample, `()`.
            scale: gamma.
            condition: Of z; None for an unconditional U-Net, which has no guidance.
            null_condition: Of no z, of its shape, or None likewise.
            rescale: See `Guidance`.

        Returns:
            `(B, C, H, W)`, float32.
        """
        if condition is None or null_condition is None or scale == 1.0:
            return self._predict(sample, timestep, condition)
        if scale == 0.0:
            return self._predict(sample, timestep, null_condition)
        both = self._predict(torch.cat([sample, sample]), timestep, torch.cat([null_condition, condition]))
        unconditional, conditional = both.chunk(2)
        guided = guide(unconditional, conditional, scale)
        if rescale == 0.0:
            return guided
        # of x_0, so that it means the same whatever is predicted; the noise in a prediction of eps would hide the images' contrast
        x_0 = rescale_noise_cfg(
            self.sde.predict_original(guided, sample, timestep),
            self.sde.predict_original(conditional, sample, timestep),
            rescale,
        )
        return self.sde.convert(x_0, sample, timestep, "sample", self.sde.config["prediction_type"])

    def _predict(self, sample: Tensor, timestep: Tensor, condition: Tensor | None) -> Tensor:
        inside = sample.to(self.unet.dtype)
        # the U-Net alone may be in half precision
        condition = None if condition is None else condition.to(self.unet.dtype)
        return denoise(self.unet, self.conditioning, inside, timestep.expand(len(sample)), condition).to(
            sample.dtype
        )
