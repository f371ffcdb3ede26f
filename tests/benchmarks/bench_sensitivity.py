"""What `idiff sensitivity` takes, in evaluations of the U-Net: `python tests/benchmarks/bench_sensitivity.py`."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench_shapes3d import processor

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.arguments import config_from_yaml
from idiff_hf.builders import build_dataset, build_objective, build_pipeline
from idiff_hf.markdown import markdown_table
from idiff_hf.models import denoise
from idiff_hf.sensitivity import Method, sensitivity

IMAGES, TIMES, ROUNDS = 16, 2, 7
CASES: tuple[tuple[str, Method, dict[str, object], dict[str, object]], ...] = (
    ("additive", "jacobian", {}, {}),
    (
        "tokens, 80 channels",
        "jacobian",
        {},
        {"conditioning": "tokens", "block_out_channels": (80,), "norm_num_groups": 16},
    ),
    ("additive", "captum", {}, {}),
    (
        "additive, 10 categorical latents of 10 classes",
        "jacobian",
        {"latent_type": "categorical", "num_categories": 10, "prior_type": "per_dimension"},
        {},
    ),
)


def untrained(
    model: dict[str, object], unet: dict[str, object]
) -> tuple[IVAEDiffusionPipeline, torch.Tensor]:
    """A pipeline of the quickstart's size, and images."""
    text = (Path(__file__).parents[2] / "configs" / "quickstart.yaml").read_text(encoding="utf-8")
    config = config_from_yaml(text)
    config = replace(config, model=replace(config.model, **model), unet=replace(config.unet, **unet))
    dataset = build_dataset(config)
    pipeline = build_pipeline(config, build_objective(config, dataset).eval())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, dataset.images(torch.arange(IMAGES))


@torch.no_grad()
def evaluations(pipeline: IVAEDiffusionPipeline, images: torch.Tensor) -> None:
    """One of the U-Net for each image and time."""
    assert pipeline.unet is not None and pipeline.conditioning is not None
    x, condition = pipeline.prepare_images(images), pipeline.conditioning(pipeline.encode(images))
    for t in torch.linspace(0.0, 999.0, TIMES):
        denoise(pipeline.unet, pipeline.conditioning, x, t.expand(IMAGES), condition)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Print, for each case, the median of the ratio of both, which take turns, and its range; all in CPU seconds of one thread."""
    torch.set_num_threads(1)
    print(f"{processor()}, {platform.platform()}, torch {torch.__version__}, 1 thread\n")
    rows = []
    for name, method, model, unet in CASES:
        pipeline, images = untrained(model, unet)
        evaluate = partial(evaluations, pipeline, images)
        measure = partial(sensitivity, pipeline, images, num_times=TIMES, method=method)
        for work in (evaluate, measure):
            work()
        ratios = [seconds(measure) / seconds(evaluate) for _ in range(ROUNDS)]
        rows.append(
            (name, method, f"{statistics.median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f})")
        )
    print(markdown_table(("conditioning", "method", "evaluations of the U-Net, an image and a time"), rows))


if __name__ == "__main__":
    main()
