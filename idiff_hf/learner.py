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
from .guards import Verdict
from .losses import IVAEDiffusionLoss
from .stages import Phase, learning_rate


class Learner:
    """An AdamW and a moving average for each part of the objective.

    Args:
        config: The experiment.
        module: The objective, not wrapped.
        scaler: Of the loss, where it is computed in float16.

    Attributes:
        parts: By the names `ivae`, `autoencoder` and `unet`, those that learn at some time.
    """

    def __init__(
        self, config: Config, module: IVAEDiffusionLoss, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        self.config = config
        self.module = module
        self.scaler = scaler
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
        self._buffers = [
            buffer
            for part in module.modules()
            if isinstance(part, nn.modules.batchnorm._BatchNorm)
            for buffer in part.buffers()
        ]
        self._kept = [buffer.clone() for buffer in self._buffers]
        # one average for each part, so that a part that does not learn costs nothing
        self.ema = {
            name: EMAModel(part.parameters(), decay=config.train.ema_max_decay, foreach=True)
            for name, part in self.parts.items()
        }

    def keep_buffers(self) -> None:
        """Remember what norms over the batch keep, which a forward pass changes, for `restore_buffers`."""
        if self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)

    def restore_buffers(self) -> None:
        """Put back what `keep_buffers` remembered."""
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._kept)

    def clip(self, phase: Phase) -> dict[str, Tensor]:
        """Clip the gradient of each part that learns in this phase; returns their norms `()` before that."""
        norms = {}
        for name in self._learning(phase):
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizers[name])
            norms[name] = nn.utils.clip_grad_norm_(
                self.parts[name].parameters(), self._optim(name).max_grad_norm
            )
        return norms

    @property
    def scale(self) -> float | None:
        """What the loss is multiplied by, or None where it is not."""
        return None if self.scaler is None else self.scaler.get_scale()

    def step(self, step: int, phase: Phase, verdict: Verdict = "finite") -> set[str]:
        """After `clip`: set the learning rate, step and average each part that learns at this step.

        Args:
            step: The optimiser step.
            phase: What learns in it.
            verdict: Where the gradient is not finite, weights, moments, averages and norms over the batch stay what they were.

        Returns:
            The parts that stop learning with this step, taken or not.
        """
        learning = self._learning(phase)
        if verdict == "finite":
            for name in learning:
                optim, optimizer = self._optim(name), self.optimizers[name]
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(optim, self.config.stop_step(optim), step)
                if self.scaler is None:
                    optimizer.step()
                else:
                    self.scaler.step(optimizer)
                average_weights(self.ema[name], self.parts[name])
        else:
            self.restore_buffers()
        if self.scaler is not None:
            # given the scale that it has, it only forgets the gradients of this step
            self.scaler.update(self.scaler.get_scale() if verdict == "not finite" else None)
        frozen = set()
        for name in learning:
            self.optimizers[name].zero_grad(set_to_none=True)
            if step + 1 == self.config.stop_step(self._optim(name)) < self.config.train.max_train_steps:
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
        state: dict[str, Any] = {"ema_steps": {name: ema.optimization_step for name, ema in self.ema.items()}}
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        return state

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
        # a run may go on in float16 that began without
        if self.scaler is not None and "scaler" in saved.state:
            self.scaler.load_state_dict(saved.state["scaler"])

    def _learning(self, phase: Phase) -> list[str]:
        """The parts that learn in this phase."""
        active = {"ivae": phase.ivae, "autoencoder": phase.autoencoder, "unet": phase.unet}
        return [name for name, learns in active.items() if learns]

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


@torch.no_grad()
def average_weights(ema: EMAModel, part: nn.Module) -> None:
    """What `ema.step` does, in one pass over the weights instead of two.

    Args:
        ema: Made with the parameters of `part`.
        part: What learns; all of its parameters are averaged.
    """
    ema.optimization_step += 1
    ema.cur_decay_value = ema.get_decay(ema.optimization_step)
    torch._foreach_lerp_(ema.shadow_params, list(part.parameters()), 1 - ema.cur_decay_value)
