"""A saved pipeline and the rows of a dataset that it is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..arguments import config_from_yaml
from ..builders import STREAM_HELD_OUT, open_dataset, same_rows
from ..config import Config, DataConfig
from ..data import ImageDataset
from ..hub_folder import hub_name
from ..model_types import learns_decoder
from ..pipelines import IVAEDiffusionPipeline
from ..pipelines.editing import Decoder
from ..processes import process_state
from ..provenance import hardware, refuse_no_file, versions
from ..random import generator


def _trained_by(folder: Path) -> Config | None:
    """The config of a pipeline's training, where one lies beside its weights."""
    path = folder / "config.yaml"
    return config_from_yaml(path.read_text(encoding="utf-8")) if path.is_file() else None


def held_out_rows(
    folder: Path, pipeline: IVAEDiffusionPipeline, data: DataConfig, num_samples: int
) -> tuple[ImageDataset, Tensor, int]:
    """The dataset, numbers of so many rows that the pipeline of `folder` has not been trained on, at most, and the seed of that split.

    The seed is that of the pipeline's training, 0 where nothing says which it was.
    """
    if num_samples < 1:
        raise ValueError(f"the number of images must be 1 or more, got {num_samples}")
    trained = _trained_by(folder)
    if trained is not None and same_rows(trained.data, data) and data.held_out != trained.data.held_out:
        raise ValueError(
            f"data.held_out={data.held_out:g} would take rows that {folder} was trained on as held out: leave it at "
            f"{trained.data.held_out:g}"
        )
    seed = 0 if trained is None else trained.train.seed
    dataset = open_dataset(data, seed, pipeline.device, max(num_samples, STREAM_HELD_OUT))
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
    folder: Path, data: DataConfig, num_samples: int, *written: Path
) -> tuple[IVAEDiffusionPipeline, ImageDataset, Tensor, dict[str, Any]]:
    """A pipeline without progress bars, the dataset, its rows as in `held_out_rows`, and where what is measured of them comes from.

    Refuses files that what is measured could not be `written` to.
    """
    for path in written:
        refuse_no_file(path)
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
    trained = _trained_by(folder)
    decoders: list[Decoder] = ["ivae"] if trained is None or learns_decoder(trained.to_dict()) else []
    if pipeline.unet is not None:
        decoders.append("ddpm")
    if not decoders:
        raise ValueError(f"{folder} has no U-Net, and a decoder that was not trained: nothing draws from z")
    return decoders
