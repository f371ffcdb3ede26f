"""Whether images follow their latents: one latent is set to what stands for a class, and all factors of what is drawn are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..drawing import DRAWN_AT_A_TIME
from ..markdown import markdown_table
from ..pipelines import IVAEDiffusionPipeline
from ..pipelines.checks import check_count
from ..pipelines.editing import Decoder
from ..pipelines.guided import Guidance
from ..random import generator
from ..readback import FactorReader
from ..sampler_curve import Read


@dataclass(frozen=True)
class InterventionRecord:
    """One latent, set to the mean of each class of its factor in turn, in each image, as one decoder draws it; or none that was set.

    Attributes:
        decoder: `ivae` or `ddpm`.
        factor: Number of the factor; None where no latent was set.
        latent: Number of the latent that tells most of it, or None.
        follows: Fraction of drawings in which the factor has the class that the latent was set to, or None.
        kept: For each factor the fraction of drawings in which it has the class of the image that was encoded; None for the factor that
            was set.
    """

    decoder: Decoder
    factor: int | None
    latent: int | None
    follows: float | None
    kept: tuple[float | None, ...]


def interventions(
    pipeline: IVAEDiffusionPipeline,
    latents: Tensor,
    factors: Tensor,
    reader: FactorReader,
    read: Read,
    *,
    decoders: Sequence[Decoder],
    guidance_scale: float = 1.0,
    steps: int = 20,
    seed: int = 0,
) -> list[InterventionRecord]:
    """Set one latent at a time to each class of its factor, and read all factors of what is drawn.

    Latents that stand for single factors move these and no others: what is drawn has the class that was set, and its other factors are
    those of the image that was encoded. The classes go from one end of the latent's range to the other, that of the image itself among
    them. An image's noise is the same throughout.

    Args:
        pipeline: A model with Gaussian latents.
        latents: z of the images, `(N, latent_dim)`.
        factors: Their labels, `(N, K)`.
        reader: Which latent stands for each factor, and where its classes lie along it.
        read: How labels are read from drawn images; all are given to it at once.
        decoders: What draws.
        guidance_scale: gamma of the diffusion model.
        steps: Of its solver.
        seed: Of its noise.

    Returns:
        Of each decoder in turn a record without a latent that was set, and one for each factor.

    Raises:
        ValueError: One line for a scale of guidance or a number of steps outside its range, before anything is drawn.
    """
    Guidance(guidance_scale)
    check_count("num_inference_steps", steps)
    settings = [
        (k, int(level), float(mean))
        for k, (levels, means) in enumerate(zip(reader.levels, reader.means, strict=True))
        for level, mean in zip(levels, means, strict=True)
    ]
    moved = latents.expand(1 + len(settings), *latents.shape).clone()
    for codes, (k, _, mean) in zip(moved[1:], settings, strict=True):
        codes[:, int(reader.latents[k])] = mean
    records = []
    for decoder in decoders:
        drawn = _draw(pipeline, moved.flatten(0, 1), len(latents), decoder, guidance_scale, steps, seed)
        found = read(drawn).cpu().view(len(moved), *factors.shape)
        unmoved, *kept = (found == factors.cpu()).double().mean(dim=1)
        records.append(InterventionRecord(decoder, None, None, None, tuple(unmoved.tolist())))
        for k, latent in enumerate(reader.latents.tolist()):
            rows = [row for row, setting in enumerate(settings) if setting[0] == k]
            levels = torch.tensor([settings[row][1] for row in rows])
            follows = (found[1:][rows][:, :, k] == levels[:, None]).double().mean()
            rates = torch.stack([kept[row] for row in rows]).mean(dim=0).tolist()
            others = tuple(None if other == k else rate for other, rate in enumerate(rates))
            records.append(InterventionRecord(decoder, k, latent, float(follows), others))
    return records


def _draw(
    pipeline: IVAEDiffusionPipeline,
    latents: Tensor,
    num_images: int,
    decoder: Decoder,
    guidance_scale: float,
    steps: int,
    seed: int,
) -> Tensor:
    """Images in [-1, 1] of so many images' latents over and over."""
    parts = []
    for first in tqdm(range(0, len(latents), DRAWN_AT_A_TIME), desc=decoder, disable=None):
        part = latents[first : first + DRAWN_AT_A_TIME]
        if decoder == "ivae":
            drawn = pipeline.decode(part, "pt")
        else:
            rows = [(first + row) % num_images for row in range(len(part))]
            drawn = pipeline(
                latents=part,
                guidance_scale=guidance_scale,
                num_inference_steps=steps,
                generator=[generator(seed, "interventions", row, device=pipeline.device) for row in rows],
                output_type="pt",
            ).images
        parts.append(drawn.float() * 2.0 - 1.0)
    return torch.cat(parts)


def interventions_table(records: Sequence[InterventionRecord], names: Sequence[str]) -> str:
    """The records in Markdown; `names` are those of the factors."""
    rows = [
        (
            record.decoder,
            "none" if record.factor is None else names[record.factor],
            "" if record.latent is None else str(record.latent),
            "" if record.follows is None else f"{record.follows:.3f}",
            *("" if rate is None else f"{rate:.3f}" for rate in record.kept),
        )
        for record in records
    ]
    return markdown_table(
        ("drawn by", "factor set", "latent", "follows", *(f"{name} kept" for name in names)), rows
    )
