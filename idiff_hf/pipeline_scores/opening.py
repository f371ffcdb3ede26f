"""A saved pipeline and the rows of a dataset that it is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import config_from_yaml
from ..builders import open_dataset
from ..config import DataConfig
from ..data import ImageDataset
from ..folders import refuse_unwritable
from ..hub_folder import hub_name
from ..model_types import learns_decoder
from ..pipelines import IVAEDiffusionPipeline
from ..pipelines.editing import Decoder
from ..processes import process_state
from ..provenance import hardware, versions
from ..random import generator


def split_seed(folder: Path) -> int:
    """The seed by which the rows of a pipeline's training were held out: that of the `config.yaml` beside its weights, 0 without one."""
    path = folder / "config.yaml"
    return config_from_yaml(path.read_text(encoding="utf-8")).train.seed if path.is_file() else 0


def _refuse_other_split(folder: Path, data: DataConfig) -> None:
    """Refuse another share of held-out rows of the set that the pipeline was trained on: some of them it would have learned from."""
    path = folder / "config.yaml"
    if not path.is_file():
        return
    trained = config_from_yaml(path.read_text(encoding="utf-8")).data
    same = data.name == trained.name and (data.name != "own" or data.path == trained.path)
    if same and data.held_out != trained.held_out:
        raise ValueError(
            f"data.held_out={data.held_out:g} would take rows that {folder} was trained on as held out: leave it at {trained.held_out:g}"
        )


def held_out_rows(
    folder: Path, pipeline: IVAEDiffusionPipeline, data: DataConfig, num_samples: int
) -> tuple[ImageDataset, Tensor, int]:
    """The dataset, numbers of so many rows that the pipeline of `folder` has not been trained on, at most, and the seed of that split."""
    if num_samples < 1:
        raise ValueError(f"the number of images must be 1 or more, got {num_samples}")
    seed = split_seed(folder)
    _refuse_other_split(folder, data)
    dataset = open_dataset(data, seed, pipeline.device)
    wanted = (pipeline.channels, pipeline.image_size)
    if (dataset.channels, dataset.image_size) != wanted:
        raise ValueError(
            f"{folder} is of images {wanted[0]} x {wanted[1]} x {wanted[1]}, data.name={data.name} gives "
            f"{dataset.channels} x {dataset.image_size} x {dataset.image_size}: set data.image_size={wanted[1]}, or another dataset"
        )
    _, held_out = dataset.split(data.held_out, seed)
    order = torch.randperm(len(held_out), generator=generator(seed, "evaluation"))
    return dataset, held_out[order[:num_samples]], seed


def opened(
    folder: Path, data: DataConfig, num_samples: int, out: Path
) -> tuple[IVAEDiffusionPipeline, ImageDataset, Tensor, dict[str, Any]]:
    """A pipeline without progress bars, the dataset, its rows as in `held_out_rows`, and where what is measured of them comes from.

    Refuses an `out` that what is measured could not be written to.
    """
    refuse_unwritable(out)
    pipeline = IVAEDiffusionPipeline.from_pretrained(folder).to(process_state().device)
    pipeline.set_progress_bar_config(disable=True)
    dataset, rows, seed = held_out_rows(folder, pipeline, data, num_samples)
    origin = {
        "pipeline": hub_name(folder),
        "data": {
            "name": data.name,
            "source": dataset.source,
            "image_size": dataset.image_size,
            "channels": dataset.channels,
            "held_out_fraction": data.held_out,
            "held_out_seed": seed,
        },
        "versions": versions(),
        "hardware": hardware(pipeline.device),
    }
    return pipeline, dataset, rows, origin


def trained_decoders(pipeline: IVAEDiffusionPipeline, folder: Path) -> list[Decoder]:
    """What can draw from z: the iVAE's decoder, unless the `config.yaml` of `folder` says that it was left untrained, and the U-Net.

    Raises:
        ValueError: One line, where nothing can.
    """
    path = folder / "config.yaml"
    own = config_from_yaml(path.read_text(encoding="utf-8")).to_dict() if path.is_file() else None
    decoders: list[Decoder] = ["ivae"] if own is None or learns_decoder(own) else []
    if pipeline.unet is not None:
        decoders.append("ddpm")
    if not decoders:
        raise ValueError(f"{folder} has no U-Net, and a decoder that was not trained: nothing draws from z")
    return decoders
