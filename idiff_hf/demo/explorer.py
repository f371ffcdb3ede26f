"""What the latent explorer computes, as plain functions of an image, a value for each latent, and how to draw. No page is in here.

Whatever comes from a browser is checked here: images by bytes and pixels, values by the range of their latent, and what drawing costs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..config import DataConfig
from ..data.pictures import FORMATS, to_picture
from ..figures import channels_last, to_uint8
from ..hub_folder import hub_name
from ..pipeline_scores.opening import held_out_rows
from ..pipelines import IVAEDiffusionPipeline
from ..processes import process_state
from ..readback import encode_rows
from ..sampler_curve import SOLVERS, with_solver
from .latents import Latent, describe_latents, unknown_latents

MAX_UPLOAD_BYTES = 8 * 2**20
MAX_UPLOAD_PIXELS = 2**24
MAX_STEPS = 50
MAX_GUIDANCE = 10.0
MAX_SEED = 2**31 - 1
STRIP = 9
"""Images of a strip, of a latent that is a number."""
DECIMALS = 3
"""Of the values of latents as a page shows them."""


@dataclass(frozen=True)
class Drawing:
    """How the diffusion model draws.

    Args:
        solver: A name in `sampler_curve.SOLVERS`.
        guidance_scale: gamma of Eq. 10, from 0 to 10.
        num_inference_steps: From 1 to 50.
        seed: Of the noise, 0 to 2^31 - 1.
        keep_noise: Begin from the noise that the image itself would be drawn from, as `IVAEDiffusionPipeline.edit` does, so that what z
            does not say stays. Solver and seed then have no part in it.

    Raises:
        ValueError: One line for a value that is none of these.
    """

    solver: str
    guidance_scale: float = 1.0
    num_inference_steps: int = 20
    seed: int = 0
    keep_noise: bool = False

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"the solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}")
        _check_number("guidance", self.guidance_scale, 0.0, MAX_GUIDANCE)
        _check_number("steps", self.num_inference_steps, 1, MAX_STEPS, whole=True)
        _check_number("the seed", self.seed, 0, MAX_SEED, whole=True)


@dataclass(frozen=True)
class Strip:
    """One latent along its range, everything else being kept.

    Attributes:
        latent: Which.
        values: S values of it, or classes.
        ivae: Images of the iVAE decoder, `(S, H, W, C)` uint8.
        ddpm: Of the diffusion model, all from one noise; None without a U-Net.
    """

    latent: Latent
    values: tuple[float, ...]
    ivae: np.ndarray
    ddpm: np.ndarray | None


class Explorer:
    """A model, some held-out images to start from, and what is known of its latents.

    Args:
        pipeline: With an iVAE, of images.
        name: Of the model, for the page and for what is downloaded.
        examples: `(n, H, W, C)` uint8; none is fine.
        latents: One for each latent of the model; by default those of `unknown_latents`.

    Raises:
        ValueError: One line for a model that has no latents, or is of vectors.
    """

    def __init__(
        self,
        pipeline: IVAEDiffusionPipeline,
        name: str,
        examples: np.ndarray | None = None,
        latents: tuple[Latent, ...] | None = None,
    ) -> None:
        _check_model(pipeline, name)
        assert pipeline.ivae is not None
        config = pipeline.ivae.config
        self.pipeline, self.name = pipeline, name
        self.classes = pipeline.num_classes or 0
        self.latents = unknown_latents(config["latent_dim"], self.classes) if latents is None else latents
        size, channels = pipeline.image_size, pipeline.channels
        self.examples = np.zeros((0, size, size, channels), np.uint8) if examples is None else examples
        # of a pipeline one call at a time can run: it holds the scheduler that the call uses
        self._one_call = threading.Lock()
        pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def open(
        cls, folder: Path, data: DataConfig | None, *, num_images: int = 2000, num_examples: int = 12
    ) -> Explorer:
        """Load a pipeline, and encode held-out images to see what its latents do.

        Args:
            folder: A saved pipeline.
            data: Its dataset; None goes without: there are no examples, and nothing is known of the latents.
            num_images: Held-out images that ranges and mutual information are from, at most.
            num_examples: Of these, how many are offered to start from, at most.

        Raises:
            ValueError: One line: no pipeline, one that has no latents or is of vectors, or a dataset that can't be had or does not fit.
        """
        pipeline = IVAEDiffusionPipeline.from_pretrained(folder).to(process_state().device)
        name = _name(folder)
        if data is None:
            return cls(pipeline, name)
        _check_model(pipeline, name)
        dataset, rows, _ = held_out_rows(folder, pipeline, data, num_images)
        codes, factors = encode_rows(pipeline, dataset, rows)
        examples = channels_last(dataset.images(rows[:num_examples]))
        latents = describe_latents(
            codes, factors, dataset.factor_names, pipeline.num_classes or 0, shown=len(examples)
        )
        return cls(pipeline, name, examples, latents)

    @property
    def draws(self) -> bool:
        """Whether there is a U-Net."""
        return self.pipeline.unet is not None

    @property
    def default_solver(self) -> str:
        """The name of the pipeline's own scheduler, or the first of `SOLVERS`."""
        scheduler = self.pipeline.scheduler
        for name, (cls, keys) in SOLVERS.items():
            if type(scheduler).__name__ == cls and all(scheduler.config[key] == keys[key] for key in keys):
                return name
        return next(iter(SOLVERS))

    def example(self, number: int) -> np.ndarray:
        """A held-out image `(H, W, C)` uint8.

        Raises:
            ValueError: There is none of this number.
        """
        if not isinstance(number, int) or not 0 <= number < len(self.examples):
            raise ValueError(f"there are {len(self.examples)} images to start from, got number {number}")
        return self.examples[number]

    def read_image(self, content: bytes, resize: bool) -> np.ndarray:
        """An image file as the model takes images, `(H, W, C)` uint8.

        Args:
            content: Of a file in one of `data.pictures.FORMATS`, of at most 8 MiB and 16.8 million pixels.
            resize: Whether the centre square of a picture of another size is scaled to the model's.

        Raises:
            ValueError: One line for anything else.
        """
        if len(content) > MAX_UPLOAD_BYTES:
            raise ValueError(
                f"the file has {len(content) / 2**20:.1f} MiB, {MAX_UPLOAD_BYTES // 2**20} at most are read: scale it down"
            )
        try:
            with Image.open(BytesIO(content), formats=FORMATS) as picture:
                width, height = picture.size
        except Exception:  # by format and by fault, as in `data.pictures.to_picture`
            raise ValueError(f"this file is no picture that can be read: give {', '.join(FORMATS)}") from None
        if width * height > MAX_UPLOAD_PIXELS:
            raise ValueError(
                f"the picture has {width} x {height} pixels, {MAX_UPLOAD_PIXELS:,} at most are read: scale it down"
            )
        size = self.pipeline.image_size
        if (width, height) != (size, size) and not resize:
            raise ValueError(
                f"the picture has {width} x {height} pixels, this model takes {size} x {size}: ask for it to be resized"
            )
        return to_picture(content, size, "rgb" if self.pipeline.channels == 3 else "grey", resize, "the file")

    def encode(self, image: np.ndarray) -> list[float]:
        """The value of each latent of an image `(H, W, C)` uint8: posterior means, or classes."""
        return self.pipeline.codes(self.pipeline.encode(image[None]))[0].tolist()

    def within(self, values: Sequence[float]) -> tuple[list[float], list[Latent]]:
        """Values as a page shows them, to three decimals and within the range of each latent, and the latents that lay outside of it."""
        pairs = list(zip(self.latents, values, strict=True))
        shown = [round(min(max(value, latent.low), latent.high), DECIMALS) for latent, value in pairs]
        return shown, [latent for latent, value in pairs if not latent.low <= value <= latent.high]

    def latents_of(self, values: Sequence[float]) -> Tensor:
        """z `(1, D)` of a value for each latent, or `(1, D * classes)` of a class for each.

        Raises:
            ValueError: One line for a wrong number of values, or one that is outside the range of its latent.
        """
        if len(values) != len(self.latents):
            raise ValueError(f"this model has {len(self.latents)} latents, got {len(values)} values")
        for latent, value in zip(self.latents, values, strict=True):
            _check_number(f"z{latent.number}", value, latent.low, latent.high, whole=bool(self.classes))
        if not self.classes:
            return torch.tensor([values], dtype=torch.float32)
        classes = torch.tensor([int(value) for value in values])
        return torch.nn.functional.one_hot(classes, self.classes).float().view(1, -1)

    def decode(self, values: Sequence[float]) -> np.ndarray:
        """The picture of the iVAE decoder, `(H, W, C)` uint8; errors as in `latents_of`."""
        return to_uint8(self.pipeline.decode(self.latents_of(values), output_type="np")[0])

    def draw(self, image: np.ndarray, values: Sequence[float], drawing: Drawing) -> np.ndarray:
        """The picture of the diffusion model, `(H, W, C)` uint8.

        Args:
            image: The image `(H, W, C)` uint8 that `drawing.keep_noise` is about.
            values: Of each latent.
            drawing: How.

        Raises:
            ValueError: One line for values outside the range of their latents.
        """
        latents = self.latents_of(values)
        with self._one_call:
            if drawing.keep_noise:
                return self._edited(image, values, drawing)
            return to_uint8(self._with(drawing, lambda: self._drawn(latents, drawing))[0])

    def strip(self, values: Sequence[float], number: int, drawing: Drawing) -> Strip:
        """Move one latent through its range, or its classes, and keep the others at `values`.

        Args:
            values: Of each latent.
            number: Which one moves.
            drawing: How; noise is drawn by the seed, whether or not `keep_noise` is asked for.

        Raises:
            ValueError: One line for values outside the range of their latents, or no such latent.
        """
        if not isinstance(number, int) or not 0 <= number < len(self.latents):
            raise ValueError(f"latents are numbered from 0 to {len(self.latents) - 1}, got {number}")
        latents, latent = self.latents_of(values), self.latents[number]
        points = self._points(latent)

        def traverse(decoder: Any) -> np.ndarray:
            rows = self.pipeline.traverse(
                latents,
                [number],
                points,
                decoder,
                guidance_scale=drawing.guidance_scale,
                num_inference_steps=drawing.num_inference_steps,
                seed=drawing.seed,
                output_type="np",
            )
            return to_uint8(rows[0])

        with self._one_call:
            ddpm = self._with(drawing, lambda: traverse("ddpm")) if self.draws else None
        return Strip(latent, points, traverse("ivae"), ddpm)

    def document(self, values: Sequence[float], drawing: Drawing) -> dict[str, Any]:
        """z and how it is drawn, for a JSON file: `pipe(latents=torch.tensor(document["latents"]))` takes it."""
        return {
            "model": self.name,
            "codes": {latent.label: value for latent, value in zip(self.latents, values, strict=True)},
            "latents": [[round(value, 6) for value in self.latents_of(values)[0].tolist()]],
            "drawing": asdict(drawing) if self.draws else None,
        }

    def _points(self, latent: Latent) -> tuple[float, ...]:
        if latent.classes:
            return tuple(float(value) for value in range(latent.classes))
        return tuple(round(value, 2) for value in np.linspace(latent.low, latent.high, STRIP).tolist())

    def _drawn(self, latents: Tensor, drawing: Drawing) -> np.ndarray:
        return self.pipeline(
            latents=latents,
            guidance_scale=drawing.guidance_scale,
            num_inference_steps=drawing.num_inference_steps,
            generator=torch.Generator(self.pipeline.device).manual_seed(drawing.seed),
            output_type="np",
        ).images

    def _edited(self, image: np.ndarray, values: Sequence[float], drawing: Drawing) -> np.ndarray:
        shown, _ = self.within(self.encode(image))
        moved: dict[int | str, float] = {
            number: value for number, value in enumerate(values) if value != shown[number]
        }
        edited = self.pipeline.edit(
            image[None],
            moved,
            guidance_scale=drawing.guidance_scale,
            num_inference_steps=drawing.num_inference_steps,
            output_type="np",
        )
        return to_uint8(edited.images[0])

    def _with(self, drawing: Drawing, call: Any) -> np.ndarray:
        own = self.pipeline.scheduler
        self.pipeline.scheduler = with_solver(self.pipeline, drawing.solver)
        try:
            return call()
        finally:
            self.pipeline.scheduler = own


def _name(folder: Path) -> str:
    """As on the Hub, or that of the run, or of the folder."""
    name, here = hub_name(folder), folder.resolve()
    if name != str(folder):
        return name
    return here.parent.name if here.name == "pipeline" else here.name


def _check_model(pipeline: IVAEDiffusionPipeline, name: str) -> None:
    if pipeline.ivae is None:
        raise ValueError(
            f"{name} is an unconditional diffusion model: it has no latents to explore, draw with pipe(batch_size=8)"
        )
    if pipeline.takes_vectors:
        raise ValueError(f"{name} is a model of vectors: the explorer shows images, and there are none")


def _check_number(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    fits = isinstance(value, int | float) and math.isfinite(value) and low <= value <= high
    if not fits or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} must be {kind} from {low:g} to {high:g}, got {value}")
