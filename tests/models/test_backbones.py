"""Backbones: sizes known from the published networks, mirrored decoders, pretrained weights, and batch norm over processes."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch import distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from idiff_hf.models import BACKBONES, IVAEModel, load_pretrained_encoder
from idiff_hf.models.backbones import GlobalBatchNorm2d

RESNETS = ("resnet18", "resnet50")
WIDTHS = {"resnet18": (64, 128, 256, 512), "resnet50": (256, 512, 1024, 2048)}
DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
CNN = {"channels": (8, 8, 16, 16), "hidden_dim": 12}


def build(backbone: str, **changes: object) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    settings = {"in_channels": 3, "image_size": 32, "encoder_dim": 6, "code_dim": 3, "norm": "group"}
    return BACKBONES[backbone](**{**settings, **(CNN if backbone == "cnn" else {}), **changes})


@cache
def shapes_of(backbone: str, **changes: object) -> tuple[nn.Module, nn.Module]:
    """The same without any numbers, to be left as it is."""
    with torch.device("meta"):
        return build(backbone, **changes)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def convolutions(module: nn.Module) -> Counter[tuple[frozenset[int], tuple[int, ...]]]:
    """How often each pair of widths, in whichever direction, and kernel size occurs."""
    return Counter(
        (frozenset(m.weight.shape[:2]), tuple(m.weight.shape[2:]))
        for m in module.modules()
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)
    )


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_parameters_of_the_cnn_are_those_of_its_formula(norm: str, in_channels: int) -> None:
    encoder, decoder = build("cnn", image_size=64, norm=norm, in_channels=in_channels)
    widths = (in_channels, 8, 8, 16, 16)
    kernels = sum(16 * before * after for before, after in pairwise(widths))
    # a bias, and the weight and bias of a norm
    each = 1 if norm == "none" else 3
    flat, hidden = 4 * 4 * 16, 12
    assert count(encoder) == kernels + each * sum(widths[1:]) + (flat + 1) * hidden + (hidden + 1) * 6
    assert count(decoder) == (
        (3 + 1) * hidden + (hidden + 1) * flat + kernels + each * sum(widths[1:-1]) + in_channels
    )


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize(
    ("backbone", "published", "width"), [("resnet18", 11_689_512, 512), ("resnet50", 25_557_032, 2048)]
)
def test_parameters_of_resnet_encoders_are_those_of_the_published_networks(
    backbone: str, published: int, width: int, norm: str
) -> None:
    """As torchvision counts them, with a classifier of ImageNet's 1,000 classes."""
    features = published - 1000 * (width + 1)
    assert features == {"resnet18": 11_176_512, "resnet50": 23_508_032}[backbone]
    encoder, _ = shapes_of(backbone, norm=norm)
    assert count(encoder) == features + 6 * (width + 1)
    encoder, _ = shapes_of(backbone, norm=norm, in_channels=1)
    assert count(encoder) == features - 2 * 64 * 7 * 7 + 6 * (width + 1)


