"""z to the U-Net: the null condition, what depends on what, where the attention is, and how many parameters there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn import functional

from idiff_hf.arguments import config_from_yaml
from idiff_hf.builders import build_conditioning, build_unet
from idiff_hf.config import Config, ModelConfig, UNetConfig
from idiff_hf.models import (
    CONDITIONINGS,
    AdditiveConditioning,
    Conditioning,
    NoConditioning,
    ScaleShiftConditioning,
    TokenConditioning,
    denoise,
)

ROOT = Path(__file__).parents[2]
LATENTS, EMBEDDING, TOKEN = 5, 32, 6
CLASSES = 3


def conditioning_of(kind: type[Conditioning], null_condition: str = "zeros", **options: Any) -> Conditioning:
    """Of 5 latents, for the U-Nets below."""
    torch.manual_seed(0)
    if kind is TokenConditioning:
        return TokenConditioning(
            num_tokens=LATENTS, token_dim=TOKEN, hidden_dim=7, null_condition=null_condition, **options
        )
    return kind(LATENTS, EMBEDDING, null_condition=null_condition, **options)  # type: ignore[arg-type]


def unet_config(**options: Any) -> UNetConfig:
    return UNetConfig(**{"block_out_channels": (8, 16), "norm_num_groups": 4, **options})


UNETS = {
    "one resolution": unet_config(block_out_channels=(8,), patch_size=2),
    "two resolutions": unet_config(),
    "attention and scale-shift": unet_config(attention=True, resnet_time_scale_shift="scale_shift"),
}
TOKEN_UNETS = {
    "one resolution": unet_config(
        block_out_channels=(8,), conditioning="tokens", token_dim=TOKEN, patch_size=2
    ),
    "upper of two": unet_config(conditioning="tokens", token_dim=TOKEN),
    "both of two": unet_config(
        conditioning="tokens",
        token_dim=TOKEN,
        cross_attention=(0, 1),
        resnet_time_scale_shift="scale_shift",
    ),
}


def experiment(unet: UNetConfig, **model: Any) -> Config:
    return Config(unet=unet, model=ModelConfig(**{"latent_dim": LATENTS, **model}))


def batch(size: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, timesteps and z."""
    source = torch.Generator().manual_seed(1)
    times = torch.tensor([0.0, 400.5, 999.0, 20.0])[:size]
    return (
        torch.randn(size, 3, 8, 8, generator=source),
        times,
        torch.randn(size, LATENTS, generator=source),
    )


def unconditional(unet: nn.Module) -> UNet2DModel:
    """The weights of `unet` in a U-Net that knows of no class embedding."""
    plain = UNet2DModel.from_config(unet.config, class_embed_type=None)
    assert plain.class_embedding is None
    plain.load_state_dict(unet.state_dict())
    return plain.eval()


# The null condition


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("kind", [AdditiveConditioning, ScaleShiftConditioning])
def test_null_condition_leaves_the_unconditional_unet_bit_equal(kind: type[Conditioning], name: str) -> None:
    conditioning = conditioning_of(kind, patch_size=UNETS[name].patch_size)
    torch.manual_seed(2)
    unet = build_unet(experiment(UNETS[name]), 3).eval()
    x_t, times, z = batch()
    with torch.no_grad():
        expected = denoise(
            unconditional(unet), NoConditioning(patch_size=UNETS[name].patch_size), x_t, times, None
        )
        for condition in (
            conditioning.null(3),
            conditioning(torch.zeros_like(z)),
            conditioning(z, dropped=torch.ones(3, dtype=torch.bool)),
        ):
            assert torch.equal(denoise(unet, conditioning, x_t, times, condition), expected)
        assert not torch.equal(denoise(unet, conditioning, x_t, times, conditioning(z)), expected)


