"""What surrounds the training algorithm: folders, optimiser, moving average, resume, logging, checkpoints."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from tqdm.auto import tqdm

from .arguments import config_from_yaml, config_to_yaml
from .builders import build_batches, build_dataset, build_objective, build_pipeline
from .checkpoint import (
    compare_configs,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from .config import Config
from .data import Batch, Prefetcher, to_float
from .figures import channels_last, image_grid, to_uint8
from .folders import RunLock, clean_leftovers, commit_folder
from .learner import Learner
from .losses import IVAEDiffusionLoss
from .models import autoencode
from .provenance import command, hardware, versions, write_text
from .random import BatchRandom
from .stages import Phase

logger = logging.getLogger(__name__)

CALIBRATION_IMAGES = 1024
"""Training images that the scale of an autoencoder's latents is measured on."""


class TrainingRun:
    """One run in `train.output_dir`.

    Writes `config.yaml`, `metrics.jsonl`, `training.json`, `checkpoints/`, `samples/`, `logs/` and, at the end, `pipeline/`.

    Args:
        config: The experiment.

    Raises:
        ValueError: One line, where the folder holds another run, or its checkpoint does not fit the config.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.output_dir = Path(config.train.output_dir)
        self.accelerator = Accelerator(
            mixed_precision=config.train.mixed_precision,
            log_with=None if config.train.report_to == "none" else config.train.report_to,
            project_dir=self.output_dir,
            # the parts that do not learn in a stage have no gradient
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        world = self.accelerator.num_processes
        if self.accelerator.device.type == "cpu":
            # `accelerate launch` leaves one thread to a process, whatever the machine has
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world))
        self.global_batch_size = (
            config.train.train_batch_size * config.train.gradient_accumulation_steps * world
        )
        self.lock = RunLock(self.output_dir)
        self._open_folder()
        self.dataset = build_dataset(config, self.accelerator.device)
        self.batches = build_batches(config, self.dataset, self.accelerator.process_index, world)
        self.prefetcher = Prefetcher(
            lambda step, micro: self.batches(self.global_batch_size, self.random(step, micro)),
            config.train.max_train_steps,
            config.train.gradient_accumulation_steps,
            config.data.num_workers,
        )
        module = build_objective(config, self.dataset)
        self.objective: Any = self.accelerator.prepare(module)
        self.module: IVAEDiffusionLoss = self.accelerator.unwrap_model(self.objective)
        self.learner = Learner(config, self.module)
        self.first_step = 0
        self.seconds = 0.0
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._resume()
        self._started = time.perf_counter()

    # Folder, resume

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are committed."""
        return self.output_dir / "checkpoints"

    def _open_folder(self) -> None:
        """Lock the folder, refuse one that holds another run, and clean up after a killed one."""
        resume = self.config.train.resume_from_checkpoint
        error: list[str | None] = [None]
        if self.accelerator.is_main_process:
            try:
                held = self.checkpoints.is_dir() and any(self.checkpoints.glob("step-*"))
                if resume is None and (held or (self.output_dir / "pipeline").exists()):
                    raise ValueError(
                        f"train.output_dir={self.output_dir} already holds a run: continue it with "
                        "--train.resume_from_checkpoint latest, or name another folder"
                    )
                self.output_dir.mkdir(parents=True, exist_ok=True)
                self.lock.acquire()
                self.checkpoints.mkdir(exist_ok=True)
                clean_leftovers(self.checkpoints)
                clean_leftovers(self.output_dir)
            except (ValueError, OSError) as problem:
                error = [str(problem)]
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(error)
        if error[0] is not None:
            raise ValueError(error[0])

    def _resume(self) -> None:
        resume = self.config.train.resume_from_checkpoint
        if resume is None:
            if self.accelerator.is_main_process:
                write_text(self.output_dir / "config.yaml", config_to_yaml(self.config))
            return
        found = [latest_checkpoint(self.checkpoints) if resume == "latest" else Path(resume)]
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(found)
        folder = found[0]
        if folder is None:
            logger.warning("no checkpoint in %s: starting at step 0", self.checkpoints)
        else:
            self._load(folder)
        if self.accelerator.is_main_process:
            write_text(self.output_dir / "config.yaml", config_to_yaml(self.config))
            self._cut_metrics()

    def _load(self, folder: Path) -> None:
        saved = load_checkpoint(folder)
        for change in compare_configs(config_from_yaml(saved.config_text), self.config, folder):
            logger.warning("resumed with another %s", change)
        self.learner.load(saved)
        self.first_step = saved.step
        self.seconds = saved.state["seconds"]
        window = saved.state["window"]
        self._sums = {
            name: torch.tensor(value, device=self.accelerator.device)
            for name, value in window["sums"].items()
        }
        self._count = window["count"]
        logger.warning("resumed from %s at step %d", folder, saved.step)

    def _cut_metrics(self) -> None:
        """Drop the lines that a killed run wrote after its last checkpoint."""
        path = self.output_dir / "metrics.jsonl"
        if path.exists():
            lines = []
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    kept = json.loads(line)["step"] <= self.first_step
                except json.JSONDecodeError:
                    kept = False  # the line that the kill cut short
                if kept:
                    lines.append(line)
            write_text(path, "".join(line + "\n" for line in lines))

    # One step

    def steps(self) -> Iterator[int]:
        """The optimiser steps that are left, under a progress bar with every loss term."""
        config = self.config
        if self.accelerator.is_main_process and config.train.report_to != "none":
            self.accelerator.init_trackers("logs")
        total = config.train.max_train_steps
        self.bar = tqdm(
            total=total,
            initial=self.first_step,
            desc="train",
            disable=not self.accelerator.is_local_main_process,
        )
        self.objective.train()
        for step in range(self.first_step, total):
            yield step
            self.bar.update()
        self.bar.close()
        self.prefetcher.close()

    def random(self, step: int, micro: int) -> BatchRandom:
        """Keyed draws for this process's rows of micro-batch `micro` of step `step`."""
        size = self.config.train.train_batch_size
        first_row = (micro * self.accelerator.num_processes + self.accelerator.process_index) * size
        return BatchRandom(self.config.train.seed, step, first_row, size, self.accelerator.device)

    def batch(self, step: int, micro: int) -> Batch:
        """This process's rows of micro-batch `micro` of step `step`, prepared while the step before was trained."""
        return self.prefetcher(step, micro)

    def accumulate(self, micro: int) -> AbstractContextManager[Any]:
        """Gradients are exchanged between processes at the last micro-batch only."""
        last = micro == self.config.train.gradient_accumulation_steps - 1
        return nullcontext() if last else self.accelerator.no_sync(self.objective)

    def optimizer_step(self, step: int, phase: Phase) -> None:
        """Step and average each part that learns at this step."""
        if "autoencoder" in self.learner.step(step, phase):
            self._calibrate()

    def _calibrate(self) -> None:
        """Give the finished autoencoder its scale, on every process by the images that one process alone would see first.

        The batches are new ones, for those of the run go on where they are, and a stream has no other way to its training images.
        """
        first = BatchRandom(self.config.train.seed, 0, 0, CALIBRATION_IMAGES, self.accelerator.device)
        self.module.calibrate(build_batches(self.config, self.dataset)(CALIBRATION_IMAGES, first).image)

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add the terms of one micro-batch to the window that is logged next."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        self._count += 1

    def log(self, step: int) -> None:
        """Write the means of the window that ends with `step`, over it and over all processes, where one does.

        Raises:
            FloatingPointError: One line, when a loss is not finite.
        """
        done = step + 1
        if done % self.config.train.logging_steps and done != self.config.train.max_train_steps:
            return
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] for name in names]) / self._count
        means = self.accelerator.reduce(means, reduction="mean")
        last_log = dict(zip(names, means.tolist(), strict=True))
        self._sums, self._count = {}, 0
        if not all(np.isfinite(value) for value in last_log.values()):
            raise FloatingPointError(
                f"a loss is not finite at step {done}: {last_log}; the last checkpoint is good, "
                "lower the learning rate or the gradient's norm and resume"
            )
        if self.accelerator.is_main_process:
            with (self.output_dir / "metrics.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": done, **last_log}) + "\n")
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in last_log.items()})
            if self.config.train.report_to != "none":
                waited = self.prefetcher.waited / (time.perf_counter() - self._started)
                self.accelerator.log({**last_log, "data_wait_fraction": waited}, step=done)

    # What is written

    def save(self, step: int) -> None:
        """Commit a checkpoint, and a sample grid, after step `step` where one is due."""
        done, train = step + 1, self.config.train
        last = done == train.max_train_steps
        grid = done % train.validation_steps == 0 and not last
        due = done % train.checkpointing_steps == 0 or last
        if self.accelerator.is_main_process:
            if grid and self.dataset.image_size > 1:  # vectors cannot be looked at
                self._sample_grid(done)
            if due:
                self.checkpoint(done)
        if grid or due:
            self.accelerator.wait_for_everyone()

    def checkpoint(self, done: int) -> Path:
        """Commit a checkpoint that says `done` steps are done."""
        window = {name: float(value) for name, value in self._sums.items()}
        state = {
            **self.learner.state(),
            "seconds": self.elapsed(),
            "window": {"sums": window, "count": self._count},
        }
        metadata = {
            "seed": self.config.train.seed,
            "num_processes": self.accelerator.num_processes,
            "global_batch_size": self.global_batch_size,
            "versions": versions(),
        }
        return save_checkpoint(
            self.checkpoints,
            done,
            self.learner.tensors(),
            state,
            config_to_yaml(self.config),
            metadata=metadata,
            total_limit=self.config.train.checkpoints_total_limit,
        )

    def elapsed(self) -> float:
        """Seconds of training, those before a resume included."""
        return self.seconds + time.perf_counter() - self._started

    def _sample_grid(self, done: int) -> None:
        """Held-out images, their reconstruction and, where the U-Net has begun, what it draws, as a PNG."""
        _, held_out = self.dataset.split(self.config.data.held_out, self.config.train.seed)
        picked = held_out[torch.linspace(0, len(held_out) - 1, 8).long()]
        originals = self.dataset.images(picked)
        with self.learner.averaged() as module:
            pipeline = build_pipeline(self.config, module)
            pipeline.set_progress_bar_config(disable=True)
            rows, labels = [channels_last(originals)], ["input"]
            if self.config.model.ivae and self.config.loss.rec > 0:
                rows.append(to_uint8(pipeline.reconstruct(originals, "np")))
                labels.append("iVAE")
            if module.vae is not None:
                rows.append(to_uint8(channels_last(autoencode(module.vae, to_float(originals)) / 2 + 0.5)))
                labels.append("autoencoder")
            if self.config.model.diffusion and done > self.config.optim_unet.start_step:
                generators = [torch.Generator(self.accelerator.device).manual_seed(i) for i in range(8)]
                given = {"images": originals} if self.config.model.ivae else {"batch_size": 8}
                drawn = pipeline(**given, guidance_scale=1.0, generator=generators, output_type="np").images
                rows.append(to_uint8(drawn))
                labels.append("DDPM")
        folder = self.output_dir / "samples"
        folder.mkdir(exist_ok=True)
        image_grid(rows, labels, folder / f"step_{done:08d}.png")

    def finish(self) -> Path:
        """Export `pipeline/` with the averaged weights, and the facts of the run; returns the folder."""
        folder = self.output_dir / "pipeline"
        if self.accelerator.is_main_process:
            facts = {
                "seed": self.config.train.seed,
                "steps": self.config.train.max_train_steps,
                "seconds": round(self.elapsed(), 1),
                "images_per_second": round(
                    self.config.train.max_train_steps * self.global_batch_size / self.elapsed(), 1
                ),
                "data_wait_fraction": round(
                    self.prefetcher.waited / (time.perf_counter() - self._started), 5
                ),
                "num_processes": self.accelerator.num_processes,
                "global_batch_size": self.global_batch_size,
                "final_losses": self._final_losses(),
                "hardware": hardware(self.accelerator.device),
                "command": command(),
            }
            with (
                self.learner.averaged() as module,
                commit_folder(folder, metadata={"step": self.config.train.max_train_steps}) as staged,
            ):
                build_pipeline(self.config, module).save_pretrained(staged)
                (staged / "config.yaml").write_text(config_to_yaml(self.config), encoding="utf-8")
            if (
                self.first_step < self.config.train.max_train_steps
                or not (self.output_dir / "training.json").exists()
            ):
                write_text(self.output_dir / "training.json", json.dumps(facts, indent=2) + "\n")
            self.lock.release()
        self.accelerator.wait_for_everyone()
        if self.config.train.report_to != "none":
            self.accelerator.end_training()
        return folder

    def _final_losses(self) -> dict[str, float]:
        """The last logged mean of every term, also of those whose stage is over."""
        path, last = self.output_dir / "metrics.jsonl", {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                last.update(json.loads(line))
        return {name: value for name, value in last.items() if name not in ("step", "loss")}
