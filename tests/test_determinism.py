"""What `train.deterministic` switches, for how long, and what repeats bit for bit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from idiff_hf.arguments import config_from_yaml
from idiff_hf.builders import build_batches, build_dataset, build_objective
from idiff_hf.determinism import deterministic
from idiff_hf.random import BatchRandom
from idiff_hf.stages import phase
from tests.faults.runs import assert_same_weights, losses, weights
from tests.tiny import joint, tiny_config
from train_ivae_ddpm import train

ROOT = Path(__file__).parents[1]
VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


def switches() -> dict[str, Any]:
    return {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "products": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
        "search": torch.backends.cudnn.benchmark,
        "cudnn": torch.backends.cudnn.deterministic,
        "workspace": os.environ.get(VARIABLE),
    }


@pytest.fixture
def loose(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Every switch the other way; gives what they are, and puts back what they were."""
    monkeypatch.delenv(VARIABLE, raising=False)
    products = torch.backends.cuda.matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield switches()
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.matmul.allow_tf32 = products


def test_switches_are_on_inside_and_as_before_outside(loose: dict[str, Any]) -> None:
    with deterministic(True):
        assert switches() == {
            "algorithms": True,
            "warn_only": False,
            "products": False,
            "convolutions": False,
            "search": False,
            "cudnn": True,
            "workspace": ":4096:8",
        }
    assert switches() == loose
    with deterministic(False):
        assert switches() == loose


def test_switches_go_back_after_an_error_and_a_set_variable_stays(
    loose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, ":16:8")
    with pytest.raises(ZeroDivisionError), deterministic(True):
        assert switches()["workspace"] == ":16:8"
        raise ZeroDivisionError
    assert switches() == {**loose, "workspace": ":16:8"}


def test_what_cannot_repeat_itself_is_refused() -> None:
    target, rows = torch.zeros(3), torch.tensor([0, 0])
    with (
        deterministic(True),
        pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"),
    ):
        target.put_(rows, torch.ones(2))
    target.put_(rows, torch.ones(2))


def test_a_deterministic_run_says_so_and_on_a_cpu_differs_in_no_bit(tmp_path: Path) -> None:
    """Two stages with accumulation: the same run with the switch, without it, and without it again."""
    seen = []
    for name, on in (("with", True), ("without", False), ("again", False)):
        config = tiny_config(
            tmp_path / name, train_batch_size=8, gradient_accumulation_steps=2, deterministic=on
        )
        train(config)
        assert not torch.are_deterministic_algorithms_enabled()
        record = json.loads((tmp_path / name / "training.json").read_text())
        assert record["deterministic"] is on
        seen.append((losses(tmp_path / name), weights(tmp_path / name, 8)))
    for other_losses, other_weights in seen[1:]:
        assert other_losses == seen[0][0]
        assert_same_weights(other_weights, seen[0][1])


def test_the_switch_is_off_again_when_a_run_fails(tmp_path: Path) -> None:
    (tmp_path / "run" / "pipeline").mkdir(parents=True)
    with pytest.raises(ValueError, match="already holds a run"):
        train(tiny_config(tmp_path / "run", deterministic=True))
    assert not torch.are_deterministic_algorithms_enabled()


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_another_thread_count_changes_last_bits_only(tmp_path: Path) -> None:
    """One step of the quickstart's networks, both parts learning, on one thread and on two: losses and gradients.

    At this size convolutions and sums are cut into pieces by the number of threads, which is why bits may differ.
    """
    config = joint(config_from_yaml((ROOT / "configs" / "quickstart.yaml").read_text()))
    config = replace(config, train=replace(config.train, output_dir=str(tmp_path)))
    dataset = build_dataset(config)
    objective = build_objective(config, dataset)
    random = BatchRandom(0, 0, 0, 32, torch.device("cpu"))
    batch = build_batches(config, dataset)(32, random)
    found = []
    for count in (1, 2):
        with threads(count):
            objective.zero_grad()
            terms = objective(batch.image, batch.aux, random, phase(config, 0))
            terms["loss"].backward()
        gradients = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
        found.append(({name: float(value.detach()) for name, value in terms.items()}, gradients))
    (one, one_gradients), (two, two_gradients) = found
    assert two == pytest.approx(one, rel=1e-6)
    difference = max(
        float((a - b).norm() / a.norm()) for a, b in zip(one_gradients, two_gradients, strict=True)
    )
    print(
        f"1 against 2 threads: losses {one} {two}, gradients differ by {difference:.1e} of their norm at most"
    )
    assert difference < 1e-5
