"""How many calls of the U-Net a solver needs, what guidance does, what precision and memory format cost: side by side on one model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .markdown import markdown_table
from .pipelines import IVAEDiffusionPipeline
from .pipelines.guided import Guidance
from .pipelines.images import ImageInput
from .random import generator
from .schedulers import VPSDEScheduler

STEPS = (3, 5, 10, 20, 50, 100)
REFERENCE_STEPS = 1000
ALWAYS = (0.0, 1.0)
"""The interval of guidance that leaves no time out."""
SCALES = (1.0, 2.0, 4.0)
INTERVALS = (ALWAYS, (0.2, 1.0), (0.0, 0.2))

SOLVERS: dict[str, tuple[str, dict[str, str]]] = {
    "DPM-Solver++ 2M": ("DPMSolverMultistepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "VP-SDE Heun ODE": ("VPSDEScheduler", {"solver": "heun_ode"}),
    "VP-SDE Euler-Maruyama": ("VPSDEScheduler", {"solver": "euler_maruyama"}),
    "VP-SDE predictor-corrector": ("VPSDEScheduler", {"solver": "predictor_corrector"}),
}
"""Schedulers of one SDE by name: class and keys. DDPM, Euler-Maruyama and predictor-corrector draw noise in each step, the others do not;
DPM-Solver++ 2M, UniPC, both Heun's are of second order."""
REFERENCE = "VP-SDE Euler-Maruyama"

Read = Callable[[Tensor], Tensor]
"""Factors `(N, K)` of images `(N, C, H, W)` in [-1, 1]."""


@dataclass(frozen=True)
class SamplerRecord:
    """One solver at one number of steps.

    Attributes:
        solver: Its name in `SOLVERS`.
        steps: As given to `set_timesteps`.
        calls: Of the U-Net for one image, without guidance.
        mse: Mean squared error against the images that were encoded, in [-1, 1].
        readback: Fraction of factors that are read back from the drawn images, a mean over factors; None where none can be read.
        seconds: For all images.
    """

    solver: str
    steps: int
    calls: int
    mse: float
    readback: float | None
    seconds: float


def with_solver(pipeline: IVAEDiffusionPipeline, name: str) -> Any:
    """The scheduler `name` of `SOLVERS` for the SDE of the pipeline's own scheduler.

    Raises:
        ValueError: One line for an unknown name.
    """
    if name not in SOLVERS:
        raise ValueError(f"unknown solver {name!r}: give some of {', '.join(SOLVERS)}")
    cls, keys = SOLVERS[name]
    found = VPSDEScheduler if cls == VPSDEScheduler.__name__ else getattr(diffusers, cls)
    return found.from_config(pipeline.scheduler.config, **keys)


def sampler_curve(
    pipeline: IVAEDiffusionPipeline,
    images: ImageInput,
    *,
    factors: Tensor | None = None,
    read: Read | None = None,
    solvers: Sequence[str] = tuple(SOLVERS),
    steps: Sequence[int] = STEPS,
    reference_steps: int = REFERENCE_STEPS,
    guidance_scale: float = 1.0,
    seed: int = 0,
) -> list[SamplerRecord]:
    """Draw the same images from their latents, and from the same noise, by every solver and number of steps.

    Args:
        pipeline: A model with iVAE and U-Net; it keeps its scheduler.
        images: As `prepare_images` takes them.
        factors: Their labels, `(N, K)`.
        read: How `factors` are read from images; all drawn images are given to it at once.
        solvers: Names in `SOLVERS`.
        steps: Numbers of steps.
        reference_steps: Steps of Euler-Maruyama that are added as the limit of what the paper's SDE gives.
        guidance_scale: gamma.
        seed: Of the noise.

    Returns:
        Records in the order of solvers and steps, the reference last.

    Raises:
        ValueError: One line for an unknown solver, or a model that does not draw from latents.
    """
    _check_draws(pipeline, "solvers")
    plan = [(name, count) for name in solvers for count in steps] + [(REFERENCE, reference_steps)]
    schedulers = {name: with_solver(pipeline, name) for name, _ in plan}
    target, latents = pipeline.prepare_images(images), pipeline.encode(images)
    own = pipeline.scheduler
    records, drawn = [], []
    # the first call of a process is slower than the others
    _draw(pipeline, latents, 1, guidance_scale, seed)
    try:
        for name, count in tqdm(plan, desc="samplers", disable=None):
            pipeline.scheduler = schedulers[name]
            pictures, seconds = _draw(pipeline, latents, count, guidance_scale, seed)
            drawn.append(pictures)
            error = float((pictures - target).square().mean())
            records.append(SamplerRecord(name, count, pipeline.num_timesteps, error, None, seconds))
    finally:
        pipeline.scheduler = own
    if factors is None or read is None:
        return records
    rates = _read_back(drawn, factors, read).mean(dim=1).tolist()
    return [replace(record, readback=rate) for record, rate in zip(records, rates, strict=True)]


