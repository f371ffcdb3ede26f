"""The iVAE: sizes, both types of latents with each of their priors, strict loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from idiff_hf import AdditiveConditioning, IVAEModel
from idiff_hf.data.auxiliary import UniformPosterior
from idiff_hf.distributions import (
    DiagonalGaussian,
    OneHotCategorical,
    SoftReciprocal,
    SoftUniform,
)
from tests.faults.figures import Figure


def tiny(**changes: object) -> IVAEModel:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "image_size": 16,
        "channels": (8, 8, 8, 16),
        "hidden_dim": 16,
        "latent_dim": 4,
        "num_factors": 2,
        "prior_hidden_dim": 8,
    }
    return IVAEModel(**{**settings, **changes})  # type: ignore[arg-type]


def test_shapes_and_mirror() -> None:
    model = tiny(image_size=32)
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    posterior = model.encode(x).latent_dist
    assert posterior.mean.shape == posterior.logvar.shape == (3, 4)
    assert model.decode(posterior.mean).sample.shape == x.shape
    assert model(x, torch.zeros(3, 4)).sample.shape == x.shape


def test_parameter_count_of_the_cnn_is_that_on_paper() -> None:
    """Encoder: 4 convolutions (4x4) and 2 linear layers; the decoder mirrors it."""
    model = IVAEModel(image_size=64, norm="none", latent_dim=10)
    convolutions = [(3, 32), (32, 32), (32, 64), (64, 64)]
    weights = sum(a * b * 16 for a, b in convolutions)
    flat = 64 * 4 * 4
    encoder = weights + (32 + 32 + 64 + 64) + (flat * 256 + 256) + (256 * 20 + 20)
    decoder = weights + (3 + 32 + 32 + 64) + (10 * 256 + 256) + (256 * flat + flat)
    assert sum(p.numel() for p in model.encoder.parameters()) == encoder
    assert sum(p.numel() for p in model.decoder.parameters()) == decoder


def test_mlp_takes_vectors_and_has_the_parameters_on_paper() -> None:
    model = tiny(backbone="mlp", image_size=1, in_channels=5, hidden_dim=7, latent_dim=3)
    x = torch.randn(6, 5, 1, 1)
    posterior = model.encode(x).latent_dist
    assert posterior.mean.shape == posterior.logvar.shape == (6, 3)
    assert model.decode(posterior.mean).sample.shape == x.shape
    hidden = 7 * 7 + 7
    assert sum(p.numel() for p in model.encoder.parameters()) == (5 * 7 + 7) + hidden + (7 * 6 + 6)
    assert sum(p.numel() for p in model.decoder.parameters()) == (3 * 7 + 7) + hidden + (7 * 5 + 5)


def test_mlp_without_biases_is_positively_homogeneous() -> None:
    """LeakyReLU(a x) = a LeakyReLU(x) for a > 0, and it passes both signs."""
    model = tiny(backbone="mlp", image_size=1)
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
        x = torch.randn(4, 3, 1, 1)
        torch.testing.assert_close(model.encoder(3.0 * x), 3.0 * model.encoder(x))
        assert (model.encoder(-x) != -model.encoder(x)).all()


def test_standard_prior_is_standard() -> None:
    dist = tiny(prior_type="standard", aux_moments="none").prior(torch.zeros(3, 0)).latent_dist
    assert torch.equal(dist.mean, torch.zeros(3, 4)) and torch.equal(dist.logvar, torch.zeros(3, 4))


@pytest.mark.parametrize("family", [DiagonalGaussian, SoftUniform])
@pytest.mark.parametrize("prior_type", ["standard", "learned", "known", "released"])
def test_every_prior_type_in_every_family_has_the_same_moments(prior_type: str, family: type) -> None:
    name = "gaussian" if family is DiagonalGaussian else "uniform"
    aux_moments = "none" if prior_type == "standard" else "mean_variance"
    changes = {"prior_type": prior_type, "aux_moments": aux_moments}
    u = torch.rand(5, 0 if prior_type == "standard" else 4)
    dist = tiny(**changes, prior_family=name).prior(u).latent_dist
    assert type(dist) is family
    gaussian = tiny(**changes).prior(u).latent_dist
    assert torch.equal(dist.mean, gaussian.mean) and torch.equal(dist.logvar, gaussian.logvar)


@pytest.mark.parametrize("family", ["reciprocal", "half_reciprocal"])
def test_a_reciprocal_prior_is_the_law_of_the_variances_that_u_states(family: str) -> None:
    model = tiny(prior_type="known", prior_family=family, aux_moments="variance", latent_dim=3, num_factors=3)
    u = torch.tensor([[0.12, 0.5, 1.0]])
    dist = model.prior(u).latent_dist
    assert isinstance(dist, SoftReciprocal) and dist.half == (family == "half_reciprocal")
    torch.testing.assert_close(dist.logvar, u.log())
    # more than the whole range is taken for it
    above = model.prior(torch.full((1, 3), 4.0)).latent_dist
    assert torch.equal(above.logvar, torch.zeros(1, 3)) and above.sample(torch.randn(1, 3)).isfinite().all()
    # the least variance is that of the paper's u, eps = 0.01 in units of the range, 12 eps in those of the deviation
    assert dist.min_std == pytest.approx((12 * UniformPosterior(3).eps) ** 0.5)


def test_observed_u_is_any_numbers_for_a_learned_prior() -> None:
    model = tiny(aux_moments="observed", aux_dim=5, num_factors=0, prior_type="learned")
    dist = model.prior(torch.randn(3, 5)).latent_dist
    assert dist.mean.shape == (3, 4)
    # it may speak of the mean, unlike a variance
    assert dist.mean.abs().min() > 0
    with pytest.raises(ValueError, match=r"aux must be \(B, 5\), got \(3, 4\)"):
        model.prior(torch.randn(3, 4))


def test_settings_of_the_prior_reach_it() -> None:
    u = torch.rand(5, 4)
    bounded = tiny(logvar_bounds=(3.0, 4.0), prior_mean="zero").prior(u).latent_dist
    assert torch.equal(bounded.logvar, torch.full((5, 4), 3.0))
    assert torch.equal(bounded.mean, torch.zeros(5, 4))
    categorical = tiny(latent_type="categorical", num_categories=3, uniform_mix=0.2).prior(u).latent_dist
    assert categorical.probs.shape == (5, 4, 3) and categorical.uniform_mix == 0.2


def test_log_variance_of_the_posterior_is_bounded() -> None:
    model = tiny(logvar_bounds=(-0.01, 0.02))
    logvar = model.encode(torch.randn(50, 3, 16, 16) * 10).latent_dist.logvar
    assert logvar.min() == torch.tensor(-0.01) and logvar.max() == torch.tensor(0.02)
    assert ((logvar > -0.01) & (logvar < 0.02)).any()


def test_categorical_latents_are_one_hot_vectors_of_the_encoders_logits() -> None:
    model = tiny(latent_type="categorical", num_categories=5, uniform_mix=0.25)
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    posterior = model.encode(x).latent_dist
    assert isinstance(posterior, OneHotCategorical)
    assert torch.equal(posterior.logits, model.encoder(x).reshape(3, 4, 5))
    torch.testing.assert_close(posterior.probs, 0.75 * posterior.logits.softmax(-1) + 0.05)
    z = posterior.sample(torch.randn(3, 4))
    assert z.shape == (3, model.code_dim) == (3, 20)
    assert posterior.codes().shape == (3, 4)
    assert model.decode(z).sample.shape == x.shape
    assert torch.equal(
        model(x, torch.zeros(3, 4)).sample, model.decode(posterior.sample(torch.zeros(3, 4))).sample
    )


def test_code_dim_of_gaussian_latents_is_their_number() -> None:
    assert tiny().code_dim == 4


def test_reconstruction_reaches_the_encoder_through_categorical_samples() -> None:
    model = tiny(latent_type="categorical")
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    model(x, torch.randn(3, 4)).sample.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.encoder.parameters())


def test_null_condition_is_exactly_zero() -> None:
    assert torch.equal(AdditiveConditioning(4, 32)(torch.zeros(2, 4)), torch.zeros(2, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vit"}, "backbone must be one of cnn, resnet18, resnet50, mlp, got 'vit'"),
        (
            {"prior_type": "flow"},
            "prior_type must be one of standard, learned, known, released, per_dimension, got 'flow'",
        ),
        ({"norm": "layer"}, "norm must be group, batch or none, got 'layer'"),
        (
            {"aux_moments": "std"},
            "aux_moments must be one of mean_variance, variance, none, observed, got 'std'",
        ),
        (
            {"prior_family": "laplace"},
            "prior_family must be one of gaussian, uniform, reciprocal, half_reciprocal, got 'laplace'",
        ),
        (
            {"aux_moments": "observed"},
            "aux_dim goes with aux_moments='observed' alone, got None with 'observed'",
        ),
        ({"aux_dim": 3}, "aux_dim goes with aux_moments='observed' alone, got 3 with 'mean_variance'"),
        (
            {"aux_moments": "observed", "aux_dim": 3, "prior_type": "known"},
            "prior_type='known' needs a u that states moments, got aux_moments='observed'",
        ),
        (
            {"aux_moments": "none", "prior_type": "released"},
            "prior_type='released' needs a u that states moments, got aux_moments='none'",
        ),
        ({"latent_type": "binary"}, "latent_type must be one of gaussian, categorical, got 'binary'"),
        ({"num_categories": 1}, "num_categories must be at least 2, got 1"),
        ({"uniform_mix": 1.0}, r"uniform_mix must lie in \[0, 1\), got 1.0"),
        (
            {"logvar_bounds": (1.0, 1.0)},
            r"logvar_bounds must be a lower and a higher number, got \(1.0, 1.0\)",
        ),
        (
            {"latent_type": "categorical", "prior_type": "known"},
            "prior_type='known' has moments, which latent_type='categorical' has not",
        ),
        ({"latent_dim": 1}, "latent_dim=1 must be at least num_factors=2"),
        ({"image_size": 20}, "image_size must be a multiple of 16"),
    ],
)
def test_bad_arguments(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_aux_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"aux must be \(B, 4\), got \(3, 5\)"):
        tiny().prior(torch.zeros(3, 5))


def test_round_trip(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path / "whole" / "ivae")
    again = IVAEModel.from_pretrained(tmp_path / "whole", subfolder="ivae")
    assert again.config.channels == [8, 8, 8, 16]
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(model.encode(x).latent_dist.mean, again.encode(x).latent_dist.mean)


PRIORS = {
    "gaussian": ("standard", "learned", "known", "released", "per_dimension"),
    "categorical": ("standard", "learned", "per_dimension"),
}


@pytest.mark.parametrize(
    ("latent_type", "prior_type"),
    [(latents, prior) for latents, priors in PRIORS.items() for prior in priors],
)
def test_both_types_of_latents_round_trip_with_each_prior(
    tmp_path: Path, latent_type: str, prior_type: str
) -> None:
    """With settings other than the defaults, which the folder has to bring back."""
    changes: dict[str, object] = {"latent_type": latent_type, "prior_type": prior_type}
    if latent_type == "categorical":
        changes |= {"num_categories": 3, "uniform_mix": 0.2}
    else:
        changes |= {"logvar_bounds": (-0.05, 0.05)}
        if prior_type in ("learned", "per_dimension"):
            changes |= {"prior_mean": "zero"}
    model = tiny(**changes)
    with torch.no_grad():
        # a released prior starts at the known one: let it say something of its own
        for parameter in model.prior_encoder.parameters():
            parameter.add_(0.1)
    model.save_pretrained(tmp_path)
    again = IVAEModel.from_pretrained(tmp_path)
    x, u, noise = torch.rand(5, 3, 16, 16), torch.rand(5, 4), torch.randn(5, 4)
    posteriors = [m.encode(x).latent_dist for m in (model, again)]
    priors = [m.prior(u).latent_dist for m in (model, again)]
    for one, two in (posteriors, priors):
        assert type(one) is type(two)
        assert torch.equal(one.sample(noise), two.sample(noise)) and torch.equal(one.codes(), two.codes())
    assert torch.equal(posteriors[0].kl(priors[0]), posteriors[1].kl(priors[1]))
    assert torch.equal(model(x, noise).sample, again(x, noise).sample)


def test_statistics_of_observed_columns_are_kept_with_the_model(tmp_path: Path) -> None:
    columns = {"depth": {"mean": 0.5, "std": 2.0}, "site": {"categories": ["a", "b"]}}
    tiny(aux_columns=columns).save_pretrained(tmp_path)
    assert IVAEModel.from_pretrained(tmp_path).config.aux_columns == columns


def test_a_model_saved_before_the_later_config_entries_loads_with_their_defaults(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    later = ("prior_family", "aux_dim", "aux_columns", "latent_type", "num_categories", "uniform_mix")
    for name in (*later, "logvar_bounds", "prior_mean"):
        del config[name]
    path.write_text(json.dumps(config))
    again = IVAEModel.from_pretrained(tmp_path)
    assert (
        again.config.prior_family == again.config.latent_type == "gaussian"
        and again.config.aux_columns is None
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    # the names that published weights have
    assert {name.split(".")[0] for name in again.state_dict()} == {"encoder", "decoder", "prior_encoder"}
    assert {"encoder.0.weight", "encoder.13.weight", "decoder.5.weight", "prior_encoder.mlp.4.bias"} <= set(
        again.state_dict()
    )


def edit_tensors(folder: Path, change: object) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    change(tensors)  # type: ignore[operator]
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.faults
def test_missing_unexpected_and_misshapen_tensors_and_unknown_keys_are_errors(
    tmp_path: Path, figure: Figure
) -> None:
    def saved(name: str) -> Path:
        tiny().save_pretrained(tmp_path / name)
        return tmp_path / name

    edit_tensors(saved("missing"), lambda tensors: tensors.pop("encoder.0.weight"))
    with pytest.raises(ValueError, match=r"missing tensors for IVAEModel: encoder.0.weight"):
        IVAEModel.from_pretrained(tmp_path / "missing")
    edit_tensors(saved("extra"), lambda tensors: tensors.update(stray=torch.zeros(1)))
    with pytest.raises(ValueError, match=r"unexpected tensors for IVAEModel: stray"):
        IVAEModel.from_pretrained(tmp_path / "extra")
    edit_tensors(saved("shape"), lambda tensors: tensors.update({"encoder.0.bias": torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"encoder.0.bias"):
        IVAEModel.from_pretrained(tmp_path / "shape")
    edit_tensors(
        saved("type"), lambda tensors: tensors.update({"encoder.0.bias": torch.zeros(8, dtype=torch.int64)})
    )
    with pytest.raises(
        ValueError, match=r"can't be loaded as IVAEModel: tensor 'encoder.0.bias' is I64, not a float"
    ):
        IVAEModel.from_pretrained(tmp_path / "type")
    figure("F26", "4 of 4 refused in one line that names the tensor")
    path = saved("key") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "latent_dmi": 3}))
    with pytest.raises(ValueError, match="has keys that IVAEModel does not know: latent_dmi"):
        IVAEModel.from_pretrained(tmp_path / "key")
    (saved("cut") / "diffusion_pytorch_model.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(ValueError, match="can't be loaded as IVAEModel"):
        IVAEModel.from_pretrained(tmp_path / "cut")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"encoder.0.weight": "pytorch_model.bin"}}, "names 'pytorch_model.bin'"),
        (
            {"weight_map": {"encoder.0.weight": "../other/w.safetensors"}},
            r"names '\.\./other/w\.safetensors'",
        ),
        ({"weight_map": {"encoder.0.weight": 3}}, "names 3"),
        ({"metadata": {}}, "has no weight_map"),
        ([], "has no weight_map"),
    ],
)
def test_an_index_of_shards_names_safetensors_of_its_folder_only(
    tmp_path: Path, index: object, message: str
) -> None:
    tiny().save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    # a pickle that would be read, and a place where it would say so
    torch.save({"encoder.0.weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=rf"can't be loaded as IVAEModel: \S*index\.json {message}"):
        IVAEModel.from_pretrained(tmp_path)


def test_shards_of_a_large_model_are_read(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 1
    again = IVAEModel.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_pickles_are_refused_and_the_default_of_diffusers_is_not(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    IVAEModel.from_pretrained(tmp_path, use_safetensors=None)
    with pytest.raises(
        ValueError, match=r"^use_safetensors=False is refused: IVAEModel never reads pickles$"
    ):
        IVAEModel.from_pretrained(tmp_path, use_safetensors=False)
