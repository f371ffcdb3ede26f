"""Images to latents and back by the iVAE, with the sizes of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel, UNet2DModel
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor, nn

from ..config.model import are_distances
from ..distributions import LatentDistribution
from ..models import Autoencoder, Conditioning, IVAEModel
from .checks import check_count, check_rows
from .images import ImageInput, OutputType, prepare_images, prepare_vectors
from .loading import check_place

_TRAVERSED = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
_TRAVERSED_DISTANCES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


class LatentCoding(DiffusionPipeline):
    """The part of `IVAEDiffusionPipeline` that needs the iVAE alone."""

    ivae: IVAEModel | None
    unet: UNet2DModel | UNet2DConditionModel | None
    conditioning: Conditioning | None
    scheduler: Any
    vae: Autoencoder | None
    image_processor: VaeImageProcessor

    @property
    def latent_dim(self) -> int:
        """Width of z: D, or with categorical latents D times their classes."""
        return self._ivae().code_dim

    @property
    def num_classes(self) -> int | None:
        """Classes of each latent of a categorical model; None of any other."""
        if self.ivae is None or self.ivae.config["latent_type"] != "categorical":
            return None
        return int(self.ivae.config["num_categories"])

    @property
    def traversed(self) -> Sequence[float]:
        """What `LatentEditing.traverse` sets a latent to if not told: its range without the outermost part, or its classes."""
        if self.num_classes is not None:
            return range(self.num_classes)
        law = self._ivae().config
        return _TRAVERSED_DISTANCES if are_distances(law["prior_type"], law["prior_family"]) else _TRAVERSED

    @property
    def image_size(self) -> int:
        """H = W in pixels."""
        if self.ivae is not None:
            return int(self.ivae.config["image_size"])
        halvings = 0 if self.vae is None else len(self.vae.config["block_out_channels"]) - 1
        return self._sample_shape[1] * 2**halvings

    @property
    def channels(self) -> int:
        """C."""
        if self.ivae is not None:
            return int(self.ivae.config["in_channels"])
        return self._sample_shape[0] if self.vae is None else int(self.vae.config["out_channels"])

    @property
    def _sample_shape(self) -> tuple[int, int, int]:
        """Of what the diffusion runs on: pixels, or latents of `vae`."""
        if self.unet is None or self.conditioning is None:
            raise ValueError(
                "this pipeline has neither an iVAE nor a U-Net with its conditioning: it is of no image size"
            )
        patch_size = check_count("patch_size of the conditioning", self.conditioning.config["patch_size"])
        size = check_count("sample_size of the U-Net", self.unet.config["sample_size"]) * patch_size
        channels, rest = divmod(int(self.unet.config["in_channels"]), patch_size**2)
        if rest:
            raise ValueError(
                f"the U-Net's {self.unet.config['in_channels']} channels are not those of patches of {patch_size} x {patch_size}: "
                "give the parts of one model"
            )
        return channels, size, size

    @property
    def takes_vectors(self) -> bool:
        """Whether the model is of vectors, which are images of one pixel, and has nothing to draw."""
        return self.image_size == 1

    def prepare_images(self, images: ImageInput, resize: bool = False) -> Tensor:
        """Images as the models take them: `(B, C, H, W)` float32 in [-1, 1] on their device.

        Args:
            images: One or a list of PIL images, a NumPy array `(B, H, W, C)` (uint8, or float in [0, 1]) or a tensor `(B, C, H, W)`
                (uint8, or float in [-1, 1]). A model of vectors (`takes_vectors`) takes a tensor `(B, C)` or `(B, C, 1, 1)` of any numbers.
            resize: Whether images of another size are brought to the model's (centre square, antialiased bicubic), or refused.

        Raises:
            ValueError: One line for images of another kind or range, or of another size without `resize`.
        """
        if self.takes_vectors:
            prepared = prepare_vectors(images, self.channels)
        else:
            prepared = prepare_images(images, self.channels, self.image_size, resize)
        return prepared.to(self._execution_device, torch.float32)

    @torch.no_grad()
    def encode(self, images: ImageInput, batch_size: int = 256, resize: bool = False) -> Tensor:
        """Latents of the images, float32: posterior means `(B, D)`, of a categorical model one-hot classes `(B, D * classes)`.

        See `prepare_images` for what is accepted, and `codes` for what metrics take.
        """
        self._ivae()
        batch_size = check_count("batch_size", batch_size)
        latents = self._encode(self.prepare_images(images, resize), batch_size)
        self.maybe_free_model_hooks()
        return latents

    def codes(self, latents: Tensor) -> Tensor:
        """One number for each latent, `(B, D)`: z itself, of a categorical model the class (0, 1, ...), whose order means nothing."""
        if self.num_classes is None:
            return latents
        check_rows("latents", latents, self.latent_dim)
        return latents.view(len(latents), -1, self.num_classes).argmax(dim=2).float()

    @torch.no_grad()
    def decode(self, latents: Tensor, output_type: OutputType = "pil", batch_size: int = 256) -> Any:
        """Images of the iVAE's own decoder for z `(B, D)`."""
        ivae = self._ivae()
        if self.takes_vectors:
            raise ValueError("this model is of vectors, not images: use pipe.ivae.decode(latents).sample")
        check_output_type(output_type)
        batch_size = check_count("batch_size", batch_size)
        latents = self._check_latents(latents)
        bring(ivae)
        parts = [ivae.decode(part).sample.float() for part in latents.split(batch_size)]
        self.maybe_free_model_hooks()
        return self._output(torch.cat(parts), output_type)

    def reconstruct(
        self, images: ImageInput, output_type: OutputType = "pil", batch_size: int = 256, resize: bool = False
    ) -> Any:
        """`decode(encode(images))`: the iVAE alone."""
        return self.decode(self.encode(images, batch_size, resize), output_type, batch_size)

    def _ivae(self) -> IVAEModel:
        if self.ivae is None:
            raise ValueError(
                "this model has no iVAE: it draws images, pipe(batch_size=8), and has no latents"
            )
        check_place("ivae", self.ivae)
        return self.ivae

    def _encode(self, prepared: Tensor, batch_size: int = 256) -> Tensor:
        ivae = bring(self._ivae())
        return torch.cat(
            [
                ivae.encode(part.to(ivae.dtype)).latent_dist.mode().float()
                for part in prepared.split(batch_size)
            ]
        )

    def _prior(self, aux: Tensor) -> LatentDistribution:
        return bring(self._ivae()).prior(aux).latent_dist

    def _check_latents(self, latents: Any) -> Tensor:
        return self._checked("latents", latents, self.latent_dim, torch.float32)

    def _check_aux(self, aux: Any) -> Tensor:
        ivae = self._ivae()
        return self._checked("aux", aux, ivae.prior_encoder.aux_dim, ivae.dtype)

    def _checked(self, name: str, value: Any, width: int, dtype: torch.dtype) -> Tensor:
        """One row or more of finite numbers, as they are used: where the models are, and of this type."""
        check_rows(name, value, width)
        if len(value) == 0:
            raise ValueError(f"{name} must have one row or more, got {tuple(value.shape)}")
        if value.is_complex():
            raise ValueError(f"{name} must be real numbers, got {value.dtype}: give their real parts")
        # where they are: they may be on the host, where a look at them waits for no device
        rows = value.to(dtype)
        if not bool(torch.isfinite(rows).all()):
            # what overflows the type is not finite for the model either
            largest = float(value.abs().max())
            seen = f"{largest:.3g}, which {dtype} can't hold" if math.isfinite(largest) else "NaN or infinity"
            raise ValueError(f"{name} must be finite, got {seen}")
        return rows.to(self._execution_device)

    def _output(self, sample: Tensor, output_type: str) -> Any:
        return self.image_processor.postprocess(sample.clamp(-1.0, 1.0), output_type=output_type)


def bring(module: Any) -> Any:
    """The module on its device. CPU offload brings it there in `forward`, and not where a part of it is called."""
    hook = getattr(module, "_hf_hook", None)
    if isinstance(module, nn.Module) and hook is not None:
        hook.pre_forward(module)
    return module


def check_output_type(output_type: str) -> None:
    if output_type not in ("pil", "np", "pt"):
        raise ValueError(f"output_type must be pil, np or pt, got {output_type!r}")
