"""How many calls of the U-Net a solver needs: error and factor read-back against calls, on one model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from .data import GridDataset, ImageDataset, to_float
from .pipelines import IVAEDiffusionPipeline
from .random import generator
from .readback import nearest_rendered
from .schedulers import VPSDEScheduler

STEPS = (5, 10, 20, 50, 100)
REFERENCE = ("VPSDE Euler-Maruyama", 1000)


def _diffusers(name: str, **keys: Any) -> Callable[[Any], Any]:
    def build(config: Any) -> Any:
        import diffusers

        return getattr(diffusers, name).from_config(config, **keys)

    return build


def _ours(solver: str) -> Callable[[Any], Any]:
    def build(config: Any) -> Any:
        return VPSDEScheduler.from_config(config, solver=solver)

    return build


SOLVERS: dict[str, Callable[[Any], Any]] = {
    "DPM-Solver++ 2M": _diffusers("DPMSolverMultistepScheduler"),
    "UniPC": _diffusers("UniPCMultistepScheduler"),
    "Heun (Karras)": _diffusers("HeunDiscreteScheduler"),
    "DDIM": _diffusers("DDIMScheduler"),
    "DDPM": _diffusers("DDPMScheduler"),
    "VPSDE Heun ODE": _ours("heun_ode"),
    "VPSDE Euler-Maruyama": _ours("euler_maruyama"),
    "VPSDE predictor-corrector": _ours("predictor_corrector"),
}
"""Schedulers of the same SDE, made from the config of a saved one. The first four and the Heun ODE are deterministic."""


def sampler_curve(
    pipeline: IVAEDiffusionPipeline,
    dataset: ImageDataset,
    rows: Tensor,
    *,
    solvers: Sequence[str] = tuple(SOLVERS),
    steps: Sequence[int] = STEPS,
    guidance_scale: float = 1.0,
    reference: bool = True,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Draw the same images from their latents by every solver and number of steps, from the same noise.

    Args:
        pipeline: A model with iVAE and U-Net; it keeps its scheduler.
        dataset: The images.
        rows: Which of them, `(N,)`.
        solvers: Names in `SOLVERS`.
        steps: Numbers of steps.
        guidance_scale: gamma.
        reference: Add 1000 steps of Euler-Maruyama, which the paper's sampling stands for.
        seed: Of the noise.

    Returns:
        For each solver and number of steps: `solver`, `steps`, `calls` of the U-Net, `mse` (mean squared error against the encoded
        images in [-1, 1]), `readback` (fraction of factors read back, a mean over factors; None where the dataset is no grid of rendered
        images) and `seconds`.

    Raises:
        ValueError: One line for an unknown solver.
    """
    unknown = [name for name in solvers if name not in SOLVERS]
    if unknown:
        raise ValueError(f"unknown solver {unknown[0]!r}: give some of {', '.join(SOLVERS)}")
    originals = dataset.images(rows)
    target, latents = to_float(originals), pipeline.encode(originals)
    plan = [(name, count) for name in solvers for count in steps]
    plan += [REFERENCE] if reference and REFERENCE not in plan else []
    kept = pipeline.scheduler
    records = []
    try:
        for name, count in tqdm(plan, desc="samplers"):
            pipeline.scheduler = SOLVERS[name](kept.config)
            draws = [generator(seed, "samplers", i, device=pipeline.device) for i in range(len(rows))]
            started = time.perf_counter()
            drawn = pipeline(
                latents=latents,
                guidance_scale=guidance_scale,
                num_inference_steps=count,
                generator=draws,
                output_type="pt",
            ).images
            seconds = time.perf_counter() - started
            records.append(
                {
                    "solver": name,
                    "steps": count,
                    "calls": len(pipeline.scheduler.timesteps),
                    **_fidelity(dataset, rows, drawn * 2.0 - 1.0, target),
                    "seconds": seconds,
                }
            )
    finally:
        pipeline.scheduler = kept
    return records


def _fidelity(dataset: ImageDataset, rows: Tensor, images: Tensor, target: Tensor) -> dict[str, float | None]:
    error = float((images - target).square().mean())
    if not isinstance(dataset, GridDataset) or dataset.nuisance_shape is not None:
        return {"mse": error, "readback": None}
    right = nearest_rendered(dataset, images) == dataset.factors(rows)
    return {"mse": error, "readback": float(right.float().mean())}


def curve_table(records: Sequence[dict[str, Any]]) -> str:
    """The records as a table in Markdown, with each time over that of the reference (the record of most calls)."""
    slowest = max(records, key=lambda record: record["calls"])
    lines = [
        "| solver | steps | calls | squared error | read back | seconds | times faster |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in records:
        read = "" if record["readback"] is None else f"{record['readback']:.3f}"
        faster = slowest["seconds"] / record["seconds"]
        lines.append(
            f"| {record['solver']} | {record['steps']} | {record['calls']} | {record['mse']:.4f} | {read} "
            f"| {record['seconds']:.2f} | {faster:.1f} |"
        )
    return "\n".join(lines)
