"""The dataclasses themselves; how files and flags fill them is in test_arguments.py."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from idiff_hf.config import (
    AuxConfig,
    CFGConfig,
    Config,
    DataConfig,
    EvalConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    SchedulerConfig,
    TrainConfig,
    UNetConfig,
)


def test_the_defaults_are_possible_and_frozen() -> None:
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.seed = 1  # type: ignore[misc]


def test_stop_step_null_is_the_end_of_training() -> None:
    config = Config(train=TrainConfig(max_train_steps=70), optim_ivae=OptimConfig(stop_step=20))
    assert config.stop_step(config.optim_ivae) == 20
    assert config.stop_step(config.optim_unet) == 70


def test_to_dict_is_plain_json() -> None:
    plain = Config().to_dict()
    assert plain["model"]["channels"] == [32, 32, 64, 64]
    assert json.loads(json.dumps(plain)) == plain


def test_every_field_is_documented() -> None:
    for field in dataclasses.fields(Config):
        cls = field.default_factory  # type: ignore[union-attr]
        for name in (item.name for item in dataclasses.fields(cls)):  # type: ignore[arg-type]
            assert f"\n        {name}: " in (cls.__doc__ or ""), f"{field.name}.{name}"


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (DataConfig, {"image_size": 14}, "data.image_size must be even and from 16 to 128, got 14"),
        (DataConfig, {"image_size": 33}, "data.image_size must be even and from 16 to 128, got 33"),
        (DataConfig, {"held_out": 0.0}, "data.held_out must lie in (0, 1), got 0.0"),
        (
            DataConfig,
            {"name": "mpi3d_toy"},
            "data.source=rendered is not there for data.name=mpi3d_toy: give file",
        ),
        (
            DataConfig,
            {"name": "color_dsprites", "source": "hub", "path": "x"},
            "data.source=hub is not there for data.name=color_dsprites: give rendered",
        ),
        (
            DataConfig,
            {"name": "dsprites", "source": "file"},
            "data.path must name what data.name=dsprites with data.source=file reads",
        ),
        (
            DataConfig,
            {"path": "x"},
            "data.path=x has no effect: data.name=shapes3d with data.source=rendered reads nothing",
        ),
        (
            DataConfig,
            {"factor_columns": ("a",), "resize": True},
            "data.factor_columns, data.resize needs data.name=own, got data.name=shapes3d, data.source=rendered",
        ),
        (
            DataConfig,
            {"cache_dir": "x"},
            "data.cache_dir needs data.name=own or data.source=file or hub, got data.name=shapes3d, data.source=rendered",
        ),
        (
            DataConfig,
            {"name": "dsprites", "rotation_dim": 4},
            "data.rotation_dim needs data.name=rotation, got data.name=dsprites, data.source=rendered",
        ),
        (
            DataConfig,
            {"name": "own", "path": "x", "aux_columns": ("a",), "categorical_columns": ("b",)},
            "data.categorical_columns must be among data.aux_columns=('a',), got b",
        ),
        (
            DataConfig,
            {"name": "own", "path": "x", "aux_columns": ("a", "b", "a")},
            "data.aux_columns names 'a' more than once; leave one",
        ),
        (DataConfig, {"name": "own", "path": ""}, "data.path is empty: name a folder, a file or a Hub id"),
        (DataConfig, {"name": "rotation", "rotation_dim": 1}, "data.rotation_dim must be 2 or more, got 1"),
        (DataConfig, {"num_workers": -1}, "data.num_workers must be 0 or more, got -1"),
        (
            DataConfig,
            {"name": "own", "path": "x", "streaming": True, "num_workers": 2},
            "data.streaming=true is read by one thread: data.num_workers must be 0 or 1, got 2",
        ),
        (AuxConfig, {"num_cuts": 0}, "aux.num_cuts must be 1 or more, got 0"),
        (
            AuxConfig,
            {"num_cuts": 2, "name": "none"},
            "aux.num_cuts=2 needs aux.name=interval, got aux.name=none",
        ),
        (
            AuxConfig,
            {"modulate_mean": True},
            "aux.modulate_mean=true needs aux.name=normal, got aux.name=interval",
        ),
        (
            AuxConfig,
            {"name": "normal", "label_to_z": "centers"},
            "aux.name=normal quantises z to aux.label_to_z=endpoints, got centers",
        ),
        (
            AuxConfig,
            {"num_bins": 100},
            "aux.num_bins=100 needs aux.name=uniform_posterior, got aux.name=interval",
        ),
        (AuxConfig, {"jitter": True}, "aux.jitter=true needs aux.label_to_z=centers, got endpoints"),
        (ModelConfig, {"latent_dim": 0}, "model.latent_dim must be positive, got 0"),
        (ModelConfig, {"channels": (8, 8)}, "model.channels must have 4 entries, got 2: (8, 8)"),
        (
            ModelConfig,
            {"channels": (8, 8, 8, 9)},
            "model.channels must be multiples of 8 with model.norm=group, got (8, 8, 8, 9)",
        ),
        (UNetConfig, {"block_out_channels": ()}, "unet.block_out_channels must not be empty"),
        (
            SchedulerConfig,
            {"beta_max": 0.05},
            "scheduler.beta_max must exceed scheduler.beta_min=0.1, got 0.05",
        ),
        (SchedulerConfig, {"snr": 0.0}, "scheduler.snr must be positive, got 0.0"),
        (
            SchedulerConfig,
            {"time_grid": "quadratic"},
            "scheduler.time_grid=quadratic has no effect with scheduler.solver=dpm_solver, which has a grid of its own",
        ),
        (LossConfig, {"kl": -1.0}, "loss.kl must be 0 or more, got -1.0"),
        (
            LossConfig,
            {"kl_anneal_hold": 0.6},
            "loss.kl_anneal_hold=0.6 must not exceed loss.kl_anneal_end=0.5",
        ),
        (CFGConfig, {"drop_prob": 1.5}, "cfg.drop_prob must lie in [0, 1], got 1.5"),
        (
            TrainConfig,
            {"train_batch_size": 12},
            "train.train_batch_size must be a positive multiple of 8, got 12",
        ),
        (
            TrainConfig,
            {"checkpoints_total_limit": 1},
            "train.checkpoints_total_limit must be 2 or more, got 1",
        ),
        (
            EvalConfig,
            {"guidance_scales": (-1.0,)},
            "eval.guidance_scales must be one or more values of 0 or more, got (-1.0,)",
        ),
    ],
)
def test_a_value_out_of_range_is_named(cls: type[Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        cls(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("ivae", "unet", "diffusion", "message"),
    [
        ((0, 20), (30, None), True, "no part learns in steps 20 to 30"),
        ((10, 20), (30, None), True, "no part learns in steps 0 to 10"),
        ((10, None), (0, 5), True, "no part learns in steps 5 to 10"),
        ((0, 20), (10, 30), True, "no part learns in steps 30 to train.max_train_steps=50"),
        ((0, 20), (0, None), False, "no part learns in steps 20 to train.max_train_steps=50"),
        ((5, None), (0, None), False, "no part learns in steps 0 to 5"),
    ],
)
def test_a_step_in_which_no_part_learns_is_refused(
    ivae: tuple[int, int | None], unet: tuple[int, int | None], diffusion: bool, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        Config(
            train=TrainConfig(max_train_steps=50),
            model=ModelConfig(diffusion=diffusion),
            optim_ivae=OptimConfig(start_step=ivae[0], stop_step=ivae[1]),
            optim_unet=OptimConfig(start_step=unet[0], stop_step=unet[1]),
        )
    assert str(caught.value).startswith(message)


OWN = {"name": "own", "path": "pictures"}


@pytest.mark.parametrize(
    ("data", "aux", "model", "message"),
    [
        ({"name": "rotation"}, {}, {}, "model.backbone=cnn does not go with data.name=rotation"),
        ({}, {}, {"backbone": "mlp"}, "model.backbone=mlp does not go with data.name=shapes3d"),
        (
            {"name": "rotation"},
            {},
            {"backbone": "mlp"},
            "model.diffusion must be false for data.name=rotation: vectors have no U-Net",
        ),
        (OWN, {}, {}, "aux.name=interval is drawn from the factors: give data.factor_columns, or use"),
        (OWN, {"name": "observed"}, {}, "aux.name=observed needs data.aux_columns"),
        (OWN, {"name": "bounds"}, {}, "aux.name=bounds needs data.bound_columns"),
        (
            {**OWN, "aux_columns": ("age",)},
            {"name": "none"},
            {"prior_type": "standard"},
            "data.aux_columns needs aux.name=observed, got aux.name=none",
        ),
        (
            {**OWN, "factor_columns": ("age",)},
            {"name": "normal"},
            {},
            "aux.name=normal draws factors first and then their image",
        ),
        (
            {**OWN, "aux_columns": ("age",)},
            {"name": "observed"},
            {"prior_type": "known"},
            "model.prior_type=known needs a u that states moments of the factors, which aux.name=observed does not",
        ),
    ],
)
def test_data_u_and_model_have_to_agree(
    data: dict[str, Any], aux: dict[str, Any], model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        Config(data=DataConfig(**data), aux=AuxConfig(**aux), model=ModelConfig(**model))
    assert str(caught.value).startswith(message)


def refused(groups: dict[str, dict[str, Any]]) -> str:
    """What building these groups says."""
    classes = {field.name: field.default_factory for field in dataclasses.fields(Config)}
    with pytest.raises(ValueError) as caught:
        Config(**{name: classes[name](**values) for name, values in groups.items()})  # type: ignore[operator, misc]
    return str(caught.value)


UNCONDITIONAL = {"aux": {"name": "none"}, "model": {"ivae": False, "prior_type": "standard"}}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"model": {"ivae": False, "diffusion": False}},
            "model.ivae=false needs model.diffusion=true: nothing is left to train",
        ),
        (
            {"model": {"ivae": False}},
            "model.ivae=false has no prior: give model.prior_type=standard and aux.name=none",
        ),
        (
            {**UNCONDITIONAL, "unet": {"conditioning": "tokens"}},
            "unet.conditioning=tokens needs model.ivae=true: without latents there is nothing to condition on",
        ),
        (
            {**UNCONDITIONAL, "unet": {"condition_on": "mean"}},
            "unet.condition_on=mean needs model.ivae=true and model.latent_type=gaussian, got model.ivae=false, "
            "model.latent_type=gaussian: there is no mean to condition on",
        ),
        (
            {**UNCONDITIONAL, "optim_ivae": {"learning_rate": 1.0}},
            "optim_ivae has no effect with model.ivae=false",
        ),
        (
            {**UNCONDITIONAL, "loss": {"latent_grad_scale": 1.0}},
            "loss.latent_grad_scale=1.0 has no effect: the iVAE does not learn while the U-Net does",
        ),
        (
            {
                "data": {"name": "rotation"},
                "model": {"backbone": "mlp", "diffusion": False},
                "unet": {"conditioning": "tokens"},
            },
            "unet.conditioning=tokens does not go with data.name=rotation: vectors have no U-Net that could attend to tokens",
        ),
        (
            {"model": {"latent_type": "categorical", "prior_type": "known"}},
            "model.latent_type=categorical has no model.prior_type=known: u states moments of numbers, not of classes",
        ),
        (
            {"model": {"latent_type": "categorical", "prior_family": "uniform"}},
            "model.prior_family=uniform needs model.latent_type=gaussian, got categorical",
        ),
        (
            {"model": {"prior_type": "known", "prior_family": "reciprocal"}, "aux": {"name": "interval"}},
            "model.prior_family=reciprocal is a law given a variance of aux.name=uniform_posterior: it needs this u, and "
            "model.prior_type=known, got interval and known",
        ),
        (
            {
                "model": {"prior_type": "learned", "prior_family": "half_reciprocal"},
                "aux": {"name": "uniform_posterior"},
            },
            "model.prior_family=half_reciprocal is a law given a variance of aux.name=uniform_posterior: it needs this u, and "
            "model.prior_type=known or released, got uniform_posterior and learned",
        ),
        (
            {"model": {"prior_type": "known"}, "loss": {"kl_before_release": 0.1}},
            "loss.kl_before_release=0.1 needs model.prior_type=released, got known",
        ),
        (
            {"model": {"prior_type": "released"}, "loss": {"kl_before_release": 0.0}},
            "loss.kl_before_release must be positive, got 0.0",
        ),
        ({"model": {"uniform_mix": 1.0}}, "model.uniform_mix must lie in [0, 1), got 1.0"),
        ({"model": {"num_categories": 1}}, "model.num_categories must be 2 or more, got 1"),
        (
            {"model": {"logvar_bounds": (1.0, -1.0)}},
            "model.logvar_bounds must be a lower and a higher number, got (1.0, -1.0)",
        ),
        (
            {"model": {"prior_mean": "zero", "prior_type": "known"}},
            "model.prior_mean=zero needs model.latent_type=gaussian and model.prior_type=learned or per_dimension, got gaussian, known",
        ),
        (
            {"model": {"backbone": "resnet18", "norm": "none"}},
            "model.backbone=resnet18 needs model.norm=group or batch, got none",
        ),
        (
            {"data": {"image_size": 48}, "model": {"backbone": "resnet50"}},
            "data.image_size must be a multiple of 32 for model.backbone=resnet50, got 48",
        ),
        (
            {"model": {"backbone": "resnet18", "pretrained_backbone": "x"}},
            "model.pretrained_backbone needs a ResNet with model.norm=batch, got model.backbone=resnet18, model.norm=group",
        ),
        (
            {"model": {"freeze_ivae": True}},
            "model.freeze_ivae=true needs model.pretrained_ivae, the folder of the pipeline whose iVAE is kept",
        ),
        (
            {"model": {"freeze_ivae": True, "pretrained_ivae": "x", "diffusion": False}},
            "model.freeze_ivae=true needs model.diffusion=true: nothing is left to train",
        ),
        (
            {"model": {"freeze_ivae": True, "pretrained_ivae": "x"}, "optim_ivae": {"stop_step": 5}},
            "optim_ivae has no effect with model.freeze_ivae=true",
        ),
        (
            {
                "data": {"name": "own", "path": "x", "aux_columns": ("age",)},
                "aux": {"name": "observed"},
                "model": {"prior_type": "per_dimension"},
            },
            "model.prior_type=per_dimension needs a u that speaks of each factor, which aux.name=observed does not",
        ),
        (
            {"unet": {"token_dim": 8}},
            "unet.token_dim needs unet.conditioning=tokens, got unet.conditioning=additive",
        ),
        (
            {"unet": {"conditioning": "tokens", "cross_attention": (3,)}},
            "unet.cross_attention must name one or more of the resolutions 0 to 2, got (3,)",
        ),
        (
            {"unet": {"conditioning": "tokens", "attention_heads": 7}},
            "unet.attention_heads=7 must divide the channels of the resolutions that attend, got [64]",
        ),
        (
            {"unet": {"conditioning": "tokens", "attention": True}},
            "unet.attention=true has no effect with unet.conditioning=tokens, whose attention blocks attend to the image too",
        ),
        (
            {"cfg": {"null_condition": "learned", "drop_prob": 0.0}},
            "cfg.null_condition=learned needs cfg.drop_prob above 0: it would never be trained",
        ),
        ({"loss": {"kl_balance": 1.5}}, "loss.kl_balance must lie in [0, 1], got 1.5"),
        (
            {"loss": {"kl_balance": 0.8, "kl_reverse": 1e-4}},
            "loss.kl_balance=0.8 and loss.kl_reverse=0.0001 are two ways of KL balancing: give one",
        ),
        (
            {"loss": {"kl": 0.0, "free_bits": 0.1}},
            "loss.kl=0 leaves the KL out: loss.kl_reverse=0.0, loss.kl_balance=None, loss.free_bits=0.1 and",
        ),
        (
            {"loss": {"kl": 0.0, "kl_temperature": 0.1}},
            "loss.kl=0 leaves the KL out: loss.kl_reverse=0.0, loss.kl_balance=None, loss.free_bits=0.0 and loss.kl_temperature=0.1 would",
        ),
        ({"loss": {"kl_temperature": 0.0}}, "loss.kl_temperature must be positive, got 0.0"),
        (
            {"loss": {"kl_temperature_start": 0.5}},
            "loss.kl_temperature_start needs loss.kl_temperature other than 1",
        ),
        (
            {"loss": {"kl_anneal_factor": 0.0}},
            "loss.kl_anneal_factor=0 needs loss.kl_anneal_shape=linear or cosine: a geometric schedule never leaves 0",
        ),
        ({"loss": {"kl_anneal_cycles": 2}}, "loss.kl_anneal_cycles needs loss.kl_anneal_factor other than 1"),
        (
            {"loss": {"min_snr_gamma": 1.0}},
            "loss.min_snr_gamma needs loss.weighting=min_snr or min_snr_plus_one",
        ),
        ({"loss": {"timestep_beta": 0.5}}, "loss.timestep_beta needs loss.timestep_law=beta"),
        (
            {"loss": {"timestep_law": "beta", "timestep_std": 2.0}},
            "loss.timestep_std needs loss.timestep_law=logit_normal",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(groups: dict[str, dict[str, Any]], message: str) -> None:
    assert refused(groups).startswith(message)


def test_the_windows_are_of_the_parts_that_learn() -> None:
    assert list(Config().windows) == ["optim_ivae", "optim_unet"]
    assert list(Config(model=ModelConfig(diffusion=False)).windows) == ["optim_ivae"]
    frozen = ModelConfig(pretrained_ivae="runs/x/pipeline", freeze_ivae=True)
    assert list(Config(model=frozen).windows) == ["optim_unet"]
    assert list(
        Config(aux=AuxConfig(name="none"), model=ModelConfig(ivae=False, prior_type="standard")).windows
    ) == ["optim_unet"]
