"""Tables of pictures from folders, arrays and parquet files: what is read, and every fault as one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from idiff_hf.data.tables import Table, open_table
from tests.faults.figures import Figure


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "arrow"))


def png(shade: int) -> bytes:
    file = BytesIO()
    Image.new("L", (16, 16), shade).save(file, "PNG")
    return file.getvalue()


def shade(value: Any) -> int:
    """Of a picture that `png` made, in whatever form a table gives it."""
    if isinstance(value, np.ndarray):
        return int(value.flat[0])
    return int(np.asarray(Image.open(BytesIO(value) if isinstance(value, bytes) else value)).flat[0])


def shades(table: Table) -> list[int]:
    return [shade(table.image(row)) for row in range(len(table))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, of shades 0 to 4, and their columns in another order."""
    home = tmp_path / "set"
    (home / "more").mkdir(parents=True)
    for k in range(5):
        (home / (f"more/{k}.png" if k == 3 else f"{k}.png")).write_bytes(png(k))
    lines = ["file_name,count,length,flag,word,note"]
    lines += [
        f"{'more/' if k == 3 else ''}{k}.png,{k},{k / 4},{k < 2},w{k % 2},{'x' if k else ''}"
        for k in (4, 2, 0, 1, 3)
    ]
    (home / "metadata.csv").write_text("\n".join(lines) + "\n")
    return home


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "metadata.csv"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


# Folders of pictures


def test_rows_and_columns_of_a_folder(folder: Path) -> None:
    table = open_table(str(folder), "train", "image")
    assert table.column_names == ("image", "count", "length", "flag", "word", "note")
    assert shades(table) == [4, 2, 0, 1, 3]
    assert table.column("count").tolist() == [4, 2, 0, 1, 3] and table.column("count").dtype == np.int64
    assert table.column("length").tolist() == [1, 0.5, 0, 0.25, 0.75]
    assert table.column("flag").tolist() == [False, False, True, True, False]
    assert table.column("word").tolist() == ["w0", "w0", "w0", "w1", "w1"]
    assert table.column("note").tolist() == ["x", "x", None, "x", "x"]
    assert table.where(4) == f"{folder}/more/3.png"


def test_a_folder_without_columns_is_in_the_order_of_its_names(folder: Path) -> None:
    (folder / "metadata.csv").unlink()
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "README.md").write_text("about")
    table = open_table(str(folder), "train", "image")
    assert (table.column_names, shades(table)) == (("image",), [0, 1, 2, 4, 3])


def test_names_that_say_a_split_are_names_like_any_other(tmp_path: Path) -> None:
    for name in ("a.png", "test_1.png", "train_2.png"):
        (tmp_path / name).write_bytes(png(1))
    assert len(open_table(str(tmp_path), "train", "image")) == 3


