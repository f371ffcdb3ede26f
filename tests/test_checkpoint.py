"""Checkpoints come back bit for bit; what they survive is in `tests/faults`."""

from __future__ import annotations

import logging
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from idiff_hf import folders
from idiff_hf.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    load_optimizer_tensors,
    match_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from idiff_hf.folders import MANIFEST, clean_leftovers, commit_folder, verify_folder
from tests.faults.checkpoints import FILES, assert_is_step, commit, groups, names, refusal, steps
from tests.faults.figures import Figure

# Round trip


def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 4, generator=generator)
    tensors = {
        "float32": base,
        "bfloat16": base.bfloat16(),
        "float16": base.half(),
        "float64": base.double() / 3,
        "int64": torch.tensor([2**62 + 1, -(2**62) - 1]),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": base > 0,
        "zero_dim": torch.tensor(3.25),
        "empty": torch.zeros(0, 3),
        "denormal": torch.tensor([1e-45, -0.0]),
        "transposed": base.t(),
        "strided": base[::2, 1:3],
        "expanded": base[:1].expand(5, 4),
        "channels_last": torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
        "tied": base,
        "parameter": nn.Parameter(base[0]),
    }
    folder = save_checkpoint(tmp_path, 7, {"model": tensors, "unused": {}}, {}, "", metadata={})
    loaded = load_checkpoint(folder).tensors
    assert loaded["unused"] == {}
    assert loaded["model"].keys() == tensors.keys()
    for name, saved in tensors.items():
        back = loaded["model"][name]
        assert (back.shape, back.dtype, back.device.type) == (saved.shape, saved.dtype, "cpu"), name
        plain = saved.detach().contiguous().reshape(-1)
        assert torch.equal(back.reshape(-1).view(torch.uint8), plain.view(torch.uint8)), name


def test_state_config_and_metadata_come_back_equal(tmp_path: Path) -> None:
    state = {"loss": 0.1 + 0.2, "step": 2**60, "list": [1, None, True], "nested": {"ä\n": "ö"}}
    text = "seed: 0\r\nname: Ähre\n"
    metadata = {"world_size": 2, "versions": {"torch": "2"}, 3: "an integer key becomes a string"}
    folder = save_checkpoint(tmp_path / "a b/ü", 12, {"model": {}}, state, text, metadata=metadata)
    loaded = load_checkpoint(folder)
    assert folder == tmp_path / "a b/ü/step-00000012"
    assert (loaded.step, loaded.state, loaded.config_text) == (12, state, text)
    assert loaded.manifest["metadata"] == {
        "world_size": 2,
        "versions": {"torch": "2"},
        "3": metadata[3],
        "step": 12,
    }
    assert names(folder) == ["MANIFEST.json", "config.yaml", "model.safetensors", "trainer.json"]


