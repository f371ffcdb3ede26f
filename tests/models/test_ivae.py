"""The iVAE: sizes, priors in closed form, strict loading."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from idiff_hf import AdditiveConditioning, IVAEModel
from idiff_hf.data import Interval, UniformPosterior
from idiff_hf.distributions import DiagonalGaussian, SoftUniform
from idiff_hf.models.prior import MIN_STD, PriorEncoder


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


def test_known_prior_has_the_moments_that_u_states_and_leaves_spare_dimensions_alone() -> None:
    prior = PriorEncoder("known", 4, 2, "mean_variance", 8)
    u = Interval(2).sample(torch.tensor([[-0.5, 0.25]]), torch.tensor([[0.5, 0.5]]))
    dist = prior(u)
    # cut at 0: z = -0.5 lies in [-0.5, 0], z = 0.25 in [0, 0.5]; in units of sqrt(1/12)
    half = math.sqrt(12) * 0.25
    torch.testing.assert_close(dist.mean, torch.tensor([[-half, half, 0.0, 0.0]]))
    torch.testing.assert_close(dist.logvar.exp(), torch.tensor([[0.25, 0.25, 1.0, 1.0]]))


def test_known_prior_bounds_the_variance_of_a_point() -> None:
    u = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(
        PriorEncoder("known", 2, 2, "mean_variance", 8)(u).std, torch.full((1, 2), MIN_STD)
    )


def test_variance_alone_leaves_the_mean_at_zero() -> None:
    u = UniformPosterior(2).sample(torch.zeros(5, 2), torch.rand(5, 2))
    for prior_type in ("known", "learned"):
        assert torch.equal(PriorEncoder(prior_type, 3, 2, "variance", 8)(u).mean, torch.zeros(5, 3))


def test_released_prior_starts_at_the_known_one_bit_for_bit() -> None:
    u = torch.rand(5, 4)
    known, released = (PriorEncoder(name, 3, 2, "mean_variance", 8)(u) for name in ("known", "released"))
    assert torch.equal(known.mean, released.mean) and torch.equal(known.logvar, released.logvar)


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


def test_known_uniform_prior_of_an_interval_is_flat_on_it() -> None:
    u = Interval(1).sample(torch.tensor([[-0.4]]), torch.tensor([[0.6]]))
    dist = PriorEncoder("known", 1, 1, "mean_variance", 8, family="uniform")(u)
    # a cut at 0.1 leaves [-0.5, 0.1]
    ends = math.sqrt(12) * torch.tensor([[-0.5], [0.1]])
    inside = dist.log_prob(torch.cat([ends * 0.999, ends.mean(0, keepdim=True)]))
    torch.testing.assert_close(inside, inside[:1].expand(3, 1))
    assert (dist.log_prob(ends + torch.tensor([[-0.1], [0.1]])) < inside[0] - 0.5).all()


def test_observed_u_is_any_numbers_for_a_learned_prior() -> None:
    model = tiny(aux_moments="observed", aux_dim=5, num_factors=0, prior_type="learned")
    dist = model.prior(torch.randn(3, 5)).latent_dist
    assert dist.mean.shape == (3, 4)
    # it may speak of the mean, unlike a variance
    assert dist.mean.abs().min() > 0
    with pytest.raises(ValueError, match=r"aux must be \(B, 5\), got \(3, 4\)"):
        model.prior(torch.randn(3, 4))


def test_null_condition_is_exactly_zero() -> None:
    assert torch.equal(AdditiveConditioning(4, 32)(torch.zeros(2, 4)), torch.zeros(2, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vit"}, "backbone must be one of cnn, mlp, got 'vit'"),
        ({"prior_type": "flow"}, "prior_type must be one of standard, learned, known, released, got 'flow'"),
        ({"norm": "batch"}, "norm must be group or none, got 'batch'"),
        (
            {"aux_moments": "std"},
            "aux_moments must be one of mean_variance, variance, none, observed, got 'std'",
        ),
        ({"prior_family": "laplace"}, "prior_family must be one of gaussian, uniform, got 'laplace'"),
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


def test_statistics_of_observed_columns_are_kept_with_the_model(tmp_path: Path) -> None:
    columns = {"depth": {"mean": 0.5, "std": 2.0}, "site": {"categories": ["a", "b"]}}
    tiny(aux_columns=columns).save_pretrained(tmp_path)
    assert IVAEModel.from_pretrained(tmp_path).config.aux_columns == columns


def test_a_model_saved_before_the_later_config_entries_loads_with_their_defaults(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for name in ("prior_family", "aux_dim", "aux_columns"):
        del config[name]
    path.write_text(json.dumps(config))
    again = IVAEModel.from_pretrained(tmp_path)
    assert again.config.prior_family == "gaussian" and again.config.aux_columns is None
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


def test_missing_unexpected_and_misshapen_tensors_and_unknown_keys_are_errors(tmp_path: Path) -> None:
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
    path = saved("key") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "latent_dmi": 3}))
    with pytest.raises(ValueError, match="has keys that IVAEModel does not know: latent_dmi"):
        IVAEModel.from_pretrained(tmp_path / "key")
    (saved("cut") / "diffusion_pytorch_model.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(ValueError, match="can't be loaded as IVAEModel"):
        IVAEModel.from_pretrained(tmp_path / "cut")
