"""Checkpoints come back bit for bit, and survive kills, full disks, damage and bad company."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from idiff_hf import checkpoint, folders
from idiff_hf.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    load_optimizer_tensors,
    match_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from idiff_hf.folders import (
    MANIFEST,
    CheckpointError,
    DamagedFolderError,
    RunLock,
    clean_leftovers,
    commit_folder,
    verify_folder,
)

FILES = (
    "MANIFEST.json",
    "config.yaml",
    "ema.safetensors",
    "model.safetensors",
    "optimizer.safetensors",
    "trainer.json",
)


def groups(step: int, size: int = 8) -> dict[str, dict[str, Tensor]]:
    """Three groups that only a checkpoint of this step holds."""
    return {
        "model": {"weight": torch.full((size,), float(step)), "bias": torch.arange(3.0)},
        "ema": {"weight": torch.full((size,), step + 0.5)},
        "optimizer": {
            "weight/exp_avg": torch.full((size,), -float(step)),
            "weight/step": torch.tensor(float(step)),
        },
    }


def commit(root: Path, step: int, size: int = 8, **options: Any) -> Path:
    state = {"step": step, "best": 0.1}
    return save_checkpoint(
        root, step, groups(step, size), state, "seed: 0\n", metadata={"seed": 0}, **options
    )


def assert_is_step(folder: Path, step: int) -> None:
    loaded = load_checkpoint(folder)
    assert (loaded.step, loaded.state["step"]) == (step, step)
    assert torch.all(loaded.tensors["model"]["weight"] == step)
    assert torch.all(loaded.tensors["ema"]["weight"] == step + 0.5)
    assert torch.all(loaded.tensors["optimizer"]["weight/exp_avg"] == -step)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def steps(*numbers: int) -> list[str]:
    return [f"step-{number:08d}" for number in numbers]


def refusal(call: Callable[[], object], kind: type[CheckpointError] = CheckpointError) -> str:
    """The message of the refusal, which must be one line."""
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


# Damage


def spoil(folder: Path, name: str, how: str, random_: random.Random) -> None:
    path = folder / name
    raw = bytearray(path.read_bytes())
    if how == "delete":
        path.unlink()
        return
    if how == "flip":
        raw[random_.randrange(len(raw))] ^= 1 << random_.randrange(8)
    elif how == "append":
        raw += b"\0"
    else:
        del raw[0 if how == "empty" else random_.randrange(len(raw)) :]
    path.write_bytes(raw)


def test_two_hundred_mutations_are_found_before_a_live_tensor_changes(tmp_path: Path) -> None:
    random_ = random.Random(0)
    good, root = commit(tmp_path / "good", 2), tmp_path / "root"
    commit(root, 1)
    cases = [(name, how) for name in FILES for how in ("delete", "empty", "append", *["truncate"] * 8)]
    cases += [(name, "flip") for name in FILES for _ in range(23)]
    live = groups(0)
    found = 0
    for name, how in cases:
        folder = root / "step-00000002"
        shutil.copytree(good, folder)
        spoil(folder, name, how, random_)

        def restore(folder: Path = folder) -> None:
            loaded = load_checkpoint(folder)
            for group, tensors in live.items():
                match_tensors(tensors, loaded.tensors[group], group)
            for group, tensors in live.items():
                for key, tensor in tensors.items():
                    tensor.copy_(loaded.tensors[group][key])

        message = refusal(restore, DamagedFolderError)
        assert repr(name) in message, message
        assert latest_checkpoint(root) == root / "step-00000001"
        assert all(torch.equal(live[g][key], x) for g, of in groups(0).items() for key, x in of.items())
        found += 1
    assert found == len(cases) == 204
    assert sum(".corrupt-" in name for name in names(root)) == 204
    assert_is_step(root / "step-00000001", 1)


def test_every_byte_of_the_manifest_counts(tmp_path: Path) -> None:
    folder = commit(tmp_path, 1)
    raw = (folder / MANIFEST).read_bytes()
    with (folder / MANIFEST).open("r+b", buffering=0) as file:
        for position, byte in enumerate(raw):
            for bit in (0, 5):  # bit 5 is the case of a letter
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), position)
                with pytest.raises(DamagedFolderError, match="was altered or truncated"):
                    verify_folder(folder)
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert_is_step(folder, 1)


@pytest.mark.parametrize(
    "raw",
    [
        b"[]",
        b'"text"',
        b"{}",
        b"1e999",
        b"\xff",
        b"[" * 100_000,
        b'{"a": NaN}',
        b"9" * 5000,
        b'{"files": []}',
    ],
)
def test_a_manifest_of_another_form_is_refused(tmp_path: Path, raw: bytes) -> None:
    folder = commit(tmp_path, 1)
    (folder / MANIFEST).write_bytes(raw)
    assert "'MANIFEST.json' was altered or truncated" in refusal(
        lambda: verify_folder(folder), DamagedFolderError
    )


def test_company_in_a_folder_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("seed: 0\n")
    folder = commit(tmp_path, 1)

    (folder / "extra.bin").write_bytes(b"")
    assert refusal(lambda: verify_folder(folder), DamagedFolderError) == (
        f"{folder}: 'extra.bin' is not in the manifest"
    )
    (folder / "extra.bin").unlink()

    (folder / "config.yaml").unlink()
    (folder / "config.yaml").symlink_to(secret)
    message = f"{folder}: 'config.yaml' is a link or a special file"
    assert refusal(lambda: load_checkpoint(folder), DamagedFolderError) == message
    (folder / "config.yaml").unlink()
    os.mkfifo(folder / "config.yaml")
    assert refusal(lambda: load_checkpoint(folder), DamagedFolderError) == message


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/../../secret"])
def test_a_manifest_cannot_reach_outside_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("x")
    folder = commit(tmp_path, 1)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    del manifest["manifest_sha256"]
    manifest["files"][name] = folders._fingerprint(tmp_path / "secret")
    (folder / MANIFEST).write_bytes(folders._sealed(manifest))
    assert refusal(lambda: verify_folder(folder), DamagedFolderError) == f"{folder}: {name!r} is missing"


class Bomb:
    """Pickles to a call that leaves a file behind where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.canary),))


