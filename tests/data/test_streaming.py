"""Streams: batches as a function of the step, shares of processes, held-out rows by content, and one line for each fault."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from idiff_hf.config import DataConfig
from idiff_hf.data import ImageDataset, to_float
from idiff_hf.data.bound_columns import BoundColumns
from idiff_hf.data.observed_columns import ObservedColumns
from idiff_hf.data.stream import ImageStream
from idiff_hf.data.streaming import StreamedHeldOut, StreamingBatches
from idiff_hf.random import BatchRandom

CPU = torch.device("cpu")
NAN = math.nan
ROWS, SHARDS = 200, 4


def png(number: int) -> bytes:
    """A picture that is its number: red throughout."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write(folder: Path, numbers: Sequence[int], shards: int = SHARDS, **columns: Sequence[Any]) -> Path:
    """A folder of parquet files with the pictures of `numbers`, and columns beside them."""
    folder.mkdir(exist_ok=True)
    images = [{"bytes": png(number), "path": None} for number in numbers]
    table = pa.table({"image": images, **columns})
    size = math.ceil(len(numbers) / shards)
    for shard in range(shards):
        pq.write_table(
            table.slice(shard * size, size), folder / f"part-{shard:02}.parquet", row_group_size=20
        )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    numbers = range(ROWS)
    return write(
        tmp_path_factory.mktemp("stream") / "set",
        numbers,
        age=[float(n) for n in numbers],
        sex=["mf"[n % 2] for n in numbers],
        size_lower=[None if n % 3 == 0 else float(n) for n in numbers],
        size_upper=[None if n % 5 == 0 else float(n + 10) for n in numbers],
        kind=[n % 7 for n in numbers],
    )


def config(path: Path | str, **fields: Any) -> DataConfig:
    return DataConfig(**{"name": "own", "path": str(path), "image_size": 16, "streaming": True, **fields})


def stream(path: Path | str, seed: int = 0, stat_rows: int = 10_000, **fields: Any) -> ImageStream:
    return ImageStream(config(path, **fields), seed, stat_rows)


def numbers_of(images: torch.Tensor) -> list[int]:
    """The numbers of pictures as `png` draws them, from floats in [-1, 1] or bytes."""
    red = images[:, 0, 0, 0]
    return ((red + 1) * 127.5 if images.is_floating_point() else red).round().int().tolist()


def walk(batches: StreamingBatches, steps: int, size: int = 8) -> list[int]:
    """What one process sees in its first steps."""
    seen = []
    for step in range(steps):
        random = BatchRandom(0, step, batches.rank * size, size, CPU)
        seen += numbers_of(batches(size * batches.world_size, random).image)
    return seen


def epochs(batches: StreamingBatches, rows: int, count: int) -> list[list[int]]:
    """The first epochs of a share of so many rows."""
    seen = walk(batches, math.ceil(count * rows / 8))
    return [seen[epoch * rows : (epoch + 1) * rows] for epoch in range(count)]


def held_out_of(path: Path, seed: int = 0, **fields: Any) -> set[int]:
    dataset = StreamedHeldOut(stream(path, seed, **fields), ROWS)
    return set(numbers_of(dataset.images(torch.arange(len(dataset)))))


@pytest.fixture(scope="module")
def training(folder: Path) -> set[int]:
    """The rows of `folder` that are not held out."""
    return set(range(ROWS)) - held_out_of(folder)


# Order


def test_a_batch_holds_pictures_and_u_as_training_wants_them(folder: Path) -> None:
    batches = StreamingBatches(stream(folder, aux_columns=("age", "sex")), buffer_size=16)
    batch = batches(24, BatchRandom(0, 3, 0, 24, CPU))
    assert batch.image.shape == (24, 3, 16, 16) and batch.image.dtype == torch.float32
    assert batch.factors.shape == (24, 0) and batch.aux.shape == (24, 3) and batch.aux.dtype == torch.float32
    numbers = numbers_of(batch.image)
    expected = torch.zeros(24, 3, 16, 16, dtype=torch.uint8)
    expected[:, 0] = torch.tensor(numbers)[:, None, None]
    assert torch.equal(batch.image, to_float(expected)) and batch.image.is_contiguous()
    # Of 0 to 199 the mean is 99.5 and the variance (200^2 - 1) / 12; texts in the order f, m.
    age = (np.array(numbers) - 99.5) / math.sqrt((200**2 - 1) / 12)
    assert np.allclose(batch.aux[:, 0], age, atol=1e-6)
    assert batch.aux[:, 1:].tolist() == [[n % 2, 1 - n % 2] for n in numbers]


