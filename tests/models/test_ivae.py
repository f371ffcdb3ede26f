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


def test_null_condition_is_exactly_zero() -> None:
    assert torch.equal(AdditiveConditioning(4, 32)(torch.zeros(2, 4)), torch.zeros(2, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vit"}, "backbone must be one of cnn, got 'vit'"),
        ({"prior_type": "flow"}, "prior_type must be one of standard, learned, known, released, got 'flow'"),
        ({"norm": "batch"}, "norm must be group or none, got 'batch'"),
        ({"aux_moments": "std"}, "aux_moments must be one of mean_variance, variance, none, got 'std'"),
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
