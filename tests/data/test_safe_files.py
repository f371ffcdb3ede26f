"""Hostile and damaged files: refused in one line, at once, in little memory, with no byte of another file read and nothing executed."""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

from idiff_hf.data.factors import FactorSpace
from idiff_hf.data.files import FileLayout, read_grid_file
from idiff_hf.data.safe_files import Wanted, load_mat
from tests.faults.figures import Figure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches files and memory as Linux lets one")

SPACE = FactorSpace(("hue", "size", "angle"), (2, 3, 4))
LAYOUT = FileLayout(
    "toy",
    SPACE,
    (8, 8, 3),
    labels={"hdf5": "labels", "npz": "labels"},
    values=((0, 1), (0, 1, 2), (0, 1, 2, 3)),
)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
LABELS = SPACE.factors(torch.arange(24)).numpy()
SECRET = b"canary" * 1000
MEGABYTE = 2**20


class Watch:
    """Counts openings and readings of files, by inotify, whoever does them."""

    def __init__(self, *paths: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(os.O_NONBLOCK)
        for path in paths:
            assert libc.inotify_add_watch(self._handle, bytes(path), 0x1 | 0x20) > 0  # IN_ACCESS, IN_OPEN

    def events(self) -> int:
        try:
            return len(os.read(self._handle, 65536)) // 16
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self._handle)


def memory(name: str) -> int:
    """`VmHWM`, the peak, or `VmRSS` of this process in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def refused(path: Path, layout: FileLayout = LAYOUT, seconds: float = 1.0) -> str:
    """The message with which a file is refused, after the other promises were checked."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, start = memory("VmRSS"), time.perf_counter()
    with pytest.raises(ValueError) as caught:
        read_grid_file(path, layout, 8, path.parent / "cache", "cpu")
    assert time.perf_counter() - start < seconds
    assert memory("VmHWM") - before < 100 * MEGABYTE
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    left = [file for file in (path.parent / "cache").rglob("*") if file.is_file()]
    assert [file.stat().st_size for file in left] == [0] * len(left)  # locks
    return message.removeprefix(f"{path}: ")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def secret_h5(tmp_path: Path) -> Path:
    path = tmp_path / "secret.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=np.full(IMAGES.shape, 99, np.uint8), maxshape=(None, 8, 8, 3))
        file["labels"] = LABELS
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    """What the refused ones differ from."""
    with h5py.File(tmp_path / "good.h5", "w") as file:
        file["images"], file["labels"] = IMAGES, LABELS
    np.savez(tmp_path / "good.npz", images=IMAGES, labels=LABELS)
    for name in ("good.h5", "good.npz"):
        dataset = read_grid_file(tmp_path / name, LAYOUT, 8, tmp_path / "cache", "cpu")
        assert torch.equal(dataset.images(torch.arange(24)), torch.from_numpy(IMAGES).permute(0, 3, 1, 2))


def external_storage(file: h5py.File, secret: Path, secret_h5: Path) -> None:
    file["labels"] = LABELS
    file.create_dataset("images", IMAGES.shape, np.uint8, external=[(str(secret), 0, IMAGES.nbytes)])


def external_labels(file: h5py.File, secret: Path, secret_h5: Path) -> None:
    file["images"] = IMAGES
    file.create_dataset("labels", LABELS.shape, np.uint8, external=[(str(secret), 0, LABELS.size)])


def external_link(file: h5py.File, secret: Path, secret_h5: Path) -> None:
    file["labels"] = LABELS
    file["images"] = h5py.ExternalLink(str(secret_h5), "/images")


def external_link_to_labels(file: h5py.File, secret: Path, secret_h5: Path) -> None:
    file["images"] = IMAGES
    file["labels"] = h5py.ExternalLink(str(secret_h5), "/labels")


def link_by_way_of_a_link(file: h5py.File, secret: Path, secret_h5: Path) -> None:
    file["labels"] = LABELS
    file["elsewhere"] = h5py.ExternalLink(str(secret_h5), "/")
    file["images"] = h5py.SoftLink("/elsewhere/images")