def test_subfolders_are_labels(tmp_path: Path) -> None:
    for k, name in enumerate(("cat/a.png", "dog/b.jpg.PNG", "dog/young/a.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(k))
    table = open_table(str(tmp_path), "train", "image")
    assert table.column("label").tolist() == ["cat", "dog", "dog"]
    assert shades(table) == [0, 1, 2]


def test_subfolders_that_are_splits_are_not_labels(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png(0))
    with pytest.raises(ValueError, match=r"holds test and train: set data\.path to one of them"):
        open_table(str(tmp_path), "train", "image")
    assert len(open_table(str(tmp_path / "train"), "train", "image")) == 1


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-2"], [1, -2]),
        (["1", "2.5"], [1.0, 2.5]),
        (["1", ""], [1.0, None]),
        (["nan", "1e3"], [None, 1000.0]),
        (["", ""], [None, None]),
        (["true", "False"], [True, False]),
        (["True", ""], ["True", None]),
        (["a", "1"], ["a", "1"]),
        (["NA", "None"], ["NA", "None"]),
        (["9" * 30, "1"], [1e30, 1.0]),
        (['"a, b"', '"say ""c"""'], ["a, b", 'say "c"']),
        (["ä", "日"], ["ä", "日"]),
        (["1_23", "12_3"], ["1_23", "12_3"]),  # int() takes both for 123
        (["1_5", ""], ["1_5", None]),
    ],
)
def test_kinds_of_columns_in_a_csv_file(
    tmp_path: Path, bom: str, values: list[str], expected: list[Any]
) -> None:
    lines = ["file_name,a"]
    for k, value in enumerate(values):
        (tmp_path / f"{k}.png").write_bytes(png(k))
        lines.append(f"{k}.png,{value}")
    (tmp_path / "metadata.csv").write_text(bom + "\r\n".join(lines), encoding="utf-8")
    column = open_table(str(tmp_path), "train", "image").column("a")
    assert [None if value != value else value for value in column.tolist()] == expected
    assert column.dtype == {int: np.int64, float: np.float64, bool: np.bool_, str: object}.get(
        type(expected[0] if expected[0] is not None else expected[1]), np.float64
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "file_name,",
            "name,",
            "has no column 'file_name', .*; there are: name, count, length, flag, word, note",
        ),
        ("0.png,0", "1.png,0", "names 1.png in row 3 for the second time; leave one row"),
        ("0.png,0", "9.png,0", "names 9.png in row 2, which is not there; file names start from"),
        ("0.png,0", "../set/0.png,0", r"names \.\./set/0\.png in row 2, which is not there"),
        ("0.png,0", ",0", "names no file in row 2, which is not there"),
        ("0.png,0,0.0,True,w0,\n", "", "has no row for 0.png; add one, or move the file elsewhere"),
        ("w0,\n", "w0\n", "has 5 fields in row 2 and 6 in its header"),
        (
            ",word,note",
            ",word,word",
            "has two columns of one name: file_name, count, length, flag, word, word",
        ),
    ],
)
def test_metadata_that_does_not_match(folder: Path, old: str, new: str, message: str) -> None:
    edit(folder, old, new)
    with pytest.raises(ValueError, match=f"^{folder}/metadata.csv {message}"):
        open_table(str(folder), "train", "image")


