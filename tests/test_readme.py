"""What the README prints is what is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from idiff_hf.builders import build_dataset, build_objective, build_pipeline
from tests.blocks import blocks, run_python, section
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_test_command_word_for_word() -> None:
    lines = [line.strip() for block in blocks(README, "bash") for line in block.source.splitlines()]
    commands = [line for line in lines if line.endswith("pytest")]
    assert len(commands) == 1, (
        f"expected one line of the README's bash blocks to end with pytest, got {commands}"
    )
    assert commands[0] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word for word, on an untrained model of the quickstart's size of images and latents."""
    (use,) = blocks(section(README, "Use"), "python")
    (sampling,) = blocks(section(README, "Sampling"), "python")
    config = tiny_config(tmp_path)
    config = replace(
        config,
        data=replace(config.data, image_size=32),
        model=replace(config.model, latent_dim=10, prior_type="known"),
        unet=replace(config.unet, patch_size=8),
    )
    objective = build_objective(config, build_dataset(config)).eval()
    build_pipeline(config, objective).save_pretrained(tmp_path / "runs" / "quickstart" / "pipeline")
    monkeypatch.chdir(tmp_path)
    run_python(use.source, {})
    assert Image.open("picture.png").size == (32, 32)
    names: dict[str, object] = {}
    run_python(sampling.source, names)
    assert Image.open("sampling.png").size == (5 * 32, 3 * 32)
    assert names["latents"].shape == (1, 10)  # type: ignore[attr-defined]
