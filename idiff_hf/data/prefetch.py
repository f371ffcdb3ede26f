"""Batches prepared by threads while the model trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from .batches import Batch


class Prefetcher:
    """Asks for the next micro-batches ahead of time, and measures how long the training step had to wait.

    A batch is a pure function of its step and micro-batch, so that nothing has to be undone when training stops or resumes, and threads
    serve: what takes time in them (decoding, rendering, copying) holds no Python lock.

    Args:
        make: The batch of (step, micro-batch).
        last_step: The step after the last one.
        accumulation: Micro-batches of a step.
        num_workers: Threads; 0 makes each batch when it is asked for.

    Attributes:
        waited: Seconds that callers have waited so far.
    """

    def __init__(
        self, make: Callable[[int, int], Batch], last_step: int, accumulation: int, num_workers: int
    ) -> None:
        self.make = make
        self.end = last_step * accumulation
        self.accumulation = accumulation
        self.num_workers = num_workers
        self.waited = 0.0
        self._pending: dict[int, Future[Batch]] = {}
        self._pool: ThreadPoolExecutor | None = None
        if num_workers:
            # one thread each: the cores are the model's
            self._pool = ThreadPoolExecutor(
                num_workers, thread_name_prefix="batches", initializer=torch.set_num_threads, initargs=(1,)
            )

    def __call__(self, step: int, micro: int) -> Batch:
        """The batch of one micro-batch of one step."""
        started = time.perf_counter()
        place = step * self.accumulation + micro
        if self._pool is None:
            batch = self.make(step, micro)
        else:
            for ahead in range(place, min(place + 1 + self.num_workers, self.end)):
                if ahead not in self._pending:
                    self._pending[ahead] = self._pool.submit(self.make, *divmod(ahead, self.accumulation))
            batch = self._pending.pop(place).result()
        self.waited += time.perf_counter() - started
        return batch

    def close(self, wait: bool = True) -> None:
        """End the threads, and wait for that or not; batches that nobody asked for are dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=wait, cancel_futures=True)