@pytest.mark.parametrize("name", [*FILES, "optimizer.bin", "random_states_0.pkl", "scaler.pt"])
@pytest.mark.parametrize("resealed", [False, True])
@pytest.mark.parametrize("protocol", [0, 4])
def test_a_planted_pickle_never_runs(tmp_path: Path, name: str, resealed: bool, protocol: int) -> None:
    canary, root = tmp_path / "canary", tmp_path / "root"
    folder = commit(root, 1)
    bomb = pickle.dumps(Bomb(canary), protocol)
    if resealed and name != MANIFEST:
        with commit_folder(folder, metadata={"step": 1}) as again:
            shutil.copytree(folder, again, dirs_exist_ok=True)
            (again / name).write_bytes(bomb)
        # What is plain text to begin with, or read by nobody, is not refused, and does not run either.
        if name in FILES and (name, protocol) != ("config.yaml", 0):
            assert "holds what was committed, but no checkpoint" in refusal(lambda: load_checkpoint(folder))
        else:
            load_checkpoint(folder)
    else:
        (folder / name).write_bytes(bomb)
        refusal(lambda: load_checkpoint(folder), DamagedFolderError)
        assert latest_checkpoint(root) is None
    assert not canary.exists()
    pickle.loads(bomb)
    assert canary.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    folder = commit(tmp_path, 1)
    tensors = {"a": torch.ones(2), "b": torch.tensor([1.0, value]).bfloat16()}
    with commit_folder(folder, metadata={"step": 1}) as again:
        shutil.copytree(folder, again, dirs_exist_ok=True)
        (again / "ema.safetensors").write_bytes(save(tensors))
    assert refusal(lambda: load_checkpoint(folder)) == f"{folder}: tensor 'ema/b' holds NaN or infinity"


def test_a_committed_folder_without_a_step_is_no_checkpoint(tmp_path: Path) -> None:
    with commit_folder(tmp_path / "pipeline", metadata={}):
        pass
    message = refusal(lambda: load_checkpoint(tmp_path / "pipeline"))
    assert message == f"{tmp_path / 'pipeline'} holds what was committed, but no checkpoint: KeyError('step')"


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