@pytest.mark.parametrize("image_size", [32, 96])
@pytest.mark.parametrize(
    ("backbone", "kernels", "normed"), [("resnet18", 11_166_912, 3_840), ("resnet50", 23_454_912, 22_528)]
)
def test_parameters_of_resnet_decoders(backbone: str, kernels: int, normed: int, image_size: int) -> None:
    """The kernels of the encoder, and norms of the channels that they have as outputs when they are run backwards."""
    for norm in ("group", "batch"):
        _, decoder = shapes_of(backbone, norm=norm, image_size=image_size)
        flat = WIDTHS[backbone][-1] * (image_size // 32) ** 2
        assert count(decoder) == (3 + 1) * flat + kernels + 2 * normed + 3


@pytest.mark.parametrize("backbone", RESNETS)
def test_a_resnet_decoder_has_the_encoders_convolutions_and_its_stages_in_reverse_order(
    backbone: str,
) -> None:
    encoder, decoder = shapes_of(backbone, image_size=64)
    assert convolutions(decoder) == convolutions(encoder)
    blocks, shapes = [], []
    features = torch.empty(2, 3, device="meta")
    for layer in decoder:
        features = layer(features)
        if isinstance(layer, nn.Sequential):
            blocks.append(len(layer))
            shapes.append(tuple(features.shape[1:]))
    assert tuple(blocks) == DEPTHS[backbone][::-1]
    before = (*WIDTHS[backbone][2::-1], 64)
    assert shapes == [(width, side, side) for width, side in zip(before, (4, 8, 16, 16), strict=True)]


def test_the_cnns_decoder_has_the_encoders_convolutions() -> None:
    encoder, decoder = build("cnn", channels=(8, 16, 24, 32))
    assert convolutions(decoder) == convolutions(encoder)


@pytest.mark.parametrize(
    ("image_size", "norm", "in_channels"),
    [(32, "batch", 3), (64, "group", 1), (96, "batch", 1), (128, "group", 3)],
)
@pytest.mark.parametrize("backbone", ["cnn", *RESNETS])
def test_shapes(backbone: str, norm: str, image_size: int, in_channels: int) -> None:
    encoder, decoder = shapes_of(backbone, norm=norm, image_size=image_size, in_channels=in_channels)
    images = torch.empty(2, in_channels, image_size, image_size, device="meta")
    assert encoder(images).shape == (2, 6)
    assert decoder(torch.empty(2, 3, device="meta")).shape == images.shape


@pytest.mark.parametrize(("backbone", "norm"), [("cnn", "group"), ("cnn", "batch"), ("resnet18", "batch")])
def test_in_evaluation_a_row_is_the_same_again_and_beside_other_rows(backbone: str, norm: str) -> None:
    images, z = torch.rand(3, 3, 32, 32) * 2 - 1, torch.randn(3, 3)
    for module, rows in zip(build(backbone, norm=norm), (images, z), strict=True):
        module.double().eval()
        with torch.no_grad():
            outputs = module(rows.double())
            assert torch.equal(outputs, module(rows.double()))
            torch.testing.assert_close(outputs[:1], module(rows[:1].double()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("backbone", "norm"),
    [("cnn", "none"), ("cnn", "group"), ("cnn", "batch"), ("resnet18", "group"), ("resnet50", "batch")],
)
def test_gradient_reaches_every_parameter(backbone: str, norm: str) -> None:
    encoder, decoder = build(backbone, norm=norm)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    (encoder(images).square().sum() + (decoder(torch.randn(4, 3)) - images).square().sum()).backward()
    for module in (encoder, decoder):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("backbone", ["cnn", *RESNETS])
def test_every_norm_is_the_one_that_was_asked_for(backbone: str) -> None:
    kinds = (nn.GroupNorm, nn.modules.batchnorm._NormBase)
    for norm, kind in (("group", nn.GroupNorm), ("batch", GlobalBatchNorm2d)):
        for module in shapes_of(backbone, norm=norm):
            norms = [m for m in module.modules() if isinstance(m, kinds)]
            assert norms and {type(m) for m in norms} == {kind}
    for module in shapes_of(backbone):
        groups = {m.num_groups for m in module.modules() if isinstance(m, nn.GroupNorm)}
        assert groups == ({8} if backbone == "cnn" else {32})


def test_a_resnet_encoder_is_transformers_resnet_below_a_linear_layer() -> None:
    from transformers import ResNetConfig, ResNetModel

    encoder, _ = build("resnet18", norm="batch")
    stock = ResNetModel(ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2] * 4))
    assert set(stock.state_dict()) == set(encoder.resnet.state_dict())
    stock.load_state_dict(encoder.resnet.state_dict())
    images = torch.rand(4, 3, 32, 32)
    for training in (True, False):
        encoder.train(training), stock.train(training)
        features = stock(images).pooler_output.flatten(1)
        torch.testing.assert_close(encoder(images), encoder.head(features), rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_model_with_a_resnet_round_trips(tmp_path: Path, norm: str) -> None:
    model = IVAEModel(image_size=32, backbone="resnet18", norm=norm, latent_dim=3, num_factors=2)
    images = torch.rand(4, 3, 32, 32)
    if norm == "batch":
        # statistics other than those it starts with
        model(images, torch.randn(4, 3))
    model.save_pretrained(tmp_path)
    again = IVAEModel.from_pretrained(tmp_path)
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    # kernels round differently where the tensors of a file begin at another multiple of bytes
    outputs = [m.double().eval()(images.double(), torch.ones(4, 3)).sample for m in (model, again)]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("backbone", "changes", "message"),
    [
        ("cnn", {"norm": "layer"}, "norm must be group, batch or none, got 'layer'"),
        ("resnet18", {"norm": "none"}, "norm must be group or batch, got 'none'"),
        ("cnn", {"image_size": 40}, "image_size must be a multiple of 16 for backbone 'cnn', got 40"),
        (
            "resnet18",
            {"image_size": 48},
            "image_size must be a multiple of 32 for backbone 'resnet18', got 48",
        ),
        ("resnet50", {"image_size": 0}, "image_size must be a multiple of 32 for backbone 'resnet50', got 0"),
    ],
)
def test_bad_arguments(backbone: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(backbone, **changes)


def test_batch_norm_of_a_single_value_a_channel() -> None:
    encoder, decoder = build("resnet18", norm="batch")
    message = r"norm=batch needs more than one value a channel in training, got features \(1, 512, 1, 1\)"
    with pytest.raises(ValueError, match=message):
        encoder(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match=message):
        decoder(torch.randn(1, 3))
    assert encoder.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 6)
    encoder, _ = build("resnet18", norm="group")
    assert encoder(torch.rand(1, 3, 32, 32)).shape == (1, 6)


