"""Categorical variables: of the CatVAE."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class OneHotCategorical:
    """Independent categorical variables, sampled as one-hot vectors with the straight-through gradient (Section 2.6, Listing 1).

    Args:
        logits: `(B, D, C)`: D variables of C categories each.
        uniform_mix: Share m of the uniform law in the probabilities (1 - m) softmax(logits) + m / C, in [0, 1). With m > 0 every
            category stays possible, and the KL of two laws of the same m is at most log(C / m).
    """

    logits: Tensor
    uniform_mix: float = 0.01

    @property
    def probs(self) -> Tensor:
        """`(B, D, C)`, at least m / C each."""
        share = self.uniform_mix
        return (1.0 - share) * self.logits.softmax(dim=-1) + share / self.logits.shape[-1]

    @property
    def log_probs(self) -> Tensor:
        """`(B, D, C)`, finite also where m = 0 and a probability is too small for its floating-point type."""
        share = self.uniform_mix
        uniform = self.logits.new_full((), share / self.logits.shape[-1]).log()
        return torch.logaddexp(self.logits.log_softmax(dim=-1) + math.log1p(-share), uniform)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """`(D,)`."""
        return self.logits.shape[1:-1]

    def mode(self) -> Tensor:
        """One-hot of the most probable category of each variable, `(B, D * C)`."""
        return self._one_hot(self.logits.argmax(dim=-1)).flatten(1)

    def codes(self) -> Tensor:
        """Index of the most probable category of each variable, `(B, D)` floats in [0, C - 1]; the order of categories means nothing."""
        return self.logits.argmax(dim=-1).to(self.logits.dtype)

    def sample(self, noise: Tensor) -> Tensor:
        """One-hot samples whose gradient is that of the probabilities (Listing 1).

        The estimator is exact in expectation for functions that are linear in the one-hot vector of each variable, biased for others.

        Args:
            noise: Standard normal numbers `(B, D)`, whose probabilities are inverted through the cumulative ones.

        Returns:
            `(B, D * C)`: for each variable one 1 in C entries.
        """
        probs = self.probs
        cumulative = probs.detach().cumsum(dim=-1)
        total = cumulative[..., -1:]
        # Rounding makes a far noise's probability 1, and the total not quite 1: below the total there is always a category, and the first
        # whose cumulative probability is above a number cannot have probability 0.
        below_one = 1.0 - 0.5 * torch.finfo(cumulative.dtype).eps
        drawn = torch.special.ndtr(noise.to(cumulative.dtype)).clamp_max(below_one)[..., None] * total
        sample = self._one_hot((cumulative <= drawn).sum(dim=-1))
        return (sample + (probs - probs.detach())).flatten(1)

    def kl(self, other: OneHotCategorical) -> Tensor:
        """KL(self || other) of each variable in nats, `(B, D)`; sum over the last axis for Eq. 2."""
        return (self.probs * (self.log_probs - other.log_probs)).sum(dim=-1)

    def entropy(self) -> Tensor:
        """Entropy of each variable in nats, `(B, D)`."""
        return -(self.probs * self.log_probs).sum(dim=-1)

    def detach(self) -> OneHotCategorical:
        """The same law, through which no gradient flows."""
        return replace(self, logits=self.logits.detach())

    def _one_hot(self, index: Tensor) -> Tensor:
        return functional.one_hot(index, self.logits.shape[-1]).to(self.logits.dtype)
