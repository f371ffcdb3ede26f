"""What surrounds the training algorithm: folders, optimiser, moving average, resume, logging, checkpoints."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .arguments import config_from_yaml, config_to_yaml
from .builders import (
    build_accelerator,
    build_batches,
    build_dataset,
    build_objective,
    build_pipeline,
    check_scored,
)
from .checkpoint import (
    compare_configs,
    latest_checkpoint,
    load_checkpoint,
    rotate_checkpoints,
    save_checkpoint,
)
from .config import Config
from .data import Batch, Prefetcher
from .folders import RunLock, clean_leftovers, commit_folder
from .guards import NonFiniteGuard, refuse_float16_on_cpu
from .interruption import HOW_TO_GO_ON, Interrupted, at_once, requested
from .learner import Learner
from .losses import IVAEDiffusionLoss
from .processes import refuse_shards
from .provenance import command, hardware, versions, write_text
from .random import BatchRandom
from .run_log import RunLog
from .stages import Phase
from .validation import draw_sample_grid

logger = logging.getLogger(__name__)

CALIBRATION_IMAGES = 1024
"""Training images that the scale of an autoencoder's latents is measured on."""


class TrainingRun:
    """One run in `train.output_dir`.

    Writes `config.yaml`, `metrics.jsonl`, `training.json`, `checkpoints/`, `samples/`, `logs/` and, at the end, `pipeline/`; and
    `nonfinite.jsonl` where steps were skipped (`guards.NonFiniteGuard`).

    Where signals are answered (`interruption.answered`), one that comes while it is built, waits for data, steps, draws samples or saves
    makes it commit a checkpoint, on every process at the same step, and raise `Interrupted`.

    Args:
        config: The experiment.

    Raises:
        ValueError: One line, where the folder holds another run, or its checkpoint does not fit the config.
    """

    def __init__(self, config: Config) -> None:
        refuse_shards()
        refuse_float16_on_cpu(config)
        self.config = config
        self.output_dir = Path(config.train.output_dir)
        self.accelerator = build_accelerator(config)
        world = self.accelerator.num_processes
        self.accumulation = config.train.micro_batches(world)
        self.global_batch_size = config.train.train_batch_size * self.accumulation * world
        self.lock = RunLock(self.output_dir)
        self.metrics = RunLog(self.output_dir / "metrics.jsonl")
        self.guard = NonFiniteGuard(config, self.accelerator, RunLog(self.output_dir / "nonfinite.jsonl"))
        with self._interruptible("nothing was lost"):
            self._build()
        self._started = time.perf_counter()

    def _build(self) -> None:
        """Open the folder and the data, and build what learns, as its checkpoint left it."""
        config, world = self.config, self.accelerator.num_processes
        self._open_folder()
        self.dataset = build_dataset(config, self.accelerator.device)
        check_scored(config, self.dataset)
        self.batches = build_batches(config, self.dataset, self.accelerator.process_index, world)
        self.prefetcher = Prefetcher(
            lambda step, micro: self.batches(self.global_batch_size, self.random(step, micro)),
            config.train.max_train_steps,
            self.accumulation,
            config.data.num_workers,
        )
        module = build_objective(config, self.dataset)
        self.objective: Any = self.accelerator.prepare(module)
        self.module: IVAEDiffusionLoss = self.accelerator.unwrap_model(self.objective)
        self.learner = Learner(config, self.module, self.accelerator.scaler)
        self.first_step = 0
        self.seconds = 0.0
        self._terms: list[dict[str, Tensor]] = []
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._asked = False
        self._committed: int | None = None
        self._resume()

    def _interruptible(self, state: str) -> AbstractContextManager[None]:
        """A signal is answered at once, unless other processes wait for this one."""
        return at_once(f"{state}, {HOW_TO_GO_ON}") if self.accelerator.num_processes == 1 else nullcontext()

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
        if resume is not None:
            found = [latest_checkpoint(self.checkpoints) if resume == "latest" else Path(resume)]
            if self.accelerator.num_processes > 1:
                torch.distributed.broadcast_object_list(found)
            if found[0] is None:
                logger.warning("no checkpoint in %s: starting at step 0", self.checkpoints)
            else:
                self._load(found[0])
                if resume == "latest" and self.accelerator.is_main_process:
                    rotate_checkpoints(
                        self.checkpoints, self.first_step, self.config.train.checkpoints_total_limit
                    )
        if self.accelerator.is_main_process:
            write_text(self.output_dir / "config.yaml", config_to_yaml(self.config))
            # without what a killed run wrote after its last checkpoint
            self.metrics.keep(lambda line: line["step"] <= self.first_step)
            self.guard.log.keep(lambda line: line["step"] < self.first_step)

    def _load(self, folder: Path) -> None:
        saved = load_checkpoint(folder)
        for change in compare_configs(config_from_yaml(saved.config_text), self.config, folder):
            logger.warning("resumed with another %s", change)
        before = saved.manifest["metadata"]["global_batch_size"]
        if before != self.global_batch_size:
            logger.warning(
                "resumed with %d images a step, %s was made with %d, so that some images come twice and others not at all in this epoch: "
                "train.global_batch_size=%d keeps them on any number of processes",
                self.global_batch_size,
                folder,
                before,
                before,
            )
        self.learner.load(saved)
        self.guard.load(saved.state.get("skipped", {}))
        self.first_step = saved.step
        if folder.parent == self.checkpoints:
            self._committed = saved.step
        self.seconds = saved.state["seconds"]
        # checkpoints of earlier versions lack it
        self.prefetcher.waited = saved.state.get("waited", 0.0)
        window = saved.state["window"]
        self._sums = {
            name: torch.tensor(value, device=self.accelerator.device)
            for name, value in window["sums"].items()
        }
        self._count = window["count"]
        logger.warning("resumed from %s at step %d", folder, saved.step)

    # One step

    def steps(self) -> Generator[int]:
        """The optimiser steps that are left, under a progress bar with every loss term."""
        config = self.config
        if self.accelerator.is_main_process and config.train.report_to != "none":
            self.accelerator.init_trackers("logs")
        total = config.train.max_train_steps
        self.bar = tqdm(
            total=total,
            initial=self.first_step,
            desc="train",
            # None hides it where there is no terminal
            disable=None if self.accelerator.is_local_main_process else True,
        )
        self.objective.train()
        self._asked = self._any_requested()
        try:
            for step in range(self.first_step, total):
                if self._asked or (requested() and self.accelerator.num_processes == 1):
                    self._leave(step)
                yield step
                self.bar.update()
        except BaseException:  # GeneratorExit, where what was done with a step has raised
            self._close()
            raise
        finally:
            self.bar.close()
            # a thread may be waiting for data that never comes
            self.prefetcher.close(wait=False)

    def _any_requested(self) -> bool:
        """Whether any process was asked to stop."""
        asked = torch.tensor(float(requested()), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, reduction="sum") > 0)

    def _leave(self, done: int) -> NoReturn:
        """Commit `done` steps, and end the run."""
        if done != self._committed:
            if self.accelerator.is_main_process:
                self.checkpoint(done)
            self.accelerator.wait_for_everyone()
        raise Interrupted(f"step {done} of {self.config.train.max_train_steps} is committed, {HOW_TO_GO_ON}")

    def _close(self) -> None:
        """Let go of the folder and the trackers; the processes stay together for what comes after training."""
        self.lock.release()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def random(self, step: int, micro: int) -> BatchRandom:
        """Keyed draws for this process's rows of micro-batch `micro` of step `step`."""
        size = self.config.train.train_batch_size
        first_row = (micro * self.accelerator.num_processes + self.accelerator.process_index) * size
        return BatchRandom(self.config.train.seed, step, first_row, size, self.accelerator.device)

    def batch(self, step: int, micro: int) -> Batch:
        """This process's rows of micro-batch `micro` of step `step`, prepared while the step before was trained."""
        if micro == 0:
            self.learner.keep_buffers()
        try:
            with self._interruptible(f"step {step} was not begun"):
                return self.prefetcher(step, micro)
        except Interrupted:
            self.learner.restore_buffers()
            self._leave(step)

    def accumulate(self, micro: int) -> AbstractContextManager[Any]:
        """Gradients are exchanged between processes at the last micro-batch only."""
        last = micro == self.accumulation - 1
        return nullcontext() if last else self.accelerator.no_sync(self.objective)

    def optimizer_step(self, step: int, phase: Phase) -> None:
        """Step and average each part that learns at this step, unless a loss or a gradient is not finite on any process.

        Raises:
            FloatingPointError: One line, when `train.max_nonfinite_steps` steps in a row were not finite.
        """
        norms = self.learner.clip(phase)
        verdict, self._asked = self.guard.judge(step, self._terms, norms, self.learner.scale, requested())
        if verdict == "finite":
            for terms in self._terms:
                for name, value in terms.items():
                    self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
                self._count += 1
        self._terms = []
        if "autoencoder" in self.learner.step(step, phase, verdict):
            self._calibrate()

    def _calibrate(self) -> None:
        """Give the finished autoencoder its scale, on every process by the images that one process alone would see first.

        The batches are new ones, for those of the run go on where they are, and a stream has no other way to its training images.
        """
        first = BatchRandom(self.config.train.seed, 0, 0, CALIBRATION_IMAGES, self.accelerator.device)
        self.module.calibrate(build_batches(self.config, self.dataset)(CALIBRATION_IMAGES, first).image)

    def add(self, terms: dict[str, Tensor]) -> None:
        """Take the terms of one micro-batch, which enter the window that is logged next if their step is taken."""
        self._terms.append({name: value.detach() for name, value in terms.items()})

    def log(self, step: int) -> None:
        """Write the means of the window that ends with `step`, over it and over all processes, where one does."""
        done = step + 1
        if done % self.config.train.logging_steps and done != self.config.train.max_train_steps:
            return
        values: dict[str, float] = {}
        if self._count:
            names = sorted(self._sums)
            means = torch.stack([self._sums[name] for name in names]) / self._count
            means = self.accelerator.reduce(means, reduction="mean")
            values = dict(zip(names, means.tolist(), strict=True))
        self._sums, self._count = {}, 0
        if self.accelerator.is_main_process:
            self.metrics.append({"step": done, **values, **self.guard.counts()})
            counts = {name: str(count) for name, count in self.guard.counts().items()}
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()} | counts)
            if self.config.train.report_to != "none":
                waited = self.prefetcher.waited / self.elapsed()
                logged = {**values, **self.guard.counts(), "data_wait_fraction": waited}
                self.accelerator.log(logged, step=done)

    # What is written

    def save(self, step: int) -> None:
        """Commit a checkpoint, and a sample grid, after step `step` where one is due."""
        done, train = step + 1, self.config.train
        last = done == train.max_train_steps
        grid = done % train.validation_steps == 0 and not last
        due = done % train.checkpointing_steps == 0 or last
        if self.accelerator.is_main_process:
            if grid and self.dataset.image_size > 1:  # vectors cannot be looked at
                path = self.output_dir / "samples" / f"step_{done:08d}.png"
                with self.learner.averaged() as module:
                    draw_sample_grid(self.config, module, self.dataset, done, path)
            if due:
                self.checkpoint(done)
        if due:
            self._committed = done
        if grid or due:
            self.accelerator.wait_for_everyone()

    def checkpoint(self, done: int) -> Path:
        """Commit a checkpoint that says `done` steps are done."""
        window = {name: float(value) for name, value in self._sums.items()}
        state = {
            **self.learner.state(),
            "skipped": self.guard.state(),
            "seconds": self.elapsed(),
            "waited": self.prefetcher.waited,
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

    def finish(self) -> Path:
        """Export `pipeline/` with the averaged weights, and the facts of the run; returns the folder."""
        folder = self.output_dir / "pipeline"
        if self.accelerator.is_main_process:
            apart = ("step", "loss", *self.guard.counts())
            facts = {
                "seed": self.config.train.seed,
                "deterministic": self.config.train.deterministic,
                "steps": self.config.train.max_train_steps,
                "seconds": round(self.elapsed(), 1),
                "images_per_second": round(
                    self.config.train.max_train_steps * self.global_batch_size / self.elapsed(), 1
                ),
                "data_wait_fraction": round(self.prefetcher.waited / self.elapsed(), 5),
                "num_processes": self.accelerator.num_processes,
                "global_batch_size": self.global_batch_size,
                # of every term, also of those whose stage is over
                "final_losses": {k: v for k, v in self.metrics.last().items() if k not in apart},
                **self.guard.counts(),
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
        self.accelerator.wait_for_everyone()
        self._close()
        if self._any_requested():
            raise Interrupted(f"training is done and saved, {HOW_TO_GO_ON}")
        return folder