def test_metadata_that_is_no_text(folder: Path) -> None:
    (folder / "metadata.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"metadata\.csv cannot be read: UnicodeDecodeError"):
        open_table(str(folder), "train", "image")


def test_the_fingerprint_follows_pictures_and_order_alone(folder: Path) -> None:
    def fingerprint() -> dict[str, Any]:
        return open_table(str(folder), "train", "image").fingerprint

    before = fingerprint()
    edit(folder, "w0", "w5")
    assert fingerprint() == before
    stat = (folder / "0.png").stat()
    os.utime(folder / "0.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    touched = fingerprint()
    assert touched != before
    lines = (folder / "metadata.csv").read_text().splitlines()
    (folder / "metadata.csv").write_text("\n".join([lines[0], *sorted(lines[1:])]))
    assert fingerprint() not in (before, touched)


# Arrays


def arrays(home: Path, **columns: np.ndarray) -> Path:
    home.mkdir(exist_ok=True)
    for name, values in columns.items():
        np.save(home / f"{name}.npy", values)
    return home


def test_folders_of_equal_sizes_and_times_are_not_taken_for_each_other(tmp_path: Path) -> None:
    fingerprints = []
    for name in ("a", "b"):
        home = arrays(tmp_path / name, images=np.zeros((2, 4, 4), np.uint8))
        os.utime(home / "images.npy", ns=(0, 0))
        (tmp_path / f"{name} pictures").mkdir()
        (tmp_path / f"{name} pictures" / "0.png").write_bytes(png(0))
        os.utime(tmp_path / f"{name} pictures" / "0.png", ns=(0, 0))
        for folder in (home, tmp_path / f"{name} pictures"):
            fingerprints.append(json.dumps(open_table(str(folder), "train", "image").fingerprint))
    assert len(set(fingerprints)) == 4


def test_numbers_without_a_sign_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    home = arrays(tmp_path, images=np.zeros((2, 4, 4), np.uint8), h=np.array([5, 2**63], np.uint64))
    with pytest.raises(
        ValueError, match=r"h\.npy holds 9223372036854775808, more than 64 bits with a sign: "
    ):
        open_table(str(home), "train", "image").column("h")


def test_images_npy_with_columns(tmp_path: Path) -> None:
    images = np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((16, 16), dtype=np.uint8)
    home = arrays(
        tmp_path,
        images=images,
        a=np.array([3, 1, 2], np.uint8),
        b=np.array([0.5, np.nan, 1], np.float32),
        c=np.array(["x", "y", "z"]),
    )
    table = open_table(str(home), "train", "image")
    assert table.column_names == ("image", "a", "b", "c")
    assert shades(table) == [0, 1, 2] and table.image(1).shape == (16, 16)
    assert table.column("a").tolist() == [3, 1, 2] and table.column("a").dtype == np.int64
    assert table.column("b")[[0, 2]].tolist() == [0.5, 1.0] and np.isnan(table.column("b")[1])
    assert table.column("c").tolist() == ["x", "y", "z"] and table.column("c").dtype == object
    assert table.where(2) == f"{home}/images.npy, row 2"


def test_one_array_a_picture(folder: Path) -> None:
    for file in folder.rglob("*.png"):
        np.save(file.with_suffix(".npy"), np.full((16, 16, 3), int(file.stem), np.uint8))
        file.unlink()
    edit(folder, ".png", ".npy")
    table = open_table(str(folder), "train", "image")
    assert shades(table) == [4, 2, 0, 1, 3]
    assert table.column("count").tolist() == [4, 2, 0, 1, 3]
    (folder / "0.npy").write_bytes(b"nothing at all")
    with pytest.raises(
        ValueError, match=f"^{folder}/0.npy is no .npy file of an array: ValueError: the magic string"
    ):
        table.image(2)


IMAGES = np.zeros((3, 16, 16), np.uint8)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"images": np.zeros((3, 16), np.uint8)}, r"/images\.npy has shape \(3, 16\); give \(N, H, W\) or"),
        (
            {"images": IMAGES, "a": np.zeros(2)},
            r"/a\.npy has shape \(2,\); give \(3,\), one value for each of",
        ),
        ({"images": IMAGES, "a": np.zeros((3, 2))}, r"/a\.npy has shape \(3, 2\); give \(3,\)"),
        ({"images": IMAGES[:0]}, " has no rows"),
    ],
)
def test_arrays_of_other_shapes(tmp_path: Path, columns: dict[str, np.ndarray], message: str) -> None:
    home = arrays(tmp_path, **columns)
    with pytest.raises(ValueError, match=f"^{home}{message}"):
        open_table(str(home), "train", "image")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return Path.touch, (canary,)

    home = arrays(tmp_path / "set", images=IMAGES)
    bomb = np.empty(3, dtype=object)
    bomb[:] = Bomb()
    np.save(home / "a.npy", bomb, allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy is no \.npy file of an array: .*Python objects in dtype"):
        open_table(str(home), "train", "image")
    assert not canary.exists()


def test_array_columns_of_other_kinds(tmp_path: Path) -> None:
    home = arrays(tmp_path, images=IMAGES, a=np.zeros(3, np.complex64))
    with pytest.raises(
        ValueError, match=r"a\.npy holds complex64; give numbers, texts \(dtype U\) or booleans"
    ):
        open_table(str(home), "train", "image").column("a")


def test_a_truncated_array(tmp_path: Path) -> None:
    home = arrays(tmp_path, images=IMAGES)
    (home / "images.npy").write_bytes((home / "images.npy").read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"images\.npy is no \.npy file of an array: ValueError: mmap length"
    ):
        open_table(str(home), "train", "image")


# Parquet


FEATURES = datasets.Features(
    {
        "word": datasets.Value("string"),
        "picture": datasets.Image(),
        "kind": datasets.ClassLabel(names=["small", "large"]),
        "number": datasets.ClassLabel(names=["0", "1", "2"]),
        "count": datasets.Value("int32"),
        "length": datasets.Value("float32"),
        "flag": datasets.Value("bool"),
        "when": datasets.Value("timestamp[s]"),
    }
)


def rows(first: int, last: int) -> dict[str, list[Any]]:
    ks = range(first, last)
    return {
        "word": [None if k == 1 else f"w{k}" for k in ks],
        "picture": [{"bytes": png(k), "path": None} for k in ks],
        "kind": [(1, 0, -1, None)[k % 4] for k in ks],
        "number": [k % 3 for k in ks],
        "count": [None if k == 2 else k for k in ks],
        "length": [None if k == 0 else k / 4 for k in ks],
        "flag": [k % 2 == 0 for k in ks],
        "when": [k for k in ks],
    }


def write(file: Path, first: int = 0, last: int = 4) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows(first, last), features=FEATURES).to_parquet(str(file))
    return file


