"""Damage is found before anything is loaded: altered files, planted files, values that are not finite."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from idiff_hf import folders
from idiff_hf.checkpoint import latest_checkpoint, load_checkpoint, match_tensors
from idiff_hf.folders import MANIFEST, DamagedFolderError, commit_folder, verify_folder
from tests.faults.checkpoints import FILES, assert_is_step, commit, groups, names, refusal
from tests.faults.figures import Figure


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


@pytest.mark.faults
def test_two_hundred_mutations_are_found_before_a_live_tensor_changes(tmp_path: Path, figure: Figure) -> None:
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
    figure(
        "F10",
        f"{found} of {len(cases)} damaged files found before a live tensor changed, the step before taken",
    )


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


@pytest.mark.faults
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, figure: Figure) -> None:
    folder = commit(tmp_path, 1)
    tensors = {"a": torch.ones(2), "b": torch.tensor([1.0, value]).bfloat16()}
    with commit_folder(folder, metadata={"step": 1}) as again:
        shutil.copytree(folder, again, dirs_exist_ok=True)
        (again / "ema.safetensors").write_bytes(save(tensors))
    assert refusal(lambda: load_checkpoint(folder)) == f"{folder}: tensor 'ema/b' holds NaN or infinity"
    figure("F14", "refused")


def test_a_committed_folder_without_a_step_is_no_checkpoint(tmp_path: Path) -> None:
    with commit_folder(tmp_path / "pipeline", metadata={}):
        pass
    message = refusal(lambda: load_checkpoint(tmp_path / "pipeline"))
    assert message == f"{tmp_path / 'pipeline'} holds what was committed, but no checkpoint: KeyError('step')"
