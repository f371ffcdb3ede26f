"""A step of a run once more: the batch that it had, and what in its loss and gradients is not finite."""

from __future__ import annotations

import contextlib
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .arguments import config_from_yaml
from .builders import build_batches, build_dataset, build_objective
from .checkpoint import load_checkpoint, match_tensors
from .config import Config
from .folders import subfolders
from .losses import IVAEDiffusionLoss
from .random import BatchRandom
from .run_log import RunLog
from .stages import phase

_FRAME = re.compile(r'File "[^"]*(idiff_hf/[^"]+)", line (\d+)')


def replay(output_dir: Path, step: int | None = None, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Run one step of a run again, forward and backward, from the checkpoint at or before it.

    The batch and every random draw of a step are functions of their keys, and so they are the very same. The weights are those of the
    checkpoint: they are the step's own where `exact` says so, that is, where no step between the two was taken. Otherwise what was not
    finite in the run may be finite here, and then says that the weights had a part in it. Dropout, and the norm over a batch on several
    processes, are not repeated to the last bit.

    Args:
        output_dir: A run's folder.
        step: The optimiser step, 0 is the first; by default the last of `nonfinite.jsonl`.
        device: Where to run it.

    Returns:
        `step`, `checkpoint` (its step), `exact`, `seed`, and `micro_batches`: of each `first_row` and `num_rows` of the global batch,
        `images` (least, greatest and whether all are finite), `terms` of the loss by name, and `anomaly`, None or what
        `torch.autograd.detect_anomaly` found: the first function whose backward gives NaN, and the line of this package that called it;
        and `parameters`, the names of those whose gradient, of all micro-batches together and without float16's scale, is not finite.

    Raises:
        ValueError: One line, where there is no such folder, or it holds no such step.
    """
    if not output_dir.is_dir():
        raise ValueError(f"{output_dir} is no folder: give a run's train.output_dir")
    skipped = {line["step"]: line for line in RunLog(output_dir / "nonfinite.jsonl").read()}
    if step is None:
        if not skipped:
            raise ValueError(f"{output_dir} has no nonfinite.jsonl: no step was skipped, name one by --step")
        step = max(skipped)
    numbers = [
        int(folder.name[5:])
        for folder in subfolders(output_dir / "checkpoints")
        if folder.name.startswith("step-") and folder.name[5:].isdigit()
    ]
    before = [number for number in numbers if number <= step]
    if not before:
        raise ValueError(
            f"{output_dir} has no checkpoint at or before step {step}, only of {sorted(numbers) or 'none'}"
        )
    number = max(before)
    saved = load_checkpoint(output_dir / "checkpoints" / f"step-{number:08d}")
    config = config_from_yaml(saved.config_text)
    if step >= config.train.max_train_steps:
        raise ValueError(
            f"--step must be below train.max_train_steps={config.train.max_train_steps}, got {step}"
        )
    run = skipped.get(step, saved.manifest["metadata"])
    world, global_batch_size = run["num_processes"], run["global_batch_size"]
    size = run.get("train_batch_size", config.train.train_batch_size)

    device = torch.device(device)
    dataset = build_dataset(config, device)
    module = build_objective(config, dataset)
    live = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    match_tensors(live, saved.tensors["model"], "model")
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved.tensors["model"][name])
    module.to(device).train()

    of_rank = [build_batches(config, dataset, rank, world) for rank in range(world)]
    found = []
    for first_row in range(0, global_batch_size, size):
        random = BatchRandom(config.train.seed, step, first_row, size, device)
        batch = of_rank[first_row // size % world](global_batch_size, random)
        images = batch.image
        found.append(
            {
                "first_row": first_row,
                "num_rows": size,
                "images": {
                    "min": float(images.min()),
                    "max": float(images.max()),
                    "finite": bool(torch.isfinite(images).all()),
                },
                **_pass(config, module, (images, batch.aux, random), step, global_batch_size // size),
            }
        )
    return {
        "step": step,
        "checkpoint": number,
        "exact": all(between in skipped for between in range(number, step)),
        "seed": config.train.seed,
        "micro_batches": found,
        "parameters": [
            name
            for name, parameter in module.named_parameters()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ],
    }


def _pass(
    config: Config,
    module: IVAEDiffusionLoss,
    inputs: tuple[Tensor, Tensor, BatchRandom],
    step: int,
    micro_batches: int,
) -> dict[str, Any]:
    """Forward and backward of one micro-batch: its terms, and the first function whose backward gives NaN."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    kind = kinds.get(config.train.mixed_precision)
    autocast = contextlib.nullcontext() if kind is None else torch.autocast(inputs[0].device.type, dtype=kind)
    anomaly = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.autograd.detect_anomaly():
            with autocast:
                terms = module(*inputs, phase(config, step))
            loss = terms["loss"] / micro_batches
            learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
            try:
                torch.autograd.grad(loss, learned, retain_graph=True, allow_unused=True)
            except RuntimeError as error:
                # it tells by a warning where the forward pass was
                frames = _FRAME.findall("".join(str(warning.message) for warning in caught))
                anomaly = str(error) + "".join(f" ({name}, line {line})" for name, line in frames[-1:])
    # once more without, for detect_anomaly stops at the first
    loss.backward()
    return {"terms": {name: float(value.detach()) for name, value in terms.items()}, "anomaly": anomaly}