def plain(values: np.ndarray) -> list[Any]:
    return [None if value != value else value for value in values.tolist()]


def test_a_parquet_file(tmp_path: Path) -> None:
    table = open_table(str(write(tmp_path / "a.parquet")), "train", "picture")
    assert table.column_names == ("picture", "word", "kind", "number", "count", "length", "flag", "when")
    assert shades(table) == [0, 1, 2, 3]
    assert plain(table.column("word")) == ["w0", None, "w2", "w3"]
    assert plain(table.column("kind")) == ["large", "small", None, None]
    assert table.classes("kind") == ("small", "large")
    assert plain(table.column("number")) == [0, 1, 2, 0] and table.column("number").dtype == np.int64
    assert table.classes("number") is None
    assert plain(table.column("count")) == [0, 1, None, 3]
    assert plain(table.column("length")) == [None, 0.25, 0.5, 0.75]
    assert (
        plain(table.column("flag")) == [True, False, True, False] and table.column("flag").dtype == np.bool_
    )
    assert table.where(2) == f"{tmp_path}/a.parquet, row 2"
    with pytest.raises(
        ValueError, match=r"column 'when' of .* holds timestamp\[ms\]; give numbers, texts or boo"
    ):
        table.column("when")


def test_a_folder_as_on_the_hub(tmp_path: Path) -> None:
    # Square brackets are a pattern to those who look for files.
    home = tmp_path / "my [set]"
    write(home / "data" / "train-00000-of-00002.parquet", 0, 3)
    write(home / "data" / "train-00001-of-00002.parquet", 3, 5)
    write(home / "data" / "test-00000-of-00001.parquet", 5, 7)
    (home / "README.md").write_text("---\nlicense: mit\n---\n")
    assert shades(open_table(str(home), "train", "picture")) == [0, 1, 2, 3, 4]
    assert shades(open_table(str(home), "test", "picture")) == [5, 6]
    assert shades(open_table(str(home), "train[1:3]", "picture")) == [1, 2]
    with pytest.raises(ValueError, match=r"split 'dev', cannot be read: .*Unknown split .*'train', 'test'"):
        open_table(str(home), "dev", "picture")
    write(home / "more.parquet")
    with pytest.raises(
        ValueError, match=r"more\.parquet belongs to no split, while other files do \(train, test\)"
    ):
        open_table(str(home), "train", "picture")


def test_files_that_name_no_split_are_one(tmp_path: Path) -> None:
    write(tmp_path / "set" / "b.parquet", 3, 5)
    write(tmp_path / "set" / "a.parquet", 0, 3)
    assert shades(open_table(str(tmp_path / "set"), "train", "picture")) == [0, 1, 2, 3, 4]


def test_part_of_a_file(tmp_path: Path) -> None:
    file = str(write(tmp_path / "a[1].parquet"))
    assert shades(open_table(file, "test[2:]", "picture")) == [2, 3]


def test_files_written_without_datasets(tmp_path: Path) -> None:
    structs = [{"bytes": png(k), "path": f"{k}.png"} for k in (5, 6)]
    table = pa.table({"raw": [png(7), png(8)], "struct": structs, "n": pa.array([1.5, None])})
    pq.write_table(table, tmp_path / "a.parquet")
    for column, expected in (("raw", [7, 8]), ("struct", [5, 6])):
        opened = open_table(str(tmp_path / "a.parquet"), "train", column)
        assert shades(opened) == expected
        assert plain(opened.column("n")) == [1.5, None]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_arrays_in_parquet_keep_their_dtype(tmp_path: Path, dtype: str) -> None:
    images = np.random.Generator(np.random.Philox(0)).integers(0, 256, (3, 16, 16, 3)).astype(dtype)
    features = {
        "fixed": datasets.Array3D((16, 16, 3), dtype),
        "lists": datasets.List(datasets.List(datasets.List(datasets.Value(dtype)))),
    }
    columns = {name: list(images) for name in features}
    file = str(tmp_path / "a.parquet")
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(file)
    for column in features:
        table = open_table(file, "train", column)
        assert table.image(1).dtype == dtype
        assert np.array_equal(table.image(1), images[1])


