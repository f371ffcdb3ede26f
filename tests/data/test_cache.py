"""The image cache: the bytes that were written, built once, whole or not at all, by any number of processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from idiff_hf.data.cache import ArrayImages, cached_images, default_cache_dir

SHAPE = (50, 4, 6, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


class Writer:
    """Writes `PIXELS` in blocks and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, out: np.ndarray, advance: Callable[[int], None]) -> None:
        self.calls += 1
        for start in range(0, len(out), 16):
            block = PIXELS[start : start + 16]
            out[start : start + 16] = block
            advance(len(block))


def files(folder: Path) -> list[str]:
    """What lies in the cache besides the files that are locked."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != ".lock")


def test_holds_what_was_written_and_is_read_only(tmp_path: Path) -> None:
    images = cached_images(tmp_path, "toy", {"md5": "x"}, SHAPE, Writer())
    assert isinstance(images, np.memmap)
    assert images.dtype == np.uint8
    assert np.array_equal(images, PIXELS)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0
    assert [name.split("/")[1:] for name in files(tmp_path)] == [
        ["images", "MANIFEST.json"],
        ["images", "images.npy"],
    ]


def test_is_built_once_and_again_for_another_fingerprint_or_shape(tmp_path: Path) -> None:
    writer = Writer()
    for _ in range(3):
        cached_images(tmp_path, "toy", {"size": 1, "names": ("a", "b")}, SHAPE, writer)
    assert writer.calls == 1
    cached_images(tmp_path, "toy", {"size": 2, "names": ("a", "b")}, SHAPE, writer)
    cached_images(
        tmp_path, "toy", {"size": 1, "names": ("a", "b")}, (49, *SHAPE[1:]), lambda out, advance: None
    )
    assert writer.calls == 2
    assert len(list(tmp_path.iterdir())) == 3


def test_a_name_with_a_slash_stays_inside_the_cache(tmp_path: Path) -> None:
    cached_images(tmp_path / "cache", "../owner/set", {}, SHAPE, Writer())
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert [path.name.rsplit("-", 1)[0] for path in (tmp_path / "cache").iterdir()] == [".._owner_set"]


def test_what_fill_returns_is_recorded(tmp_path: Path) -> None:
    def fill(out: np.ndarray, advance: Callable[[int], None]) -> dict[str, str]:
        return {"md5": "abc"}

    cached_images(tmp_path, "toy", {"size": 1}, SHAPE, fill)
    manifest = json.loads(next(tmp_path.rglob("MANIFEST.json")).read_bytes())
    assert manifest["metadata"] == {
        "fingerprint": {"size": 1},
        "shape": list(SHAPE),
        "source": {"md5": "abc"},
    }


def test_a_fill_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fill(out: np.ndarray, advance: Callable[[int], None]) -> None:
        out[:10] = 1
        raise ValueError("row 10 is not an image")

    with pytest.raises(ValueError, match=r"^row 10 is not an image$"):
        cached_images(tmp_path, "toy", {}, SHAPE, fill)
    assert files(tmp_path) == []
    assert np.array_equal(cached_images(tmp_path, "toy", {}, SHAPE, Writer()), PIXELS)


@pytest.mark.parametrize("damage", ["truncate", "delete", "manifest"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: str) -> None:
    writer = Writer()
    cached_images(tmp_path, "toy", {}, SHAPE, writer)
    path = next(tmp_path.rglob("MANIFEST.json" if damage == "manifest" else "images.npy"))
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    assert np.array_equal(cached_images(tmp_path, "toy", {}, SHAPE, writer), PIXELS)
    assert writer.calls == 2


def test_the_disk_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    def fill(out: np.ndarray, advance: Callable[[int], None]) -> None:
        raise AssertionError("called")

    with pytest.raises(
        ValueError, match=r"^the decoded images of toy take 1,000,000.0 GB and .* GB free: make room"
    ) as error:
        cached_images(tmp_path, "toy", {}, (10**9, 1000, 1000, 1), fill)
    assert "\n" not in str(error.value)
    assert files(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_fills_up_is_one_line(tmp_path: Path) -> None:
    """The free space is there when it is looked up and gone when it is allocated: as when two builds start at once."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(ValueError, match=r"cannot write .*No space left on device") as error:
            # With the header of the file it is more than the disk has.
            cached_images(disk, "toy", {}, (2**20 // 64, 8, 8, 1), Writer())
        assert "\n" not in str(error.value)
        assert files(disk) == []
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # the error still holds what was mapped


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot use the image cache") as error:
        cached_images(tmp_path / "file", "toy", {}, SHAPE, Writer())
    assert "\n" not in str(error.value)


def fill_slowly(out: np.ndarray, advance: Callable[[int], None], log: Path, seconds: float) -> None:
    with log.open("a") as file:
        file.write("built\n")
    for row, pixels in enumerate(PIXELS):
        out[row] = pixels
        advance(1)
        time.sleep(seconds / len(out))


def child(cache: Path, log: Path, seconds: float) -> None:
    """What another process does: exits with 0 when it has read what was written."""
    images = cached_images(cache, "toy", {}, SHAPE, partial(fill_slowly, log=log, seconds=seconds))
    os._exit(int(not np.array_equal(images, PIXELS)))


def start(cache: Path, log: Path, seconds: float) -> multiprocessing.process.BaseProcess:
    # Forked: importing torch anew in each would take longer than all tests here.
    process = multiprocessing.get_context("fork").Process(target=child, args=(cache, log, seconds))
    process.start()
    return process


def test_a_killed_build_is_not_taken_for_whole_and_its_remains_go(tmp_path: Path) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    process = start(cache, log, 60.0)
    while not log.exists():
        assert process.is_alive()
        time.sleep(0.02)
    time.sleep(0.2)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [Path(name).name for name in files(cache)] == ["images.npy"]
    assert not list(cache.glob("*/images"))
    assert np.array_equal(cached_images(cache, "toy", {}, SHAPE, Writer()), PIXELS)
    assert [Path(name).name for name in files(cache)] == ["MANIFEST.json", "images.npy"]


def test_of_several_processes_one_builds_and_all_read_it_whole(tmp_path: Path) -> None:
    processes = [start(tmp_path / "cache", tmp_path / "log", 0.5) for _ in range(4)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_cache_that_is_only_readable_serves(tmp_path: Path) -> None:
    cached_images(tmp_path, "toy", {}, SHAPE, Writer())
    next(tmp_path.rglob(".lock")).unlink()
    assert np.array_equal(cached_images(tmp_path, "toy", {}, SHAPE, Writer()), PIXELS)
    assert not list(tmp_path.rglob(".lock"))


def test_default_folder_is_beside_the_other_caches_of_hugging_face() -> None:
    from huggingface_hub.constants import HF_HOME

    assert default_cache_dir() == Path(HF_HOME) / "idiff_hf"


@pytest.mark.parametrize("channels", [1, 3])
def test_array_images_gathers_rows(tmp_path: Path, channels: int) -> None:
    pixels = PIXELS[..., :channels].copy()
    rows = torch.tensor([49, 0, 7, 7])
    batch = ArrayImages(pixels, "cpu")(rows)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous()
    assert torch.equal(batch, torch.from_numpy(pixels[rows.numpy()]).permute(0, 3, 1, 2))
    assert ArrayImages(pixels, "cpu")(rows[:0]).shape == (0, channels, 4, 6)


def test_array_images_are_the_callers_own_copy(tmp_path: Path) -> None:
    images = ArrayImages(cached_images(tmp_path, "toy", {}, SHAPE, Writer()), "cpu")
    row = torch.tensor([3])
    images(row).zero_()
    assert torch.equal(images(row)[0], torch.from_numpy(PIXELS[3]).permute(2, 0, 1))


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [True, False])
def test_array_images_are_the_same_on_an_accelerator(monkeypatch: pytest.MonkeyPatch, resident: bool) -> None:
    if not resident:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * PIXELS.nbytes - 1, 0))
    images = ArrayImages(PIXELS, "cuda")
    rows = torch.randint(50, (64,), generator=torch.Generator().manual_seed(0))
    for given in (rows, rows.cuda()):
        assert torch.equal(images(given).cpu(), ArrayImages(PIXELS, "cpu")(rows))
