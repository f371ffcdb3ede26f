"""Faults of arithmetic and memory, put into a step of the objective; a program of its own for runs of several processes.

torchrun -m tests.faults.faulty CONFIG.yaml '{"input": [2], ...}' FIRST_ROW
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from idiff_hf.arguments import config_from_yaml
from idiff_hf.losses import IVAEDiffusionLoss
from idiff_hf.random import BatchRandom
from idiff_hf.stages import Phase
from train_ivae_ddpm import train

NAN, INFINITY = float("nan"), float("inf")
_FORWARD = IVAEDiffusionLoss.forward


def forward_with(
    faults: Mapping[str, Collection[int]], first_row: int = 0
) -> Callable[..., dict[str, Tensor]]:
    """`IVAEDiffusionLoss.forward` with faults in some steps, in the micro-batch that begins with `first_row` of the global batch.

    Args:
        faults: To `input`, `loss`, `gradient` or `memory` the steps in which it goes wrong.
        first_row: Of the micro-batch, which names a process and its turn.
    """

    def forward(
        self: IVAEDiffusionLoss, image: Tensor, aux: Tensor, random: BatchRandom, phase: Phase
    ) -> dict[str, Tensor]:
        kinds = {
            kind for kind, steps in faults.items() if random.step in steps and random.first_row == first_row
        }
        if "memory" in kinds:
            torch.empty(2**60, dtype=torch.uint8)
        terms = _FORWARD(self, image * NAN if "input" in kinds else image, aux, random, phase)
        if "loss" in kinds:
            terms["loss"] = terms["loss"] + INFINITY  # of which the gradient is finite
        if "gradient" in kinds:
            first = next(self.parameters())
            handle = first.register_hook(lambda gradient: (handle.remove(), gradient * NAN)[1])
        return terms

    return forward


def main(config_path: str, faults: str, first_row: str) -> None:
    """Train, and write a hash of what each process holds at the end."""
    IVAEDiffusionLoss.forward = forward_with(json.loads(faults), int(first_row))  # type: ignore[method-assign]
    digest = hashlib.sha256()

    class Watched(train.__globals__["TrainingRun"]):  # type: ignore[misc, name-defined]
        def finish(self) -> Path:
            for group, tensors in self.learner.tensors().items():
                for name, tensor in tensors.items():
                    digest.update(f"{group}/{name}".encode() + tensor.numpy().tobytes())
            digest.update(json.dumps(self.guard.state()).encode())
            rank = self.accelerator.process_index
            (self.output_dir / f"rank{rank}.txt").write_text(digest.hexdigest())
            return super().finish()

    train.__globals__["TrainingRun"] = Watched
    train(config_from_yaml(Path(config_path).read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