def virtual(file: h5py.File, secret: Path, secret_h5: Path) -> None:
    file["labels"] = LABELS
    layout = h5py.VirtualLayout(IMAGES.shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(secret_h5), "images", IMAGES.shape)
    file.create_virtual_dataset("images", layout)


def virtual_without_end(file: h5py.File, secret: Path, secret_h5: Path) -> None:
    """Its shape is that of its source, which HDF5 opens to know it."""
    file["labels"] = LABELS
    rows = slice(0, h5py.h5s.UNLIMITED)
    layout = h5py.VirtualLayout(IMAGES.shape, np.uint8, maxshape=(None, 8, 8, 3))
    source = h5py.VirtualSource(str(secret_h5), "images", IMAGES.shape, maxshape=(None, 8, 8, 3))
    layout[rows] = source[rows]
    file.create_virtual_dataset("images", layout)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (external_storage, "'images' has its data in other files, which are not read"),
        (external_labels, "'labels' has its data in other files, which are not read"),
        (external_link, "'images' is a link, which is not followed"),
        (external_link_to_labels, "'labels' is a link, which is not followed"),
        (link_by_way_of_a_link, "'images' is a link, which is not followed"),
        (virtual, "'images' has its data in other files, which are not read"),
        (virtual_without_end, "'images' has its data in other files, which are not read"),
    ],
)
def test_no_byte_of_another_file_is_read(
    tmp_path: Path, secret: Path, secret_h5: Path, make: Callable[..., None], message: str
) -> None:
    path = tmp_path / "hostile.h5"
    with h5py.File(path, "w") as file:
        make(file, secret, secret_h5)
    watch = Watch(secret, secret_h5)
    assert refused(path) == message
    assert watch.events() == 0
    # The watch sees what plain h5py does with the same file.
    with h5py.File(path) as file:
        assert len(file["images"][:]) == len(file["labels"][:])
    assert watch.events() > 0
    watch.close()


def test_a_link_in_a_group_is_not_followed(tmp_path: Path, secret_h5: Path) -> None:
    layout = replace(LAYOUT, labels={"hdf5": "latents/classes"})
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file["images"] = IMAGES
        file["latents"] = h5py.ExternalLink(str(secret_h5), "/")
    watch = Watch(secret_h5)
    assert refused(tmp_path / "group.h5", layout) == "'latents/classes' is a link, which is not followed"
    with h5py.File(tmp_path / "inside.h5", "w") as file:
        file["images"] = IMAGES
        file["latents/classes"] = h5py.ExternalLink(str(secret_h5), "/labels")
    assert refused(tmp_path / "inside.h5", layout) == "'latents/classes' is a link, which is not followed"
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["images"], file["latents"] = IMAGES, LABELS
    expected = "there is no 'latents/classes', only ['images', 'latents']"
    assert refused(tmp_path / "flat.h5", layout) == expected
    assert watch.events() == 0
    watch.close()


def declared(**arguments: Any) -> Callable[[h5py.File], None]:
    """`images` with a declaration of its own and nothing written."""
    return lambda file: file.create_dataset(
        "images", **{"shape": IMAGES.shape, "dtype": np.uint8, **arguments}
    )


def last_chunk_missing(file: h5py.File) -> None:
    file.create_dataset("images", IMAGES.shape, np.uint8, chunks=(7, 8, 8, 3))[:21] = IMAGES[:21]