@pytest.mark.parametrize("order", [LAYERS, ("frozen", "second", "first")])
@pytest.mark.parametrize("foreach", [False, True])
def test_optimizer_is_restored_by_name_and_goes_on_bit_for_bit(
    tmp_path: Path, order: tuple[str, ...], foreach: bool
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


# Kills, full disks, locks: in processes of their own

# Imports the checkpoint module without the rest of the package, and forks one process for each line it is given.
HOST = """
import json, os, signal, sys, time, types
from pathlib import Path
package = sys.modules["idiff_hf"] = types.ModuleType("idiff_hf")
package.__path__ = [str(Path(sys.argv[1]).parent)]
from idiff_hf import checkpoint, folders
import torch
torch.set_num_threads(1)

def commit(root, step, size, limit):
    tensors = {
        "model": {"weight": torch.full((size,), float(step)), "bias": torch.arange(3.0)},
        "ema": {"weight": torch.full((size,), step + 0.5)},
        "optimizer": {"weight/exp_avg": torch.full((size,), -float(step))},
    }
    state = {"step": step, "best": 0.1}
    checkpoint.save_checkpoint(root, step, tensors, state, "seed: 0\\n", metadata={}, total_limit=limit)

def save_forever(root, step, size, limit):
    while True:
        began = time.perf_counter()
        commit(Path(root), step, size, limit)
        with open(root + ".log", "a") as log:
            log.write(f"{step} {time.perf_counter() - began}\\n")
        step += 1

def save_and_die(root, step, limit, operations):
    left = operations
    def counted(function):
        def call(*args, **kwargs):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return function(*args, **kwargs)
        return call
    for name in ("rename", "fsync", "unlink", "rmdir", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    Path.write_bytes = counted(Path.write_bytes)
    commit(Path(root), step, 8, limit)

def save_with_small_files(root, step, size, most):
    import resource
    _, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, unlimited))
    try:
        commit(Path(root), step, size, None)
    except folders.CheckpointError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
        Path(root + ".log").write_text(str(error))
        os._exit(3)

def lock_and_fork(root):
    folders.RunLock(Path(root)).acquire()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    Path(root + ".pid").write_text(str(child))
    time.sleep(60)

for line in sys.stdin:
    name, arguments = json.loads(line)
    process = os.fork()
    if process == 0:
        try:
            globals()[name](*arguments)
            os._exit(0)
        finally:
            os._exit(1)
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


class Host:
    """Starts processes that import nothing, since they are forks of one that has."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", HOST, str(checkpoint.__file__)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, name: str, *arguments: object) -> int:
        """Runs a function of `HOST` in a new process and returns its id."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(
            json.dumps([name, [str(a) if isinstance(a, Path) else a for a in arguments]]) + "\n"
        )
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """The exit code of the process that was started, or minus the signal that ended it."""
        assert self.process.stdout
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    started = Host()
    yield started
    assert started.process.stdin and started.process.stdout
    started.process.kill()
    started.process.wait()
    started.process.stdin.close()
    started.process.stdout.close()


def test_kill_at_random_moments_loses_nothing(host: Host, tmp_path: Path) -> None:
    random_ = random.Random(0)
    root, log = tmp_path / "root", tmp_path / "root.log"
    step, mid_save = 1, 0
    for _ in range(12):
        known = log.stat().st_size if log.exists() else 0
        process = host.start("save_forever", root, step, 1_000_000, 2)
        deadline = time.monotonic() + 60
        while (log.stat().st_size if log.exists() else 0) == known:
            assert time.monotonic() < deadline, "no save within a minute"
            time.sleep(0.002)
        # At any moment of the next save, however long one takes on this machine.
        time.sleep(random_.random() * float(log.read_text().splitlines()[-1].split()[1]))
        os.kill(process, signal.SIGKILL)
        assert host.wait() == -signal.SIGKILL

        acknowledged = int(log.read_text().splitlines()[-1].split()[0])
        mid_save += any(name.startswith(".") for name in names(root))
        visible = [name for name in names(root) if not name.startswith(".")]
        assert all(verify_folder(root / name) for name in visible)
        clean_leftovers(root)
        assert names(root) == visible
        newest = latest_checkpoint(root)
        assert newest is not None
        step = load_checkpoint(newest).step
        assert step in (acknowledged, acknowledged + 1)
        assert_is_step(newest, step)
        step += 1
    assert mid_save >= 4, "the kills missed the saves"


@pytest.mark.parametrize("again", [False, True])
def test_kill_before_each_operation_of_a_save(host: Host, tmp_path: Path, again: bool) -> None:
    """A save with rotation (limit 2), and one that replaces its own step, die at every place they can."""
    start = tmp_path / "start"
    commit(start, 1)
    commit(start, 2)
    step = 2 if again else 3
    seen = set()
    for operations in range(100):
        root = tmp_path / f"root{operations}"
        shutil.copytree(start, root)
        host.start("save_and_die", root, step, 2, operations)
        ended = host.wait()
        assert ended in (0, -signal.SIGKILL)
        visible = [name for name in names(root) if not name.startswith(".")]
        assert all(verify_folder(root / name) for name in visible)
        seen.add(tuple(visible))
        clean_leftovers(root)
        whole = names(root)
        assert whole in ([steps(1, 2)] if again else [steps(1, 2), steps(1, 2, 3), steps(2, 3)])
        newest = latest_checkpoint(root)
        assert newest == root / whole[-1]
        assert_is_step(newest, int(whole[-1][-8:]))
        commit(root, 4, total_limit=2)
        assert names(root) == steps(int(whole[-1][-8:]), 4)
        if ended == 0:
            break
    else:
        pytest.fail("the save never ended")
    assert operations > 15
    between = tuple(steps(1)) if again else tuple(steps(1, 2, 3))
    assert between in seen, "the kill between the renames was not tried"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs the right to mount a tmpfs")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_leaves_earlier_checkpoints_whole(small_disk: Path) -> None:
    root, size, page = small_disk / "root", 40_000, 4096
    commit(root, 1, size)
    failed = 0
    for pages in range(0, 140, 7):
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"")
        free = os.statvfs(small_disk).f_bavail - pages
        ballast.write_bytes(bytes(free * page))
        message = ""
        try:
            commit(root, 2, size)
        except CheckpointError as error:
            message = str(error)
        if not message:
            break
        assert message.startswith(f"cannot write {root / 'step-00000002'}: ") and "\n" not in message
        assert "No space left on device" in message
        assert names(root) == steps(1)
        assert latest_checkpoint(root) == root / "step-00000001"
        failed += 1
    assert failed >= 15
    assert names(root) == steps(1, 2)
    assert_is_step(root / "step-00000001", 1)
    assert_is_step(root / "step-00000002", 2)


def test_read_only_disk_gives_one_line(small_disk: Path) -> None:
    root = small_disk / "root"
    folder = commit(root, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system" in refusal(lambda: commit(root, 2))
    assert "Read-only file system" in refusal(RunLock(root).acquire)
    assert latest_checkpoint(root) == folder
    assert_is_step(folder, 1)


def test_a_write_that_fails_half_way_leaves_no_folder(host: Host, tmp_path: Path) -> None:
    root = tmp_path / "root"
    commit(root, 1)
    for most in (0, 500, 5000):
        host.start("save_with_small_files", root, 2, 10_000, most)
        assert host.wait() == 3
        message = (tmp_path / "root.log").read_text()
        assert message.startswith(f"cannot write {root / 'step-00000002'}: ") and "File too large" in message
        assert names(root) == steps(1)
    assert_is_step(root / "step-00000001", 1)


def test_a_folder_removed_while_running_is_made_again(tmp_path: Path) -> None:
    commit(tmp_path / "run" / "checkpoints", 1)
    shutil.rmtree(tmp_path / "run")
    assert_is_step(commit(tmp_path / "run" / "checkpoints", 2, total_limit=2), 2)


def test_a_second_run_in_one_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    message = f"{folder} is in use by another run: use another folder"
    with RunLock(folder) as lock:
        assert refusal(RunLock(folder).acquire) == message
        assert refusal(lock.acquire) == message
        assert refusal(RunLock(folder).acquire) == message, "the failed attempts did not lose the lock"
    second = RunLock(folder)
    second.acquire()
    second.release()
    second.release()
    (tmp_path / "file").write_text("")
    assert refusal(RunLock(tmp_path / "file").acquire).startswith(f"cannot lock {tmp_path / 'file'}: ")


def test_a_killed_run_loses_its_lock_even_when_a_worker_lives_on(host: Host, tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "run.pid"
    process = host.start("lock_and_fork", folder)
    deadline = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker = int(file.read_text())
    assert refusal(RunLock(folder).acquire).endswith("is in use by another run: use another folder")
    os.kill(process, signal.SIGKILL)
    assert host.wait() == -signal.SIGKILL
    os.kill(worker, 0)
    with RunLock(folder):
        pass
    os.kill(worker, signal.SIGKILL)
