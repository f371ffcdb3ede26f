"""The guided prediction, against the formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from idiff_hf import AdditiveConditioning, VPSDEScheduler
from idiff_hf.pipelines.guided import Guidance, GuidedUNet


class Affine(nn.Module):
    """A U-Net whose prediction is x_t plus a picture for each condition, and that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Parameter(torch.randn(4, 12, generator=torch.Generator().manual_seed(0)))
        self.rows: list[int] = []
        self.dtype = torch.float32

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> nn.Module:
        assert timestep.shape == (len(sample),)
        self.rows.append(len(sample))
        self.sample = sample + (class_labels @ self.picture).view(-1, 3, 2, 2)
        return self


X_T = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(1))
OF_Z = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))
NULL = torch.zeros(2, 4)
TAU = torch.tensor(400.0)


def guided(scale: float, rescale: float = 0.0, prediction_type: str = "sample") -> tuple[Tensor, list[int]]:
    unet = Affine()
    config = VPSDEScheduler(prediction_type=prediction_type).config
    with torch.no_grad():
        prediction = GuidedUNet(unet, AdditiveConditioning(6, 4), config)(
            X_T, TAU, scale, OF_Z, NULL, rescale
        )
    return prediction, unet.rows


def plain(condition: Tensor) -> Tensor:
    return X_T + (condition @ Affine().picture.detach()).view(2, 3, 2, 2)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 4.0])
def test_equation_10_in_one_forward(scale: float) -> None:
    prediction, rows = guided(scale)
    torch.testing.assert_close(prediction, plain(NULL) + scale * (plain(OF_Z) - plain(NULL)))
    assert rows == ([2] if scale in (0.0, 1.0) else [4])


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_rescale_brings_x_0_back_to_the_deviation_of_the_conditional_one(prediction_type: str) -> None:
    sde = VPSDEScheduler(prediction_type=prediction_type)
    conditional, strong, whole, half = (
        sde.predict_original(guided(*pair, prediction_type)[0], X_T, TAU).flatten(1)
        for pair in ((1.0, 0.0), (4.0, 0.0), (4.0, 1.0), (4.0, 0.5))
    )
    assert (strong.std(dim=1) > 1.5 * conditional.std(dim=1)).all()
    torch.testing.assert_close(whole.std(dim=1), conditional.std(dim=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(half, (strong + whole) / 2, atol=1e-4, rtol=1e-4)


def test_the_scale_holds_in_its_interval_and_is_one_outside() -> None:
    guidance = Guidance(4.0, (0.2, 0.8))
    assert [guidance.at(t) for t in (0.1, 0.2, 0.5, 0.8, 0.9)] == [1.0, 4.0, 4.0, 4.0, 1.0]
    assert [Guidance(3.0).at(t) for t in (1e-3, 1.0)] == [3.0, 3.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), "guidance_scale must be 0 or more, got -1.0"),
        ((float("nan"),), "guidance_scale must be 0 or more, got nan"),
        (
            (2.0, (0.8, 0.2)),
            r"guidance_interval must be two times with 0 <= start < end <= 1, got \(0.8, 0.2\)",
        ),
        ((2.0, (0.2, 1.2)), r"guidance_interval must be two times .* got \(0.2, 1.2\)"),
        ((2.0, (0.2,)), r"guidance_interval must be two times .* got \(0.2,\)"),
        (
            (None,),
            "guidance_scale and guidance_rescale must be numbers, guidance_interval two of them, got None, 0.0",
        ),
        ((2.0, 0.5), r"guidance_interval two of them, got 2.0, 0.0, 0.5"),
        ((2.0, (0.0, None)), r"guidance_interval two of them, got 2.0, 0.0, \(0.0, None\)"),
        ((2.0, (0.0, 1.0), 1.5), r"guidance_rescale must lie in \[0, 1\], got 1.5"),
    ],
)
def test_refusals(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guidance(*arguments)  # type: ignore[arg-type]
