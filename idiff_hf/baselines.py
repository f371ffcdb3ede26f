"""What a model is compared with: what its labels, and u, give by themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .config import (
    RECIPROCAL,
    AutoencoderConfig,
    AuxConfig,
    Config,
    DataConfig,
    LossConfig,
    OptimConfig,
)
from .config.model import are_distances

SUPERVISION_BASELINE = "supervision_baseline"
SUPERVISED_PROBE = "supervised_probe"


def has_known_prior(config: Config) -> bool:
    """Whether u states moments of the factors, so that a known prior, and with it the supervision baseline, is there."""
    return config.model.learns_ivae and config.aux.name not in ("none", "observed")


def has_labels(config: Config) -> bool:
    """Whether the factors of the training images are there, and a latent for each, so that a supervised probe can learn them."""
    columns = len(config.data.factor_columns)
    known = config.data.name != "own" or 0 < columns <= config.model.latent_dim
    return config.model.learns_ivae and not config.data.streaming and known


def learns_widths(config: Config) -> bool:
    """Whether an encoder learns the widths of q(z|x) and no means: by the KL alone, to priors that are symmetric about 0 whatever u.

    That KL is least for a mean of 0, and a width that follows how far the factor is from the middle of its range.
    """
    model, loss = config.model, config.loss
    by_kl_alone = loss.rec == 0.0 and not (model.diffusion and loss.latent_grad_scale > 0.0)
    symmetric = config.aux.unsigned and not are_distances(model.prior_type, model.prior_family)
    return by_kl_alone and symmetric and model.latent_type == "gaussian"


def supervision_baseline(config: Config) -> Config:
    """The same encoder trained on the KL to the known prior alone, for as many steps: what u gives without a generative model."""
    return _kl_alone(config, SUPERVISION_BASELINE, config.aux, config.data)


def supervised_probe(config: Config) -> Config:
    """The same encoder trained to regress the factors, for as many steps: what their labels give.

    u is the factors themselves, and the KL to a known prior whose deviation has a floor is a regression on its mean.
    """
    aux = replace(config.aux, name="factors", num_bins=0, num_cuts=1, modulate_mean=False)
    data = replace(config.data, aux_columns=(), categorical_columns=(), bound_columns=())
    return _kl_alone(config, SUPERVISED_PROBE, aux, data)


def _kl_alone(config: Config, folder: str, aux: AuxConfig, data: DataConfig) -> Config:
    stop = config.stop_step(config.optim_ivae)
    plain = LossConfig()
    family = config.model.prior_family
    if aux != config.aux and family in RECIPROCAL:
        # they go with one u
        family = "uniform"
    # in one go, for the parts are checked against each other
    return replace(
        config,
        aux=aux,
        data=data,
        model=replace(
            config.model,
            diffusion=False,
            latent_type="gaussian",
            prior_type="known",
            prior_mean="auto",
            prior_family=family,
            pretrained_ivae=None,
        ),
        # without reconstruction the weight of the KL is the loss's unit alone; its temperature stays, for u is given what the model has
        loss=replace(
            config.loss,
            rec=0.0,
            kl=config.loss.kl or plain.kl,
            kl_reverse=0.0,
            kl_balance=None,
            free_bits=0.0,
            kl_before_release=1.0,
            latent_grad_scale=0.0,
        ),
        optim_ivae=replace(config.optim_ivae, start_step=0, stop_step=None),
        autoencoder=AutoencoderConfig(),
        optim_unet=OptimConfig(),
        optim_autoencoder=OptimConfig(),
        train=replace(
            config.train,
            output_dir=str(Path(config.train.output_dir) / folder),
            max_train_steps=stop - config.optim_ivae.start_step,
            resume_from_checkpoint="latest",
            report_to="none",
        ),
    )
