"""Arrays out of HDF5, npz and MATLAB files that nobody vouches for.

Storage, shape and dtype are checked on headers before any element is read; nothing is unpickled, no other file is followed, and no
allocation is larger than what was asked for. Every refusal is one line that names the file.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_BLOCK_BYTES = 2**24  # about what is read at a time
_MAX_CHUNK_BYTES = 2**30
_NPY_HEADER_BYTES = 2**14  # more than NumPy accepts
_MAX_MAT_BYTES = 2**26
_MAT_HEADER_BYTES = 2**12
_MI_UINT8, _MI_MATRIX, _MI_COMPRESSED, _MX_UINT8 = (
    2,
    14,
    15,
    9,
)  # types of elements, and the class of an array


class UnreadableFileError(ValueError):
    """A file is not what it should be; the message is one line that begins with its path."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {' '.join(problem.split())}")


@dataclass(frozen=True)
class Wanted:
    """What an array must look like.

    Attributes:
        key: Its name in the file; `/` separates groups of HDF5.
        shapes: Shapes it may have. The first is the one it is read as; the others hold the same elements in the same order.
        pixels: uint8 if true, else any real numbers of at most eight bytes.
        note: Added to the message about another shape.
    """

    key: str
    shapes: tuple[tuple[int, ...], ...]
    pixels: bool
    note: str = ""

    def check(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Compares with what the header says.

        Raises:
            UnreadableFileError: Another shape or dtype.
        """
        if shape not in self.shapes:
            expected = " or ".join(map(str, self.shapes))
            raise UnreadableFileError(path, f"{self.key!r} has shape {shape}, expected {expected}{self.note}")
        if not (dtype == np.uint8 if self.pixels else dtype.kind in "iuf" and dtype.itemsize <= 8):
            expected = "uint8" if self.pixels else "numbers of at most eight bytes"
            raise UnreadableFileError(path, f"{self.key!r} has dtype {dtype}, expected {expected}")


Blocks = Callable[[], Iterator[np.ndarray]]
"""Reads an array in consecutive blocks of rows, `(n, *shape[1:])`."""


@contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Turns whatever a reader of `path` raises on a damaged or hostile file into an `UnreadableFileError`."""
    try:
        yield
    except UnreadableFileError:
        raise
    # Parsers raise nearly anything on bytes they did not expect: OSError, RuntimeError, KeyError, zlib.error, struct.error ...
    except Exception as error:
        raise UnreadableFileError(path, f"cannot be read: {error or type(error).__name__}") from error


@contextmanager
def open_arrays(path: Path) -> Iterator[Hdf5Arrays | NpzArrays]:
    """Opens an HDF5 or npz file, whatever its name ends in.

    Raises:
        UnreadableFileError: Not a file, of another format, truncated, or damaged.
    """
    with one_line_errors(path):
        if not path.is_file():
            raise UnreadableFileError(path, "is not a file")
        with path.open("rb") as file:
            magic = file.read(8)
        if magic == b"\x89HDF\r\n\x1a\n":
            try:
                import h5py
            except ImportError:
                raise UnreadableFileError(path, "HDF5 needs h5py: pip install h5py") from None
            with h5py.File(path, "r") as file:
                yield Hdf5Arrays(path, file)
        elif magic.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                yield NpzArrays(path, archive)
        else:
            raise UnreadableFileError(path, f"is neither HDF5 nor npz, it begins with {magic!r}")


class Hdf5Arrays:
    """Datasets that lie in this very file: no links to others, no external or virtual storage."""

    kind = "hdf5"

    def __init__(self, path: Path, file: Any) -> None:
        self._path, self._file = path, file

    def array(self, wanted: Wanted) -> Blocks:
        """Checks one dataset without reading its elements.

        Raises:
            UnreadableFileError: Missing, stored in a way that is not accepted, incomplete, or not what is wanted.
        """
        import h5py

        key, node = wanted.key, self._file
        for name in key.split("/"):
            link = node.get(name, getlink=True) if isinstance(node, h5py.Group) else None
            if link is None:
                raise UnreadableFileError(self._path, f"there is no {key!r}, only {sorted(self._file)[:8]}")
            if not isinstance(link, h5py.HardLink):
                raise UnreadableFileError(self._path, f"{key!r} is a link, which is not followed")
            node = node[name]
        if not isinstance(node, h5py.Dataset):
            raise UnreadableFileError(self._path, f"{key!r} is not a dataset")
        # Before its shape is asked for: for that, HDF5 opens the sources of a virtual dataset.
        plist = node.id.get_create_plist()
        if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
            raise UnreadableFileError(self._path, f"{key!r} has its data in other files, which are not read")
        wanted.check(self._path, node.shape, node.dtype)
        self._check_storage(key, node, plist)
        shape = wanted.shapes[0]
        row_bytes = math.prod(shape[1:]) * node.dtype.itemsize
        chunk_rows = node.chunks[0] if node.chunks else 1
        # Whole chunks, so that each is decompressed once.
        step = chunk_rows * max(_BLOCK_BYTES // (chunk_rows * row_bytes), 1)

        def blocks() -> Iterator[np.ndarray]:
            for start in range(0, shape[0], step):
                yield node[start : start + step].reshape(-1, *shape[1:])

        return blocks

    def _check_storage(self, key: str, dataset: Any, plist: Any) -> None:
        import h5py

        accepted = {
            h5py.h5z.FILTER_DEFLATE,
            h5py.h5z.FILTER_SHUFFLE,
            h5py.h5z.FILTER_FLETCHER32,
            h5py.h5z.FILTER_LZF,
        }
        filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
        if not filters <= accepted:
            raise UnreadableFileError(
                self._path,
                f"{key!r} is compressed by HDF5 filters {sorted(filters - accepted)}: save it again with gzip",
            )
        whole, stored = dataset.nbytes, dataset.id.get_storage_size()
        if dataset.chunks:
            largest = max(math.prod(dataset.chunks), dataset.chunks[0] * math.prod(dataset.shape[1:]))
            if largest * dataset.dtype.itemsize > _MAX_CHUNK_BYTES:
                raise UnreadableFileError(
                    self._path,
                    f"{key!r} has chunks of {dataset.chunks}: save it again with smaller ones, of whole rows",
                )
            whole = math.prod(
                -(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)
            )
            stored = dataset.id.get_num_chunks()
        # HDF5 reads what was never written as zeros.
        if stored < whole:
            unit = "chunks" if dataset.chunks else "bytes"
            raise UnreadableFileError(
                self._path, f"{key!r} is incomplete, {stored:,} of {whole:,} {unit} were written"
            )


class NpzArrays:
    """Arrays of an npz file, read as streams."""

    kind = "npz"

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path, self._archive = path, archive

    def array(self, wanted: Wanted) -> Blocks:
        """Checks one array without reading its elements.

        Raises:
            UnreadableFileError: Missing, of Python objects, incomplete, or not what is wanted.
        """
        key = wanted.key
        names = self._archive.namelist()
        if f"{key}.npy" not in names:
            keys = [name.removesuffix(".npy") for name in names[:8]]
            raise UnreadableFileError(self._path, f"there is no {key!r}, only {keys}")
        info = self._archive.getinfo(f"{key}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnreadableFileError(
                self._path, f"{key!r} is compressed by a method that NumPy does not use"
            )
        with self._archive.open(info) as stream:
            # A header may declare gigabytes of itself: it is parsed from what a real one has at most.
            head = io.BytesIO(stream.read(_NPY_HEADER_BYTES))
        shape, fortran_order, dtype = _npy_header(head)
        if dtype.hasobject:
            raise UnreadableFileError(self._path, f"{key!r} holds Python objects, which are not unpickled")
        wanted.check(self._path, shape, dtype)
        if fortran_order:
            raise UnreadableFileError(self._path, f"{key!r} is in Fortran order: save it again in C order")
        offset = head.tell()
        if info.file_size != offset + math.prod(shape) * dtype.itemsize:
            raise UnreadableFileError(
                self._path,
                f"{key!r} has {info.file_size - offset:,} bytes, which is not what its header says",
            )
        rows, *row_shape = wanted.shapes[0]
        row_bytes = math.prod(row_shape) * dtype.itemsize
        step = max(_BLOCK_BYTES // row_bytes, 1)

        def blocks() -> Iterator[np.ndarray]:
            with self._archive.open(info) as stream:
                _exactly(stream, offset)
                for start in range(0, rows, step):
                    data = _exactly(stream, min(step, rows - start) * row_bytes)
                    yield np.frombuffer(data, dtype=dtype).reshape(-1, *row_shape)

        return blocks


def _npy_header(head: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(head)
    with warnings.catch_warnings():
        # The header of dSprites was written by Python 2, which NumPy reads and warns of.
        warnings.simplefilter("ignore", UserWarning)
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(head)
        if version == (2, 0):
            return np.lib.format.read_array_header_2_0(head)
    raise ValueError(f"npy format {version} is not known")


def _exactly(stream: Any, count: int) -> bytearray:
    data = bytearray(count)
    view, filled = memoryview(data), 0
    while filled < count:
        if not (got := stream.readinto(view[filled:])):
            raise EOFError("the file ends too early")
        filled += got
    return data


def load_mat(path: Path, wanted: Wanted) -> np.ndarray:
    """One uint8 array of a MATLAB 5 file ("MAT-File Format", The MathWorks; what `save` and `save -v7` write).

    `scipy.io.loadmat` is not for files that nobody vouches for: as of SciPy 1.17 a wrong type code in the file makes it read memory that
    is not its own, and a variable is inflated to whatever size it has.

    Raises:
        UnreadableFileError: Of another format, larger than such a file is, damaged, missing the array, or not what is wanted.
    """
    with one_line_errors(path):
        if path.stat().st_size > _MAX_MAT_BYTES:
            raise UnreadableFileError(
                path, f"has {path.stat().st_size / 1e6:,.0f} MB, too much for a file of Cars3D"
            )
        raw = path.read_bytes()
        # A version and a mark, both in the order of bytes of the machine that wrote it.
        order = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(raw[124:128])
        if order is None:
            raise UnreadableFileError(path, "is not a MATLAB 5 file")
        names, position = [], 128
        while position < len(raw):
            kind, content, following = _mat_element(raw, position, order)
            inflate = zlib.decompressobj()
            matrix = (
                inflate.decompress(content, _MAT_HEADER_BYTES)
                if kind == _MI_COMPRESSED
                else raw[position:following]
            )
            name, shape, matlab_class, data_at = _mat_header(matrix, order)
            names.append(name)
            if name == wanted.key:
                if matlab_class != _MX_UINT8:
                    raise UnreadableFileError(
                        path, f"{name!r} has MATLAB class {matlab_class}, expected 9, uint8"
                    )
                wanted.check(path, shape, np.dtype(np.uint8))
                if kind == _MI_COMPRESSED:
                    # One byte more than it may have, so that the end of the stream and its checksum are reached.
                    room = data_at + 8 + _padded(math.prod(shape)) + 1 - len(matrix)
                    matrix += inflate.decompress(inflate.unconsumed_tail, max(room, 1))
                    if not inflate.eof:
                        raise UnreadableFileError(
                            path, f"{name!r} has more or fewer bytes than its header says"
                        )
                kind, data, _ = _mat_element(matrix, data_at, order)
                if kind != _MI_UINT8 or len(data) != math.prod(shape):
                    raise UnreadableFileError(path, f"{name!r} has more or fewer bytes than its header says")
                return np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F")
            position = following
        raise UnreadableFileError(path, f"there is no {wanted.key!r}, only {names[:8]}")


def _padded(size: int) -> int:
    return -(-size // 8) * 8


def _mat_element(data: bytes, position: int, order: str) -> tuple[int, bytes, int]:
    """Type and content of an element, and where the next one is."""
    word, size = struct.unpack_from(f"{order}II", data, position)
    if word >> 16:  # the short form, at most four bytes
        kind, size, start = word & 0xFFFF, word >> 16, position + 4
        following = position + 8
    else:
        kind, start = word, position + 8
        # Only compressed elements end where they end.
        following = start + (size if kind == _MI_COMPRESSED else _padded(size))
    if start + size > len(data):
        raise EOFError("the file ends too early")
    return kind, data[start : start + size], following


def _mat_header(matrix: bytes, order: str) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape and MATLAB class of an array, and where its data begin."""
    kind, _ = struct.unpack_from(f"{order}II", matrix)
    if kind != _MI_MATRIX:
        raise ValueError(f"element of type {kind} where an array was expected")
    _, flags, position = _mat_element(matrix, 8, order)
    _, sizes, position = _mat_element(matrix, position, order)
    _, name, position = _mat_element(matrix, position, order)
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    return name.decode("latin-1"), shape, struct.unpack(f"{order}II", flags)[0] & 0xFF, position
