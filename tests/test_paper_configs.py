"""Every YAML under configs/: it builds, learns two steps of each stage, is saved and loaded; the paper's say what the paper says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.arguments import config_from_yaml
from idiff_hf.builders import build_objective, build_pipeline, open_dataset
from idiff_hf.config import RESNETS, Config, DataConfig
from idiff_hf.data import ImageDataset
from idiff_hf.training import TrainingRun
from train_ivae_ddpm import training_step

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
ALIKE = (
    *(f"paper/table7_kl_{kl}" for kl in ("0.0025", "5e-4", "2.5e-4", "5e-5", "2.5e-5")),
    *("paper/table5_normal", "paper/table9_seeds", "paper/section3.3_frozen_bad"),
)
"""Of the same kind as another config, apart from numbers: with the slow ones."""
NAMES = sorted(
    path.relative_to(CONFIGS).with_suffix("").as_posix()
    for path in CONFIGS.rglob("*.yaml")
    if path.parent.name not in ("accelerate", "sweeps")  # for `accelerate launch`, and `idiff sweep`
)

# Typed from the paper: file, table and row, Discrete MIG, Spearman MCC, Disentanglement, Modularity.
TABLES = """
table2_vae       | Table 2, VAE              | 0.06 ± 0.04 / 0.14 | 0.20 ± 0.13 / 0.49 | 0.09 ± 0.09 / 0.26 | 0.51 ± 0.25 / 0.87
table2_ivae      | Table 2, iVAE             | 0.19 ± 0.07 / 0.34 | 0.19 ± 0.09 / 0.39 | 0.11 ± 0.10 / 0.30 | 0.41 ± 0.12 / 0.63
table2_ivae_ddpm | Table 2, iVAE + DDPM      | 0.16 ± 0.10 / 0.39 | 0.23 ± 0.14 / 0.51 | 0.13 ± 0.11 / 0.39 | 0.45 ± 0.23 / 0.77
table3_vae       | Table 3, VAE              | 0.32 ± 0.14 / 0.47 | 0.70 ± 0.13 / 0.83 | 0.75 ± 0.15 / 0.99 | 0.97 ± 0.02 / 0.99
table3_ivae      | Table 3, iVAE             | 0.42 ± 0.14 / 0.68 | 0.70 ± 0.11 / 0.85 | 0.74 ± 0.13 / 0.94 | 0.94 ± 0.04 / 0.98
table3_ivae_ddpm | Table 3, iVAE + DDPM      | 0.31 ± 0.10 / 0.49 | 0.68 ± 0.08 / 0.78 | 0.68 ± 0.09 / 0.80 | 0.95 ± 0.02 / 0.98
table4_resnet18  | Table 4, iVAE ResNet-18   | 0.33 ± 0.09 / 0.56 | 0.71 ± 0.09 / 0.87 | 0.77 ± 0.15 / 1.00 | 0.95 ± 0.02 / 1.00
table4_resnet50  | Table 4, iVAE ResNet-50   | 0.42 ± 0.14 / 0.68 | 0.70 ± 0.11 / 0.85 | 0.74 ± 0.13 / 0.94 | 0.94 ± 0.04 / 0.98
table5_normal    | Table 5, Normal Sampling  | 0.09 ± 0.03 / 0.13 | 0.22 ± 0.06 / 0.35 | 0.11 ± 0.10 / 0.26 | 0.40 ± 0.12 / 0.63
table5_uniform   | Table 5, Uniform Sampling | 0.26 ± 0.12 / 0.43 | 0.27 ± 0.07 / 0.38 | 0.15 ± 0.09 / 0.29 | 0.36 ± 0.07 / 0.49
table6_catvae    | Table 6, CatVAE           | 0.09 ± 0.04 / 0.15 | 0.42 ± 0.07 / 0.59 | 0.38 ± 0.11 / 0.56 | 0.95 ± 0.02 / 0.98
table6_ivae      | Table 6, iVAE             | 0.33 ± 0.09 / 0.56 | 0.71 ± 0.09 / 0.87 | 0.77 ± 0.15 / 1.00 | 0.95 ± 0.02 / 1.00
table7_kl_0.005  | Table 7, kl 0.005         | 0.18 ± 0.09 / 0.27 | 0.23 ± 0.07 / 0.36 | 0.12 ± 0.11 / 0.32 | 0.33 ± 0.17 / 0.65
table7_kl_0.0025 | Table 7, kl 0.0025        | 0.11 ± 0.14 / 0.29 | 0.15 ± 0.16 / 0.33 | 0.10 ± 0.11 / 0.22 | 0.28 ± 0.21 / 0.59
table7_kl_5e-4   | Table 7, kl 5e-4          | 0.18 ± 0.10 / 0.28 | 0.21 ± 0.10 / 0.29 | 0.14 ± 0.09 / 0.23 | 0.37 ± 0.14 / 0.58
table7_kl_2.5e-4 | Table 7, kl 2.5e-4        | 0.21 ± 0.12 / 0.33 | 0.21 ± 0.08 / 0.32 | 0.16 ± 0.09 / 0.24 | 0.42 ± 0.05 / 0.49
table7_kl_5e-5   | Table 7, kl 5e-5          | 0.17 ± 0.08 / 0.28 | 0.28 ± 0.09 / 0.38 | 0.21 ± 0.15 / 0.42 | 0.43 ± 0.18 / 0.59
table7_kl_2.5e-5 | Table 7, kl 2.5e-5        | 0.19 ± 0.07 / 0.25 | 0.30 ± 0.10 / 0.40 | 0.20 ± 0.02 / 0.23 | 0.51 ± 0.11 / 0.67
table8_dsprites  | Table 8, iVAE + DDPM      | 0.31 ± 0.04 / 0.35 | 0.64 ± 0.04 / 0.67 | 0.63 ± 0.02 / 0.66 | 0.92 ± 0.04 / 0.95
table9_best      | Table 9, Best qualitative iVAE+DDPM | 0.39 | 0.21 | 0.21 | 0.39
table9_seeds     | Table 9, Different Seeds (N=5) | 0.26 ± 0.09 / 0.34 | 0.11 ± 0.08 / 0.21 | 0.13 ± 0.11 / 0.25 | 0.35 ± 0.11 / 0.47
"""
FIGURES = {
    f"paper/{cells[0]}": cells[1:]
    for cells in ([cell.strip() for cell in line.split("|")] for line in TABLES.strip().splitlines())
}
METRICS = ("Discrete MIG", "Spearman MCC", "Disentanglement", "Modularity")
FROZEN = ("paper/section3.3_frozen_bad", "paper/section3.3_frozen_best")


@cache
def load(name: str) -> Config:
    """The config of a YAML."""
    return config_from_yaml((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))


def header(name: str) -> list[str]:
    """The comment lines at the top of a YAML, as texts."""
    lines = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    top = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return [line.removeprefix("# ") for line in top]


@cache
def opened(data: DataConfig) -> ImageDataset:
    """A dataset, rendered once for all that have it in common."""
    return open_dataset(data)


def shrink(name: str, folder: Path) -> Config:
    """The experiment of a YAML in seconds: smaller images and layers, few steps, everything else as it is there.

    The small config is checked as any other, so that a YAML which needs what a small one cannot have is refused.
    """
    config = load(name)
    changes: dict[str, dict[str, Any]] = {
        "data": {"image_size": min(config.data.image_size, 32), "num_workers": 0},
        "model": {"channels": (8, 8, 8, 16), "hidden_dim": 16, "prior_hidden_dim": 8},
        "unet": {
            "block_out_channels": (8,) * len(config.unet.block_out_channels),
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        "train": {
            "output_dir": str(folder / "run"),
            "train_batch_size": 8,
            "report_to": "none",
            "logging_steps": 1,
        },
    }
    if config.data.name == "own":
        changes["data"] |= {"path": str(ROOT / str(config.data.path)), "cache_dir": str(folder / "cache")}
    if config.model.pretrained_ivae is not None:
        saved = pretrained_ivae(config.model.pretrained_ivae, folder / "pretrained")
        changes["model"]["pretrained_ivae"] = str(saved)
    # every stage is two steps long
    parts = config.windows
    stops = {part: config.stop_step(window) for part, window in parts.items()}
    edges = sorted({0, *(window.start_step for window in parts.values()), *stops.values()})
    short = {edge: 2 * i for i, edge in enumerate(edges)}
    changes["train"]["max_train_steps"] = short[config.train.max_train_steps]
    for part, window in parts.items():
        changes[part] = {"start_step": short[window.start_step], "stop_step": short[stops[part]]}
    groups = {group: replace(getattr(config, group), **values) for group, values in changes.items()}
    return replace(config, **groups)


def pretrained_ivae(pipeline: str, folder: Path) -> Path:
    """An untrained pipeline, made small alike, of the YAML whose run is saved at `pipeline`."""
    (source,) = (name for name in NAMES if f"{load(name).train.output_dir}/pipeline" == pipeline)
    config = shrink(source, folder)
    build_pipeline(config, build_objective(config, opened(config.data))).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def outputs(pipe: IVAEDiffusionPipeline, dataset: ImageDataset) -> dict[str, Tensor]:
    """What each part of a pipeline gives for the same inputs."""
    pipe.set_progress_bar_config(disable=True)
    found: dict[str, Tensor] = {}
    if pipe.ivae is not None:
        numbers = torch.Generator().manual_seed(0)
        found["latents"] = pipe.encode(dataset.images(torch.arange(4)))
        law = pipe.ivae.prior(torch.rand(4, pipe.ivae.prior_encoder.aux_dim, generator=numbers)).latent_dist
        found["prior"] = law.sample(torch.randn(4, *law.noise_shape, generator=numbers))
        found["decoded"] = pipe.ivae.decode(found["latents"]).sample
    if pipe.unet is not None:
        source = {"batch_size": 4} if pipe.ivae is None else {"latents": found["latents"]}
        generators = [torch.Generator().manual_seed(i) for i in range(4)]
        drawn = pipe(
            **source, guidance_scale=2.0, num_inference_steps=2, generator=generators, output_type="pt"
        )
        found["drawn"] = drawn.images
    return found


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=[pytest.mark.slow] if load(name).model.backbone in RESNETS or name in ALIKE else []
        )
        for name in NAMES
    ],
)
def test_a_config_learns_and_is_loaded_as_it_was_saved(name: str, tmp_path: Path) -> None:
    config = shrink(name, tmp_path)
    run = TrainingRun(config)
    before = {key: tensor.detach().clone() for key, tensor in run.module.named_parameters()}
    for step in run.steps():
        training_step(run, step)
        run.log(step)
    seen = {
        term
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        for term in json.loads(line)
    }
    learns = {"kl": config.model.learns_ivae, "rec": config.model.learns_ivae and config.loss.rec > 0}
    learns["ddpm"] = config.model.diffusion
    assert {term for term, is_there in learns.items() if is_there} <= seen
    assert not {term for term, is_there in learns.items() if not is_there} & seen
    for part, module in (("ivae.", run.module.ivae), ("unet.", run.module.unet)):
        moved = any(
            not torch.equal(before[key], tensor)
            for key, tensor in run.module.named_parameters()
            if key.startswith(part)
        )
        learned = config.model.learns_ivae if part == "ivae." else module is not None
        assert moved == learned, part

    saved = IVAEDiffusionPipeline.from_pretrained(run.finish())
    dataset = opened(config.data)
    with run.learner.averaged() as module:
        live = outputs(build_pipeline(config, module), dataset)
    loaded = outputs(saved, dataset)
    assert live.keys() == loaded.keys() and len(live) > 0
    for what, tensor in live.items():
        assert torch.isfinite(tensor).all() and torch.equal(tensor, loaded[what]), what


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_what_it_is_and_writes_to_a_folder_of_its_own(name: str) -> None:
    assert header(name) and load(name).train.output_dir.startswith("runs/")
    assert load(name).train.output_dir not in [
        load(other).train.output_dir for other in NAMES if other != name
    ]


def test_each_row_of_the_tables_has_a_config() -> None:
    assert sorted(name for name in NAMES if name.startswith("paper/")) == sorted([*FIGURES, *FROZEN])
    rows = [row[0].split(",")[0] for row in FIGURES.values()]
    assert {table: rows.count(f"Table {table}") for table in range(2, 10)} == {
        **dict.fromkeys((2, 3), 3),
        **dict.fromkeys((4, 5, 6, 9), 2),
        7: 6,
        8: 1,
    }


@pytest.mark.parametrize("name", FIGURES)
def test_a_header_names_table_and_row_and_has_the_papers_figures(name: str) -> None:
    row, *figures = FIGURES[name]
    first, second, *_ = header(name)
    how = "one run" if "±" not in figures[0] else "mean ± std / max"
    assert re.fullmatch(rf"{re.escape(row)}(,? .*)?\. The paper's figures \({re.escape(how)}\):", first)
    assert (
        second
        == "; ".join(f"{metric} {figure}" for metric, figure in zip(METRICS, figures, strict=True)) + "."
    )


@pytest.mark.parametrize("name", [*FIGURES, *FROZEN])
def test_what_the_paper_states_is_set(name: str) -> None:
    """Table 1, Sections 2.2 to 2.7, and for each table the backbone, the dataset, u, and the kind of model that its caption names."""
    config, title = load(name), header(name)[0]
    data, model, loss = config.data, config.model, config.loss
    rows = len(opened(DataConfig(name=data.name, image_size=16)).split(data.held_out, config.train.seed)[0])
    assert config.train.max_train_steps * config.train.train_batch_size == 10 * rows
    assert config.train.train_batch_size == 32 and data.image_size == 64
    assert (config.optim_ivae.learning_rate, config.optim_unet.learning_rate) == (2e-4, 2e-4)
    assert (loss.rec, loss.kl_anneal_factor, loss.kl_balance, loss.free_bits) == (0.1, 1.0, None, 0.0)
    assert model.latent_dim == 10 and not config.aux.modulate_mean

    table = int(title.split()[1].rstrip(",")) if title.startswith("Table") else 0
    assert data.name == ("dsprites" if table == 8 else "shapes3d")
    backbone = {3: "resnet50", 6: "resnet18", 8: "resnet18"}.get(table, "cnn")
    if table == 4:
        backbone = name.rpartition("_")[2]
    assert (model.backbone, model.norm) == (backbone, "none" if backbone == "cnn" else "batch")
    row = title.partition(", ")[2]
    is_vae = row.startswith("VAE")
    assert (config.aux.name == "none") == is_vae and (model.prior_type == "standard") == is_vae
    if not is_vae:
        # the first stage's sampling: Table 2, what is of its models, and the column of Table 5 that names it
        old = table in (0, 2, 9) or row.startswith("Normal")
        assert (config.aux.name, model.prior_type) == ("normal" if old else "uniform_posterior", "learned")
        assert config.aux.label_to_z == ("endpoints" if old else "centers")
    categorical = row.startswith("CatVAE")
    assert model.latent_type == ("categorical" if categorical else "gaussian")
    assert (model.num_categories, model.uniform_mix) == (10, 0.01)
    if table == 7:
        weights = [0.005, 0.0025, 5e-4, 2.5e-4, 5e-5, 2.5e-5]
        assert loss.kl == float(row.split()[1]) in weights and loss.kl_reverse in weights
    else:
        assert (loss.kl, loss.kl_reverse) == (1e-4, 0.0)
    assert model.diffusion == ("DDPM" in title or table == 9)
    if model.diffusion:
        unet = config.unet
        assert (unet.prediction_type, unet.conditioning, unet.patch_size) == ("epsilon", "additive", 1)
        assert (config.cfg.drop_prob, config.cfg.null_condition) == (0.2, "zeros")
        assert (loss.weighting, loss.timestep_law) == ("plain", "uniform")
        assert config.scheduler.num_train_timesteps == 1000 and 64 <= unet.block_out_channels[0] <= 128
        assert config.train.ema_max_decay == 0.9999 and 4.0 in config.eval.guidance_scales
        assert model.freeze_ivae == (name in FROZEN)
        assert loss.latent_grad_scale == (0.0 if model.freeze_ivae else 1.0)