def test_each_epoch_holds_every_training_row_once_in_another_order(folder: Path, training: set[int]) -> None:
    first, second, third = epochs(StreamingBatches(stream(folder), buffer_size=16), len(training), 3)
    for epoch in (first, second, third):
        assert len(epoch) == len(set(epoch)) and set(epoch) == training
    assert first != second != third != first
    # Shards come in another order, too.
    assert len({epoch[0] // 50 for epoch in (first, second, third)}) > 1


@pytest.mark.parametrize("buffer_size", [1, 16, 1000])
def test_the_buffer_mixes_as_far_as_it_reaches(folder: Path, training: set[int], buffer_size: int) -> None:
    (seen,) = epochs(StreamingBatches(stream(folder), buffer_size=buffer_size), len(training), 1)
    shards = list(dict.fromkeys(number // 50 for number in seen))
    read = sorted(training, key=lambda number: (shards.index(number // 50), number))
    place = {number: i for i, number in enumerate(read)}
    early = [place[number] - i for i, number in enumerate(seen)]
    if buffer_size == 1:
        assert seen == read
    elif buffer_size == 16:
        # A row may wait for long, but none comes before it is among the next 16 that were read.
        assert 0 < max(early) < 16 and seen != read
    else:
        assert max(early) > 100


def test_order_is_keyed_by_the_seed(folder: Path) -> None:
    def seen(seed: int) -> list[int]:
        # Hardly a row is held out, so that it is the order that differs.
        return walk(StreamingBatches(stream(folder, seed, held_out=1e-6), buffer_size=16), 10)

    assert seen(1) == seen(1)
    assert seen(1) != seen(2)


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2), (2, 3)])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(folder: Path, rank: int, world_size: int) -> None:
    def open_batches() -> StreamingBatches:
        return StreamingBatches(
            stream(folder, bound_columns=("size_lower:size_upper",)), rank, world_size, 16
        )

    def batch(batches: StreamingBatches, step: int) -> list[torch.Tensor]:
        got = batches(8 * world_size, BatchRandom(0, step, 8 * rank, 8, CPU))
        return [got.image, got.aux]

    whole = open_batches()
    expected = [batch(whole, step) for step in range(48)]
    # Within the first epoch, at its end, in later ones; then far back and forth on one stream. An epoch is 174 / 8 / world_size steps.
    for steps in ([1, 2], [7], [21, 22], [40], [47, 3, 46, 0, 30]):
        batches = open_batches()
        for step in steps:
            assert all(map(torch.equal, batch(batches, step), expected[step]))


def test_accumulation_walks_the_micro_batches_of_a_step_in_order(folder: Path) -> None:
    fine, coarse = (StreamingBatches(stream(folder), buffer_size=16) for _ in range(2))
    for step in (0, 1, 2, 40):
        parts = [fine(24, BatchRandom(0, step, first, 8, CPU)).image for first in (0, 8, 16)]
        assert torch.equal(torch.cat(parts), coarse(24, BatchRandom(0, step, 0, 24, CPU)).image)


def test_two_micro_batches_of_two_processes(folder: Path) -> None:
    # Rows 0-7 and 16-23 of the global batch are of process 0, the others of process 1.
    batches = StreamingBatches(stream(folder), 1, 2, 16)
    parts = [batches(32, BatchRandom(0, 0, first, 8, CPU)).image for first in (8, 24)]
    assert numbers_of(torch.cat(parts)) == walk(StreamingBatches(stream(folder), 1, 2, 16), 2)
    with pytest.raises(
        ValueError, match="row 16 of the batch belongs to process 0; this is the stream of process 1"
    ):
        batches(32, BatchRandom(0, 1, 16, 8, CPU))


# Shares


@pytest.mark.parametrize("world_size", [2, 3, 4, 5])
def test_shares_are_disjoint_and_cover_all_in_every_epoch(
    folder: Path, training: set[int], world_size: int
) -> None:
    whole, whole_shards = stream(folder), SHARDS % world_size == 0
    ranks = []
    for rank in range(world_size):
        # Whole shards are shared out like cards; else rows are, which leaves each process as many but for one.
        own = {number for number in training if number // 50 % world_size == rank}
        size = len(own) if whole_shards else (len(training) - rank + world_size - 1) // world_size
        ranks.append(epochs(StreamingBatches(whole, rank, world_size, 16), size, 2))
        assert not whole_shards or set(ranks[rank][0]) == own
    for epoch in range(2):
        rows = [number for rank in ranks for number in rank[epoch]]
        assert len(rows) == len(set(rows)) and set(rows) == training


def test_a_share_that_ends_begins_anew_whatever_the_others_do(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", range(60), shards=2)
    pq.write_table(pa.table({"image": [{"bytes": png(100), "path": None}] * 1}), folder / "part-01.parquet")
    batches = StreamingBatches(stream(folder, held_out=1e-6), 1, 2, 16)
    assert walk(batches, 3) == [100] * 24


# Held-out rows


def test_held_out_rows_are_told_by_their_content(folder: Path, tmp_path: Path) -> None:
    held_out = held_out_of(folder, held_out=0.3)
    assert 0.2 < len(held_out) / ROWS < 0.4
    assert held_out != held_out_of(folder, 1, held_out=0.3)
    # Another order, other files, a larger fraction: those that were held out stay so.
    turned = write(tmp_path / "turned", range(ROWS - 1, -1, -1), shards=3)
    assert held_out_of(turned, held_out=0.3) == held_out
    assert held_out < held_out_of(folder, held_out=0.5)


def test_equal_pictures_fall_on_one_side(tmp_path: Path) -> None:
    numbers = [n % 40 for n in range(120)]
    folder = write(tmp_path / "twins", numbers)
    rows = StreamedHeldOut(stream(folder, held_out=0.3), 120)
    held_out = numbers_of(rows.images(torch.arange(len(rows))))
    assert sorted(held_out) == sorted(3 * list(set(held_out))) and 0 < len(held_out) < 120
    seen = walk(StreamingBatches(stream(folder, held_out=0.3), buffer_size=16), 30)
    assert not set(seen) & set(held_out) and set(seen) | set(held_out) == set(range(40))


def test_held_out_rows_as_a_dataset(folder: Path) -> None:
    columns = {"factor_columns": ("sex", "kind", "age"), "bound_columns": ("size_lower:size_upper",)}
    whole = stream(folder, held_out=0.3, **columns)
    dataset = StreamedHeldOut(whole, 20)
    assert isinstance(dataset, ImageDataset)
    assert (len(dataset), dataset.channels, dataset.image_size, dataset.source) == (20, 3, 16, "own")
    train, rows = dataset.split(0.3, 0)
    assert len(train) == 0 and torch.equal(rows, torch.arange(20))
    images = dataset.images(rows)
    assert images.shape == (20, 3, 16, 16) and images.dtype == torch.uint8
    numbers = numbers_of(images)
    # The first ones in the order of the set.
    assert numbers == sorted(held_out_of(folder, held_out=0.3))[:20]
    assert dataset.factor_names == ("sex", "kind", "age") and dataset.factor_sizes == (2, 7, None)
    assert dataset.factors(rows).tolist() == [[1 - n % 2, n % 7, n] for n in numbers]
    lower = np.array([NAN if n % 3 == 0 else n for n in range(ROWS)])
    upper = np.array([NAN if n % 5 == 0 else n + 10 for n in range(ROWS)])
    table = {"size_lower": lower, "size_upper": upper}
    u = BoundColumns.fit(["size_lower:size_upper"], table).transform(table)
    assert np.array_equal(dataset.u.numpy(), u[numbers])
    some = torch.tensor([3, 1])
    assert torch.equal(dataset.images(some), images[[3, 1]])
    assert dataset.factors(some).tolist() == [[1 - n % 2, n % 7, n] for n in (numbers[3], numbers[1])]


def test_a_set_without_columns_has_no_factors_and_no_u(folder: Path) -> None:
    dataset = StreamedHeldOut(stream(folder), 5)
    assert dataset.factors(torch.arange(5)).shape == (5, 0) and dataset.u.shape == (5, 0)
    assert dataset.observed is None and dataset.factor_names == () == dataset.factor_sizes


# u


def test_statistics_of_u_are_those_of_the_first_rows(folder: Path) -> None:
    fitted = stream(folder, aux_columns=("age",), stat_rows=100).observed
    assert fitted is not None
    assert (fitted.moments, fitted.names, fitted.size, fitted.values.shape) == ("observed", (), 1, (0, 1))
    assert fitted.statistics == ObservedColumns.fit({"age": np.arange(100.0)}).to_dict()
    bounds = stream(folder, bound_columns=("size_lower:size_upper", "kind"), stat_rows=100).observed
    assert bounds is not None
    assert (bounds.moments, bounds.names, bounds.size) == ("mean_variance", ("size", "kind"), 4)
    assert bounds.statistics["factors"][0] == {
        "name": "size",
        "lower": "size_lower",
        "upper": "size_upper",
        "low": 1.0,
        "high": 109.0,
    }


def test_a_row_beyond_the_statistics_stops_no_run(folder: Path) -> None:
    rows = stream(folder, bound_columns=("size_lower:size_upper",), stat_rows=100)
    last = list(rows.rows([SHARDS - 1]))[-1:]  # 199 to 209 of 1 to 109
    with (
        pytest.warns(UserWarning, match="column 'size_lower' leaves the range 1 to 109 of the fitted rows"),
        pytest.warns(UserWarning, match="column 'size_upper' leaves the range"),
    ):
        assert rows.aux(last).tolist() == [[pytest.approx(math.sqrt(3)), 0.0]]


def test_a_missing_value_names_the_row_of_the_stream(tmp_path: Path) -> None:
    folder = write(tmp_path / "gap", range(40), age=[*map(float, range(33)), None, *map(float, range(6))])
    with pytest.raises(
        ValueError, match=r"gap, shard 3, row 3: column 'age' is NaN or empty: an observed u needs"
    ):
        stream(folder, aux_columns=("age",))
    batches = StreamingBatches(stream(folder, aux_columns=("age",), stat_rows=20, held_out=1e-6))
    for _ in range(2):
        # Not taken for the end of an epoch when it is asked again.
        with pytest.raises(ValueError, match=r"gap, shard 3, row 3: column 'age' is NaN or empty"):
            walk(batches, 5)


# Sources


def test_a_parquet_file_with_plain_bytes_and_another_name_of_the_column(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"photo": [png(n) for n in range(20)], "other": [0] * 20}), tmp_path / "a[b].parquet"
    )
    one = stream(tmp_path / "a[b].parquet", image_column="photo", split="validation", held_out=1e-6)
    assert one.num_shards == 1
    assert sorted(epochs(StreamingBatches(one), 20, 1)[0]) == list(range(20))


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "pictures [x]"
    for n in range(12):
        file = folder / ("cat" if n % 3 else "dog") / f"test-{n:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(n))
    pictures = stream(folder, aux_columns=("label",), held_out=1e-6)
    batch = StreamingBatches(pictures)(16, BatchRandom(0, 0, 0, 16, CPU))
    numbers = numbers_of(batch.image)
    assert set(numbers) == set(range(12))
    assert batch.aux.tolist() == [[float(n % 3 > 0), float(n % 3 == 0)] for n in numbers]


def test_a_folder_of_pictures_with_metadata(tmp_path: Path) -> None:
    for n in range(12):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    lines = [f"{n}.png,{n if n % 2 else ''},{n + 5}\n" for n in range(12)]
    (tmp_path / "metadata.csv").write_text("file_name,low,high\n" + "".join(lines), encoding="utf-8")
    batches = StreamingBatches(stream(tmp_path, bound_columns=("low:high",), held_out=1e-6))
    batch = batches(8, BatchRandom(0, 0, 0, 8, CPU))
    for number, variance in zip(numbers_of(batch.image), batch.aux[:, 1].tolist(), strict=True):
        low = number if number % 2 else 1  # the range is 1 to 16
        assert variance == pytest.approx(((number + 5 - low) / 15) ** 2)


def test_classes_are_called_by_their_names_in_their_order(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    features = Features(
        {"image": ImageFeature(), "kind": ClassLabel(names=["small", "big"]), "n": Value("int64")}
    )
    columns = {
        "image": [{"bytes": png(n), "path": None} for n in range(20)],
        "kind": [n % 2 for n in range(20)],
    }
    Dataset.from_dict({**columns, "n": range(20)}, features).to_parquet(tmp_path / "kinds.parquet")
    rows = stream(tmp_path / "kinds.parquet", factor_columns=("kind",), aux_columns=("kind",), held_out=0.5)
    dataset = StreamedHeldOut(rows, 20)
    numbers = numbers_of(dataset.images(torch.arange(len(dataset))))
    assert dataset.factors(torch.arange(len(dataset))).flatten().tolist() == [n % 2 for n in numbers]
    # One-hot columns are in the order of the alphabet: big, small.
    assert dataset.u.tolist() == [[n % 2, 1 - n % 2] for n in numbers]


def test_resizing_and_grey(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", range(20))
    batch = StreamingBatches(stream(folder, image_size=32, resize=True, color="grey"))(
        8, BatchRandom(0, 0, 0, 8, CPU)
    )
    assert batch.image.shape == (8, 1, 32, 32)
    with pytest.raises(ValueError, match=r"set, shard \d, row \d+: 16 x 16 pixels .* not 32 x 32"):
        StreamingBatches(stream(folder, image_size=32))(8, BatchRandom(0, 0, 0, 8, CPU))


# Faults


def parquet(path: Path, images: list[Any], **columns: Any) -> Path:
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path


def arrays(path: Path) -> Path:
    path.mkdir()
    np.save(path / "images.npy", np.zeros((3, 16, 16), dtype=np.uint8))
    return path


def empty(path: Path) -> Path:
    path.mkdir()
    return path


def no_rows(path: Path) -> Path:
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def text(path: Path) -> Path:
    path.with_suffix(".csv").write_text("a,b\n1,2\n")
    return path.with_suffix(".csv")


def broken(path: Path) -> Path:
    path.with_suffix(".parquet").write_bytes(b"PAR1 no more than a name")
    return path.with_suffix(".parquet")


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (lambda path: path, {}, "x, split 'train', cannot be streamed: FileNotFoundError: Couldn't find"),
        (
            lambda path: "no/where",
            {},
            "no/where, split 'train', cannot be streamed: ConnectionError: .*Offline",
        ),
        (arrays, {}, "x holds .npy files, which cannot be streamed: set data.streaming=false"),
        (empty, {}, "x holds neither pictures nor .parquet files: give such a folder, or a Hub id"),
        (text, {}, "x.csv is a file; give a folder, a .parquet file or a Hub id such as user/name"),
        (
            broken,
            {},
            "x.parquet, split 'train', cannot be streamed: ArrowInvalid: Parquet magic bytes not found",
        ),
        (no_rows, {}, "x.parquet, split 'train', has no rows"),
        (
            lambda path: write(path, range(4)),
            {"split": "test"},
            "x, split 'test', cannot be streamed: ValueError: Bad",
        ),
        (
            lambda path: write(path, range(4), a=[0] * 4),
            {"image_column": "photo"},
            "no column 'photo'; there are: image, a",
        ),
        (
            lambda path: write(path, range(4)),
            {"aux_columns": ("age",)},
            "x has no column 'age'; there are: image",
        ),
        (
            lambda path: write(path, range(4)),
            {"factor_columns": ("f",)},
            "x has no column 'f'; there are: image",
        ),
        (
            lambda path: write(path, range(4)),
            {"bound_columns": ("a:b",)},
            "x has no column 'a'; there are: image",
        ),
        (
            lambda path: write(path, range(4)),
            {"bound_columns": ("a:b:c",)},
            "data.bound_columns holds 'a:b:c'",
        ),
        (
            lambda path: write(path, range(4), age=[1] * 4),
            {"image_column": "age"},
            r"column 'age' of .*x is Value\('int64'\); give one of encoded pictures: data.image_column of image, age",
        ),
        (
            lambda path: write(path, range(4), age=[1.0] * 4),
            {"aux_columns": ("age",)},
            "x, first 4 rows: column 'age' is 1 in every row: it tells nothing",
        ),
    ],
)
def test_what_cannot_be_streamed(
    tmp_path: Path, make: Callable[[Path], Path | str], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        stream(make(tmp_path / "x"), **fields)
    assert "\n" not in str(caught.value)


def test_more_processes_than_rows(tmp_path: Path) -> None:
    folder = write(tmp_path / "few", range(3), shards=1)
    for rank in range(4):
        with pytest.raises(ValueError, match="few: the set has too few rows to train on for 4 processes"):
            StreamingBatches(stream(folder, held_out=1e-6), rank, 4)
    assert sorted(walk(StreamingBatches(stream(folder, held_out=1e-6), 2, 3), 1)) == [2] * 8
    with pytest.raises(
        ValueError, match="few: the share of process 0 has too few rows to train on for 1 processes"
    ):
        StreamingBatches(stream(folder, held_out=1 - 1e-9))
    with pytest.raises(
        ValueError, match=r"few: data\.held_out=1e-06 holds out no row: raise it, or give more rows"
    ):
        len(StreamedHeldOut(stream(folder, held_out=1e-6), 10))


def test_a_parquet_file_cannot_make_another_file_be_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(7))
    images = [{"bytes": png(1), "path": None}, {"bytes": None, "path": str(tmp_path / "secret.png")}]
    rows = stream(parquet(tmp_path / "evil.parquet", images)).rows([0])
    assert next(rows).image == png(1)
    message = r"evil.parquet, shard 0, row 1: column 'image' holds no picture; .* a path is not followed"
    with pytest.raises(ValueError, match=message):
        next(rows)


def test_a_row_without_a_picture(tmp_path: Path) -> None:
    rows = stream(parquet(tmp_path / "gap.parquet", [png(1), None])).rows([0])
    with pytest.raises(ValueError, match=r"gap\.parquet, shard 0, row 1: column 'image' holds no picture"):
        list(rows)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    file = parquet(tmp_path / "bad.parquet", [png(1), b"no picture"])
    batches = StreamingBatches(stream(file, held_out=1e-6))
    with pytest.raises(ValueError, match=r"bad\.parquet, shard 0, row 1: cannot be decoded"):
        walk(batches, 1)


def test_a_damaged_shard_is_an_error_and_not_the_end_of_an_epoch(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", range(40), shards=2)
    batches = StreamingBatches(stream(folder, held_out=1e-6))
    (folder / "part-01.parquet").write_bytes(b"PAR1 no more than a name")
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"set, shard 1, cannot be read: ArrowInvalid: .*magic bytes"
        ) as caught:
            walk(batches, 5)
        assert "\n" not in str(caught.value)
    write(folder, range(40), shards=2)
    assert sorted(epochs(batches, 40, 1)[0]) == list(range(40))


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / f"{n}.png").write_bytes(png(n))
    pictures = stream(tmp_path)
    (tmp_path / "1.png").unlink()
    message = re.escape("shard 0, row 1: ") + ".*1.png cannot be read: FileNotFoundError"
    with pytest.raises(ValueError, match=message):
        list(islice(pictures.rows([0]), 3))
