"""What the laws share that a mean and a variance state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class MeanAndVariance:
    """A law with independent dimensions, symmetric about its mean.

    Args:
        mean: `(B, D)`.
        logvar: `(B, D)`, natural logarithm of the variance.
    """

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """The deviation that `logvar` states, `(B, D)`."""
        return torch.exp(0.5 * self.logvar)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """`(D,)`."""
        return self.mean.shape[1:]

    def mode(self) -> Tensor:
        """The mean, `(B, D)`, as `AutoencoderKL`'s distribution names it."""
        return self.mean

    def codes(self) -> Tensor:
        """The mean, `(B, D)`."""
        return self.mean

    def detach(self) -> Self:
        """The same law, through which no gradient flows."""
        return replace(self, mean=self.mean.detach(), logvar=self.logvar.detach())
