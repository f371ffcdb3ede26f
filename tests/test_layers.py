"""The order of imports: a module sees lower layers and its own folder only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    {"config", "folders", "markdown", "annealing", "determinism", "processes", "interruption"},
    {
        "random",
        "distributions",
        "arguments",
        "stages",
        "baselines",
        "model_types",
        "latent_names",
        "hub_folder",
        "run_log",
    },
    {"data", "models", "schedulers", "guidance", "metrics", "divergence", "guards"},
    {"timesteps", "pipelines"},
    {"losses"},
    {"builders", "card_scores", "checkpoint", "figures", "provenance", "results"},
    {
        "learner",
        "validation",
        "replay",
        "readback",
        "drawing",
        "data_figures",
        "metric_figures",
        "describe",
        "sensitivity",
        "sampler_curve",
    },
    {"training", "evaluation", "pipeline_scores", "hub"},
    {"dry_run", "publishing", "samples", "demo", "experiments"},
    {"cli"},
)
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}
MODULES = sorted(
    path
    for path in (ROOT / "idiff_hf").rglob("*.py")
    if path.parent != ROOT / "idiff_hf" or path.stem != "__init__"
)
# The program at the root, which the command line also starts.
SCRIPT = "train_ivae_ddpm"


def imported(source: str, package: tuple[str, ...]) -> set[str]:
    """Absolute dotted names of all that `source`, a module in `package`, imports, at any depth of nesting."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *([node.module] if node.module else [])]
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def part(path: Path) -> str:
    return path.relative_to(ROOT / "idiff_hf").with_suffix("").parts[0]


def imports_of(path: Path) -> set[str]:
    return imported(path.read_text(encoding="utf-8"), path.relative_to(ROOT).parent.parts)


def test_relative_and_nested_imports_are_seen() -> None:
    source = "import a.b\ndef f():\n    from . import c\n    from ..d import e\n    from g import h"
    assert imported(source, ("p", "q")) == {"a.b", "p.q.c", "p.d.e", "g.h"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_lower_layers_only(path: Path) -> None:
    assert part(path) in LAYER, f"{path.name} belongs to no layer: name it in LAYERS"
    for name in imports_of(path):
        head, *rest = name.split(".")
        if head != "idiff_hf":
            continue
        assert rest, f"{path.name} imports the whole package: import from a submodule"
        if rest[0] != part(path):
            assert rest[0] in LAYER, f"{path.name} imports {name}: import from a submodule"
            assert LAYER[rest[0]] < LAYER[part(path)], (
                f"{path.name} (layer {LAYER[part(path)]}) imports {name}"
            )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_command_line_imports_the_training_program(path: Path) -> None:
    assert part(path) == "cli" or not any(name.split(".")[0] == SCRIPT for name in imports_of(path))


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if part(path) == "metrics"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_metrics_know_neither_torch_nor_diffusers(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & {"torch", "diffusers", "accelerate"}


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if part(path) in ("arguments", "config")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_command_line_is_read_without_torch(path: Path) -> None:
    heads = {item.split(".")[0] for item in imports_of(path)}
    assert not heads & {"torch", "diffusers", "accelerate", "numpy", "scipy", "sklearn", "matplotlib"}
