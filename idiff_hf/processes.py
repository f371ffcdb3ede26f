"""What several processes do together, beside training: work shared over them, and what they are refused."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
import torch.distributed
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import Tensor
from tqdm.auto import tqdm

Result = TypeVar("Result")

SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""Launchers that cut a model into pieces, by the variable with which `accelerate launch` asks for each."""


def process_state() -> PartialState:
    """Which of how many processes this one is, and its device.

    `PartialState()` alone, unlike `Accelerator()`, overlooks `ACCELERATE_USE_CPU` and with it all other processes on a CPU.
    """
    leave_group_at_exit()
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


@cache
def leave_group_at_exit() -> None:
    """Have this process leave the group of processes when its program ends, in whichever way and with whichever exit code.

    Otherwise threads of the group outlive the interpreter, and now and then a process that has done all its work ends with SIGABRT.
    """
    atexit.register(_leave_group)


def _leave_group() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def refuse_shards() -> None:
    """Refuse a launch that would leave each process a piece of the model only.

    Averages, clipping by parts, checkpoints and the exported pipeline are of whole tensors (`docs/scaling.md`). Accelerate itself would
    stop on GPUs because it is given no optimiser, and on CPUs train without shards and say nothing.

    Raises:
        ValueError: One line.
    """
    for variable, name in SHARDED.items():
        if parse_flag_from_env(variable):
            raise ValueError(
                f"launched with {name}, which cuts the model into pieces: every process here holds all of it; "
                "launch with distributed_type: MULTI_GPU, as in configs/accelerate/gpus.yaml"
            )


def map_batches(
    function: Callable[[Tensor], Result],
    rows: Tensor,
    batch_size: int,
    *,
    shared: bool = False,
    progress: str | None = None,
) -> list[Result]:
    """What a function gives of each batch of `rows`, in their order.

    Args:
        function: Of row numbers `(batch_size,)`, fewer in the last batch.
        rows: Row numbers, `(N,)`.
        batch_size: The same for any number of processes, for a number may differ in its last bits when it is computed in another batch.
        shared: Each process does a part of the batches, and every one has all results; then every process has to call this. What is
            returned travels between processes: put it on the CPU.
        progress: Name of a bar, shown by the first process.
    """
    state = process_state()
    batches = rows.split(batch_size)
    if shared:
        own = torch.arange(len(batches)).tensor_split(state.num_processes)[state.process_index].tolist()
        batches = tuple(batches[i] for i in own)
    # None hides it where there is no terminal
    shown = progress is not None and state.is_main_process
    bar = tqdm(batches, desc=progress, disable=None if shown else True)
    results = [function(batch) for batch in bar]
    return gather_object(results) if shared else results
