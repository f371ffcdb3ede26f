"""ResNet encoders of transformers (He et al. 2015; Section 2.3), and decoders that mirror them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import Tensor, nn

from .norm import check_norm, norm_layers, replace_batch_norms

_GROUPS = 32
_STEM_WIDTH = 64
# What has to be equal for the weights of one ResNet to give the same features in another.
_ARCHITECTURE = (
    *("model_type", "num_channels", "layer_type", "depths", "hidden_sizes", "embedding_size", "hidden_act"),
    *("downsample_in_first_stage", "downsample_in_bottleneck"),
)


class ResNetEncoder(nn.Module):
    """`transformers.ResNetModel`, whose pooled features a linear layer takes to the output.

    Args:
        config: The `transformers.ResNetConfig`.
        encoder_dim: Width of the output.
        norm: `batch` as published, over the batch of all processes, or `group`.
    """

    def __init__(self, config: Any, encoder_dim: int, norm: str) -> None:
        from transformers import ResNetModel

        super().__init__()
        self.norm = norm
        self.resnet = ResNetModel(config)
        replace_batch_norms(self.resnet, norm, _GROUPS)
        self.head = nn.Linear(config.hidden_sizes[-1], encoder_dim)

    def forward(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, encoder_dim)`."""
        return self.head(self.resnet(images).pooler_output.flatten(1))


