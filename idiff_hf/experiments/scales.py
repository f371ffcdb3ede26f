"""Two sets of budgets for the paper's experiments: minutes on two cores, and the paper's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..config import RESNETS, Config

Grid = dict[str, tuple[Any, ...]]
"""Values of each flag; the runs are all combinations."""


@dataclass(frozen=True)
class Scale:
    """How long the experiments are, and how finely their sweeps are cut.

    Attributes:
        text: The budget in words.
        shrink: From a config of `configs/paper` to that of the same experiment at this scale.
        weights: lambda_KL and lambda_rec of a sweep (Table 1) with a CNN.
        weights_resnet: The same with a ResNet.
        modulates_mean: Whether a sweep of u = normal goes over `aux.modulate_mean`, as the paper's does.
        kl_reverse: Weights of the prior-posterior direction (Table 7).
    """

    text: str
    shrink: Callable[[Config], Config]
    weights: Grid
    weights_resnet: Grid
    modulates_mean: bool
    kl_reverse: tuple[float, ...]

    def sweep(self, config: Config) -> Grid:
        """The grid that the paper's spreads are over, for this config."""
        grid = dict(self.weights_resnet if config.model.backbone in RESNETS else self.weights)
        if self.modulates_mean and config.aux.name == "normal":
            grid["aux.modulate_mean"] = (False, True)
        return grid


def alone(config: Config) -> Config:
    """The training by itself: what is trained beside a model otherwise is a column of its own here."""
    evaluated = replace(config.eval, supervision_baseline=False, supervised_probe=False)
    return replace(config, eval=evaluated, train=replace(config.train, report_to="none"))


def tiny(config: Config) -> Config:
    """32x32 images, and 1,000 steps of 32 with a CNN, 200 with a ResNet, at a rate that so few steps need.

    The U-Net predicts x_0: with epsilon, the paper's choice, it still draws noise after so few.
    """
    resnet = config.model.backbone in RESNETS
    steps = 200 if resnet else 1000
    rate = {
        "learning_rate": 1e-3 if resnet else 2e-3,
        "lr_warmup_steps": steps // 10,
        "lr_scheduler": "cosine",
    }
    changes: dict[str, dict[str, Any]] = {
        "data": {"image_size": 32},
        "train": {
            "max_train_steps": steps,
            "train_batch_size": 32,
            "checkpointing_steps": 500,
            "validation_steps": 10**6,  # no grids of samples
        },
        "eval": {
            "num_samples": 5000,
            "num_generated": 32,
            "num_inference_steps": 20,
            "guidance_scales": (1.0,),
        },
        **{part: rate for part in config.windows},
    }
    if config.model.diffusion:
        changes["unet"] = {
            "patch_size": 4,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "attention": False,
            "prediction_type": "sample",
        }
    # in one go, for the groups are checked against each other
    return alone(
        replace(
            config, **{group: replace(getattr(config, group), **values) for group, values in changes.items()}
        )
    )


SCALES = {
    "tiny": Scale(
        text="images of 32x32, batches of 32, 1,000 steps with a CNN at a rate of 2e-3, 200 with a ResNet at 1e-3, both with warm-up and "
        "cosine; U-Net with patches of 4 and channels 32 and 64 that predicts x_0, where the paper's predicts the noise; 5,000 held-out "
        "images scored",
        shrink=tiny,
        weights={"loss.kl": (1e-5, 1e-4, 1e-3), "loss.rec": (0.1, 1.0)},
        weights_resnet={"loss.kl": (1e-4, 1e-3), "loss.rec": (0.1,)},
        modulates_mean=False,
        kl_reverse=(0.005, 2.5e-4, 2.5e-5),
    ),
    "full": Scale(
        text="the paper's: images of 64x64, 10 epochs in batches of 32 at a rate of 2e-4; 10,000 held-out images scored",
        shrink=alone,
        weights={"loss.kl": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1), "loss.rec": (0.01, 0.1, 1.0, 5.0)},
        weights_resnet={"loss.kl": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1), "loss.rec": (0.01, 0.1, 1.0, 5.0)},
        modulates_mean=True,
        kl_reverse=(0.005, 0.0025, 5e-4, 2.5e-4, 5e-5, 2.5e-5),
    ),
}
"""`tiny` is for two cores, `full` for the paper's 10 epochs on a GPU."""