def of_this(data: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.__setitem__("images", data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            declared(shape=(2**30, 64, 64, 3), chunks=(1, 64, 64, 3)),
            "has shape (1073741824, 64, 64, 3), expected (24,",
        ),
        (declared(), "'images' is incomplete, 0 of 4,608 bytes were written"),
        (declared(chunks=(1, 8, 8, 3)), "'images' is incomplete, 0 of 24 chunks were written"),
        (last_chunk_missing, "'images' is incomplete, 3 of 4 chunks were written"),
        (
            declared(chunks=(24, 8, 8, 2**20), maxshape=(None,) * 4),
            "has chunks of (24, 8, 8, 1048576): save it again",
        ),
        (declared(scaleoffset=8), "'images' is compressed by HDF5 filters [6]: save it again with gzip"),
        (of_this(IMAGES.astype(np.float32)), "'images' has dtype float32, expected uint8"),
        (of_this(IMAGES.astype(np.int8)), "'images' has dtype int8, expected uint8"),
        (of_this(IMAGES.transpose(0, 3, 1, 2)), "'images' has shape (24, 3, 8, 8), expected (24, 8, 8, 3)"),
        (of_this(IMAGES[..., 0]), "'images' has shape (24, 8, 8), expected (24, 8, 8, 3)"),
        (of_this(IMAGES[:23]), "'images' has shape (23, 8, 8, 3), expected (24, 8, 8, 3)"),
        (of_this(np.uint8(3)), "'images' has shape (), expected (24, 8, 8, 3)"),
        (of_this(h5py.Empty("u1")), "'images' has shape None, expected (24, 8, 8, 3)"),
        (of_this(np.dtype(np.uint8)), "'images' is not a dataset"),
        (lambda file: file.create_group("images"), "'images' is not a dataset"),
        (lambda file: None, "there is no 'images', only ['labels']"),
        (declared(dtype=h5py.vlen_dtype(np.uint8)), "'images' has dtype object, expected uint8"),
        (declared(dtype=h5py.ref_dtype), "'images' has dtype object, expected uint8"),
        (declared(dtype=[("red", "u1")]), "'images' has dtype [('red', 'u1')], expected uint8"),
    ],
)
def test_hdf5_that_is_not_what_it_should_be(
    tmp_path: Path, make: Callable[[h5py.File], None], message: str
) -> None:
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["labels"] = LABELS
        make(file)
    assert message in refused(tmp_path / "bad.h5")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:, :2], "'labels' has shape (24, 2), expected (24, 3)"),
        (LABELS.astype("S1"), "'labels' has dtype |S1, expected numbers of at most eight bytes"),
        (
            LABELS.astype(np.complex64),
            "'labels' has dtype complex64, expected numbers of at most eight bytes",
        ),
        (LABELS.astype(np.longdouble), "expected numbers of at most eight bytes"),
        (LABELS + 1, "hue is 2 in row 12, expected one of 0, 1"),
    ],
)
def test_labels_that_are_not_what_they_should_be(
    tmp_path: Path, labels: np.ndarray, message: str, figure: Figure
) -> None:
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["images"], file["labels"] = IMAGES, labels
    np.savez(tmp_path / "bad.npz", images=IMAGES, labels=labels)
    assert message in refused(tmp_path / "bad.h5")
    assert message.replace("(24, 3)", "(24, 3) or (2, 3, 4, 3)") in refused(tmp_path / "bad.npz")
    figure("F18", "refused in one line")


def test_what_is_no_such_file_at_all(tmp_path: Path) -> None:
    assert refused(tmp_path / "missing.h5") == "there is no such file"
    (tmp_path / "nowhere.h5").symlink_to(tmp_path / "missing.h5")
    assert refused(tmp_path / "nowhere.h5") == "there is no such file"
    (tmp_path / "folder.h5").mkdir()
    assert refused(tmp_path / "folder.h5") == "is not a file"
    os.mkfifo(tmp_path / "pipe.h5")
    assert refused(tmp_path / "pipe.h5") == "is not a file"
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x05\x06" + bytes(18)):
        (tmp_path / "text.h5").write_bytes(content)
        assert refused(tmp_path / "text.h5") == f"is neither HDF5 nor npz, it begins with {content[:8]!r}"