def _check_draws(pipeline: IVAEDiffusionPipeline, what: str) -> None:
    if pipeline.ivae is None or pipeline.unet is None:
        raise ValueError(
            f"{what} are compared on a model with an iVAE and a U-Net: this one lacks one of them"
        )


def _read_back(drawn: Sequence[Tensor], factors: Tensor, read: Read) -> Tensor:
    """Fraction of images from which each factor is read back, `(len(drawn), K)`."""
    right = read(torch.cat(list(drawn))).cpu() == factors.cpu().repeat(len(drawn), 1)
    return right.float().view(len(drawn), *factors.shape).mean(dim=1)


def _draw(
    pipeline: IVAEDiffusionPipeline,
    latents: Tensor,
    count: int,
    guidance_scale: float,
    seed: int,
    interval: tuple[float, float] = ALWAYS,
) -> tuple[Tensor, float]:
    """Images in [-1, 1], float32, and seconds."""
    draws = [generator(seed, "samplers", row, device=pipeline.device) for row in range(len(latents))]
    started = time.perf_counter()
    drawn = pipeline(
        latents=latents,
        guidance_scale=guidance_scale,
        guidance_interval=interval,
        num_inference_steps=count,
        generator=draws,
        output_type="pt",
    ).images
    # what an accelerator still has to do counts
    pictures = drawn.float() * 2.0 - 1.0
    pictures.sum().item()
    return pictures, time.perf_counter() - started


