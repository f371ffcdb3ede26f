"""What training is guarded against: losses and gradients that are not finite, and too little memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from .config import BLOCK_SIZE, Config, TrainConfig
from .interruption import HOW_TO_GO_ON
from .processes import process_state
from .run_log import RunLog

Verdict = Literal["finite", "overflow", "not finite"]
"""Of a step: it is taken, the scaler of float16 skips it and scales less, or the guard skips it."""


class NonFiniteGuard:
    """Judges each step before it changes anything, counts those that are skipped, and ends a run that has too many in a row.

    Every process comes to the same verdict. The keys of a step that was skipped, from which `idiff replay` makes its batch again, are a
    line of `nonfinite.jsonl`: `step` (0 is the first), `seed`, `global_batch_size`, `num_processes`, `train_batch_size`, `norms` of
    gradients that are not finite, and `micro_batches` with `first_row`, `num_rows` and those `terms` of the loss that are not finite.

    Args:
        config: The experiment.
        accelerator: Of the run.
        log: `nonfinite.jsonl`.

    Attributes:
        total: Steps skipped so far.
        in_a_row: Of these, the last ones without a step between them.
        overflows: Steps skipped by the scaler of float16, which are no failures and not in `total`.
    """

    def __init__(self, config: Config, accelerator: Accelerator, log: RunLog) -> None:
        self.config = config
        self.accelerator = accelerator
        self.log = log
        self.total = self.in_a_row = self.overflows = 0

    def judge(
        self,
        step: int,
        terms: Sequence[Mapping[str, Tensor]],
        norms: Mapping[str, Tensor],
        scale: float | None,
        stop: bool,
    ) -> tuple[Verdict, bool]:
        """Whether a step may be taken, agreed by all processes.

        Args:
            step: The optimiser step.
            terms: The loss and its terms, `()` each, of this process's micro-batches in their order.
            norms: Norms `()` of each part's gradient, the same on every process.
            scale: What the loss was multiplied by, or None where it was not.
            stop: Whether this process was asked to stop.

        Returns:
            The verdict, and whether any process was asked to stop.

        Raises:
            FloatingPointError: One line, when `train.max_nonfinite_steps` steps in a row were skipped.
        """
        values = torch.stack([value for micro in terms for value in micro.values()])
        bad = torch.stack([_not_finite(values), _not_finite(torch.stack(list(norms.values())))]).float()
        if self.accelerator.num_processes > 1:
            # what one process alone has seen: its own losses, and its own signals
            bad = self.accelerator.reduce(torch.cat([bad, bad.new_tensor([float(stop)])]), reduction="sum")
            bad_terms, bad_norms, stop = (value > 0 for value in bad.tolist())
        else:
            bad_terms, bad_norms = (value > 0 for value in bad.tolist())
        if not (bad_terms or bad_norms):
            self.in_a_row = 0
            return "finite", stop
        # a gradient that overflows unscaled, or that belongs to such a loss, is not the scaler's doing
        if not bad_terms and scale is not None and scale > 1.0:
            self.overflows += 1
            return "overflow", stop
        self.total += 1
        self.in_a_row += 1
        self._report(step, terms, norms)
        return "not finite", stop

    def counts(self) -> dict[str, int]:
        """What has been skipped so far, by the names that `metrics.jsonl` and the bar have for it; nothing where nothing was."""
        counts = {"nonfinite_steps": self.total, "overflow_steps": self.overflows}
        return {name: count for name, count in counts.items() if count}

    def state(self) -> dict[str, int]:
        """For the checkpoint."""
        return {"total": self.total, "in_a_row": self.in_a_row, "overflows": self.overflows}

    def load(self, state: Mapping[str, int]) -> None:
        """Take up what `state` gave, or nothing from a checkpoint that is older than this guard."""
        self.total, self.in_a_row, self.overflows = (
            state.get(name, 0) for name in ("total", "in_a_row", "overflows")
        )

    def _report(self, step: int, terms: Sequence[Mapping[str, Tensor]], norms: Mapping[str, Tensor]) -> None:
        train, world = self.config.train, self.accelerator.num_processes
        found = []
        for micro, values in enumerate(terms):
            if odd := _named(values):
                first = (micro * world + self.accelerator.process_index) * train.train_batch_size
                found.append({"first_row": first, "num_rows": train.train_batch_size, "terms": odd})
        found = sorted(gather_object(found), key=lambda micro: micro["first_row"])
        line = {
            "step": step,
            "seed": train.seed,
            "global_batch_size": train.train_batch_size * len(terms) * world,
            "num_processes": world,
            "train_batch_size": train.train_batch_size,
            "norms": _named(norms),
            "micro_batches": found,
        }
        if self.accelerator.is_main_process:
            self.log.append(line)
        if self.in_a_row >= train.max_nonfinite_steps:
            names = sorted({name for micro in found for name in micro["terms"]})
            what = (
                f"the loss ({', '.join(names)})" if names else f"the gradient of {', '.join(line['norms'])}"
            )
            raise FloatingPointError(
                f"{what} was not finite in {self.in_a_row} steps in a row, the last of them step {step}, and none of them was taken: "
                f"the last checkpoint is good; look with idiff replay {self.log.path.parent}, lower the learning rate or max_grad_norm, "
                "and resume"
            )


def _not_finite(values: Tensor) -> Tensor:
    return torch.isfinite(values).all().logical_not()


def _named(values: Mapping[str, Tensor]) -> dict[str, str]:
    """Those that are not finite, as text, for JSON has no such numbers."""
    return {name: str(float(value)) for name, value in values.items() if not bool(torch.isfinite(value))}


def refuse_float16_on_cpu(config: Config) -> None:
    """Refuse float16 where Accelerate would, with one line that says what to do.

    Raises:
        ValueError: It.
    """
    if config.train.mixed_precision == "fp16" and process_state().device.type == "cpu":
        raise ValueError("train.mixed_precision=fp16 needs a GPU, and there is none here: use bf16 or no")


class OutOfMemory(ValueError):
    """There is not enough memory; the message is one line with a setting that takes less."""


@contextmanager
def out_of_memory(config: Config) -> Iterator[None]:
    """Turn what allocators raise inside the `with`, where `config` is trained, into an `OutOfMemory`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # the allocator of the CPU has no class of its own
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and "DefaultCPUAllocator" not in str(error):
            raise
        raise OutOfMemory(
            f"out of memory, the last checkpoint is good: {_smaller_batch(config.train)}"
        ) from error


def _smaller_batch(train: TrainConfig) -> str:
    """Advice: the largest micro-batch of at most half the size that makes the same global batch."""
    size, steps = train.train_batch_size, train.gradient_accumulation_steps
    for smaller in range(size // 2 // BLOCK_SIZE * BLOCK_SIZE, 0, -BLOCK_SIZE):
        if size * steps % smaller == 0:
            flags = f"--train.train_batch_size {smaller}"
            if train.global_batch_size is None:
                flags += f" --train.gradient_accumulation_steps {size * steps // smaller}"
            return f"the same global batch takes less memory with {flags}, {HOW_TO_GO_ON}"
    return (
        f"train.train_batch_size={size} is the smallest already, "
        "so try --train.mixed_precision bf16, a smaller model, or more processes"
    )