@pytest.mark.parametrize("kept", [8, 100, 0.3, 0.9, -1])
@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_a_file_that_was_cut_off(tmp_path: Path, kept: float, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("images", data=IMAGES, chunks=(1, 8, 8, 3), compression="gzip")
            file["labels"] = LABELS
    else:
        np.savez_compressed(path, images=IMAGES, labels=LABELS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    assert refused(path).startswith("cannot be read: ")


def test_compressed_bytes_that_were_altered(tmp_path: Path) -> None:
    """Headers are in order, so that it shows when the cache is half filled; nothing of it stays."""
    with h5py.File(tmp_path / "flipped.h5", "w") as file:
        images = file.create_dataset(
            "images", IMAGES.shape, np.uint8, chunks=(12, 8, 8, 3), compression="gzip"
        )
        images[:12] = IMAGES[:12]
        images.id.write_direct_chunk((12, 0, 0, 0), zlib.compress(IMAGES[12:].tobytes())[:-500])
        file["labels"] = LABELS
    assert refused(tmp_path / "flipped.h5").startswith("cannot be read: ")
    np.savez(tmp_path / "flipped.npz", images=IMAGES, labels=LABELS)
    raw = bytearray((tmp_path / "flipped.npz").read_bytes())
    raw[raw.index(IMAGES[20].tobytes())] ^= 1
    (tmp_path / "flipped.npz").write_bytes(raw)
    assert refused(tmp_path / "flipped.npz") == "cannot be read: Bad CRC-32 for file 'images.npy'"


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("key", ["images", "labels"])
@pytest.mark.parametrize("shape", [(), None])
def test_python_objects_are_not_unpickled(tmp_path: Path, key: str, shape: tuple[int, ...] | None) -> None:
    canary = tmp_path / "canary"
    arrays = {"images": IMAGES, "labels": LABELS}
    bombs = np.empty(arrays[key].shape if shape is None else shape, dtype=object)
    bombs.fill(Bomb(canary))
    np.savez(tmp_path / "bomb.npz", **{**arrays, key: bombs})  # type: ignore[arg-type]
    assert refused(tmp_path / "bomb.npz") == f"{key!r} holds Python objects, which are not unpickled"
    assert not canary.exists()
    np.load(tmp_path / "bomb.npz", allow_pickle=True)[key]
    assert canary.exists()


@pytest.mark.parametrize("name", ["3dshapes.h5", "dsprites.npz"])
def test_a_pickle_by_the_name_of_a_file_is_not_unpickled(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "canary")))
    assert refused(tmp_path / name).startswith("is neither HDF5 nor npz")
    assert not (tmp_path / "canary").exists()


def npy(array: np.ndarray, shape: tuple[int, ...] | None = None, fortran_order: bool = False) -> bytes:
    """The bytes of an npy file, its header possibly of another array."""
    file = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": fortran_order, "shape": shape or array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


