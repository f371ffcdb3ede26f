"""What is done with latents that stand for factors: traversals, interpolations, edits, and images of factors that are asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..data import label_to_z as values_of_labels
from ..latent_names import OF_A_FACTOR
from .checks import (
    check_count,
    finite_number,
    label_counts,
    listed,
    numbers,
    real_number,
    shown,
    whole_number,
)
from .coding import LatentCoding
from .guided import Guidance
from .images import ImageInput, OutputType
from .inversion import flow_times, probability_flow

Decoder = Literal["ivae", "ddpm"]


class LatentEditing(LatentCoding):
    """The part of `IVAEDiffusionPipeline` that works on latents one by one."""

    def traverse(
        self,
        latents: Tensor,
        dims: Sequence[int | str] | int | str | None = None,
        values: Sequence[float] | float | None = None,
        decoder: Decoder = "ddpm",
        guidance_scale: float = 1.0,
        num_inference_steps: int = 20,
        seed: int = 0,
        output_type: OutputType = "pil",
    ) -> Any:
        """Change one latent at a time along its range (Figures 10 and 11), or through its classes.

        Args:
            latents: One z, `(1, D)`, or `(1, D * classes)` of a categorical model, that is kept but for the latent that moves.
            dims: Latents to move, or one of them, 0 to D - 1, or names of factors (see `edit`); all by default.
            values: What each is set to: numbers or one of them, by default from -1.5 to 1.5 (a factor known to the prior has unit
                variance, from about -1.7 to 1.7), or from 0 where latents are distances (a `known` prior of the family
                `half_reciprocal`); of a categorical model classes, by default all.
            decoder: `ddpm` draws with the diffusion model, from the same noise everywhere; `ivae` is its own decoder.
            guidance_scale: gamma, for `ddpm`.
            num_inference_steps: Solver steps, for `ddpm`.
            seed: Of that noise.
            output_type: As in `__call__`.

        Returns:
            A list over `dims` of the images over `values`; an array or tensor with these two leading axes for `np` and `pt`.

        Raises:
            ValueError: One line for arguments that do not fit.
        """
        latents = self._one_row(latents, "latents")
        config = self._ivae().config
        dims = range(config["latent_dim"]) if dims is None else dims
        chosen = [self._latent(dim) for dim in listed(dims)]
        values = listed(self.traversed if values is None else values)
        if len(chosen) == 0 or len(values) == 0:
            raise ValueError("dims and values must name one or more, got none: leave them out for all")
        rows = [self._replaced(latents, dim, value) for dim in chosen for value in values]
        flat = self._draw_alike(
            torch.cat(rows), decoder, guidance_scale, num_inference_steps, seed, output_type
        )
        if output_type == "pil":
            return [flat[row * len(values) : (row + 1) * len(values)] for row in range(len(chosen))]
        return flat.reshape(len(chosen), len(values), *flat.shape[1:])

    def interpolate(
        self,
        a: Tensor | ImageInput,
        b: Tensor | ImageInput,
        steps: int = 8,
        mode: Literal["linear", "spherical"] = "linear",
        decoder: Decoder = "ddpm",
        guidance_scale: float = 1.0,
        num_inference_steps: int = 20,
        seed: int = 0,
        output_type: OutputType = "pil",
    ) -> Any:
        """Go from one z to another, all drawn from the same noise.

        Args:
            a: Where to begin: one z `(1, D)`, or one image, which is encoded.
            b: Where to end, likewise.
            steps: Images, both ends among them; 2 or more.
            mode: `linear`, or `spherical`, along the great circle: in many dimensions the middle of a line is shorter than what the prior
                draws.
            decoder: As in `traverse`, like all that follows.
            guidance_scale: See there.
            num_inference_steps: See there.
            seed: See there.
            output_type: See there.

        Returns:
            `steps` images.

        Raises:
            ValueError: One line for arguments that do not fit, or for a categorical model: between two classes there is nothing.
        """
        if self.num_classes is not None:
            raise ValueError(
                "interpolate needs Gaussian latents: between two classes there is nothing, use traverse"
            )
        steps = check_count("steps", steps, least=2)
        if mode not in ("linear", "spherical"):
            raise ValueError(f"mode must be linear or spherical, got {mode!r}")
        ends = [
            self._one_row(end if isinstance(end, Tensor) and end.ndim == 2 else self.encode(end), name)
            for name, end in (("a", a), ("b", b))
        ]
        share = torch.linspace(0.0, 1.0, steps, device=ends[0].device)[:, None]
        path = (slerp if mode == "spherical" else torch.lerp)(ends[0], ends[1], share)
        return self._draw_alike(path, decoder, guidance_scale, num_inference_steps, seed, output_type)

    @torch.no_grad()
    def edit(
        self,
        images: ImageInput,
        values: Mapping[int | str, float],
        guidance_scale: float = 1.0,
        num_inference_steps: int = 25,
        start: float | None = None,
        resize: bool = False,
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Give latents of images other values and keep all that z does not say.

        The probability-flow ODE takes each image, given its own z, to the noise that it would be drawn from (DDIM inversion: Song et al.,
        arXiv:2010.02502; with a learned z: Preechakul et al., arXiv:2111.15640), and back, given the z asked for. With no values the
        image comes back up to the error of the ODE's solver, which is of order 2 in the number of steps.

        Args:
            images: See `prepare_images`.
            values: By the number of a latent, 0 to D - 1, the value of z, or of a categorical model the class; by the name of a factor,
                where the prior says which latent is that factor's, the factor's value in [-0.5, 0.5].
            guidance_scale: gamma on the way back. Only 1 returns what was not edited.
            num_inference_steps: Steps of Heun's method, two calls of the U-Net each, in each direction.
            start: The time in (0, 1) whose x_t the images are taken for, the scheduler's `sampling_eps` by default. What the U-Net cannot
                predict of an image at that time becomes its noise. A later time makes that noise weaker, and suits a U-Net that draws
                coarsely.
            resize: Whether images of another size are brought to the model's.
            output_type: As in `__call__`.
            return_dict: As in `__call__`.

        Returns:
            As `__call__`: images, and their new latents.

        Raises:
            ValueError: One line for arguments that do not fit.
        """
        guidance = Guidance(guidance_scale)
        num_inference_steps = self._check_drawing(num_inference_steps, output_type)
        unet = self._guided_unet()
        first = real_number(unet.sde.config["sampling_eps"] if start is None else start)
        if first is None or not 0.0 < first < 1.0:
            raise ValueError(f"start must lie between 0 and 1, got {shown(start)}")
        if not isinstance(values, Mapping):
            raise ValueError(f"values must be a mapping such as {{0: 1.0}}, got {shown(values)}")
        keys: dict[int, int | str] = {}
        for key in values:
            latent = self._latent(key)
            if latent in keys:
                raise ValueError(
                    f"{keys[latent]!r} and {key!r} are both latent {latent}: set it by one of them"
                )
            keys[latent] = key
        prepared = self.prepare_images(images, resize)
        z = self._encode(prepared)
        edited = z
        for latent, key in keys.items():
            edited = self._replaced(edited, latent, self._value(key, values[key]))

        times = flow_times(unet.sde, first, num_inference_steps)
        alpha = float(unet.sde.alpha_sigma(torch.tensor(first))[0])
        sample = alpha * self.diffused(prepared)
        for latents, scale, way in ((z, 1.0, times), (edited, guidance.scale, times[::-1])):
            condition, null = self._conditions(latents)
            sample = probability_flow(
                sample,
                lambda x, tau, t, s=scale, c=condition, n=null: unet(x, tau, s, c, n),  # type: ignore[misc]
                unet.sde,
                way,
            )
        return self._finish(sample / alpha, edited, output_type, return_dict)

    def sample_factors(
        self,
        factors: Mapping[str, float | Sequence[float]] | Tensor | np.ndarray,
        factor_sizes: Sequence[int] | None = None,
        width: float = 0.05,
        label_to_z: Literal["endpoints", "centers"] = "endpoints",
        **call: Any,
    ) -> Any:
        """Draw images whose factors are asked for: factors -> u -> z from the prior p(z|u) -> images.

        Args:
            factors: Values in [-0.5, 0.5] of all factors, `(B, K)` in the order of `factor_names` of the iVAE, or by name, a number or
                B of them each. A factor that is not named is free: its u says the whole range.
            factor_sizes: K numbers of labels. Given, `factors` are labels 0 .. n - 1, whose values `label_to_z` says.
            width: Of the interval that u says each factor asked for lies in, as a share of the factor's range, in [0, 1]: u states the mean
                sqrt(12) z and the variance width^2, as `aux.name: interval` does.
            label_to_z: With `factor_sizes`, that of the model's training (`aux.label_to_z`): the value of a label is label / (n - 1) - 0.5
                by `endpoints`, (label + 0.5) / n - 0.5 by `centers`.
            **call: Passed to `__call__`, but for `aux`.

        Returns:
            As `__call__`.

        Raises:
            ValueError: One line for values that do not fit, or for a model whose u states no means.
        """
        if "aux" in call:
            raise ValueError(
                "sample_factors makes aux from factors: leave aux out, or draw with pipe(aux=...)"
            )
        return self(aux=self._aux_of(factors, factor_sizes, width, label_to_z), **call)

    def _aux_of(
        self,
        factors: Mapping[str, float | Sequence[float]] | Tensor | np.ndarray,
        factor_sizes: Sequence[int] | None = None,
        width: float = 0.05,
        label_to_z: str = "endpoints",
    ) -> Tensor:
        """u `(B, 2 K)` that states these factors."""
        config = self._ivae().config
        names, num_factors = tuple(config["factor_names"]), config["num_factors"]
        if config["aux_moments"] != "mean_variance":
            raise ValueError(
                f"factors cannot be asked for: this model's u states no means of them (aux_moments={config['aux_moments']!r}), "
                "draw with pipe(aux=...)"
            )
        share = real_number(width)
        if share is None or not 0.0 <= share <= 1.0:
            raise ValueError(f"width must lie in [0, 1], got {shown(width)}")
        if label_to_z not in ("endpoints", "centers"):
            raise ValueError(f"label_to_z must be endpoints or centers, got {shown(label_to_z)}")
        if isinstance(factors, Mapping):
            unknown = [name for name in factors if name not in names]
            if unknown:
                raise ValueError(
                    f"factors must be among {', '.join(names) or 'none, this model has no names'}, got {', '.join(map(str, unknown))}"
                )
            given = {names.index(name): numbers(value) for name, value in factors.items()}
            for factor, array in given.items():
                if array.ndim > 1:
                    raise ValueError(
                        f"factors by name must be a number or a list each, got an array {array.shape} of {names[factor]}"
                    )
        else:
            table = numbers(factors)
            if table.ndim != 2 or table.shape[1] != num_factors:
                raise ValueError(f"factors must be (B, {num_factors}), got {table.shape}")
            given = dict(enumerate(table.T))
        if any(array.size == 0 for array in given.values()):
            raise ValueError("factors must be of one image or more, got none")
        lengths = {array.size for array in given.values()} - {1}
        if len(lengths) > 1:
            raise ValueError(
                f"factors must have one length, or be single numbers, got lengths {sorted(lengths)}"
            )
        sizes = None if factor_sizes is None else label_counts(factor_sizes, num_factors)
        aux = torch.cat([torch.zeros(num_factors), torch.ones(num_factors)])
        aux = aux.repeat(lengths.pop() if lengths else 1, 1)
        for factor, array in given.items():
            if sizes is not None:
                value = _of_labels(array, sizes[factor], label_to_z, names[factor] if names else factor)
            else:
                value = torch.from_numpy(array.astype(np.float32))
            if not bool((value.abs() <= 0.5).all()):
                outside = array.reshape(-1)[~(value.abs() <= 0.5).reshape(-1).numpy()]
                raise ValueError(
                    f"factors must lie in [-0.5, 0.5], or be labels with factor_sizes given, got {', '.join(map(str, outside[:8]))}"
                )
            aux[:, factor] = math.sqrt(12.0) * value
            aux[:, num_factors + factor] = share**2
        return aux

    def _latent(self, key: Any) -> int:
        """The latent of this number, or of the factor of this name."""
        config = self._ivae().config
        if not isinstance(key, str):
            number = whole_number(key)
            if number is None:
                raise ValueError(
                    f"a latent is said by its number or the name of its factor, got {shown(key)}"
                )
            if not 0 <= number < config["latent_dim"]:
                raise ValueError(f"latents are numbered from 0 to {config['latent_dim'] - 1}, got {number}")
            return number
        names = tuple(config["factor_names"])
        if config["prior_type"] not in OF_A_FACTOR:
            raise ValueError(
                f"{key!r} names no latent: with prior_type={config['prior_type']!r} none belongs to a factor from the start, "
                "give the number of a latent"
            )
        if key not in names:
            raise ValueError(f"factors are {', '.join(names) or 'not named in this model'}, got {key!r}")
        return names.index(key)

    def _value(self, key: int | str, value: float) -> float:
        """What the latent is set to: for a factor the prior's own mean, or class, where u says this value of it."""
        if not isinstance(key, str):
            return value
        aux = self._aux_of({key: finite_number(value)}).to(self._execution_device, self._ivae().dtype)
        return float(self.codes(self._prior(aux).mode())[0, self._latent(key)])

    def _replaced(self, latents: Tensor, latent: int, value: float) -> Tensor:
        """`latents` with one of them set, to a number or to a class."""
        value = finite_number(value)
        latents = latents.clone()
        classes = self.num_classes
        if classes is None:
            latents[:, latent] = value
            return latents
        if value != int(value) or not 0 <= value < classes:
            raise ValueError(f"classes are numbered from 0 to {classes - 1}, got {value}")
        one_hot = latents.view(len(latents), -1, classes)
        one_hot[:, latent] = 0.0
        one_hot[:, latent, int(value)] = 1.0
        return latents

    def _one_row(self, latents: Tensor, name: str) -> Tensor:
        latents = self._check_latents(latents)
        if len(latents) != 1:
            raise ValueError(f"{name} must be one row (1, {self.latent_dim}), got {tuple(latents.shape)}")
        return latents

    def _draw_alike(
        self,
        latents: Tensor,
        decoder: Decoder,
        guidance_scale: float,
        num_inference_steps: int,
        seed: int,
        output_type: OutputType,
    ) -> Any:
        """An image of each row, all of them from the same noise."""
        whole = whole_number(seed)
        if whole is None or not -(2**63) <= whole < 2**64:
            raise ValueError(f"seed must be a whole number from -2^63 to 2^64 - 1, got {shown(seed)}")
        if decoder == "ivae":
            return self.decode(latents, output_type)
        if decoder != "ddpm":
            raise ValueError(f"decoder must be ivae or ddpm, got {decoder!r}")
        device = self._execution_device
        return self(
            latents=latents,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            generator=[torch.Generator(device).manual_seed(whole) for _ in latents],
            output_type=output_type,
        ).images


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Between a and b `(1, D)` at the shares `(n, 1)` along the great circle, `(n, D)`; along the line where they point the same way.

    sin((1 - s) w) / sin(w) a + sin(s w) / sin(w) b, with w the angle between them (Shoemake, 1985). Where one of them is zero or they are
    opposite no circle is distinguished, and the line is taken too.
    """
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1.0, 1.0)[:, None]
    angle = torch.acos(cosine)
    if float(a.norm() * b.norm()) == 0.0 or float(torch.sin(angle)) < 1e-3:
        return torch.lerp(a, b, share)
    return (torch.sin((1.0 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


def _of_labels(labels: np.ndarray, size: int, mode: str, name: str | int) -> Tensor:
    """The values of one factor's labels."""
    if not bool(((labels == np.round(labels)) & (labels >= 0) & (labels < size)).all()):
        raise ValueError(
            f"labels of {name} must be whole numbers from 0 to {size - 1}, got {labels.tolist()}"
        )
    whole = torch.from_numpy(labels.reshape(-1, 1).astype(np.int64))
    return values_of_labels(whole, [size], mode).squeeze(1)
