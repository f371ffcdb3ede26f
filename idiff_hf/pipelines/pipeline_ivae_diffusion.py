"""Encode, reconstruct, generate and edit with an identifiable VAE and the diffusion model on its latents."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from diffusers import PNDMScheduler, SchedulerMixin, UNet2DConditionModel, UNet2DModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..hub_folder import download_pipeline, hub_arguments
from ..models import (
    AdditiveConditioning,
    Autoencoder,
    IVAEModel,
    NoConditioning,
    ScaleShiftConditioning,
    TokenConditioning,
    decode_latents,
    encode_latents,
)
from .checks import check_count, shown, tensors_asked_for, tensors_returned, whole_number
from .coding import bring, check_output_type
from .editing import LatentEditing
from .guided import Guidance, GuidedUNet
from .hub_commit import CARD, check_target, commit_files, pipeline_files, plain_card, with_manifest
from .images import ImageInput, OutputType
from .loading import PIPELINE, check_arguments, check_place, load_components, open_folder, unwrapped
from .saving import check_components, save_whole

GeneratorInput = torch.Generator | list[torch.Generator] | tuple[torch.Generator, ...] | None
StepCallback = Callable[["IVAEDiffusionPipeline", int, Tensor, dict[str, Any]], dict[str, Any] | None]


@dataclass
class IVAEDiffusionPipelineOutput(BaseOutput):
    """Images of the type asked for, and the latents `(B, D)` they were made from."""

    images: Any
    latents: Tensor


class IVAEDiffusionPipeline(LatentEditing):
    """Images from latents that each stand for one factor.

    Args:
        ivae: The identifiable VAE, or None for an unconditional diffusion model.
        unet: Stock U-Net, or None for an iVAE alone.
        conditioning: How z enters the U-Net, or None likewise.
        scheduler: `VPSDEScheduler` or a diffusers scheduler made from its config, or None likewise.
        vae: Autoencoder in whose latents the diffusion runs (latent diffusion), or None where it runs on pixels.
    """

    model_cpu_offload_seq = "ivae->unet->vae"
    # so small that it stays on the device
    _exclude_from_cpu_offload: ClassVar[list[str]] = ["conditioning"]
    _optional_components: ClassVar[list[str]] = ["ivae", "unet", "conditioning", "scheduler", "vae"]
    _callback_tensor_inputs: ClassVar[list[str]] = ["sample", "condition", "null_condition"]

    def __init__(
        self,
        ivae: IVAEModel | None = None,
        unet: UNet2DModel | UNet2DConditionModel | None = None,
        # each class by name, for `from_pipe` takes over components of exactly these
        conditioning: AdditiveConditioning
        | ScaleShiftConditioning
        | TokenConditioning
        | NoConditioning
        | None = None,
        scheduler: SchedulerMixin | None = None,
        vae: Autoencoder | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(ivae=ivae, unet=unet, conditioning=conditioning, scheduler=scheduler, vae=vae)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)
        self._guidance_scale, self._interrupt, self._num_timesteps = 1.0, False, 0

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:  # type: ignore[override]
        """Save every component as JSON and safetensors: all of it, or nothing is changed.

        `model_index.json` names `idiff_hf` and the public class, not the module that holds it today, so that moving a module breaks no
        published folder; a subclass of this pipeline is saved as this one. The folders that components were loaded from are not named.

        Args:
            save_directory: The folder, created where it is missing. Weights of another variant that lie there stay.
            **kwargs: `variant` and `max_shard_size`, as in diffusers.

        Raises:
            ValueError: One line, for a component that `from_pretrained` would refuse, an argument that would write pickles or that is
                unknown, a place that is no folder, or a disk that is full.
        """
        if not isinstance(save_directory, str | os.PathLike):
            raise ValueError(f"save_directory must be a path, got {save_directory!r}")
        if not kwargs.pop("safe_serialization", True):
            raise ValueError("safe_serialization=False would write pickles: idiff_hf saves safetensors only")
        if kwargs.pop("push_to_hub", False):
            raise ValueError(
                "push_to_hub=True is refused: call pipe.push_to_hub(repo_id), or `idiff publish` with the saved folder"
            )
        if unknown := sorted(kwargs.keys() - {"variant", "max_shard_size"}):
            raise ValueError(f"unknown argument for {PIPELINE}.save_pretrained: {', '.join(unknown)}")
        check_components(self.components)
        write = super().save_pretrained
        save_whole(
            lambda folder: write(folder, safe_serialization=True, **kwargs),
            Path(save_directory),
            kwargs.get("variant"),
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> IVAEDiffusionPipeline:
        """Load a folder, or a repository of the Hub where there is no such folder. No code in it is run or fetched.

        Args:
            pretrained_model_name_or_path: A folder that `save_pretrained` or the training script wrote, or `user/name` on the Hub.
            **kwargs: `dtype` (or `torch_dtype`) and `variant`, as in diffusers, components that replace those of the folder, and what
                `download` takes.

        Raises:
            ValueError: One line, for a folder that is none, files that differ from its manifest (where it has one), a component or class
                that is not expected, unknown config keys, missing or unexpected tensors, an argument that would run code, or as `download`.
        """
        folder, given = open_folder(pretrained_model_name_or_path, kwargs)
        pipeline = cls(**load_components(folder, given))
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> Path:
        """Fetch a pipeline from the Hub without loading it; returns its folder in the cache.

        Args:
            pretrained_model_name: `user/name`.
            **kwargs: `revision`, `variant`, `subfolder`, `token`, `cache_dir`, `local_files_only`, `force_download`; see
                `hub_folder.download_pipeline`, also for errors.
        """
        check_arguments(kwargs)
        return download_pipeline(pretrained_model_name, **hub_arguments(kwargs))

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        commit_message: str = "Upload IVAEDiffusionPipeline",
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        subfolder: str | None = None,
        variant: str | None = None,
    ) -> str:
        """Publish the pipeline alone, in one commit, with a card that says that nothing was measured; see `hub_commit.commit_files`.

        A run, with its results, figures and card, is published by `idiff publish`.

        Args:
            repo_id: `user/name`; created where it is missing. What an earlier model left there is taken out.
            commit_message: First line of the commit.
            private: Whether a repository that is created is private; None is the owner's default.
            token: Access token, by default that of HF_TOKEN or of `hf auth login`.
            create_pr: Open a pull request instead.
            revision: A branch instead of the main one.
            subfolder: Put the pipeline there, without a card; other folders are left alone.
            variant: Name the weights so, such as `fp16`, for `from_pretrained(repo_id, variant="fp16")`. A repository that holds other
                weights is refused: to have several, save them into one folder and publish that by `idiff publish`.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ValueError: One line, as `commit_files` says.
        """
        check_target(repo_id, revision, create_pr, token)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, variant=variant)
            files = pipeline_files(Path(folder))
            if not subfolder:
                files[CARD] = plain_card(self.components, repo_id, revision, variant).encode()
            return commit_files(
                with_manifest(files),
                repo_id,
                private=private,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message,
                token=token,
                subfolder=subfolder,
                keep_weights=variant is not None,
            )

    @property
    def guidance_scale(self) -> float:
        """gamma of the call that runs, or ran last. A callback may change it by setting `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether that call needs both terms of Eq. 10, and so twice the work of a plain one."""
        return self.ivae is not None and self._guidance_scale not in (0.0, 1.0)

    @property
    def num_timesteps(self) -> int:
        """Calls of the U-Net in that call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether that call was told to stop: a callback sets `_interrupt = True`, and the images are what is there by then."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        images: ImageInput | None = None,
        latents: Tensor | None = None,
        aux: Tensor | None = None,
        batch_size: int | None = None,
        num_images_per_input: int = 1,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guidance_rescale: float = 0.0,
        num_inference_steps: int = 20,
        generator: GeneratorInput = None,
        resize: bool = False,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("sample",),
    ) -> Any:
        """Draw images by solving the reverse SDE, or its ODE, from noise: from exactly one of `images`, `latents`, `aux` and `batch_size`.

        The sample is kept in float32 whatever the dtype of the models.

        Args:
            images: Images whose posterior means, or classes, are used; see `prepare_images`.
            latents: z, `(B, D)`, or `(B, D * classes)` of a categorical model.
            aux: u, `(B, A)`, standardised as in training: each image has a z of its own, drawn from the prior p(z|u).
            batch_size: Of an unconditional model, which takes none of these: how many images.
            num_images_per_input: Images for each row of these; those of one row follow each other.
            guidance_scale: gamma of Eq. 10: 1 is the plain conditional model, 0 the unconditional one. The paper uses 4, which costs twice
                as much; on the quickstart's model its squared error is higher (`model_cards/quickstart`). It has no effect on an
                unconditional model.
            guidance_interval: Times (start, end), 0 is data and 1 noise, between which that scale holds; it is 1 outside.
            guidance_rescale: From 0 to 1, against over-saturation at a high scale; see `Guidance`, as for the two before.
            num_inference_steps: Solver steps.
            generator: One generator, or one for each image, with which image i is independent of the batch it is drawn in.
            resize: Whether `images` of another size are brought to the model's.
            output_type: `pil`, `np` (`(B, H, W, C)` in [0, 1]) or `pt` (`(B, C, H, W)` in [0, 1]).
            return_dict: Whether an output object is wanted, or a tuple.
            callback_on_step_end: Called after each step as `callback(pipe, i, timestep, tensors)`; tensors that it returns, if any, take
                the place of those in use. See `interrupt` and `guidance_scale` for what else it can do.
            callback_on_step_end_tensor_inputs: Which tensors it is given: `sample` x_t, `condition` of z, `null_condition`; of a callback
                of diffusers, those that it names itself. Schedulers in sigma space, such as EulerDiscrete, have `sample` at their own
                scale, x_t / alpha_t.

        Returns:
            An `IVAEDiffusionPipelineOutput`, or the tuple `(images, latents)`.

        Raises:
            ValueError: One line for inputs that do not fit.
        """
        self._check_source(images=images, latents=latents, aux=aux, batch_size=batch_size)
        Guidance(guidance_scale, guidance_interval, guidance_rescale)
        num_inference_steps = self._check_drawing(num_inference_steps, output_type)
        if isinstance(self.scheduler, PNDMScheduler) and num_inference_steps < 4:
            raise ValueError(
                f"PNDMScheduler needs num_inference_steps of 4 or more, got {num_inference_steps}"
            )
        num_images_per_input = check_count("num_images_per_input", num_images_per_input)
        asked_for = tensors_asked_for(
            callback_on_step_end, callback_on_step_end_tensor_inputs, self._callback_tensor_inputs
        )

        # 1. z of each image
        rows: Tensor | None = None
        if images is not None:
            rows = self.prepare_images(images, resize)
        elif self.ivae is not None:
            rows = self._check_latents(latents) if aux is None else self._check_aux(aux)
        count = (check_count("batch_size", batch_size) if rows is None else len(rows)) * num_images_per_input
        if isinstance(generator, tuple):
            generator = list(generator)
        if not all(
            isinstance(one, torch.Generator | None)
            for one in (generator if isinstance(generator, list) else [generator])
        ):
            raise ValueError(f"generator must be a torch.Generator or a list of them, got {generator!r}")
        if isinstance(generator, list) and len(generator) != count:
            raise ValueError(
                f"generator must be one or a list of {count}, one for each image, got {len(generator)}"
            )
        device = self._execution_device
        if rows is None:
            z = torch.zeros(count, 0, device=device)
        elif aux is not None:
            prior = self._prior(rows.repeat_interleave(num_images_per_input, dim=0))
            z = prior.sample(randn_tensor((count, *prior.noise_shape), generator=generator, device=device))
        else:
            codes = rows if images is None else self._encode(rows)
            z = codes.repeat_interleave(num_images_per_input, dim=0)

        # 2. Noise, times and conditions. The scheduler's times stay on the host: a solver reads them, and must not wait for the device.
        unet = self._guided_unet()
        sample = randn_tensor((count, *self._sample_shape), generator=generator, device=device)
        self.scheduler.set_timesteps(num_inference_steps, device="cpu")
        sample = sample * self.scheduler.init_noise_sigma
        timesteps = self.scheduler.timesteps
        of_unet = timesteps.to(device, torch.float32)
        condition, null_condition = self._conditions(z)
        step_kwargs = {"generator": generator} if _takes_generator(self.scheduler) else {}
        self._guidance_scale, self._interrupt, self._num_timesteps = guidance_scale, False, len(timesteps)

        # 3. The solver
        for i, timestep in enumerate(self.progress_bar(timesteps)):
            if self._interrupt:
                break
            t = (float(timestep) + 1.0) / self.scheduler.config["num_train_timesteps"]
            scale = Guidance(self._guidance_scale, guidance_interval).at(t)
            x_t = self.scheduler.scale_model_input(sample, timestep)
            prediction = unet(x_t, of_unet[i], scale, condition, null_condition, guidance_rescale)
            sample = self.scheduler.step(prediction, timestep, sample, **step_kwargs).prev_sample
            if callback_on_step_end is not None:
                tensors = {"sample": sample, "condition": condition, "null_condition": null_condition}
                asked = {name: tensors[name] for name in asked_for}
                tensors |= tensors_returned(callback_on_step_end(self, i, timestep, asked), tensors)
                sample, condition, null_condition = tensors.values()
        return self._finish(sample, z, output_type, return_dict)

    def _finish(self, sample: Tensor, z: Tensor, output_type: OutputType, return_dict: bool) -> Any:
        images = self._output(self._to_images(sample), output_type)
        self.maybe_free_model_hooks()
        return IVAEDiffusionPipelineOutput(images=images, latents=z) if return_dict else (images, z)

    def _guided_unet(self) -> GuidedUNet:
        assert self.conditioning is not None
        return GuidedUNet(bring(self.unet), self.conditioning, self.scheduler.config)

    def _conditions(self, z: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Of z and of no z; neither of an unconditional model."""
        if self.ivae is None or self.conditioning is None:
            return None, None
        return self.conditioning(z), self.conditioning.null(len(z))

    def diffused(self, prepared: Tensor) -> Tensor:
        """What the diffusion runs on, of images as `prepare_images` gives them: they themselves, or scaled latents of `vae`."""
        if self.vae is None:
            return prepared
        return encode_latents(self.vae, prepared) * self.vae.config["scaling_factor"]

    def _to_images(self, sample: Tensor) -> Tensor:
        """Its inverse, `(B, C, H, W)`."""
        if self.vae is None:
            return sample
        return decode_latents(self.vae, sample / self.vae.config["scaling_factor"])

    def _check_source(self, **sources: Any) -> None:
        given = [name for name, value in sources.items() if value is not None]
        size = sources["batch_size"]
        if self.ivae is None:
            if given != ["batch_size"] or whole_number(size) is None or size < 1:
                raise ValueError(
                    "this model is unconditional: give batch_size=1 or more and neither images, latents nor aux, "
                    f"got {f'batch_size={shown(size)}' if given == ['batch_size'] else ' and '.join(given) or 'none'}"
                )
        elif len(given) != 1 or size is not None:
            raise ValueError(
                f"give exactly one of images, latents and aux (batch_size is for unconditional models), got {' and '.join(given) or 'none'}"
            )

    def _check_drawing(self, num_inference_steps: int, output_type: str) -> int:
        """Refuse what can't draw; the number of steps as an int."""
        if self.unet is None or self.conditioning is None or self.scheduler is None:
            raise ValueError("this model has no U-Net: use reconstruct(images) or decode(latents)")
        for name, part in self.components.items():
            check_place(name, part)
        takes, gives = unwrapped(self.conditioning).code_dim, None if self.ivae is None else self.latent_dim
        if takes != gives:
            raise ValueError(
                f"the conditioning takes z of {takes or 'no'} numbers, and the iVAE gives {gives or 'none'}: "
                "give the parts of one model"
            )
        check_output_type(output_type)
        return check_count("num_inference_steps", num_inference_steps)


def _takes_generator(scheduler: Any) -> bool:
    return "generator" in inspect.signature(scheduler.step).parameters