# pretrained weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 as transformers saves it, below a classifier as on the Hub, with statistics of its own."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(1)
    config = ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2] * 4)
    model = ResNetForImageClassification(config)
    model(torch.randn(4, 3, 32, 32))
    folder = tmp_path_factory.mktemp("trained")
    model.save_pretrained(folder)
    return folder


def altered(trained: Path, folder: Path, **config: object) -> Path:
    """A copy whose config says otherwise."""
    folder.mkdir()
    (folder / "model.safetensors").hardlink_to(trained / "model.safetensors")
    saved = json.loads((trained / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**saved, **config}))
    return folder


def test_pretrained_features_are_those_of_the_saved_model(trained: Path) -> None:
    from transformers import ResNetModel

    encoder, _ = build("resnet18", norm="batch", image_size=64)
    head = encoder.head.weight.clone()
    load_pretrained_encoder(encoder, trained)
    stock = ResNetModel.from_pretrained(trained, use_safetensors=True).eval()
    images = torch.rand(2, 3, 64, 64)
    features = stock(images).pooler_output.flatten(1)
    encoder.eval()
    assert torch.equal(encoder.resnet(images).pooler_output.flatten(1), features)
    assert torch.equal(encoder.head.weight, head)
    assert all(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("backbone", ["cnn", "resnet18"])
def test_pretrained_weights_for_an_encoder_without_batch_norm(trained: Path, backbone: str) -> None:
    encoder, _ = shapes_of(backbone, norm="group")
    got = "norm=group" if backbone == "resnet18" else "another backbone"
    message = f"pretrained weights are for backbone resnet18 or resnet50 with norm=batch, got {got}"
    with pytest.raises(ValueError, match=message):
        load_pretrained_encoder(encoder, trained)


@pytest.mark.parametrize(
    ("backbone", "changes", "config", "message"),
    [
        (
            "resnet50",
            {},
            {},
            r"is another ResNet: layer_type=basic where the backbone has bottleneck; depths=\[2, 2, 2, 2\] where the backbone has "
            r"\[3, 4, 6, 3\]; hidden_sizes=\[64, 128, 256, 512\] where the backbone has \[256, 512, 1024, 2048\]$",
        ),
        ("resnet18", {"in_channels": 1}, {}, r"num_channels=3 where the backbone has 1$"),
        (
            "resnet18",
            {},
            {"depths": [3, 4, 6, 3]},
            r"depths=\[3, 4, 6, 3\] where the backbone has \[2, 2, 2, 2\]$",
        ),
        ("resnet18", {}, {"model_type": "regnet"}, r"model_type=regnet where the backbone has resnet$"),
    ],
)
def test_pretrained_weights_of_another_architecture(
    trained: Path,
    tmp_path: Path,
    backbone: str,
    changes: dict[str, object],
    config: dict[str, object],
    message: str,
) -> None:
    encoder, _ = shapes_of(backbone, norm="batch", **changes)
    with pytest.raises(ValueError, match=message):
        load_pretrained_encoder(encoder, altered(trained, tmp_path / "altered", **config))


def test_pretrained_weights_that_are_missing_or_damaged(trained: Path, tmp_path: Path) -> None:
    encoder, _ = build("resnet18", norm="batch")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=r"nobody/nothing can't be loaded as a ResNet: \S.*$"):
        load_pretrained_encoder(encoder, "nobody/nothing")

    folder = altered(trained, tmp_path / "folder")
    tensors = load_file(folder / "model.safetensors")
    weights = folder / "model.safetensors"
    weights.unlink()
    # a pickle is not looked at
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"can't be loaded as a ResNet: .*no file named model.safetensors"):
        load_pretrained_encoder(encoder, folder)

    name = "resnet.encoder.stages.3.layers.1.layer.1.normalization.running_var"
    save_file({n: t for n, t in tensors.items() if n != name}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"missing tensors for a ResNet: {name.removeprefix('resnet.')}$"):
        load_pretrained_encoder(encoder, folder)

    extra = name.replace("layers.1", "layers.2")
    save_file({**tensors, extra: tensors[name].clone()}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"unexpected tensors for a ResNet: .*layers\.2"):
        load_pretrained_encoder(encoder, folder)

    weights.write_bytes(b"\x00" * 9)
    with pytest.raises(ValueError, match=r"can't be loaded as a ResNet: .*header"):
        load_pretrained_encoder(encoder, folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"can't be loaded as a ResNet: .*not a valid JSON"):
        load_pretrained_encoder(encoder, folder)
    assert all(torch.equal(before[n], tensor) for n, tensor in encoder.state_dict().items())


