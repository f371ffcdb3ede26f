"""How it learns, and what is measured afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .checks import fraction, positive, require

BLOCK_SIZE = 8
"""Rows of the global batch that share one random generator (`idiff_hf.random`)."""


@dataclass(frozen=True)
class OptimConfig:
    """How one part, the iVAE or the U-Net, is optimised, and during which steps. AdamW; the learning rate is a function of the step.

    Args:
        start_step: First optimiser step of this part.
        stop_step: The step before which the part stops learning and is frozen; null is the end of training.
        learning_rate: Its peak. The paper: 2e-4.
        lr_scheduler: `constant`, or `cosine` to `lr_end_factor` times the peak, both after a linear warm-up.
        lr_warmup_steps: Steps of the warm-up.
        lr_end_factor: With `cosine`: the last learning rate over the peak.
        adam_beta2: Second moment decay.
        adam_epsilon: Added to the root of the second moment.
        adam_weight_decay: Decoupled weight decay.
        max_grad_norm: The part's gradient is clipped to this norm.
    """

    start_step: int = 0
    stop_step: int | None = None
    learning_rate: float = 2e-4
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    lr_warmup_steps: int = 0
    lr_end_factor: float = 0.0
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    adam_weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.start_step >= 0, f"start_step must be 0 or more, got {self.start_step}")
        require(
            self.stop_step is None or self.stop_step > self.start_step,
            f"stop_step must exceed start_step={self.start_step}, got {self.stop_step}",
        )
        require(self.lr_warmup_steps >= 0, f"lr_warmup_steps must be 0 or more, got {self.lr_warmup_steps}")
        positive(
            learning_rate=self.learning_rate, adam_epsilon=self.adam_epsilon, max_grad_norm=self.max_grad_norm
        )
        fraction(lr_end_factor=self.lr_end_factor, adam_beta2=self.adam_beta2)
        require(
            self.adam_weight_decay >= 0, f"adam_weight_decay must be 0 or more, got {self.adam_weight_decay}"
        )


@dataclass(frozen=True)
class TrainConfig:
    """The run.

    Args:
        output_dir: Everything the run writes.
        seed: Every random draw is a function of it, of a purpose and of the step.
        max_train_steps: Optimiser steps, all parts together.
        train_batch_size: Images for each process and micro-batch; a multiple of 8. The paper: 32.
        gradient_accumulation_steps: Micro-batches of one optimiser step.
        global_batch_size: Images of one optimiser step over all processes. Where it is given, it decides how many micro-batches there are,
            so that a run may go on with another number of processes (`torchrun --nnodes 1:4`).
        mixed_precision: Autocast of Accelerate; `fp16`, on GPUs only, scales the loss.
        deterministic: Only algorithms that give the same bits each time; slower on a GPU, and no change on a CPU (`docs/scaling.md`).
        ema_max_decay: Ceiling of the moving average's decay, min(ceiling, (1 + n) / (10 + n)) after n updates; 0 is no averaging.
        checkpointing_steps: A checkpoint every so many steps, and one at the end.
        checkpoints_total_limit: Committed checkpoints that are kept, 2 or more.
        resume_from_checkpoint: `latest`, the path of one, or null to start anew.
        report_to: Trackers of Accelerate, `none` for the JSON lines alone.
        logging_steps: Losses are averaged over so many steps, then written.
        validation_steps: A sample grid every so many steps.
        max_nonfinite_steps: A step whose loss or gradient is not finite is skipped; so many in a row end the run.
    """

    output_dir: str = "runs/idiff"
    seed: int = 0
    max_train_steps: int = 1000
    train_batch_size: int = 32
    gradient_accumulation_steps: int = 1
    global_batch_size: int | None = None
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    deterministic: bool = False
    ema_max_decay: float = 0.9999
    checkpointing_steps: int = 500
    checkpoints_total_limit: int = 2
    resume_from_checkpoint: str | None = None
    report_to: Literal["tensorboard", "none"] = "tensorboard"
    logging_steps: int = 50
    validation_steps: int = 1000
    max_nonfinite_steps: int = 10

    def __post_init__(self) -> None:
        require(self.output_dir != "", "train.output_dir must not be empty")
        require(0 <= self.seed < 2**63, f"train.seed must lie in [0, 2^63), got {self.seed}")
        for name in (
            "max_train_steps",
            "gradient_accumulation_steps",
            "checkpointing_steps",
            "logging_steps",
            "validation_steps",
            "max_nonfinite_steps",
        ):
            positive(**{f"train.{name}": getattr(self, name)})
        require(
            self.train_batch_size > 0 and self.train_batch_size % BLOCK_SIZE == 0,
            f"train.train_batch_size must be a positive multiple of {BLOCK_SIZE}, got {self.train_batch_size}",
        )
        require(
            self.global_batch_size is None or self.gradient_accumulation_steps == 1,
            f"train.global_batch_size={self.global_batch_size} decides how many micro-batches there are: leave "
            f"train.gradient_accumulation_steps={self.gradient_accumulation_steps} out",
        )
        self.micro_batches(1)
        require(
            self.checkpoints_total_limit >= 2,
            f"train.checkpoints_total_limit must be 2 or more, got {self.checkpoints_total_limit}",
        )
        require(
            0.0 <= self.ema_max_decay < 1.0,
            f"train.ema_max_decay must lie in [0, 1), got {self.ema_max_decay}",
        )

    def micro_batches(self, num_processes: int) -> int:
        """Micro-batches of one optimiser step on each of so many processes.

        Raises:
            ValueError: One line, where `global_batch_size` is not made of whole ones.
        """
        if self.global_batch_size is None:
            return self.gradient_accumulation_steps
        at_once = self.train_batch_size * num_processes
        require(
            self.global_batch_size > 0 and self.global_batch_size % at_once == 0,
            f"train.global_batch_size must be a positive multiple of {at_once}, what train.train_batch_size={self.train_batch_size} "
            f"makes on {num_processes} process(es), got {self.global_batch_size}: change either, or the number of processes",
        )
        return self.global_batch_size // at_once


@dataclass(frozen=True)
class EvalConfig:
    """What is measured after training.

    Args:
        num_samples: Held-out images that are encoded for the metrics.
        num_generated: Held-out images that are generated anew from their latents and read back; of an unconditional model, images drawn.
        num_inference_steps: Solver steps.
        guidance_scales: Each gamma of Eq. 10 that is measured. The paper: 1 and 4.
        supervision_baseline: Train the known prior alone on the same u (no reconstruction, no U-Net) and report it beside the model.
        supervised_probe: Train the same encoder as a regression on the factors and report it beside the model: what their labels give.
    """

    num_samples: int = 10000
    num_generated: int = 96
    num_inference_steps: int = 20
    guidance_scales: tuple[float, ...] = (1.0, 4.0)
    supervision_baseline: bool = True
    supervised_probe: bool = True

    def __post_init__(self) -> None:
        require(self.num_samples >= 2, f"eval.num_samples must be 2 or more, got {self.num_samples}")
        require(self.num_generated >= 8, f"eval.num_generated must be 8 or more, got {self.num_generated}")
        positive(**{"eval.num_inference_steps": self.num_inference_steps})
        require(
            len(self.guidance_scales) > 0 and min(self.guidance_scales) >= 0,
            f"eval.guidance_scales must be one or more values of 0 or more, got {self.guidance_scales}",
        )
