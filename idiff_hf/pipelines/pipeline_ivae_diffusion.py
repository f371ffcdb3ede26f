"""Encode, reconstruct, generate and traverse with an identifiable VAE and the diffusion model on its latents."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin, UNet2DModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from ..folders import MANIFEST, verify_folder
from ..guidance import guide
from ..models import AdditiveConditioning, IVAEModel, denoise, load_strict
from ..schedulers import VPSDEScheduler

LIBRARY = "idiff_hf"
ImageInput = Image.Image | np.ndarray | Tensor | Sequence[Image.Image]
GeneratorInput = torch.Generator | list[torch.Generator] | None


@dataclass
class IVAEDiffusionPipelineOutput(BaseOutput):
    """Images of the type asked for, and the latents `(B, D)` they were made from."""

    images: Any
    latents: Tensor


class IVAEDiffusionPipeline(DiffusionPipeline):
    """Images from latents that each stand for one factor.

    Args:
        ivae: The identifiable VAE.
        unet: Stock U-Net, or None for an iVAE alone.
        conditioning: z to the U-Net's `class_labels`, or None likewise.
        scheduler: `VPSDEScheduler` or a diffusers scheduler made from its config, or None likewise.
    """

    model_cpu_offload_seq = "ivae->conditioning->unet"
    _optional_components: ClassVar[list[str]] = ["unet", "conditioning", "scheduler"]

    ivae: IVAEModel
    unet: UNet2DModel | None
    conditioning: AdditiveConditioning | None
    scheduler: Any

    def __init__(
        self,
        ivae: IVAEModel,
        unet: UNet2DModel | None = None,
        conditioning: AdditiveConditioning | None = None,
        scheduler: SchedulerMixin | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(ivae=ivae, unet=unet, conditioning=conditioning, scheduler=scheduler)
        self.image_processor = VaeImageProcessor(
            vae_scale_factor=1, do_convert_rgb=ivae.config.in_channels == 3
        )

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]
        """Save every component as JSON and safetensors.

        `model_index.json` names `idiff_hf` and the public class, not the module that holds it today, so that moving a module breaks no
        published folder.
        """
        if not kwargs.pop("safe_serialization", True):
            raise ValueError("safe_serialization=False would write pickles: idiff_hf saves safetensors only")
        # a manifest of what is overwritten here would be untrue
        (Path(save_directory) / MANIFEST).unlink(missing_ok=True)
        super().save_pretrained(save_directory, safe_serialization=True, **kwargs)
        path = Path(save_directory) / "model_index.json"
        index = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in index.items():
            if isinstance(entry, list) and str(entry[0]).startswith(LIBRARY):
                index[name] = [LIBRARY, entry[1]]
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> IVAEDiffusionPipeline:
        """Load a folder that `save_pretrained` or the training script wrote. No code in it is run, only safetensors and JSON are read.

        Args:
            pretrained_model_name_or_path: The folder.
            **kwargs: `dtype` (or `torch_dtype`) and `variant`, as in diffusers, and components that replace the folder's.

        Raises:
            ValueError: One line, for a folder that is none, files that differ from its manifest (where it has one), a component or class
                that is not expected, unknown config keys, missing or unexpected tensors, or an argument that would run code.
        """
        for name in ("custom_pipeline", "trust_remote_code"):
            if kwargs.pop(name, None):
                raise ValueError(f"{name} is refused: {cls.__name__} never runs code from a model folder")
        folder = Path(pretrained_model_name_or_path)
        if (folder / MANIFEST).is_file():
            verify_folder(folder)
        classes = _read_index(folder)
        loading = {key: kwargs.pop(key) for key in ("variant",) if key in kwargs}
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None)
        if dtype is not None:
            loading["torch_dtype"] = dtype
        components: dict[str, Any] = {}
        for name, component in classes.items():
            if name in kwargs:
                components[name] = kwargs.pop(name)
            elif component is None:
                components[name] = None
            elif issubclass(component, SchedulerMixin):
                components[name] = component.from_pretrained(folder / name)
            else:
                components[name] = load_strict(component, folder / name, **loading)
        if kwargs:
            raise ValueError(
                f"unknown argument for {cls.__name__}.from_pretrained: {', '.join(sorted(kwargs))}"
            )
        pipeline = cls(**components)
        pipeline.register_to_config(_name_or_path=str(folder))
        return pipeline

    @property
    def latent_dim(self) -> int:
        """D."""
        return int(self.ivae.config.latent_dim)

    def prepare_images(self, images: ImageInput) -> Tensor:
        """Images as the iVAE takes them: `(B, C, H, W)` in [-1, 1] on its device.

        Args:
            images: One or a list of PIL images, a NumPy array `(B, H, W, C)` (uint8, or float in [0, 1]) or a tensor `(B, C, H, W)`
                (uint8, or float in [-1, 1]). A model of vectors (`takes_vectors`) takes a tensor `(B, C)` or `(B, C, 1, 1)` of any numbers.

        Raises:
            ValueError: For another size than the model's, or values outside their range.
        """
        size, channels = int(self.ivae.config.image_size), int(self.ivae.config.in_channels)
        if self.takes_vectors:
            return self._prepare_vectors(images)
        if isinstance(images, Tensor):
            tensor = images.float() / 127.5 - 1.0 if images.dtype == torch.uint8 else images.float()
        elif isinstance(images, np.ndarray):
            scaled = (
                images.astype(np.float32) / 255.0 if images.dtype == np.uint8 else images.astype(np.float32)
            )
            tensor = torch.from_numpy(scaled).movedim(-1, 1) * 2.0 - 1.0
        else:
            pictures = [images] if isinstance(images, Image.Image) else list(images)
            arrays = [np.asarray(picture.convert("RGB" if channels == 3 else "L")) for picture in pictures]
            sizes = {array.shape[:2] for array in arrays}
            if len(sizes) != 1:
                raise ValueError(f"images must be of one size, {size}x{size}, got sizes {sorted(sizes)}")
            stacked = np.stack(arrays).reshape(len(arrays), *arrays[0].shape[:2], channels)
            tensor = torch.from_numpy(stacked).movedim(-1, 1).float() / 127.5 - 1.0
        if tensor.ndim != 4 or tuple(tensor.shape[1:]) != (channels, size, size):
            raise ValueError(
                f"images must be {channels}x{size}x{size} for this model (tensors channels first, arrays channels last), "
                f"got {tuple(tensor.shape)}: resize them first"
            )
        low, high = float(tensor.min()), float(tensor.max())
        if not (low >= -1.001 and high <= 1.001):
            raise ValueError(
                f"images must lie in [-1, 1] (tensor), [0, 1] (array) or be uint8, got {low:.3g} to {high:.3g} after scaling"
            )
        return tensor.to(self.device, self.ivae.dtype)

    @property
    def takes_vectors(self) -> bool:
        """Whether the model is of vectors, which are images of one pixel, and has nothing to draw."""
        return int(self.ivae.config.image_size) == 1

    def _prepare_vectors(self, vectors: Any) -> Tensor:
        channels = int(self.ivae.config.in_channels)
        if not isinstance(vectors, Tensor) or tuple(vectors.shape[1:]) not in ((channels,), (channels, 1, 1)):
            seen = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
            raise ValueError(f"this model takes vectors, a tensor (B, {channels}), got {seen}")
        return vectors.reshape(len(vectors), channels, 1, 1).to(self.device, self.ivae.dtype)

    @torch.no_grad()
    def encode(self, images: ImageInput, batch_size: int = 256) -> Tensor:
        """Posterior means of the images, `(B, D)`, float32; see `prepare_images` for what is accepted."""
        prepared = self.prepare_images(images)
        return torch.cat(
            [self.ivae.encode(part).latent_dist.mean.float() for part in prepared.split(batch_size)]
        )

    @torch.no_grad()
    def decode(
        self, latents: Tensor, output_type: Literal["pil", "np", "pt"] = "pil", batch_size: int = 256
    ) -> Any:
        """Images of the iVAE's own decoder for z `(B, D)`."""
        if self.takes_vectors:
            raise ValueError("this model is of vectors, not images: use pipe.ivae.decode(latents).sample")
        _check_output_type(output_type)
        latents = self._check_latents(latents)
        parts = [self.ivae.decode(part).sample.float() for part in latents.split(batch_size)]
        return self._output(torch.cat(parts), output_type)

    def reconstruct(self, images: ImageInput, output_type: Literal["pil", "np", "pt"] = "pil") -> Any:
        """`decode(encode(images))`: the iVAE alone."""
        return self.decode(self.encode(images), output_type)

    @torch.no_grad()
    def __call__(
        self,
        images: ImageInput | None = None,
        latents: Tensor | None = None,
        guidance_scale: float = 4.0,
        num_inference_steps: int = 20,
        generator: GeneratorInput = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw an image for each latent by solving the reverse SDE, or its ODE, from noise.

        Args:
            images: Images whose posterior means are used; give these or `latents`.
            latents: z, `(B, D)`.
            guidance_scale: gamma of Eq. 10: 1 is the plain conditional model, 0 the unconditional one, the paper uses 4.
            num_inference_steps: Solver steps.
            generator: One generator, or one for each image; with a list, image i is independent of the batch it is drawn in.
            output_type: `pil`, `np` (`(B, H, W, C)` in [0, 1]) or `pt` (`(B, C, H, W)` in [0, 1]).
            return_dict: Whether an output object is wanted, or a tuple.

        Returns:
            An `IVAEDiffusionPipelineOutput`, or the tuple `(images, latents)`.

        Raises:
            ValueError: One line for inputs that do not fit.
        """
        if (images is None) == (latents is None):
            raise ValueError(
                "give either images or latents, got " + ("neither" if images is None else "both")
            )
        if self.unet is None or self.conditioning is None or self.scheduler is None:
            raise ValueError("this model has no U-Net: use reconstruct(images) or decode(latents)")
        if guidance_scale < 0:
            raise ValueError(f"guidance_scale must be 0 or more, got {guidance_scale}")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be 1 or more, got {num_inference_steps}")
        _check_output_type(output_type)
        z = self.encode(images) if images is not None else self._check_latents(cast(Tensor, latents))
        if isinstance(generator, list) and len(generator) != len(z):
            raise ValueError(
                f"generator must be one or a list of {len(z)}, one for each image, got {len(generator)}"
            )

        config = self.ivae.config
        shape = (len(z), config.in_channels, config.image_size, config.image_size)
        sample = randn_tensor(shape, generator=generator, device=self.device, dtype=self.unet.dtype)
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        sample = sample * self.scheduler.init_noise_sigma

        # one batched forward serves both terms of Eq. 10; at 0 and 1 one of them has no weight and is not computed
        guided = guidance_scale not in (0.0, 1.0)
        condition = self.conditioning(z if guidance_scale != 0.0 else torch.zeros_like(z))
        if guided:
            condition = torch.cat([self.conditioning(torch.zeros_like(z)), condition])
        step_kwargs = {"generator": generator} if _takes_generator(self.scheduler) else {}
        for timestep in self.progress_bar(self.scheduler.timesteps):
            model_input = self.scheduler.scale_model_input(sample, timestep)
            model_input = torch.cat([model_input, model_input]) if guided else model_input
            times = timestep.to(self.unet.dtype).expand(len(model_input))
            prediction = denoise(
                self.unet, model_input, times, condition, int(self.conditioning.config.patch_size)
            )
            if guided:
                unconditional, conditional = prediction.chunk(2)
                prediction = guide(unconditional, conditional, guidance_scale)
            sample = self.scheduler.step(prediction, timestep, sample, **step_kwargs).prev_sample

        output = self._output(sample.float(), output_type)
        self.maybe_free_model_hooks()
        return IVAEDiffusionPipelineOutput(images=output, latents=z) if return_dict else (output, z)

    def traverse(
        self,
        latents: Tensor,
        dims: Sequence[int] | None = None,
        values: Sequence[float] = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5),
        decoder: Literal["ivae", "ddpm"] = "ddpm",
        guidance_scale: float = 1.0,
        num_inference_steps: int = 20,
        seed: int = 0,
        output_type: Literal["pil", "np", "pt"] = "pil",
    ) -> Any:
        """Change one latent at a time along its range (Figures 10 and 11).

        Args:
            latents: One z, `(1, D)`, that is kept but for the dimension that moves.
            dims: Dimensions to move; all by default.
            values: What each is set to. A factor known to the prior has unit variance, from about -1.7 to 1.7.
            decoder: `ddpm` draws with the diffusion model, from the same noise everywhere; `ivae` is its own decoder.
            guidance_scale: gamma, for `ddpm`.
            num_inference_steps: Solver steps, for `ddpm`.
            seed: Of that noise.
            output_type: As in `__call__`.

        Returns:
            A list over `dims` of the images over `values`; an array or tensor with these two leading axes for `np` and `pt`.
        """
        latents = self._check_latents(latents)
        if len(latents) != 1:
            raise ValueError(f"latents must be one row (1, {self.latent_dim}), got {tuple(latents.shape)}")
        if decoder not in ("ivae", "ddpm"):
            raise ValueError(f"decoder must be ivae or ddpm, got {decoder!r}")
        dims = list(range(self.latent_dim)) if dims is None else list(dims)
        outside = [dim for dim in dims if not 0 <= dim < self.latent_dim]
        if outside:
            raise ValueError(f"dims must lie in 0 to {self.latent_dim - 1}, got {outside}")
        moved = latents.repeat(len(dims) * len(values), 1)
        for row, dim in enumerate(dims):
            columns = slice(row * len(values), (row + 1) * len(values))
            moved[columns, dim] = torch.tensor(values, dtype=moved.dtype, device=moved.device)
        if decoder == "ivae":
            flat = self.decode(moved, output_type)
        else:
            generators = [torch.Generator(self.device).manual_seed(seed) for _ in range(len(moved))]
            flat = self(
                latents=moved,
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                generator=generators,
                output_type=output_type,
            ).images
        if output_type == "pil":
            return [flat[row * len(values) : (row + 1) * len(values)] for row in range(len(dims))]
        return flat.reshape(len(dims), len(values), *flat.shape[1:])

    def _check_latents(self, latents: Tensor) -> Tensor:
        if not isinstance(latents, Tensor) or latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            seen = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
            raise ValueError(f"latents must be a tensor (B, {self.latent_dim}), got {seen}")
        return latents.to(self.device, torch.float32)

    def _output(self, sample: Tensor, output_type: str) -> Any:
        return self.image_processor.postprocess(sample.clamp(-1.0, 1.0), output_type=output_type)


def _check_output_type(output_type: str) -> None:
    if output_type not in ("pil", "np", "pt"):
        raise ValueError(f"output_type must be pil, np or pt, got {output_type!r}")


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters


def _read_index(folder: Path) -> dict[str, type[Any] | None]:
    """The class of each component of a saved folder; only ours, and only in the places where they belong."""
    import diffusers

    path = folder / "model_index.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is no saved pipeline: there is no model_index.json in it (training writes one to OUTPUT_DIR/pipeline)"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    ours: dict[str, tuple[str, type[Any]]] = {
        "ivae": (LIBRARY, IVAEModel),
        "unet": ("diffusers", UNet2DModel),
        "conditioning": (LIBRARY, AdditiveConditioning),
    }
    if not isinstance(index, dict) or index.get("_class_name") != IVAEDiffusionPipeline.__name__:
        raise ValueError(f"{path} must name _class_name {IVAEDiffusionPipeline.__name__!r}")
    unknown = sorted(name for name in index if not name.startswith("_") and name not in (*ours, "scheduler"))
    if unknown:
        raise ValueError(
            f"{path} names components that {IVAEDiffusionPipeline.__name__} does not have: {', '.join(unknown)}"
        )
    classes: dict[str, type[Any] | None] = {}
    for name, (library, cls) in ours.items():
        entry = index.get(name, [None, None])
        if entry == [None, None] and name != "ivae":
            classes[name] = None
        elif entry == [library, cls.__name__]:
            classes[name] = cls
        else:
            raise ValueError(f"{path}: {name} must be {[library, cls.__name__]}, got {entry}")
    schedulers = {("diffusers", name): getattr(diffusers, name) for name in VPSDEScheduler._compatibles}
    schedulers[(LIBRARY, VPSDEScheduler.__name__)] = VPSDEScheduler
    entry = index.get("scheduler", [None, None])
    if entry == [None, None]:
        classes["scheduler"] = None
    elif (
        isinstance(entry, list)
        and all(isinstance(part, str) for part in entry)
        and tuple(entry) in schedulers
    ):
        classes["scheduler"] = schedulers[cast(tuple[str, str], tuple(entry))]
    else:
        raise ValueError(
            f"{path}: scheduler must be {LIBRARY}.VPSDEScheduler or a diffusers scheduler compatible with it, got {entry}"
        )
    return classes