# batch norm over several processes

SHARES = (3, 5)


def layer_and_input(dtype: torch.dtype) -> tuple[GlobalBatchNorm2d, Tensor, Tensor]:
    """A layer whose weights are not those it starts with, images far from zero, and weights of a loss."""
    generator = torch.Generator().manual_seed(0)
    layer = GlobalBatchNorm2d(4).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(4, generator=generator) + 0.5)
        layer.bias.copy_(torch.randn(4, generator=generator))
    images = 3.0 + 2.0 * torch.randn(sum(SHARES), 4, 3, 5, generator=generator)
    # the processes' own moments differ
    images[SHARES[0] :] += 1.5
    return layer, images.to(dtype), torch.randn(images.shape, generator=generator).to(dtype)


def layer_results(layer: nn.Module, images: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Two steps of a loss that is not linear in the outputs."""
    for _ in range(2):
        layer.zero_grad()
        images = images.detach().requires_grad_()
        outputs = layer(images)
        (weights * outputs**2).sum().backward()
    assert images.grad is not None
    found = {"outputs": outputs.detach(), "images": images.grad}
    found |= {f"grad.{name}": p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {**found, **{name: buffer.clone() for name, buffer in layer.named_buffers()}}


def model_results(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    (model(images) - images).square().mean().backward()
    found = {f"grad.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**found, **{name: buffer.clone() for name, buffer in model.named_buffers()}}


def autoencoder_and_images() -> tuple[nn.Module, Tensor]:
    encoder, decoder = build("cnn", norm="batch", code_dim=6)
    return nn.Sequential(encoder, decoder), torch.rand(8, 3, 32, 32) * 2 - 1


def process(rank: int, folder: str) -> None:
    """What one of the processes computes on its part of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], None)
    for dtype in (torch.float32, torch.float64):
        layer, images, weights = layer_and_input(dtype)
        name = f"{folder}/layer-{dtype}-{rank}"
        save_file(layer_results(layer, images[mine], weights[mine]), name)
    layer, images, _ = layer_and_input(torch.float32)
    layer.eval()
    # in evaluation a process needs no other one
    if rank == 0:
        save_file({"outputs": layer(images).detach()}, f"{folder}/evaluation")
    # one value a channel in each process, two together
    single = GlobalBatchNorm2d(4)(torch.full((1, 4, 1, 1), float(rank)))
    save_file({"outputs": single.detach()}, f"{folder}/single-{rank}")

    model, images = autoencoder_and_images()
    # settings of the training loop
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    found = model_results(parallel, images[4 * rank : 4 * rank + 4])
    save_file({n.removeprefix("grad."): t for n, t in found.items()}, f"{folder}/model-{rank}")
    # a wrapped model that outlives its group ends the group itself, and may wait for ever: it holds the GIL, for which a thread of the
    # group waits that frees the tensors of the last gather
    del parallel
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    spawn(process, (str(folder),), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_batch_norm_over_two_processes_is_that_of_one_on_the_whole_batch(
    processes: Path, dtype: torch.dtype, tolerance: float
) -> None:
    """Against `nn.BatchNorm2d`: outputs, statistics, and the gradients of the sum of both processes' losses."""
    layer, images, weights = layer_and_input(dtype)
    stock = nn.BatchNorm2d(4).to(dtype)
    stock.load_state_dict(layer.state_dict())
    expected = layer_results(stock, images, weights)
    one, two = (load_file(processes / f"layer-{dtype}-{rank}") for rank in range(2))
    close = {"rtol": tolerance, "atol": tolerance}
    for name, value in expected.items():
        if name in ("outputs", "images"):
            torch.testing.assert_close(torch.cat([one[name], two[name]]), value, **close)
        elif name.startswith("grad."):
            torch.testing.assert_close(one[name] + two[name], value, **close)
        else:
            torch.testing.assert_close(one[name], value, **close)
            assert torch.equal(one[name], two[name])
    # each process's own moments would have given something else
    alone = stock(images[: SHARES[0]])
    assert (alone - one["outputs"]).abs().max() > 0.1


@pytest.mark.slow
def test_batch_norm_in_evaluation_and_of_one_value_in_each_of_two_processes(processes: Path) -> None:
    layer, images, _ = layer_and_input(torch.float32)
    assert torch.equal(load_file(processes / "evaluation")["outputs"], layer.eval()(images))
    # -1 and 1 up to eps, for 0 and 1 have the variance 1/4
    value = 0.5 / (0.25 + 1e-5) ** 0.5
    for rank, sign in ((0, -1.0), (1, 1.0)):
        outputs = load_file(processes / f"single-{rank}")["outputs"]
        torch.testing.assert_close(outputs, torch.full((1, 4, 1, 1), sign * value))


@pytest.mark.slow
def test_data_parallel_training_with_batch_norm_equals_one_process(processes: Path) -> None:
    model, images = autoencoder_and_images()
    expected = model_results(model, images)
    one, two = (load_file(processes / f"model-{rank}") for rank in range(2))
    for name, value in expected.items():
        other = one[name.replace("grad.", "module.")] if name.startswith("grad.") else one[f"module.{name}"]
        torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_batch_norm_of_one_process_is_torchs() -> None:
    layer, images, weights = layer_and_input(torch.float32)
    stock = nn.BatchNorm2d(4)
    stock.load_state_dict(layer.state_dict())
    expected, found = (layer_results(module, images, weights) for module in (stock, layer))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
