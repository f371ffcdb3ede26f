"""What a diffusers scheduler of the SDE says of x_t, by the network's own timesteps: noise, targets, conversions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .checks import same_shape, working_dtype
from .vp_sde import VPSDE, convert


class VPSDEMarginals:
    """The part of `VPSDEScheduler` that training needs: no grid of sampling, no state.

    The network is not given t but the timestep tau = N t - 1, a float, N = num_train_timesteps: the integer grid
    i = 0 .. N - 1 of the other schedulers of diffusers is t_i = (i + 1) / N.

    Attributes:
        sde: The SDE as functions of t.
        config: `num_train_timesteps` and `prediction_type`.
    """

    sde: VPSDE
    config: Mapping[str, Any]

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Scales of data and noise at times t in [0, 1]: alpha_t = exp(-1/2 int_0^t beta) and sigma_t.

        Returns:
            alpha and sigma of the shape of `t`, in float32 (float64 where `t` is); computed in float64.
        """
        return self.sde.alpha_sigma(t)

    def timestep_from_t(self, t: Tensor) -> Tensor:
        """The timesteps tau = N t - 1 of times t, same shape, in float32 (float64 where `t` is)."""
        return (t.double() * len(self) - 1.0).to(working_dtype(t))

    def t_from_timestep(self, timesteps: Tensor) -> Tensor:
        """The times t = (tau + 1) / N of timesteps tau, same shape, in float32 (float64 where they are)."""
        return ((timesteps.double() + 1.0) / len(self)).to(working_dtype(timesteps))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """A draw from the marginal of the SDE at each timestep: x_t = alpha_t x_0 + sigma_t eps.

        Args:
            original_samples: x_0, `(B, ...)`.
            noise: eps ~ N(0, I), of the same shape.
            timesteps: tau, integer or float, `(B,)`, `(1,)` or `()`.

        Returns:
            x_t, of the shape and dtype of `original_samples`.

        Raises:
            ValueError: If the shapes disagree.
        """
        alpha, sigma = self._coefficients(timesteps, original_samples, noise)
        return (alpha * original_samples + sigma * noise).to(original_samples.dtype)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity v = alpha_t eps - sigma_t x_0 (appendix D of arXiv:2202.00512).

        Args and errors are those of `add_noise`; `sample` is x_0, as everywhere in diffusers.
        """
        alpha, sigma = self._coefficients(timesteps, sample, noise)
        return (alpha * noise - sigma * sample).to(sample.dtype)

    def target(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The network's target by `prediction_type`: eps, v or x_0. Args are those of `add_noise`."""
        if self.config["prediction_type"] == "epsilon":
            return noise
        if self.config["prediction_type"] == "sample":
            return original_samples
        return self.get_velocity(original_samples, noise, timesteps)

    def convert(self, value: Tensor, sample: Tensor, timesteps: Tensor, source: str, target: str) -> Tensor:
        """One of eps, x_0, v and the score of x_t from another, by x_t = alpha x_0 + sigma eps.

        Args:
            value: The quantity known, `(B, ...)`.
            sample: x_t, of the same shape.
            timesteps: tau, integer or float, `(B,)`, `(1,)` or `()`.
            source: What `value` is: "epsilon", "sample" (x_0), "v_prediction" (alpha eps - sigma x_0) or "score"
                (grad log p_t(x_t) = -eps / sigma).
            target: What is wanted, likewise.

        Returns:
            The quantity wanted, not limited, of the shape and dtype of `sample`.

        Raises:
            ValueError: If the shapes disagree, or `source` or `target` is none of these.
        """
        alpha, sigma = self._coefficients(timesteps, sample, value)
        return convert(value, sample, alpha, sigma, source, target).to(sample.dtype)

    def predict_original(self, model_output: Tensor, sample: Tensor, timesteps: Tensor) -> Tensor:
        """x_0 from the output of the network, `convert` from `prediction_type` to "sample"; args as there."""
        return self.convert(model_output, sample, timesteps, self.config["prediction_type"], "sample")

    def predict_noise(self, model_output: Tensor, sample: Tensor, timesteps: Tensor) -> Tensor:
        """eps from the output of the network, `convert` from `prediction_type` to "epsilon"; args as there."""
        return self.convert(model_output, sample, timesteps, self.config["prediction_type"], "epsilon")

    def predict_velocity(self, model_output: Tensor, sample: Tensor, timesteps: Tensor) -> Tensor:
        """v from the output of the network, `convert` from `prediction_type` to "v_prediction"; args as there."""
        return self.convert(model_output, sample, timesteps, self.config["prediction_type"], "v_prediction")

    def score(self, model_output: Tensor, sample: Tensor, timesteps: Tensor) -> Tensor:
        """grad log p_t(x_t) from the output of the network, `convert` to "score"; args as there."""
        return self.convert(model_output, sample, timesteps, self.config["prediction_type"], "score")

    def _coefficients(self, timesteps: Tensor, sample: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma, shaped to broadcast against `sample`."""
        same_shape(sample, other)
        if timesteps.numel() not in (1, sample.shape[0]):
            raise ValueError(
                f"timesteps must hold one value or one a sample: {sample.shape[0]}, got {timesteps.numel()}."
            )
        shape = (-1,) + (1,) * (sample.ndim - 1)
        alpha, sigma = self.alpha_sigma(self.t_from_timestep(timesteps.to(sample.device, torch.float64)))
        dtype = working_dtype(sample)
        return alpha.to(dtype).reshape(shape), sigma.to(dtype).reshape(shape)