def test_another_file_is_another_fingerprint(tmp_path: Path) -> None:
    prints = []
    for last in (4, 4, 5):
        if not prints or last != 4:
            write(tmp_path / "a.parquet", 0, last)
        prints.append(open_table(str(tmp_path / "a.parquet"), "train", "picture").fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_a_path_in_a_parquet_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(png(1))
    column = pa.array(
        [{"bytes": None, "path": str(tmp_path / "private.png")}],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    )
    pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet")
    table = open_table(str(tmp_path / "a.parquet"), "train", "image")
    with pytest.raises(ValueError, match=r"a\.parquet, row 0: column 'image' holds no encoded picture"):
        table.image(0)


def test_no_such_picture_column(tmp_path: Path) -> None:
    file = str(write(tmp_path / "a.parquet"))
    with pytest.raises(
        ValueError, match=r"has no column 'image' of pictures \(data.image_column\); there are: word, p"
    ):
        open_table(file, "train", "image")
    with pytest.raises(
        ValueError, match=r"column 'word' of .* is Value\('string'\); give one of pictures: .* of word, p"
    ):
        open_table(file, "train", "word")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    for content in (b"", b"nothing at all", write(file).read_bytes()[:-8]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.parquet, split 'train', cannot be read: \w+: ") as caught:
            open_table(str(file), "train", "picture")
        assert "\n" not in str(caught.value)


def test_no_rows(tmp_path: Path) -> None:
    file = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), file)
    with pytest.raises(
        ValueError, match=r"a\.parquet, split 'train', cannot be read: .*corresponds to no data"
    ):
        open_table(file, "train", "image")


# Paths


def test_a_column_that_is_not_there(folder: Path) -> None:
    table = open_table(str(folder), "train", "image")
    for name in ("digit", "image"):
        with pytest.raises(
            ValueError, match=f"has no column '{name}' beside its pictures; there are: count, length, flag, w"
        ):
            table.column(name)
    (folder / "metadata.csv").unlink()
    with pytest.raises(ValueError, match="has no column 'count' beside its pictures; there are: none"):
        open_table(str(folder), "train", "image").column("count")


def test_image_columns_of_folders(folder: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"data.image_column is 'photo'; in a folder of pictures or \.npy files it is 'image'",
    ):
        open_table(str(folder), "train", "photo")


@pytest.mark.faults
def test_folders_of_nothing_and_of_two_kinds(folder: Path, figure: Figure) -> None:
    (folder / "a.npy").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"holds 0\.png as well as a\.npy; give a folder of one kind of file"
    ):
        open_table(str(folder), "train", "image")
    empty = folder / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"empty holds no pictures \(\.png, .*\), \.npy or \.parquet files"):
        open_table(str(empty), "train", "image")
    figure("F18", "refused in one line")


@pytest.mark.parametrize(
    "path", ["nothing/at/all", "/nothing", "nothing", "../nothing", "https://example.com/set"]
)
def test_paths_that_are_nothing(path: str) -> None:
    with pytest.raises(
        ValueError, match=f"^{path} is not there, and no Hub id such as user/name; set data.path to"
    ):
        open_table(path, "train", "image")


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "set.zip").write_bytes(b"")
    with pytest.raises(ValueError, match=r"set\.zip is a file; give a folder, a \.parquet file or a Hub id"):
        open_table(str(tmp_path / "set.zip"), "train", "image")


def test_a_hub_id_out_of_reach_is_one_line() -> None:
    with pytest.raises(
        ValueError,
        match=r"^user/name, split 'train', cannot be read: .*'user/name'.* \(taken for a Hub id, for .* has no folder user/name\)$",
    ) as caught:
        open_table("user/name", "train", "image")
    assert "\n" not in str(caught.value)


def test_a_folder_comes_before_a_hub_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    path = f"{folder.parent.name}/{folder.name}"
    assert len(open_table(path, "train", "image")) == 5