class _Convolution(nn.Sequential):
    """A convolution that keeps the size, without a bias, and its norm."""

    def __init__(self, before: int, after: int, kernel_size: int, norm: str) -> None:
        convolution = nn.Conv2d(before, after, kernel_size, padding=kernel_size // 2, bias=False)
        # as transformers does in the encoder
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(convolution, *norm_layers(norm, after, _GROUPS))


class _MirroredBlock(nn.Module):
    """A residual block of `layer_type` run backwards: `(B, before, S, S)` to `(B, after, S, S)`, or to twice the side with `upsample`.

    Where the encoder's block has a stride, its mirror has nearest upsampling, which leaves no checkerboard behind.
    """

    def __init__(self, layer_type: str, before: int, after: int, upsample: bool, norm: str) -> None:
        super().__init__()
        enlarge = [nn.Upsample(scale_factor=2)] if upsample else []
        if layer_type == "bottleneck":
            inner = before // 4
            layers = [_Convolution(before, inner, 1, norm), nn.ReLU(), *enlarge]
            layers += [_Convolution(inner, inner, 3, norm), nn.ReLU(), _Convolution(inner, after, 1, norm)]
        else:
            layers = [_Convolution(before, before, 3, norm), nn.ReLU(), *enlarge]
            layers += [_Convolution(before, after, 3, norm)]
        self.layers = nn.Sequential(*layers)
        # a 1x1 convolution and its norm give the same before nearest upsampling as after it, at a quarter of the cost
        changed = upsample or before != after
        self.shortcut = nn.Sequential(
            *([_Convolution(before, after, 1, norm)] if changed else []),
            *enlarge,
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.layers(features) + self.shortcut(features))


def _decoder(
    layer_type: str,
    hidden_sizes: Sequence[int],
    depths: Sequence[int],
    *,
    in_channels: int,
    image_size: int,
    code_dim: int,
    norm: str,
) -> nn.Sequential:
    side = image_size // 32
    last = hidden_sizes[-1]
    layers: list[nn.Module] = [nn.Linear(code_dim, last * side * side), nn.Unflatten(1, (last, side, side))]
    for stage in reversed(range(len(depths))):
        width = hidden_sizes[stage]
        before = hidden_sizes[stage - 1] if stage else _STEM_WIDTH
        blocks = [_MirroredBlock(layer_type, width, width, False, norm) for _ in range(depths[stage] - 1)]
        # the first stage of the encoder has no stride: the max-pooling before it has one
        layers += [nn.Sequential(*blocks, _MirroredBlock(layer_type, width, before, stage > 0, norm))]
    # the stem: max-pooling and the strided 7x7 convolution
    layers += [nn.Upsample(scale_factor=4), nn.Conv2d(_STEM_WIDTH, in_channels, 7, padding=3)]
    return nn.Sequential(*layers)


def _resnet(
    backbone: str,
    layer_type: str,
    hidden_sizes: tuple[int, ...],
    depths: tuple[int, ...],
    *,
    in_channels: int,
    image_size: int,
    encoder_dim: int,
    code_dim: int,
    norm: str,
) -> tuple[nn.Module, nn.Module]:
    check_norm(norm, ("group", "batch"))
    if image_size < 32 or image_size % 32:
        raise ValueError(f"image_size must be a multiple of 32 for backbone {backbone!r}, got {image_size}")
    from transformers import ResNetConfig

    config = ResNetConfig(
        num_channels=in_channels,
        embedding_size=_STEM_WIDTH,
        hidden_sizes=hidden_sizes,
        depths=list(depths),
        layer_type=layer_type,
    )
    decoder = _decoder(
        layer_type,
        hidden_sizes,
        depths,
        in_channels=in_channels,
        image_size=image_size,
        code_dim=code_dim,
        norm=norm,
    )
    return ResNetEncoder(config, encoder_dim, norm), decoder


def resnet18(
    *, in_channels: int, image_size: int, encoder_dim: int, code_dim: int, norm: str
) -> tuple[nn.Module, nn.Module]:
    """ResNet-18 with a linear layer on its pooled features, and a decoder of the same stages in reverse order.

    The decoder has the encoder's convolutions with inputs and outputs exchanged, nearest upsampling for each stride, and a linear layer to
    the `image_size / 32` by `image_size / 32` features that it starts from. The encoder starts from random weights;
    `load_pretrained_encoder` fills it with trained ones.

    Args:
        in_channels: C of the images.
        image_size: H = W, a multiple of 32. At 32 the last features are 1x1: `batch` then sees as many values a channel as there are
            images in the batch of all processes, so that a small batch wants `group`.
        encoder_dim: Width of the encoder's output.
        code_dim: Width of the decoder's input.
        norm: What follows each convolution but the last of the decoder: `batch` as published, over the batch of all processes, or `group`
            with 32 groups.

    Returns:
        The encoder `(B, C, H, W) -> (B, encoder_dim)` and the decoder `(B, code_dim) -> (B, C, H, W)`.

    Raises:
        ValueError: One line for another size or norm.
    """
    return _resnet(
        "resnet18",
        "basic",
        (64, 128, 256, 512),
        (2, 2, 2, 2),
        in_channels=in_channels,
        image_size=image_size,
        encoder_dim=encoder_dim,
        code_dim=code_dim,
        norm=norm,
    )


def resnet50(
    *, in_channels: int, image_size: int, encoder_dim: int, code_dim: int, norm: str
) -> tuple[nn.Module, nn.Module]:
    """ResNet-50, with bottleneck blocks; all else as in `resnet18`."""
    return _resnet(
        "resnet50",
        "bottleneck",
        (256, 512, 1024, 2048),
        (3, 4, 6, 3),
        in_channels=in_channels,
        image_size=image_size,
        encoder_dim=encoder_dim,
        code_dim=code_dim,
        norm=norm,
    )


def load_pretrained_encoder(encoder: nn.Module, id_or_folder: str | Path) -> None:
    """Fill a ResNet encoder, all but its last linear layer, with the weights of a trained `transformers.ResNetModel`.

    Only JSON and safetensors are read, and no code. A classifier on top of the ResNet is left out. The weights know images as they were
    normalised in their own training, which our [-1, 1] is near to but not equal: in training the batch norms adapt to it.

    Args:
        encoder: Of `resnet18` or `resnet50` with `norm="batch"`.
        id_or_folder: A folder that `save_pretrained` wrote, or an id on the Hub such as `microsoft/resnet-18`.

    Raises:
        ValueError: One line, if the encoder is another, or if the weights are missing, damaged or of another architecture.
    """
    if not isinstance(encoder, ResNetEncoder) or encoder.norm != "batch":
        norm = f"norm={encoder.norm}" if isinstance(encoder, ResNetEncoder) else "another backbone"
        raise ValueError(
            f"pretrained weights are for backbone resnet18 or resnet50 with norm=batch, got {norm}"
        )
    from transformers import ResNetConfig, ResNetModel

    own = encoder.resnet.config
    try:
        # from_pretrained, given an id without safetensors, would ask a service on the web to convert its pickle
        folder = str(id_or_folder)
        if not Path(folder).is_dir():
            folder = snapshot_download(folder, allow_patterns=["config.json", "model.safetensors"])
        theirs = ResNetConfig.from_pretrained(folder)
        differences = [
            f"{name}={getattr(theirs, name, None)} where the backbone has {getattr(own, name)}"
            for name in _ARCHITECTURE
            if getattr(theirs, name, None) != getattr(own, name)
        ]
        if not differences:
            loaded: Any = ResNetModel.from_pretrained(
                folder, config=own, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{id_or_folder} can't be loaded as a ResNet: {' '.join(str(error).split())}"
        ) from None
    if differences:
        raise ValueError(f"{id_or_folder} is another ResNet: {'; '.join(differences)}")
    trained, info = loaded
    unexpected = {name for name in info["unexpected_keys"] if not name.startswith("classifier.")}
    for what, names in (("missing", info["missing_keys"]), ("unexpected", unexpected)):
        if names:
            raise ValueError(f"{id_or_folder}: {what} tensors for a ResNet: {', '.join(sorted(names))}")
    encoder.resnet.load_state_dict(trained.state_dict())
