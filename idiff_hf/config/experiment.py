"""The whole experiment, and what its parts have to agree on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .checks import require
from .data import AuxConfig, DataConfig
from .model import CFGConfig, LossConfig, ModelConfig, SchedulerConfig, UNetConfig
from .run import EvalConfig, OptimConfig, TrainConfig


@dataclass(frozen=True)
class Config:
    """One experiment. `optim_ivae` and `optim_unet` are the stages: windows of steps in which each part learns."""

    data: DataConfig = field(default_factory=DataConfig)
    aux: AuxConfig = field(default_factory=AuxConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    cfg: CFGConfig = field(default_factory=CFGConfig)
    optim_ivae: OptimConfig = field(default_factory=OptimConfig)
    optim_unet: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        size, patch = self.data.image_size, self.unet.patch_size
        vectors = self.data.name == "rotation"
        require(
            vectors == (self.model.backbone == "mlp"),
            f"model.backbone={self.model.backbone} does not go with data.name={self.data.name}: mlp is for vectors, cnn for images",
        )
        require(
            not (vectors and self.model.diffusion),
            "model.diffusion must be false for data.name=rotation: vectors have no U-Net",
        )
        if self.model.backbone == "cnn":
            require(
                size % 16 == 0,
                f"data.image_size must be a multiple of 16 for model.backbone=cnn, got {size}",
            )
            require(
                self.model.norm == "none" or (size // 16) ** 2 * self.model.channels[-1] > 8,
                f"model.norm=group would see one value a group at data.image_size={size} with "
                f"model.channels={self.model.channels}: make the last entry 16 or more",
            )
        self._check_aux()
        needs_u = self.model.prior_type != "standard"
        require(
            needs_u == (self.aux.name != "none"),
            f"model.prior_type={self.model.prior_type} does not go with aux.name={self.aux.name}: "
            "use prior_type=standard with aux.name=none (VAE), another prior with an auxiliary variable (iVAE)",
        )
        for name, part in (("optim_ivae", self.optim_ivae), ("optim_unet", self.optim_unet)):
            stop = self.stop_step(part)
            require(
                part.start_step < stop <= self.train.max_train_steps,
                f"{name}: steps {part.start_step} to {stop} do not fit train.max_train_steps={self.train.max_train_steps}",
            )
        if self.model.diffusion:
            down = 2 ** (len(self.unet.block_out_channels) - 1)
            require(
                size % patch == 0 and (size // patch) % down == 0,
                f"data.image_size={size} must be divisible by unet.patch_size={patch} times {down} "
                f"(unet.block_out_channels has {len(self.unet.block_out_channels)} resolutions)",
            )
            require(
                self.loss.latent_grad_scale == 0
                or self.optim_unet.start_step < self.stop_step(self.optim_ivae),
                f"loss.latent_grad_scale={self.loss.latent_grad_scale} has no effect: the iVAE is frozen before the U-Net starts "
                "(optim_ivae.stop_step <= optim_unet.start_step)",
            )

        covered = 0
        parts = [self.optim_ivae, self.optim_unet] if self.model.diffusion else [self.optim_ivae]
        for part in sorted(parts, key=lambda part: part.start_step):
            require(
                part.start_step <= covered,
                f"no part learns in steps {covered} to {part.start_step}: let the next part (optim_ivae, optim_unet) start earlier",
            )
            covered = max(covered, self.stop_step(part))
        require(
            covered == self.train.max_train_steps,
            f"no part learns in steps {covered} to train.max_train_steps={self.train.max_train_steps}: lower it, or let a part stop later",
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
        drawn = aux in ("interval", "uniform_posterior", "normal")
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