def zipped(path: Path, images: bytes, extra: int = 0, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An npz with these bytes as `images`, followed by zeros."""
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        archive.writestr("labels.npy", npy(LABELS))
        with archive.open("images.npy", "w") as entry:
            entry.write(images)
            for _ in range(extra // MEGABYTE):
                entry.write(bytes(MEGABYTE))
    return path


def test_an_npz_that_grows_is_not_inflated(tmp_path: Path) -> None:
    path = zipped(tmp_path / "bomb.npz", npy(IMAGES), extra=300 * MEGABYTE)
    assert path.stat().st_size < 4 * MEGABYTE
    assert refused(path) == "'images' has 314,577,408 bytes, which is not what its header says"
    # A header that says that it has 300 MB.
    header = b"\x93NUMPY\x02\x00" + struct.pack("<I", 300 * MEGABYTE)
    assert refused(zipped(tmp_path / "head.npz", header, extra=300 * MEGABYTE)).startswith("cannot be read: ")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            npy(IMAGES, (2**30, 64, 64, 3)),
            "'images' has shape (1073741824, 64, 64, 3), expected (24, 8, 8, 3) or (2, 3,",
        ),
        (npy(IMAGES[:23], IMAGES.shape), "'images' has 4,416 bytes, which is not what its header says"),
        (npy(IMAGES.astype(np.int64)), "'images' has dtype int64, expected uint8"),
        (npy(IMAGES, fortran_order=True), "'images' is in Fortran order: save it again in C order"),
        (npy(IMAGES)[:20], "cannot be read: "),
        (b"GIF89a" + bytes(100), "cannot be read: the magic string is not correct"),
        (b"\x93NUMPY\x09\x00" + npy(IMAGES)[8:], "cannot be read: npy format (9, 0) is not known"),
        (npy(IMAGES).replace(b"False", b"print"), "cannot be read: "),
    ],
)
def test_npz_that_is_not_what_it_should_be(tmp_path: Path, images: bytes, message: str) -> None:
    assert message in refused(zipped(tmp_path / "bad.npz", images))


def test_npz_that_numpy_would_not_write(tmp_path: Path) -> None:
    path = zipped(tmp_path / "lzma.npz", npy(IMAGES), method=zipfile.ZIP_LZMA)
    assert refused(path) == "'images' is compressed by a method that NumPy does not use"
    path = zipped(tmp_path / "locked.npz", npy(IMAGES))
    raw = bytearray(path.read_bytes())
    for position in (raw.rindex(b"PK\x01\x02") + 8, raw.index(b"images.npy") - 24):
        raw[position] |= 1  # encrypted
    path.write_bytes(raw)
    assert "password" in refused(path)
    np.savez(tmp_path / "keys.npz", pictures=IMAGES, labels=LABELS)
    assert refused(tmp_path / "keys.npz") == "there is no 'images', only ['pictures', 'labels']"


def test_a_header_of_python_2_is_read_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    # As in the published dSprites: whole numbers end in L.
    old = npy(IMAGES).replace(b"(24, 8, 8, 3), }    ", b"(24L, 8L, 8L, 3L), }")
    assert b"24L" in old
    path = zipped(tmp_path / "old.npz", old)
    dataset = read_grid_file(path, LAYOUT, 8, tmp_path / "cache", "cpu")
    assert torch.equal(dataset.images(torch.arange(24)), torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    assert not recwarn.list


MESHES = FileLayout(
    "cars", FactorSpace(("elevation", "azimuth", "object_type"), (2, 3, 2)), (8, 8, 3), meshes=True
)
MESH = IMAGES[:6].reshape(8, 8, 3, 3, 2)


def meshes(folder: Path, bad: bytes) -> Path:
    """A folder of two cars of which the second is `bad`."""
    folder.mkdir()
    savemat(folder / "car_1.mat", {"im": MESH})
    (folder / "car_2.mat").write_bytes(bad)
    return folder


def mat(compressed: bool = True, **arrays: Any) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays, do_compression=compressed)
    return file.getvalue()


def big_endian_mat(name: bytes, array: np.ndarray) -> bytes:
    """A MATLAB file as a machine of the other order of bytes writes it."""
    flags = struct.pack(">IIII", 6, 8, 9, 0)
    sizes = struct.pack(f">II{array.ndim}i", 5, 4 * array.ndim, *array.shape) + bytes(array.ndim % 2 * 4)
    short_name = struct.pack(">HH4s", len(name), 1, name)
    data = struct.pack(">II", 2, array.size) + array.tobytes(order="F") + bytes(-array.size % 8)
    matrix = flags + sizes + short_name + data
    return b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(matrix)) + matrix


@pytest.mark.parametrize(
    "content",
    [
        mat(im=MESH),
        mat(False, im=MESH),
        mat(mask=np.random.default_rng(1).random((50, 50)), a={"b": "c"}, im=MESH, later=MESH),
        mat(False, mask=np.zeros((3, 5)), text="abc", im=MESH, later=MESH),
        big_endian_mat(b"im", MESH),
    ],
)
def test_mat_is_read_as_scipy_reads_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "car.mat").write_bytes(content)
    array = load_mat(tmp_path / "car.mat", Wanted("im", (MESH.shape,), pixels=True))
    expected = loadmat(tmp_path / "car.mat")["im"]
    assert array.dtype == expected.dtype
    assert np.array_equal(array, expected)
    assert np.array_equal(array, MESH)


def test_mat_with_a_long_name_and_an_array_of_the_real_size(tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(0, 8, (128, 128, 3, 24, 4), dtype=np.uint8)
    (tmp_path / "car.mat").write_bytes(mat(image_of_the_car=array))
    wanted = Wanted("image_of_the_car", (array.shape,), pixels=True)
    assert np.array_equal(load_mat(tmp_path / "car.mat", wanted), array)


def compressed_mat(matrix: bytes, extra: int) -> bytes:
    """A MATLAB file of one compressed variable, followed by zeros inside."""
    packer = zlib.compressobj(1)
    packed = packer.compress(matrix)
    for _ in range(extra // MEGABYTE):
        packed += packer.compress(bytes(MEGABYTE))
    packed += packer.flush()
    return mat(im=MESH)[:128] + struct.pack("<II", 15, len(packed)) + packed


PLAIN = mat(False, im=MESH)[128:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (mat(im=MESH.astype(float)), "'im' has MATLAB class 6, expected 9, uint8"),
        (mat(im=np.array(["text"])), "'im' has MATLAB class 4, expected 9, uint8"),
        (mat(im={"field": MESH}), "'im' has MATLAB class 2, expected 9, uint8"),
        (mat(im=MESH[..., 0]), "'im' has shape (8, 8, 3, 3), expected (8, 8, 3, 3, 2)"),
        (mat(mask=MESH), "there is no 'im', only ['mask']"),
        (mat(), "there is no 'im', only []"),
        (b"", "is not a MATLAB 5 file"),
        (b"text" * 100, "is not a MATLAB 5 file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n", "is not a MATLAB 5 file"),
        (mat(im=MESH)[:-300], "cannot be read: the file ends too early"),
        (mat(False, im=MESH)[:-300], "cannot be read: the file ends too early"),
        (mat(im=MESH)[:140], "cannot be read: the file ends too early"),
        (mat(im=MESH)[:130], "cannot be read: unpack_from requires a buffer of at least"),
        (
            mat(im=MESH)[:-1] + b"\x00",
            "cannot be read: Error -3 while decompressing data: incorrect data check",
        ),
        (
            compressed_mat(b"", 300 * MEGABYTE),
            "cannot be read: element of type 0 where an array was expected",
        ),
        (compressed_mat(PLAIN, 300 * MEGABYTE), "'im' has more or fewer bytes than its header says"),
        (compressed_mat(PLAIN[:-100], 0), "cannot be read: the file ends too early"),
        # The type code with which scipy.io.loadmat ends the process: it is read from beyond a table.
        (
            mat(False, im=MESH).replace(b"\x02\x00im\x00\x00\x02", b"\x02\x00im\x00\x00\x54"),
            "'im' has more or fewer",
        ),
        (bytes(70 * MEGABYTE), "has 73 MB, too much for a file of Cars3D"),
    ],
)
def test_mat_that_is_not_what_it_should_be(tmp_path: Path, content: bytes, message: str) -> None:
    folder = meshes(tmp_path / "cars", content)
    assert refused(folder, MESHES).startswith(f"{folder / 'car_2.mat'}: {message}")


def test_a_folder_without_all_its_cars(tmp_path: Path) -> None:
    folder = meshes(tmp_path / "cars", mat(im=MESH))
    read_grid_file(folder, MESHES, 8, tmp_path / "other", "cpu")
    (folder / "car_2.mat").unlink()
    assert refused(folder, MESHES) == "there are 1 .mat files, cars has 2"
    (folder / "car_1.mat").unlink()
    assert refused(folder, MESHES) == "there are 0 .mat files, cars has 2"


@pytest.mark.parametrize("kind", ["h5", "npz", "mat"])
def test_whatever_bytes_are_altered(tmp_path: Path, kind: str) -> None:
    """Three bytes of a file are altered, 100 times: it is refused in one line, or read as images of the right shape."""
    folder = tmp_path / "cars"
    path = folder / "car_2.mat" if kind == "mat" else tmp_path / f"altered.{kind}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("images", data=IMAGES, chunks=(12, 8, 8, 3), compression="gzip")
            file["labels"] = LABELS
    elif kind == "npz":
        np.savez_compressed(path, images=IMAGES, labels=LABELS)
    else:
        meshes(folder, mat(False, im=MESH))
    whole, rng, bad = path.read_bytes(), np.random.default_rng(0), 0
    for i in range(100):
        altered = bytearray(whole)
        for position in rng.integers(len(whole) if i % 2 else 300, size=3):
            altered[position] = rng.integers(256)
        path.write_bytes(altered)
        source, layout = (folder, MESHES) if kind == "mat" else (path, LAYOUT)
        try:
            dataset = read_grid_file(source, layout, 8, tmp_path / "cache" / str(i), "cpu")
        except ValueError as error:
            assert "\n" not in str(error)
            assert str(error).startswith(str(source))
            bad += 1
        else:
            assert dataset.images(torch.arange(len(dataset))).shape == (len(dataset), 3, 8, 8)
    assert bad > 20