def test_files_are_readable_by_the_group_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = commit(tmp_path, 1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in FILES} == {0o644}


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    commit(tmp_path, 3)
    save_checkpoint(tmp_path, 3, {"model": {}}, {"again": True}, "", metadata={})
    assert names(tmp_path) == steps(3)
    assert load_checkpoint(tmp_path / "step-00000003").state == {"again": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "step is -1: it must be 0 or more"),
        ({"total_limit": 1}, "total_limit is 1: it must be 2 or more, for one to fall back to"),
        (
            {"tensors": {"../up": {}}},
            "tensor group '../up' is no file name: use letters, digits, '-' and '_'",
        ),
        (
            {"tensors": {"model": {"w": torch.tensor([1.0, float("nan")])}}},
            "step 1: tensor 'model/w' holds NaN or infinity",
        ),
        ({"state": {"loss": float("nan")}}, "not plain JSON, cannot be saved: Out of range float values"),
        ({"state": {"path": Path("x")}}, "not plain JSON, cannot be saved: Object of type PosixPath"),
        ({"state": {1: 2}}, "state does not come back equal from JSON: use string keys, lists for tuples"),
        ({"metadata": {"loss": float("inf")}}, "not plain JSON, cannot be saved: Out of range float values"),
    ],
)
def test_refused_arguments_leave_nothing_behind(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arguments = {"step": 1, "tensors": groups(1), "state": {}, "config_text": "", "metadata": {}, **change}
    assert refusal(lambda: save_checkpoint(tmp_path, **arguments)).startswith(message)
    assert names(tmp_path) == []


# Rotation and search


def test_rotation_keeps_the_newest_the_protected_and_later_branches(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        commit(tmp_path, step, total_limit=2, protect=tmp_path / "step-00000010")
    assert names(tmp_path) == steps(10, 30, 40)
    commit(tmp_path, 15, total_limit=2)
    assert names(tmp_path) == steps(10, 15, 30, 40)
    commit(tmp_path, 50, total_limit=3)
    assert names(tmp_path) == steps(30, 40, 50)
    commit(tmp_path, 60)
    assert names(tmp_path) == steps(30, 40, 50, 60)


def test_stray_entries_are_ignored(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "missing") is None
    folder = commit(tmp_path, 5)
    elsewhere = commit(tmp_path / "elsewhere", 99)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "step-abc").mkdir()
    (tmp_path / "step-00000077.corrupt-0").mkdir()
    (tmp_path / "step-00000088").write_text("a file")
    (tmp_path / "step-00000099").symlink_to(elsewhere)
    (folder / ".DS_Store").write_bytes(b"dropped by a file browser")
    before = names(tmp_path)
    assert latest_checkpoint(tmp_path) == folder
    clean_leftovers(tmp_path)
    assert names(tmp_path) == before
    assert_is_step(folder, 5)


def test_damaged_checkpoints_are_set_aside_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        commit(tmp_path, step)
    (tmp_path / "step-00000003" / "ema.safetensors").unlink()
    (tmp_path / "step-00000002" / "trainer.json").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        found = latest_checkpoint(tmp_path)
    assert found == tmp_path / "step-00000001"
    assert [name.partition(".corrupt-")[0] for name in names(tmp_path)] == steps(1, 2, 3)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "'ema.safetensors' is missing" in caplog.messages[0]
    assert "'trainer.json' was altered" in caplog.messages[1]
    commit(tmp_path, 2, total_limit=2)
    assert [name for name in names(tmp_path) if "corrupt" not in name] == steps(1, 2)


def test_a_newer_format_is_an_error_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(folders, "FORMAT_VERSION", 2)
        commit(tmp_path, 2)
    message = refusal(lambda: latest_checkpoint(tmp_path))
    assert message == f"{tmp_path / 'step-00000002'} has format version 2, this reads 1"
    assert names(tmp_path) == steps(1, 2)


def test_leftovers_of_killed_runs_are_cleaned_and_restored(tmp_path: Path) -> None:
    token = "0" * 31
    commit(tmp_path, 1)
    for number, name in enumerate((".tmp-step-00000002", ".del-step-00000000", ".old-step-00000001")):
        commit(tmp_path, 7).rename(tmp_path / f"{name}-{token}{number}")
    older = commit(tmp_path, 6).rename(tmp_path / f".old-pipeline-{token}3")
    os.utime(older, (1, 1))
    commit(tmp_path, 8).rename(tmp_path / f".old-pipeline-{token}4")
    (tmp_path / ".tmp-notes-of-the-user").mkdir()
    (tmp_path / f".tmp-file-{token}5").write_text("a file")
    clean_leftovers(tmp_path)
    assert names(tmp_path) == [f".tmp-file-{token}5", ".tmp-notes-of-the-user", "pipeline", *steps(1)]
    assert load_checkpoint(tmp_path / "pipeline").step == 8
    clean_leftovers(tmp_path / "missing")


# Committing a folder


def test_commit_folder_is_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "pipeline"
    with commit_folder(target, metadata={"of": "a run"}) as folder:
        assert folder.parent == tmp_path and folder.name.startswith(".tmp-pipeline-")
        (folder / "unet").mkdir()
        (folder / "unet" / "config.json").write_text("{}")
        assert not target.exists()
    manifest = verify_folder(target)
    assert manifest["metadata"] == {"of": "a run"}
    # SHA-256 of "{}", computed with sha256sum.
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert manifest["files"] == {"unet/config.json": {"size": 2, "sha256": digest}}

    with pytest.raises(RuntimeError, match="boom"), commit_folder(target, metadata={}) as folder:
        (folder / "half").write_text("half")
        raise RuntimeError("boom")
    assert names(tmp_path) == ["pipeline"]
    assert verify_folder(target) == manifest

    # A copy of a committed folder brings its old manifest along.
    with commit_folder(target, metadata={"of": "another"}) as folder:
        shutil.copytree(target, folder, dirs_exist_ok=True)
    assert verify_folder(target)["files"] == manifest["files"]
    assert names(tmp_path) == ["pipeline"]


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_commit_folder_does_not_replace_what_is_not_its_own(tmp_path: Path, kind: str) -> None:
    target, own = tmp_path / "pipeline", commit(tmp_path, 1)
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        target.symlink_to(own)
    else:
        target.mkdir()
        (target / "thesis.tex").write_text("mine")

    def write() -> None:
        with commit_folder(target, metadata={}):
            pass

    before = names(tmp_path)
    assert refusal(write) == f"{target} is in the way and has no {MANIFEST}: move it elsewhere"
    assert names(tmp_path) == before


def test_tensors_that_do_not_fit_are_refused() -> None:
    live = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    match_tensors(live, {name: tensor.clone() for name, tensor in live.items()}, "model")
    assert refusal(lambda: match_tensors(live, {"a": live["a"]}, "model")) == (
        "model: 'b' is missing from the checkpoint (1 names differ)"
    )
    assert refusal(lambda: match_tensors(live, {**live, "c\n": live["b"]}, "ema")) == (
        "ema: 'c\\n' is unexpected in the checkpoint (1 names differ)"
    )
    assert refusal(lambda: match_tensors(live, {**live, "a": torch.zeros(3, 2)}, "model")) == (
        "model: 'a' has shape (2, 3) and dtype torch.float32, saved was shape (3, 2) and dtype torch.float32"
    )
    assert refusal(
        lambda: match_tensors(live, {**live, "b": torch.zeros(4, dtype=torch.int64)}, "model")
    ) == ("model: 'b' has shape (4,) and dtype torch.float32, saved was shape (4,) and dtype torch.int64")


# Optimizer


LAYERS = ("first", "second", "frozen")


def layers(order: tuple[str, ...]) -> nn.ModuleDict:
    """Three layers whose values depend on their name and not on the order of registration."""
    modules = {name: nn.Linear(3, 3, device="meta").to_empty(device="cpu") for name in LAYERS}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in LAYERS:
            for parameter in modules[name].parameters():
                parameter.normal_(generator=generator)
    return nn.ModuleDict({name: modules[name] for name in order})


def adamw(model: nn.Module, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.parameters(), **{"lr": 1e-2, "weight_decay": 0.1, "amsgrad": True, **options}
    )


def train(model: nn.ModuleDict, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        model["second"](model["first"](x).relu()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.faults
@pytest.mark.parametrize("order", [LAYERS, ("frozen", "second", "first")])
@pytest.mark.parametrize("foreach", [False, True])
def test_optimizer_is_restored_by_name_and_goes_on_bit_for_bit(
    tmp_path: Path, order: tuple[str, ...], foreach: bool, figure: Figure
) -> None:
    model = layers(LAYERS)
    optimizer = adamw(model, foreach=foreach)
    train(model, optimizer, 0, 5)
    saved = {"model": model.state_dict(), "optimizer": optimizer_tensors(optimizer, model.named_parameters())}
    folder = save_checkpoint(tmp_path, 5, saved, {}, "", metadata={})
    train(model, optimizer, 5, 10)
    expected = optimizer_tensors(optimizer, model.named_parameters())

    resumed = layers(order)
    other = adamw(resumed, foreach=foreach)
    tensors = load_checkpoint(folder).tensors
    match_tensors(resumed.state_dict(), tensors["model"], "model")
    load_optimizer_tensors(other, resumed.named_parameters(), tensors["optimizer"])
    resumed.load_state_dict(tensors["model"])
    train(resumed, other, 5, 10)

    actual = optimizer_tensors(other, resumed.named_parameters())
    assert actual.keys() == expected.keys()
    assert {name.partition(".")[0] for name in actual} == {"first", "second"}
    assert {name.rpartition("/")[2] for name in actual} == {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"}
    assert actual["first.weight/step"].item() == 10
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in model.state_dict().items())
    if order != LAYERS:
        figure("F6", "parts registered in another order: equal bit for bit")


def test_optimizer_keeps_its_hyperparameters_and_drops_other_state() -> None:
    model = layers(LAYERS)
    optimizer = adamw(model)
    assert optimizer_tensors(optimizer, model.named_parameters()) == {}
    train(model, optimizer, 0, 2)
    saved = {k: v.clone() for k, v in optimizer_tensors(optimizer, model.named_parameters()).items()}
    other = adamw(model, lr=0.5, betas=(0.5, 0.6))
    load_optimizer_tensors(other, model.named_parameters(), saved)
    assert (other.param_groups[0]["lr"], other.param_groups[0]["betas"]) == (0.5, (0.5, 0.6))
    train(model, other, 2, 3)
    assert saved["first.weight/step"].item() == 2, "the checkpoint's tensors are copied"
    load_optimizer_tensors(other, model.named_parameters(), {})
    assert optimizer_tensors(other, model.named_parameters()) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gone/step": torch.tensor(1.0)}, "optimizer: 'gone/step' was saved, but 'gone' is not optimized"),
        (
            {"first.weight/exp_avg": torch.zeros(9)},
            "optimizer: 'first.weight/exp_avg' has shape (9,), not (3, 3)",
        ),
        ({"first.bias/exp_avg": None}, "optimizer: 'first.bias/exp_avg' is missing from the checkpoint"),
    ],
)
def test_optimizer_state_that_does_not_fit_changes_nothing(
    change: dict[str, Tensor | None], message: str
) -> None:
    model = layers(LAYERS)
    optimizer = adamw(model)
    train(model, optimizer, 0, 2)
    before = {k: v.clone() for k, v in optimizer_tensors(optimizer, model.named_parameters()).items()}
    saved = {k: v for k, v in {**before, **change}.items() if v is not None}
    assert refusal(lambda: load_optimizer_tensors(optimizer, model.named_parameters(), saved)) == message
    after = optimizer_tensors(optimizer, model.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_optimizer_state_that_cannot_be_named_is_refused() -> None:
    model = layers(LAYERS)
    optimizer = adamw(model)
    train(model, optimizer, 0, 1)
    some = list(model["second"].named_parameters())
    assert refusal(lambda: optimizer_tensors(optimizer, some)) == (
        "optimizer: cannot save 'step' of a parameter without a name: Tensor"
    )
    optimizer.state[model["first"].weight]["step"] = 3
    assert refusal(lambda: optimizer_tensors(optimizer, model.named_parameters())) == (
        "optimizer: cannot save 'step' of first.weight: int"
    )
