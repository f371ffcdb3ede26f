"""The identifiable VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .checks import fraction, positive, require

RESNETS = ("resnet18", "resnet50")


RECIPROCAL = {"reciprocal": ("known",), "half_reciprocal": ("known", "released")}
"""The families of laws given the paper's u, and the types of prior that may be of them."""


def are_distances(prior_type: str, prior_family: str) -> bool:
    """Whether a prior makes latents distances from 0 for good, and not until it is released."""
    return (prior_type, prior_family) == ("known", "half_reciprocal")


@dataclass(frozen=True)
class ModelConfig:
    """The identifiable VAE (Sections 2.1, 2.3 and 2.6), and whether there is one, and a U-Net.

    Args:
        ivae: An iVAE, whose latents are the U-Net's condition. `false` leaves an unconditional diffusion model alone.
        diffusion: A U-Net on the latents. `false` leaves the iVAE alone.
        backbone: `cnn` is four convolutions and two linear layers, mirrored in the decoder; `resnet18` and `resnet50` have a decoder of
            mirrored residual stages; `mlp` is for vectors (`data.name=rotation`).
        pretrained_backbone: With a ResNet and `norm=batch`: the id or folder of a `transformers.ResNetModel` that the encoder starts from.
        latent_dim: D. The paper: 10.
        latent_type: `gaussian`, or `categorical`: D variables of `num_categories` classes, with straight-through samples (Section 2.6).
        num_categories: With `categorical`: classes of each variable. The paper: 10.
        uniform_mix: With `categorical`: share of the uniform law in all probabilities. The paper: 0.01.
        logvar_bounds: Not with `categorical`: log-variances of q(z|x), and of a p(z|u) that learns, are kept between these two.
        channels: With `cnn`: output channels of the four convolutions.
        hidden_dim: With `cnn`: width of the first linear layer; with `mlp`: of every hidden layer.
        norm: What follows a convolution: `group`, `batch` over the batch of all processes, or `none` (not in a ResNet). The paper has none
            in its CNN, and `batch` in its ResNets.
        prior_type: `standard` N(0, I), `learned` an MLP of u (the paper), `per_dimension` an MLP for each factor, which sees what u says of
            this factor alone, `known` the moments of u, `released` the known moments until `prior_release`, then with an MLP
            that starts at zero, or of `prior_family=half_reciprocal` both halves.
        prior_mean: Of a prior that learns: `zero`, `learned`, or `auto`, which is zero where u states variances alone, for these say
            nothing of the sign.
        prior_family: The law of z given u: `gaussian` (the paper); `uniform` with soft edges, which is the law that the known moments
            of `interval` and `bounds` stand for; `reciprocal`, which is the law of z given a variance of `uniform_posterior`, the paper's
            u; or `half_reciprocal`, that of |z|, so that a latent is how far its factor is from the middle of its range, which is what
            this u tells. The last two need a `known` prior, the half may be `released` too, and as many latents as factors.
        prior_hidden_dim: Width of the two hidden layers of the prior's MLP.
        prior_release: With `released`: the fraction of the iVAE's steps at which the prior is released.
        pretrained_ivae: Folder of a saved pipeline whose iVAE the training starts from (Section 3.3).
        freeze_ivae: Leave that iVAE as it is: `optim_ivae` is not used.
    """

    ivae: bool = True
    diffusion: bool = True
    backbone: Literal["cnn", "resnet18", "resnet50", "mlp"] = "cnn"
    pretrained_backbone: str | None = None
    latent_dim: int = 10
    latent_type: Literal["gaussian", "categorical"] = "gaussian"
    num_categories: int = 10
    uniform_mix: float = 0.01
    logvar_bounds: tuple[float, ...] = (-10.0, 10.0)
    channels: tuple[int, ...] = (32, 32, 64, 64)
    hidden_dim: int = 256
    norm: Literal["group", "batch", "none"] = "group"
    prior_type: Literal["standard", "learned", "per_dimension", "known", "released"] = "learned"
    prior_mean: Literal["auto", "zero", "learned"] = "auto"
    prior_family: Literal["gaussian", "uniform", "reciprocal", "half_reciprocal"] = "gaussian"
    prior_hidden_dim: int = 128
    prior_release: float = 0.5
    pretrained_ivae: str | None = None
    freeze_ivae: bool = False

    def __post_init__(self) -> None:
        positive(
            **{
                "model.latent_dim": self.latent_dim,
                "model.hidden_dim": self.hidden_dim,
                "model.prior_hidden_dim": self.prior_hidden_dim,
            }
        )
        require(
            self.ivae or self.diffusion,
            "model.ivae=false needs model.diffusion=true: nothing is left to train",
        )
        resnet = self.backbone in RESNETS
        require(
            len(self.channels) == 4,
            f"model.channels must have 4 entries, got {len(self.channels)}: {self.channels}",
        )
        positive(**{"model.channels": min(self.channels)})
        require(
            self.norm != "group" or all(c % 8 == 0 for c in self.channels),
            f"model.channels must be multiples of 8 with model.norm=group, got {self.channels}",
        )
        require(
            not (resnet and self.norm == "none"),
            f"model.backbone={self.backbone} needs model.norm=group or batch, got none",
        )
        require(
            self.pretrained_backbone is None or (resnet and self.norm == "batch"),
            f"model.pretrained_backbone needs a ResNet with model.norm=batch, got model.backbone={self.backbone}, model.norm={self.norm}",
        )
        self._check_latents()
        fraction(**{"model.prior_release": self.prior_release})
        require(
            not self.freeze_ivae or self.pretrained_ivae is not None,
            "model.freeze_ivae=true needs model.pretrained_ivae, the folder of the pipeline whose iVAE is kept",
        )
        require(
            not self.freeze_ivae or self.diffusion,
            "model.freeze_ivae=true needs model.diffusion=true: nothing is left to train",
        )
        require(
            self.pretrained_ivae is None or self.pretrained_backbone is None,
            "model.pretrained_backbone has no effect with model.pretrained_ivae, which holds the whole iVAE",
        )
        changed = [
            n
            for n in ("pretrained_ivae", "pretrained_backbone")
            if not self.ivae and getattr(self, n) is not None
        ]
        require(not changed, f"model.{', model.'.join(changed)} needs model.ivae=true")

    def _check_latents(self) -> None:
        categorical = self.latent_type == "categorical"
        require(
            self.num_categories >= 2, f"model.num_categories must be 2 or more, got {self.num_categories}"
        )
        require(
            0.0 <= self.uniform_mix < 1.0, f"model.uniform_mix must lie in [0, 1), got {self.uniform_mix}"
        )
        require(
            not categorical or self.prior_type in ("standard", "learned", "per_dimension"),
            f"model.latent_type=categorical has no model.prior_type={self.prior_type}: u states moments of numbers, not of classes; "
            "use learned, per_dimension or standard",
        )
        require(
            not categorical or self.prior_family == "gaussian",
            f"model.prior_family={self.prior_family} needs model.latent_type=gaussian, got categorical",
        )
        require(
            self.prior_mean == "auto"
            or (not categorical and self.prior_type in ("learned", "per_dimension")),
            f"model.prior_mean={self.prior_mean} needs model.latent_type=gaussian and model.prior_type=learned or per_dimension, "
            f"got {self.latent_type}, {self.prior_type}",
        )
        bounds = self.logvar_bounds
        require(
            len(bounds) == 2 and bounds[0] < bounds[1],
            f"model.logvar_bounds must be a lower and a higher number, got {bounds}",
        )

    @property
    def learns_ivae(self) -> bool:
        """Whether the iVAE's parameters are trained."""
        return self.ivae and not self.freeze_ivae
