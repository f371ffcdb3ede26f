"""Norms of the convolutional backbones, among them batch norm over the batch of all processes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, distributed, nn


class _GatherRows(torch.autograd.Function):
    """`(n,)` of this process to `(processes, n)` of all; the gradient of a row is that of the sum of all processes' losses."""

    @staticmethod
    def forward(ctx: Any, row: Tensor) -> Tensor:
        rows = [torch.empty_like(row) for _ in range(distributed.get_world_size())]
        distributed.all_gather(rows, row)
        return torch.stack(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[distributed.get_rank()]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` (Ioffe & Szegedy 2015) whose training statistics are those of the batches of all processes together.

    Unlike `nn.SyncBatchNorm` it runs on CPUs too. In one process, and in evaluation everywhere, it is `nn.BatchNorm2d` itself, and its
    state has the same names. In training every process has to call it equally often, as in data-parallel training; batches may differ in
    size. Micro-batches whose gradients are accumulated are batches of their own.

    Args:
        num_features: C of the input `(B, C, H, W)`.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `(B, C, H, W)`.

        Raises:
            ValueError: In training, if all processes together have a single value for each channel.
        """
        together = distributed.is_available() and distributed.is_initialized()
        if not self.training or not together or distributed.get_world_size() == 1:
            if self.training and input.numel() == input.shape[1]:
                raise ValueError(
                    f"norm=batch needs more than one value a channel in training, got features {tuple(input.shape)}: "
                    "use a larger batch or norm=group"
                )
            return super().forward(input)

        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        var, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
        values = mean.new_full((1,), input.numel() // input.shape[1])
        rows = _GatherRows.apply(torch.cat([mean, var, values]))
        means, variances, counts = rows.split([self.num_features, self.num_features, 1], dim=1)
        count = counts.sum()
        mean = (counts / count * means).sum(dim=0)
        # moments about each process's own mean, and of these means about the common one: no difference of large squares
        var = (counts / count * (variances + (means - mean) ** 2)).sum(dim=0)
        self._track(mean.detach(), var.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, None, None], wide, scale[:, None, None]).to(input.dtype)

    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        assert self.momentum is not None and self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased_var.to(self.running_var.dtype), self.momentum)


def check_norm(norm: str, known: tuple[str, ...]) -> None:
    """Refuse a norm that is not `known`.

    Raises:
        ValueError: One line.
    """
    if norm not in known:
        raise ValueError(f"norm must be {', '.join(known[:-1])} or {known[-1]}, got {norm!r}")


def norm_layers(norm: str, channels: int, groups: int) -> list[nn.Module]:
    """What follows a convolution with `channels` outputs: one layer, or nothing with `none`.

    Args:
        norm: `group` (Wu & He 2018), `batch` or `none`.
        channels: C.
        groups: With `group`: as many groups, or the greatest common divisor with C.
    """
    if norm == "group":
        return [nn.GroupNorm(math.gcd(groups, channels), channels)]
    return [GlobalBatchNorm2d(channels)] if norm == "batch" else []


def replace_batch_norms(module: nn.Module, norm: str, groups: int) -> None:
    """Put the layer of `norm` (`group` or `batch`) in place of every `nn.BatchNorm2d` in `module`, under its name."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                (layer,) = norm_layers(norm, child.num_features, groups)
                setattr(parent, name, layer)