def curve_table(records: Sequence[SamplerRecord]) -> str:
    """The records in Markdown, with error and time beside those of the last, the reference."""
    last = records[-1]
    lines = [
        "| solver | steps | calls | squared error | over the reference's | factors read back | seconds | times faster |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        read = "" if record.readback is None else f"{record.readback:.3f}"
        lines.append(
            f"| {record.solver} | {record.steps} | {record.calls} | {record.mse:.4f} | {record.mse / last.mse:.3f} | {read} "
            f"| {record.seconds:.2f} | {last.seconds / record.seconds:.1f} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class GuidanceRecord:
    """One scale of guidance, over one interval of times.

    Attributes:
        guidance_scale: gamma.
        interval: Times (start, end) between which it holds; see `Guidance`.
        mse: Mean squared error against the images that were encoded, in [-1, 1].
        readback: Fraction of images from which each factor is read back, in the factors' order; None where none can be read.
    """

    guidance_scale: float
    interval: tuple[float, float]
    mse: float
    readback: tuple[float, ...] | None


def guidance_table(records: Sequence[GuidanceRecord], names: Sequence[str]) -> str:
    """The records in Markdown; `names` are those of the factors."""
    read = [] if records[0].readback is None else [f"{name} read back" for name in names]
    rows = [
        (
            f"{record.guidance_scale:g}",
            f"{record.interval[0]:g} to {record.interval[1]:g}",
            f"{record.mse:.4f}",
            *(f"{rate:.3f}" for rate in record.readback or ()),
        )
        for record in records
    ]
    return markdown_table(("guidance", "at times", "squared error", *read), rows)


def guidance_curve(
    pipeline: IVAEDiffusionPipeline,
    images: ImageInput,
    *,
    factors: Tensor | None = None,
    read: Read | None = None,
    scales: Sequence[float] = SCALES,
    intervals: Sequence[tuple[float, float]] = INTERVALS,
    steps: int = 20,
    seed: int = 0,
) -> list[GuidanceRecord]:
    """Draw the same images from their latents, and from the same noise, under every scale and interval of guidance.

    Args:
        pipeline: A model with iVAE and U-Net.
        images: As `prepare_images` takes them.
        factors: Their labels, `(N, K)`.
        read: How `factors` are read from images; all drawn images are given to it at once.
        scales: gamma. For 1 the interval means nothing, and there is one record.
        intervals: Times (start, end).
        steps: Of the pipeline's own solver.
        seed: Of the noise.

    Returns:
        Records in the order of scales and intervals.

    Raises:
        ValueError: One line for a scale or interval outside its range, or a model that does not draw from latents.
    """
    _check_draws(pipeline, "scales of guidance")
    plan = [(scale, interval) for scale in scales for interval in (intervals if scale != 1.0 else [ALWAYS])]
    if not plan:
        raise ValueError("no guidance to draw under: give a scale and an interval or more")
    for scale in scales:
        for interval in intervals:
            Guidance(scale, interval)
    target, latents = pipeline.prepare_images(images), pipeline.encode(images)
    drawn = [
        _draw(pipeline, latents, steps, scale, seed, interval)[0]
        for scale, interval in tqdm(plan, desc="guidance", disable=None)
    ]
    rates: list[tuple[float, ...] | None] = [None] * len(plan)
    if factors is not None and read is not None:
        rates = [tuple(rate) for rate in _read_back(drawn, factors, read).tolist()]
    errors = [float((pictures - target).square().mean()) for pictures in drawn]
    return [
        GuidanceRecord(scale, interval, error, rate)
        for (scale, interval), error, rate in zip(plan, errors, rates, strict=True)
    ]


@dataclass(frozen=True)
class VariantRecord:
    """One way to run the U-Net.

    Attributes:
        variant: Its name in `VARIANTS`.
        seconds: For all images; the least of three runs, after one that warms up.
        max_difference: Largest difference of a pixel to float32, of images in [0, 1].
        mean_difference: Mean absolute difference.
    """

    variant: str
    seconds: float
    max_difference: float
    mean_difference: float


VARIANTS: dict[str, Mapping[str, Any]] = {
    "float32": {},
    "channels_last": {"memory_format": torch.channels_last},
    "torch.compile": {"compile": True},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
}
"""What is changed of the pipeline's U-Net and conditioning; where no precision is named it is float32. Sampling itself stays in float32."""


def variant_table(
    pipeline: IVAEDiffusionPipeline,
    images: ImageInput,
    *,
    variants: Sequence[str] = tuple(VARIANTS),
    steps: int = 20,
    guidance_scale: float = 1.0,
    seed: int = 0,
) -> list[VariantRecord]:
    """Draw the same images in each precision and memory format, and compare them with those of float32.

    Args:
        pipeline: In float32; it is left as it was.
        images: As `prepare_images` takes them.
        variants: Names in `VARIANTS`.
        steps: Of the pipeline's own solver.
        guidance_scale: gamma.
        seed: Of the noise.

    Raises:
        ValueError: One line for an unknown variant.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown:
        raise ValueError(f"unknown variant {unknown[0]!r}: give some of {', '.join(VARIANTS)}")
    latents = pipeline.encode(images)
    exact, _ = _draw(pipeline, latents, steps, guidance_scale, seed)
    records = []
    for name in tqdm(variants, desc="variants", disable=None):
        with _variant(pipeline, **VARIANTS[name]):
            runs = [_draw(pipeline, latents, steps, guidance_scale, seed) for _ in range(4)]
        difference = (runs[0][0] - exact).abs() / 2.0
        seconds = min(seconds for _, seconds in runs[1:])
        records.append(VariantRecord(name, seconds, float(difference.max()), float(difference.mean())))
    return records


def precision_table(records: Sequence[VariantRecord]) -> str:
    """The records in Markdown, with each time beside that of the first."""
    lines = [
        "| variant | seconds | times the first's speed | largest difference | mean difference |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {record.variant} | {record.seconds:.2f} | {records[0].seconds / record.seconds:.2f} | {record.max_difference:.1e} "
        f"| {record.mean_difference:.1e} |"
        for record in records
    ]
    return "\n".join(lines)


@contextmanager
def _variant(
    pipeline: IVAEDiffusionPipeline,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    compile: bool = False,
) -> Iterator[None]:
    assert pipeline.unet is not None and pipeline.conditioning is not None
    unet, conditioning = pipeline.unet, pipeline.conditioning
    changed = deepcopy(unet).to(dtype=dtype, memory_format=memory_format)
    pipeline.unet = torch.compile(changed) if compile else changed  # type: ignore[assignment]
    pipeline.conditioning = deepcopy(conditioning).to(dtype=dtype)
    try:
        yield
    finally:
        pipeline.unet, pipeline.conditioning = unet, conditioning
