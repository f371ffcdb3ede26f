"""Training batches and held-out images of a stream.

Nothing is saved to resume: the batch of a step is a pure function of the configuration, the seed, the number of processes and the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ..random import BatchRandom, key
from .auxiliary import Observed
from .batches import Batch, to_float
from .dataset import ImageDataset
from .own import OwnDataset, read_factor
from .pictures import decode_all
from .stream import ImageStream, StreamedRow
from .tables import Table

_DECODED_ROWS = 256  # held-out rows whose encoded pictures are in memory at a time


class StreamingBatches:
    """Batches of one process of a stream, for training.

    Each process walks its own share, again and again: the order of its shards and a shuffle buffer are keyed, and new in each epoch. Within
    an epoch the shares are disjoint, and together they are all rows that are not held out: whole shards where the number of processes
    divides the number of shards (best, as each is then read by one process), else every n-th row. A share that ends begins anew, whatever
    the others do.

    Consecutive calls go on where the last one ended. Any other step is reached by reading, without decoding, from the start of its epoch;
    but first of all from the start of the set, as nobody knows before how many rows a share has. Calls are for one thread at a time.

    A folder of pictures is one shard, in the order of its names, which only the buffer mixes: where names go by class, take a large one.
    """

    def __init__(
        self, stream: ImageStream, rank: int = 0, world_size: int = 1, buffer_size: int = 10_000
    ) -> None:
        """Take the share of a process.

        Args:
            stream: The images.
            rank: Number of the process.
            world_size: Number of processes.
            buffer_size: Encoded rows among which the next one is drawn.

        Raises:
            ValueError: There is no row to train on for some process.
        """
        self.stream = stream
        self.rank = rank
        self.world_size = world_size
        self.buffer_size = buffer_size
        self._by_shards = stream.num_shards % world_size == 0
        self._shards = np.arange(
            rank if self._by_shards else 0, stream.num_shards, world_size if self._by_shards else 1
        )
        # The last process has a row where there are as many rows as processes: all of them see alike that there are too few.
        last = self._training_rows(self._shards.tolist(), world_size - 1)
        if next(last, None) is None:
            share = f"the share of process {rank}" if self._by_shards else "the set"
            raise ValueError(
                f"{stream.config.path}: {share} has too few rows to train on for {world_size} processes, data.held_out being "
                f"{stream.config.held_out}: give more rows or start fewer processes"
            )
        self._rows_per_epoch: int | None = None
        self._start(0)

    def __call__(self, global_batch_size: int, random: BatchRandom) -> Batch:
        """The rows that `random` stands for of its step's global batch; `factors` are `(B, 0)`, none are known.

        Raises:
            ValueError: `random` is of another process, or a row cannot be read, decoded or made u of.
        """
        micro, rank = divmod(random.first_row // random.num_rows, self.world_size)
        if rank != self.rank:
            raise ValueError(
                f"row {random.first_row} of the batch belongs to process {rank}; this is the stream of process {self.rank}"
            )
        first = random.step * (global_batch_size // self.world_size) + micro * random.num_rows
        rows = self._take(first, random.num_rows)
        images = torch.from_numpy(np.stack([self.stream.picture(row) for row in rows])).movedim(-1, 1)
        return Batch(
            to_float(images.to(random.device)).contiguous(),
            torch.empty(len(rows), 0, device=random.device),
            self.stream.aux(rows).to(random.device),
        )

    def _take(self, first: int, count: int) -> list[StreamedRow]:
        """Rows `first` to `first + count` of this process since the start of training."""
        if first < self._next:
            self._start(self._epoch_of(first))
        rows = []
        while self._next < first + count:
            if self._epoch_of(first) > self._epoch:
                self._start(self._epoch_of(first))
            row = self._pull()
            if self._next >= first:
                rows.append(row)
            self._next += 1
        return rows

    def _epoch_of(self, position: int) -> int:
        """The epoch of a row; 0 as long as the length of an epoch is not known."""
        return position // self._rows_per_epoch if self._rows_per_epoch else 0

    def _start(self, epoch: int) -> None:
        self._epoch = epoch
        self._next = epoch * (self._rows_per_epoch or 0)
        self._rows = self._shuffled(epoch)

    def _pull(self) -> StreamedRow:
        """The next row, of the next epoch where one ends."""
        try:
            row = next(self._rows, None)
        except BaseException:
            # A generator that failed would look like an epoch that ended.
            self._start(0)
            raise
        if row is None:
            self._rows_per_epoch = self._next // (self._epoch + 1)
            self._epoch += 1
            self._rows = self._shuffled(self._epoch)
            row = next(self._rows)
        return row

    def _shuffled(self, epoch: int) -> Iterator[StreamedRow]:
        """The share in the order of an epoch."""
        shards = self._shards[_permutation(len(self._shards), key(self.stream.seed, "shards", epoch))]
        words = _words(key(self.stream.seed, "shuffle buffer", epoch, self.rank))
        buffer: list[StreamedRow] = []
        for row in self._training_rows(shards.tolist(), self.rank):
            if len(buffer) < self.buffer_size:
                buffer.append(row)
                continue
            place = next(words) % self.buffer_size
            yield buffer[place]
            buffer[place] = row
        rest = _permutation(len(buffer), key(self.stream.seed, "rest of the buffer", epoch, self.rank))
        yield from (buffer[place] for place in rest)

    def _training_rows(self, shards: Iterable[int], first: int) -> Iterator[StreamedRow]:
        """Rows of shards that are not held out; without shards of its own a process takes each `world_size`-th from `first` on."""
        # Counted after the held-out ones are gone: then each epoch has as many rows in any order of the shards.
        rows = (row for row in self.stream.rows(shards) if not self.stream.is_held_out(row))
        return rows if self._by_shards else islice(rows, first, None, self.world_size)


class StreamedHeldOut(ImageDataset):
    """The first held-out rows of a stream, in memory: the dataset that a streamed run is evaluated on.

    They are read when they are first asked for, so that a process that does not evaluate never waits for them.

    Attributes:
        stream: Where they come from.
        observed: u without rows, see `ImageStream`; that of the rows is `u`.
    """

    source = "own"

    def __init__(self, stream: ImageStream, count: int, device: torch.device | str = "cpu") -> None:
        """Say how many.

        Args:
            stream: The images.
            count: Rows wanted; there are fewer where the set has fewer.
            device: Where `images` puts its result.
        """
        self.stream = stream
        self.observed = stream.observed
        self.device = torch.device(device)
        self.channels = 3 if stream.config.color == "rgb" else 1
        self.image_size = stream.config.image_size
        self.factor_names = stream.config.factor_columns
        self._count = count

    @cached_property
    def _rows(self) -> OwnDataset:
        stream = self.stream
        rows, images, kept = stream.held_out_rows(self._count), [], []
        while some := list(islice(rows, _DECODED_ROWS)):
            part = np.empty((len(some), self.image_size, self.image_size, self.channels), dtype=np.uint8)
            decode_all(partial(_picture, stream, some), part, lambda done: None)
            images.append(part)
            kept += [row._replace(image=b"") for row in some]
        if not kept:
            raise ValueError(
                f"{stream.config.path}: data.held_out={stream.config.held_out} holds out no row: raise it, or give more rows"
            )
        table = _RowTable(stream, kept)
        observed = self.observed
        if observed is not None:
            u = stream.aux(kept)
            observed = Observed(u, observed.moments, observed.names, observed.statistics)
        factors = [read_factor(table, name) for name in self.factor_names]
        return OwnDataset(np.concatenate(images), factors, observed, self.device)

    def __len__(self) -> int:
        """Number of held-out rows."""
        return len(self._rows)

    def images(self, rows: Tensor, nuisance: Tensor | None = None) -> Tensor:
        """As in `OwnDataset`."""
        return self._rows.images(rows)

    def factors(self, rows: Tensor) -> Tensor:
        """As in `OwnDataset`; labels count the values that these rows have."""
        return self._rows.factors(rows)

    @property
    def factor_sizes(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """As in `OwnDataset`."""
        return self._rows.factor_sizes

    @property
    def u(self) -> Tensor:
        """u of all rows, `(N, A)` float32 on the CPU; A is 0 where the config names no columns of u."""
        observed = self._rows.observed
        return torch.empty(len(self), 0) if observed is None else observed.values

    def split(self, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
        """No row for training, all of them held out: the stream has split them already."""
        return torch.empty(0, dtype=torch.int64), torch.arange(len(self))


def _picture(stream: ImageStream, rows: Sequence[StreamedRow], row: int) -> np.ndarray:
    return stream.picture(rows[row])


class _RowTable(Table):
    """Rows of a stream as a table, without their pictures."""

    def __init__(self, stream: ImageStream, rows: Sequence[StreamedRow]) -> None:
        super().__init__(str(stream.config.path), (stream.config.image_column, *stream.column_names), {})
        self._columns = stream.columns(rows)
        self._rows = rows
        self._stream = stream

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, row: int) -> str:
        return self._rows[row].where

    def classes(self, name: str) -> tuple[str, ...] | None:
        return self._stream.classes(name)

    def _column(self, name: str) -> np.ndarray:
        return self._columns[name]


def _words(seed: int) -> Iterator[int]:
    """Uniform 64-bit numbers. Raw Philox words, unlike what NumPy makes of them, do not change with its version."""
    source = np.random.Philox(key=seed)
    while True:
        yield from source.random_raw(1024).tolist()


def _permutation(size: int, seed: int) -> np.ndarray:
    """The numbers 0 to `size - 1` in a keyed order."""
    return np.argsort(np.random.Philox(key=seed).random_raw(size), kind="stable")
