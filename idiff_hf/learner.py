"""The parts that learn: optimiser, moving average, and what a checkpoint keeps of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from .builders import parameter_groups
from .checkpoint import Checkpoint, load_optimizer_tensors, match_tensors, optimizer_tensors
from .config import Config, OptimConfig
from .losses import IVAEDiffusionLoss
from .stages import Phase, learning_rate


class Learner:
    """An AdamW and a moving average for each part of the objective.

    Args:
        config: The experiment.
        module: The objective, not wrapped.

    Attributes:
        parts: By the names `ivae`, `autoencoder` and `unet`, those that learn at some time.
    """

    def __init__(self, config: Config, module: IVAEDiffusionLoss) -> None:
        self.config = config
        self.module = module
        self.parts = parameter_groups(module)
        self.optimizers: dict[str, torch.optim.AdamW] = {}
        for name, part in self.parts.items():
            optim = self._optim(name)
            self.optimizers[name] = torch.optim.AdamW(
                part.parameters(),
                lr=optim.learning_rate,
                betas=(0.9, optim.adam_beta2),
                eps=optim.adam_epsilon,
                weight_decay=optim.adam_weight_decay,
                fused=True,
            )
        # one average for each part, so that a part that does not learn costs nothing
        self.ema = {
            name: EMAModel(part.parameters(), decay=config.train.ema_max_decay, foreach=True)
            for name, part in self.parts.items()
        }

    def step(self, step: int, phase: Phase) -> set[str]:
        """Clip, set the learning rate, step and average each part that learns at this step; returns those that stop learning with it."""
        learning = {"ivae": phase.ivae, "autoencoder": phase.autoencoder, "unet": phase.unet}
        frozen = set()
        for name, active in learning.items():
            if active:
                optim, optimizer = self._optim(name), self.optimizers[name]
                nn.utils.clip_grad_norm_(self.parts[name].parameters(), optim.max_grad_norm)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(optim, self.config.stop_step(optim), step)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                self.ema[name].step(self.parts[name].parameters())
                if step + 1 == self.config.stop_step(optim) < self.config.train.max_train_steps:
                    # what is frozen is what is published
                    self.ema[name].copy_to(self.parts[name].parameters())
                    frozen.add(name)
        return frozen

    @contextmanager
    def averaged(self) -> Iterator[IVAEDiffusionLoss]:
        """The module with its averaged weights, for evaluation."""
        for name, part in self.parts.items():
            self.ema[name].store(part.parameters())
            self.ema[name].copy_to(part.parameters())
        self.module.eval()
        try:
            yield self.module
        finally:
            for name, part in self.parts.items():
                self.ema[name].restore(part.parameters())
            self.module.train()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint keeps: groups `model`, `ema` and `optimizer_NAME` of tensors by name."""
        tensors = {
            "model": {name: tensor.detach() for name, tensor in self._live().items()},
            "ema": self._averages(),
        }
        for name, optimizer in self.optimizers.items():
            tensors[f"optimizer_{name}"] = optimizer_tensors(optimizer, self._named(name))
        return tensors

    def state(self) -> dict[str, Any]:
        """What else it keeps, in JSON values."""
        return {"ema_steps": {name: ema.optimization_step for name, ema in self.ema.items()}}

    def load(self, saved: Checkpoint) -> None:
        """Take up what `tensors` and `state` gave.

        Raises:
            CheckpointError: One line, where tensors are missing, of another shape or too many; nothing has changed then.
        """
        live, averages = self._live(), self._averages()
        match_tensors(live, saved.tensors["model"], "model")
        match_tensors(averages, saved.tensors["ema"], "ema")
        # optimisers first: they check themselves, and nothing live has changed when they refuse
        for name, optimizer in self.optimizers.items():
            load_optimizer_tensors(optimizer, self._named(name), saved.tensors[f"optimizer_{name}"])
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(saved.tensors["model"][name])
            for name, average in averages.items():
                average.copy_(saved.tensors["ema"][name])
        for name, ema in self.ema.items():
            ema.optimization_step = saved.state["ema_steps"][name]

    def _optim(self, name: str) -> OptimConfig:
        optim: OptimConfig = getattr(self.config, f"optim_{name}")
        return optim

    def _live(self) -> dict[str, Tensor]:
        """Weights, and what norms over the batch keep beside them, by name."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}

    def _averages(self) -> dict[str, Tensor]:
        """The averaged weights by the names of the live ones."""
        names = {parameter: name for name, parameter in self.module.named_parameters()}
        return {
            names[parameter]: average
            for part, ema in self.ema.items()
            for parameter, average in zip(self.parts[part].parameters(), ema.shadow_params, strict=True)
        }

    def _named(self, name: str) -> list[tuple[str, nn.Parameter]]:
        return list(self.parts[name].named_parameters())
