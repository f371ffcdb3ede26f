"""Trying a config before a long run: what it builds, and what it will take."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch

from .checkpoint import load_checkpoint
from .config import Config
from .pipelines import IVAEDiffusionPipeline
from .training import TrainingRun


def dry_run(config: Config, training_step: Callable[[TrainingRun, int], None]) -> None:
    """Build everything and try it in a temporary folder: two steps of each stage, a save, a load and a sample; print what a run will take.

    Args:
        config: The experiment; its `train.output_dir` is not touched.
        training_step: The algorithm, from `train_ivae_ddpm.py`.
    """
    with tempfile.TemporaryDirectory() as folder:
        train = replace(config.train, output_dir=folder, resume_from_checkpoint=None, report_to="none")
        run = TrainingRun(replace(config, train=train))
        say = run.accelerator.print
        total = config.train.max_train_steps
        windows = config.windows.values()
        edges = sorted({0, total, *(w.start_step for w in windows), *(config.stop_step(w) for w in windows)})
        hours = 0.0
        for name, part in run.learner.parts.items():
            say(f"parameters {name}: {sum(p.numel() for p in part.parameters()):,}")
        for first, last in pairwise(edges):
            training_step(run, first)  # the first step of a stage also warms up
            started = time.perf_counter()
            training_step(run, min(first + 1, last - 1))
            seconds = time.perf_counter() - started
            hours += (last - first) * seconds / 3600
            say(
                f"steps {first} to {last}: {1 / seconds:.1f} steps/s, {run.global_batch_size / seconds:.0f} images/s"
            )
        load_checkpoint(run.checkpoint(2))
        exported = run.finish()
        if not run.accelerator.is_main_process:
            return
        pipeline = IVAEDiffusionPipeline.from_pretrained(exported)
        pipeline.set_progress_bar_config(disable=True)
        sample = _try(pipeline)
        print(f"memory: {_peak_memory(run.accelerator.device) / 2**30:.2f} GiB")
        print(f"saved, loaded, sampled: {type(sample).__name__}")
        print(f"estimated hours: {hours:.3f}")


def _try(pipeline: IVAEDiffusionPipeline) -> object:
    if pipeline.ivae is None:
        return pipeline(batch_size=1, num_inference_steps=2)
    z = torch.zeros(1, pipeline.latent_dim)
    return pipeline.decode(z) if pipeline.unet is None else pipeline(latents=z, num_inference_steps=2)


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the accelerator, or resident where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