@pytest.mark.parametrize("name", TOKEN_UNETS)
def test_null_tokens_leave_nothing_of_z_nor_of_the_weights_that_it_passes(name: str) -> None:
    """Keys and values are bias-free, so that zero tokens add the attention's output bias, whatever the weights before it."""
    torch.manual_seed(2)
    unet = build_unet(experiment(TOKEN_UNETS[name]), 3).eval()
    x_t, times, z = batch()
    drop = torch.ones(3, dtype=torch.bool)
    conditioning = conditioning_of(TokenConditioning, patch_size=TOKEN_UNETS[name].patch_size)

    def prediction(z: Tensor, dropped: Tensor | None = None) -> Tensor:
        return denoise(unet, conditioning, x_t, times, conditioning(z, dropped))

    with torch.no_grad():
        zero_tokens = torch.zeros(3, LATENTS, TOKEN)
        expected = denoise(unet, conditioning, x_t, times, zero_tokens)
        assert torch.equal(prediction(z, drop), expected)
        assert torch.equal(denoise(unet, conditioning, x_t, times, conditioning.null(3)), expected)
        # z = 0 has tokens of its own: the MLPs have biases
        assert not torch.equal(prediction(torch.zeros_like(z)), expected)
        given = prediction(z)
        assert not torch.equal(given, expected)
        for parameter in conditioning.parameters():
            parameter.normal_()
        assert torch.equal(prediction(5.0 * z, drop), expected) and not torch.equal(prediction(z), given)
        attentions = [m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
        for attention in attentions:
            for linear in (attention.to_q, attention.to_k, attention.to_v):
                linear.weight.normal_()
        assert torch.equal(prediction(z, drop), expected)


@pytest.mark.parametrize("null_condition", ["zeros", "learned"])
@pytest.mark.parametrize("kind", [AdditiveConditioning, ScaleShiftConditioning, TokenConditioning])
def test_each_sample_is_dropped_by_itself(kind: type[Conditioning], null_condition: str) -> None:
    conditioning = conditioning_of(kind, null_condition)
    z = batch(4)[2]
    condition = conditioning(z, torch.tensor([False, True, True, False]))
    kept, null = conditioning(z), conditioning.null(4)
    assert condition.shape == kept.shape == null.shape
    for row, expected in enumerate((kept, null, null, kept)):
        assert torch.equal(condition[row], expected[row])
    assert not (kept == null).all(dim=-1).any()
    assert torch.equal(conditioning(z, torch.zeros(4, dtype=torch.bool)), kept)


@pytest.mark.parametrize("null_condition", ["zeros", "learned"])
@pytest.mark.parametrize("kind", [AdditiveConditioning, ScaleShiftConditioning, TokenConditioning])
def test_z_has_no_gradient_where_it_is_dropped(kind: type[Conditioning], null_condition: str) -> None:
    conditioning = conditioning_of(kind, null_condition)
    z = batch(4)[2].requires_grad_()
    dropped = torch.tensor([False, True, False, True])
    conditioning(z, dropped).square().sum().backward()
    assert z.grad is not None
    assert not z.grad[dropped].any() and z.grad[~dropped].all()


@pytest.mark.parametrize("kind", [AdditiveConditioning, ScaleShiftConditioning, TokenConditioning])
def test_learned_null_condition_learns_from_dropped_samples_alone(kind: type[Conditioning]) -> None:
    conditioning = conditioning_of(kind, "learned")
    null = conditioning.null_embedding
    assert null is not None and null.any()
    z = batch(4)[2]
    dropped = torch.tensor([False, True, False, True])
    weights = torch.randn(4, *null.shape)
    (conditioning(z, dropped) * weights).sum().backward()
    assert null.grad is not None
    torch.testing.assert_close(null.grad, weights[1] + weights[3], rtol=0, atol=1e-6)
    conditioning.zero_grad()
    (conditioning(z, torch.zeros(4, dtype=torch.bool)) * weights).sum().backward()
    # it takes part in every step, so that no process lacks its gradient, which is zero here
    assert null.grad is not None and not null.grad.any()


def test_null_condition_of_zeros_has_no_parameters() -> None:
    assert conditioning_of(AdditiveConditioning).null_embedding is None
    for kind, size in ((AdditiveConditioning, EMBEDDING), (TokenConditioning, LATENTS * TOKEN)):
        learned, zeros = (
            sum(p.numel() for p in conditioning_of(kind, null).parameters()) for null in ("learned", "zeros")
        )
        assert learned - zeros == size


@pytest.mark.parametrize("kind", [AdditiveConditioning, ScaleShiftConditioning, TokenConditioning])
def test_unknown_null_condition_is_refused(kind: type[Conditioning]) -> None:
    with pytest.raises(ValueError, match=r"^null_condition must be one of zeros, learned, got 'mask'$"):
        conditioning_of(kind, "mask")


# What z does


def time_embedding_hook(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda module, inputs, output: change(output)


@pytest.mark.parametrize("name", UNETS)
def test_additive_and_scale_shift_are_what_they_say_of_the_time_embedding(name: str) -> None:
    torch.manual_seed(2)
    unet = build_unet(experiment(UNETS[name]), 3).eval()
    x_t, times, z = batch()
    none = NoConditioning(patch_size=UNETS[name].patch_size)
    for kind in (AdditiveConditioning, ScaleShiftConditioning):
        conditioning = conditioning_of(kind, patch_size=UNETS[name].patch_size)
        weight = conditioning.projection.weight  # type: ignore[union-attr]
        scale, shift = (
            (0.0, z @ weight.T) if kind is AdditiveConditioning else (z @ weight.T).split(EMBEDDING, dim=1)
        )
        plain = unconditional(unet)
        plain.time_embedding.register_forward_hook(
            time_embedding_hook(lambda e, scale=scale, shift=shift: e * (1.0 + scale) + shift)
        )
        with torch.no_grad():
            torch.testing.assert_close(
                denoise(unet, conditioning, x_t, times, conditioning(z)),
                denoise(plain, none, x_t, times, None),
                rtol=1e-5,
                atol=1e-5,
            )


@pytest.mark.parametrize("numbers", [1, CLASSES])
def test_a_token_is_a_function_of_its_own_latent(numbers: int) -> None:
    conditioning = conditioning_of(TokenConditioning, numbers_per_token=numbers)
    z = torch.randn(LATENTS * numbers)
    derivative = jacobian(lambda z: conditioning(z[None])[0], z).view(LATENTS, TOKEN, LATENTS, numbers)
    for token in range(LATENTS):
        assert derivative[token, :, token].all()
        others = [latent for latent in range(LATENTS) if latent != token]
        assert not derivative[token][:, others].any()


@pytest.mark.parametrize("numbers", [1, CLASSES])
def test_a_token_is_its_own_mlp(numbers: int) -> None:
    conditioning = conditioning_of(TokenConditioning, numbers_per_token=numbers)
    z = torch.randn(4, LATENTS * numbers)
    first, _, second = conditioning.mlp  # type: ignore[misc,union-attr]
    for token in range(LATENTS):
        hidden, out = (slice(token * width, (token + 1) * width) for width in (7, TOKEN))
        inside = functional.linear(
            z[:, token * numbers : (token + 1) * numbers], first.weight[hidden, :, 0], first.bias[hidden]
        )
        expected = functional.linear(functional.silu(inside), second.weight[out, :, 0], second.bias[out])
        torch.testing.assert_close(conditioning(z)[:, token], expected, rtol=1e-5, atol=1e-6)


def test_categorical_latents_have_a_token_for_each_class() -> None:
    config = experiment(TOKEN_UNETS["both of two"], latent_type="categorical", num_categories=CLASSES)
    torch.manual_seed(0)
    conditioning = build_conditioning(config)
    assert conditioning.config["numbers_per_token"] == CLASSES
    classes = torch.tensor([[0, 1, 2, 0, 1], [0, 2, 2, 1, 1]])
    tokens = conditioning(functional.one_hot(classes, CLASSES).flatten(1).float())
    same = (tokens[0] == tokens[1]).all(dim=1)
    assert same.tolist() == [True, False, True, False, True]
    # and latents of one class have tokens of their own
    assert not torch.equal(tokens[0, 0], tokens[0, 3])
    unet = build_unet(config, 3).eval()
    x_t, times, _ = batch(2)
    assert denoise(unet, conditioning, x_t, times, tokens).shape == x_t.shape


@pytest.mark.parametrize("kind", ["additive", "scale_shift"])
def test_categorical_latents_are_projected_from_all_their_classes(kind: Any) -> None:
    config = experiment(unet_config(conditioning=kind), latent_type="categorical", num_categories=CLASSES)
    weight = build_conditioning(config).projection.weight  # type: ignore[union-attr]
    assert weight.shape == ((1 if kind == "additive" else 2) * EMBEDDING, LATENTS * CLASSES)


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_patches_go_in_and_come_out_in_their_places(patch_size: int) -> None:
    torch.manual_seed(2)
    unet = unconditional(build_unet(experiment(unet_config(patch_size=patch_size)), 3))
    x_t, times, _ = batch()
    none = NoConditioning(patch_size=patch_size)
    # channels of a patch: colour, then row, then column
    patches = x_t.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    inside = patches.permute(0, 1, 4, 5, 2, 3).flatten(1, 3)
    with torch.no_grad():
        outside = unet(inside, times).sample
        result = denoise(unet, none, x_t, times, None)
        for colour in range(3):
            for row in range(patch_size):
                for column in range(patch_size):
                    channel = (colour * patch_size + row) * patch_size + column
                    place = result[:, colour, row::patch_size, column::patch_size]
                    assert torch.equal(place, outside[:, channel])


# Saving


@pytest.mark.parametrize("null_condition", ["zeros", "learned"])
@pytest.mark.parametrize("kind", [AdditiveConditioning, ScaleShiftConditioning, TokenConditioning])
def test_saved_and_loaded_it_gives_equal_conditions(
    kind: type[Conditioning], null_condition: str, tmp_path: Path
) -> None:
    conditioning = conditioning_of(kind, null_condition, patch_size=4)
    conditioning.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    loaded = CONDITIONINGS[kind.__name__].from_pretrained(tmp_path)
    z, dropped = batch(4)[2], torch.tensor([True, False, True, False])
    assert torch.equal(loaded(z, dropped), conditioning(z, dropped))
    assert loaded.config["patch_size"] == 4 and loaded.config["null_condition"] == null_condition


def test_no_conditioning_is_saved_and_loaded_without_parameters(tmp_path: Path) -> None:
    NoConditioning(patch_size=2).save_pretrained(tmp_path)
    loaded = NoConditioning.from_pretrained(tmp_path)
    assert list(loaded.parameters()) == [] and loaded.config["patch_size"] == 2
    # what a pipeline asks of each component
    assert loaded.dtype == torch.float32 and loaded.device == torch.device("cpu")
    assert loaded.to(torch.bfloat16).dtype == torch.bfloat16


# The U-Net around it


def attends(blocks: Any, cross: bool) -> list[bool]:
    return [
        any(isinstance(m, Attention) and m.is_cross_attention is cross for m in block.modules())
        for block in blocks
    ]


@pytest.mark.parametrize("levels", [(0,), (1,), (2,), (0, 2), (2, 1), (0, 1, 2)])
def test_cross_attention_is_at_the_resolutions_chosen(levels: tuple[int, ...]) -> None:
    config = unet_config(
        block_out_channels=(8, 16, 24),
        conditioning="tokens",
        token_dim=TOKEN,
        cross_attention=levels,
        attention_heads=2,
    )
    unet = build_unet(experiment(config), 3)
    assert isinstance(unet, UNet2DConditionModel)
    expected = [level in levels for level in range(3)]
    for cross in (True, False):  # each place also attends to the image itself
        assert attends(unet.down_blocks, cross) == expected
        assert attends(reversed(unet.up_blocks), cross) == expected
        assert attends([unet.mid_block], cross) == [2 in levels]
    for attention in (m for m in unet.modules() if isinstance(m, Attention)):
        assert attention.heads == 2 and attention.cross_attention_dim in (TOKEN, attention.query_dim)
    x_t, times, _ = batch()
    assert unet(x_t, times, encoder_hidden_states=torch.zeros(3, LATENTS, TOKEN)).sample.shape == x_t.shape


def test_additive_unet_has_self_attention_at_the_lowest_resolution_where_it_is_asked_for() -> None:
    for wanted in (False, True):
        unet = build_unet(experiment(unet_config(attention=wanted)), 3)
        assert attends(unet.down_blocks, False) == [False, wanted]
        assert attends([unet.mid_block], False) == [wanted]
        assert not any(attends([unet], True))


# How many parameters there are


def num_parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def quickstart(**unet: Any) -> tuple[int, int]:
    """Parameters of U-Net and conditioning of the quickstart, with other keys of its U-Net."""
    config = config_from_yaml((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    config = replace(config, unet=replace(config.unet, **unet))
    return num_parameters(build_unet(config, 3)), num_parameters(build_conditioning(config))


def test_parameters_of_the_quickstart() -> None:
    """Closed forms of the conditionings of 10 latents: D E, 2 D E and D (h + h + h k + k), with E = 4 x 96, h = 64, k = 16."""
    additive, scale_shift, tokens = (
        quickstart(conditioning=kind) for kind in ("additive", "scale_shift", "tokens")
    )
    assert additive[1] == 10 * 384 and scale_shift[1] == 2 * 10 * 384
    assert tokens[1] == 10 * (64 + 64 + 64 * 16 + 16)
    assert additive[0] == scale_shift[0] == 1_922_592
    assert tokens[0] == 2_680_224


def test_tokens_unet_of_80_channels_matches_the_additive_one_of_96() -> None:
    """The parameter-matched comparison of docs/models.md: of widths that 16 groups divide, this one is nearest, by 0.2 %."""
    additive = sum(quickstart())
    totals = {
        width: sum(quickstart(conditioning="tokens", block_out_channels=(width,), norm_num_groups=16))
        for width in (64, 80, 96)
    }
    assert min(totals, key=lambda width: abs(totals[width] - additive)) == 80
    assert totals[80] / additive == pytest.approx(1.0, abs=0.005)
