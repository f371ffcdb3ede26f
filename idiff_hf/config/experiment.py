"""The whole experiment, and what its parts have to agree on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .autoencoder import AutoencoderConfig
from .checks import require
from .data import AuxConfig, DataConfig
from .diffusion import CFGConfig, SchedulerConfig, UNetConfig
from .hub import HubConfig
from .loss import LossConfig
from .model import RECIPROCAL, RESNETS, ModelConfig
from .run import EvalConfig, OptimConfig, TrainConfig


@dataclass(frozen=True)
class Config:
    """One experiment. `optim_ivae`, `optim_autoencoder` and `optim_unet` are the windows of steps in which each part learns."""

    data: DataConfig = field(default_factory=DataConfig)
    aux: AuxConfig = field(default_factory=AuxConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    cfg: CFGConfig = field(default_factory=CFGConfig)
    optim_ivae: OptimConfig = field(default_factory=OptimConfig)
    optim_unet: OptimConfig = field(default_factory=OptimConfig)
    optim_autoencoder: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    hub: HubConfig = field(default_factory=HubConfig)

    def __post_init__(self) -> None:
        self._check_networks()
        self._check_aux()
        self._check_autoencoder()
        if self.model.diffusion:
            self._check_unet()
        covered = 0
        parts = list(self.windows.values())
        for part in sorted(parts, key=lambda part: part.start_step):
            require(
                part.start_step <= covered,
                f"no part learns in steps {covered} to {part.start_step}: let the next part ({', '.join(self.windows)}) start earlier",
            )
            covered = max(covered, self.stop_step(part))
        require(
            covered == self.train.max_train_steps,
            f"no part learns in steps {covered} to train.max_train_steps={self.train.max_train_steps}: lower it, or let a part stop later",
        )

    @property
    def windows(self) -> dict[str, OptimConfig]:
        """The parts that learn, by the names of their groups."""
        parts = {
            "optim_autoencoder": self.autoencoder.type != "none",
            "optim_ivae": self.model.learns_ivae,
            "optim_unet": self.model.diffusion,
        }
        return {name: getattr(self, name) for name, learns in parts.items() if learns}

    def _check_networks(self) -> None:
        """Backbone, image size and latents have to fit, and each window its run."""
        model, size = self.model, self.data.image_size
        vectors = self.data.name == "rotation"
        require(
            vectors == (model.backbone == "mlp"),
            f"model.backbone={model.backbone} does not go with data.name={self.data.name}: mlp is for vectors, the others for images",
        )
        require(
            not (vectors and self.unet.conditioning == "tokens"),
            "unet.conditioning=tokens does not go with data.name=rotation: vectors have no U-Net that could attend to tokens",
        )
        require(
            not (vectors and model.diffusion),
            "model.diffusion must be false for data.name=rotation: vectors have no U-Net",
        )
        multiple = 32 if model.backbone in RESNETS else 16
        require(
            vectors or not model.ivae or size % multiple == 0,
            f"data.image_size must be a multiple of {multiple} for model.backbone={model.backbone}, got {size}",
        )
        if model.backbone == "cnn":
            require(
                model.norm != "group" or (size // 16) ** 2 * model.channels[-1] > 8,
                f"model.norm=group would see one value a group at data.image_size={size} with "
                f"model.channels={model.channels}: make the last entry 16 or more",
            )
        for name in ("optim_ivae", "optim_unet", "optim_autoencoder"):
            part = getattr(self, name)
            stop = self.stop_step(part)
            require(
                part.start_step < stop <= self.train.max_train_steps,
                f"{name}: steps {part.start_step} to {stop} do not fit train.max_train_steps={self.train.max_train_steps}",
            )
            learns = name in self.windows
            why = {
                "optim_ivae": "model.freeze_ivae=true" if model.freeze_ivae else "model.ivae=false",
                "optim_autoencoder": "autoencoder.type=none",
            }
            require(
                learns or name == "optim_unet" or part == OptimConfig(),
                f"{name} has no effect with {why.get(name)}",
            )

    def _check_autoencoder(self) -> None:
        """It is there for a U-Net, which begins when it is done."""
        if self.autoencoder.type == "none":
            return
        require(
            self.model.diffusion,
            f"autoencoder.type={self.autoencoder.type} needs model.diffusion=true: only the U-Net would use its latents",
        )
        start, stop = self.optim_unet.start_step, self.stop_step(self.optim_autoencoder)
        require(
            stop <= start,
            f"optim_autoencoder stops at step {stop}, after optim_unet.start_step={start}: the U-Net learns on the latents of an "
            "autoencoder that is done, so give optim_autoencoder.stop_step and no earlier optim_unet.start_step",
        )

    def _check_unet(self) -> None:
        """Image size against patches and resolutions; no gradient into an iVAE that does not learn."""
        size, patch, depth = self.data.image_size, self.unet.patch_size, len(self.unet.block_out_channels)
        down, factor = 2 ** (depth - 1), self.autoencoder.downsampling
        before = "" if self.autoencoder.type == "none" else f"{factor} (the autoencoder's factor) times "
        require(
            size % (factor * patch * down) == 0,
            f"data.image_size={size} must be divisible by {before}unet.patch_size={patch} times {down} "
            f"(unet.block_out_channels has {depth} resolutions)",
        )
        scale = self.loss.latent_grad_scale
        frozen = not self.model.learns_ivae or self.optim_unet.start_step >= self.stop_step(self.optim_ivae)
        require(
            scale == 0 or not frozen,
            f"loss.latent_grad_scale={scale} has no effect: the iVAE does not learn while the U-Net does "
            "(model.ivae=false, model.freeze_ivae=true, or optim_ivae.stop_step <= optim_unet.start_step)",
        )
        require(
            self.unet.condition_on == "sample" or (self.model.ivae and self.model.latent_type == "gaussian"),
            f"unet.condition_on={self.unet.condition_on} needs model.ivae=true and model.latent_type=gaussian, got "
            f"model.ivae={str(self.model.ivae).lower()}, model.latent_type={self.model.latent_type}: there is no mean to condition on",
        )
        require(
            self.model.ivae or self.unet.conditioning == "additive",
            f"unet.conditioning={self.unet.conditioning} needs model.ivae=true: without latents there is nothing to condition on",
        )

    def _check_aux(self) -> None:
        """u has to be there, and a known prior needs a u that states moments."""
        own, aux = self.data.name == "own", self.aux.name
        for name, columns in (("observed", "aux_columns"), ("bounds", "bound_columns")):
            given = getattr(self.data, columns)
            require(
                (aux == name) == bool(given),
                f"aux.name={name} needs data.{columns}, the columns that it is read from"
                if not given
                else f"data.{columns} needs aux.name={name}, got aux.name={aux}",
            )
        drawn = aux in ("interval", "uniform_posterior", "normal", "factors")
        require(
            not (own and drawn) or bool(self.data.factor_columns),
            f"aux.name={aux} is drawn from the factors: give data.factor_columns, or use aux.name=observed, bounds or none",
        )
        require(
            not (self.data.streaming and drawn),
            f"aux.name={aux} is drawn from the factors, which a stream reads for evaluation only: use aux.name=observed, bounds or none",
        )
        require(
            not (own and aux == "normal"),
            "aux.name=normal draws factors first and then their image: it needs a dataset of all combinations, got data.name=own",
        )
        require(
            aux != "observed" or self.model.prior_type not in ("known", "released"),
            f"model.prior_type={self.model.prior_type} needs a u that states moments of the factors, which aux.name=observed does not: "
            "use model.prior_type=learned, or aux.name=bounds",
        )
        require(
            aux != "observed" or self.model.prior_type != "per_dimension",
            "model.prior_type=per_dimension needs a u that speaks of each factor, which aux.name=observed does not: use learned",
        )
        types = RECIPROCAL.get(self.model.prior_family)
        require(
            types is None or (aux == "uniform_posterior" and self.model.prior_type in types),
            f"model.prior_family={self.model.prior_family} is a law given a variance of aux.name=uniform_posterior: it needs this u, and "
            f"model.prior_type={' or '.join(types or ())}, got {aux} and {self.model.prior_type}",
        )
        require(
            self.loss.kl_before_release == 1.0 or self.model.prior_type == "released",
            f"loss.kl_before_release={self.loss.kl_before_release} needs model.prior_type=released, got {self.model.prior_type}",
        )
        needs_u = self.model.prior_type != "standard"
        require(
            self.model.ivae or not needs_u,
            "model.ivae=false has no prior: give model.prior_type=standard and aux.name=none, "
            f"got model.prior_type={self.model.prior_type}, aux.name={aux}",
        )
        require(
            needs_u == (aux != "none"),
            f"model.prior_type={self.model.prior_type} does not go with aux.name={aux}: "
            "use prior_type=standard with aux.name=none (VAE), another prior with an auxiliary variable (iVAE)",
        )

    def stop_step(self, part: OptimConfig) -> int:
        """The step before which `part` stops learning."""
        return self.train.max_train_steps if part.stop_step is None else part.stop_step

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, tuples as lists."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
