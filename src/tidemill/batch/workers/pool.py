"""Processes that answer the chunks of a run, each kept by a thread that reads clock and memory while it waits."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

import pyarrow as pa

from tidemill.batch.scoring import OutOfTime
from tidemill.batch.watch import Stopped
from tidemill.batch.workers.channel import Begin, Shared
from tidemill.batch.workers.limits import Death, Limits
from tidemill.batch.workers.process import Answer, Process, Unread
from tidemill.batch.workers.settle import settle
from tidemill.errors import RunError

__all__ = ["HOPELESS", "Pool"]

T = TypeVar("T")

# Deaths between two answered rows, in all processes together: the model answers nothing any more.
HOPELESS = 64


@dataclass(frozen=True, slots=True)
class _Task(Generic[T]):
    """A chunk's columns for the model, what is made of their answers, and the way back."""

    chunk: Shared
    rows: int
    until: float
    end: Callable[[list[Answer] | Unread], T]
    future: Future[T]


class Pool(Generic[T]):
    """Up to `workers` processes of `threads` threads each: `first` of them at once, the others as there is work that
    none is free for.

    What keeps one of the first from answering is raised here, as RunError, before a row is read.
    `at_once` and `divisible` are those of `settle`. Once `stopping` is set, processes are killed.
    """

    def __init__(
        self,
        begin: Begin,
        limits: Limits,
        workers: int,
        first: int,
        threads: int,
        stopping: threading.Event,
        *,
        at_once: int | None,
        divisible: bool,
    ) -> None:
        self._begin = begin
        self._limits = limits
        self._workers = workers
        self._threads = threads
        self._at_once = at_once
        self._divisible = divisible
        self._tasks: queue.SimpleQueue[_Task[T] | None] = queue.SimpleQueue()
        self._stopping = stopping
        self._lock = threading.Lock()
        self._keepers: list[threading.Thread] = []
        self._open = 0  # tasks that are not done
        self._in_a_row = 0
        self._failure: RunError | None = None
        self.deaths = 0
        """Processes that ended while they answered."""
        try:
            for ready in [self._keep_another() for _ in range(first)]:
                ready.result()
        except BaseException:
            stopping.set()
            self.close()
            raise

    def submit(self, batch: pa.RecordBatch, until: float, end: Callable[[list[Answer] | Unread], T]) -> Future[T]:
        """What `end` makes of the answers of a chunk, or of its being unread; it is called in a thread of the pool.

        The future may raise what `end` does, OutOfTime after `until` (a time.monotonic() moment), Stopped once the
        run is `stopping`, and RunError.
        """
        # Written by who asks, so that no process waits for it.
        chunk = Shared()
        try:
            chunk.write(batch)
        except OSError as error:
            chunk.close()
            raise RunError(f"no memory for a chunk of {batch.nbytes:,} bytes: {error.strerror}") from error
        task = _Task(chunk, batch.num_rows, until, end, Future())
        with self._lock:
            self._open += 1
            if self._open > len(self._keepers) and len(self._keepers) < self._workers:
                self._keep_another()
            self._tasks.put(task)
        return task.future

    def close(self) -> None:
        """End every process. What is still asked for is answered first, unless the run is stopping."""
        for _ in self._keepers:
            self._tasks.put(None)
        for keeper in self._keepers:
            keeper.join()

    def _keep_another(self) -> Future[None]:
        ready: Future[None] = Future()
        name = f"tidemill-worker-{len(self._keepers)}"
        self._keepers.append(threading.Thread(target=self._keep, args=(ready,), name=name))
        self._keepers[-1].start()
        return ready

    def _keep(self, ready: Future[None]) -> None:
        process = Process(self._begin, self._limits, self._threads, self._stopping)
        try:
            self._prove(process, ready)
            while (task := self._tasks.get()) is not None:
                try:
                    if task.future.set_running_or_notify_cancel():
                        self._do(process, task)
                finally:
                    task.chunk.close()
                    with self._lock:
                        self._open -= 1
        finally:
            process.kill()

    def _prove(self, process: Process, ready: Future[None]) -> None:
        """Each process answers its samples before it is asked for a row; the first that does not ends the run."""
        try:
            process.start()
        except BaseException as error:  # noqa: BLE001 - it is raised where the future is waited for
            if isinstance(error, RunError):
                self._fail(error)
            ready.set_exception(error)
        else:
            ready.set_result(None)

    def _do(self, process: Process, task: _Task[T]) -> None:
        try:
            found = task.end(self._settled(process, task))
        except BaseException as error:  # noqa: BLE001 - it is raised where the future is waited for
            task.future.set_exception(error)
        else:
            task.future.set_result(found)

    def _settled(self, process: Process, task: _Task[T]) -> list[Answer] | Unread:
        if self._stopping.is_set():
            raise Stopped
        if self._failure is not None:
            raise self._failure
        if time.monotonic() > task.until:
            raise OutOfTime

        def ask(start: int, stop: int, alone: bool) -> Answer | Death:
            found = process.ask(task.chunk, start, stop, alone=alone, until=task.until)
            self._count(found)
            return found

        try:
            return settle(task.rows, ask, at_once=self._at_once, divisible=self._divisible)
        except Unread as error:
            return error
        except RunError as error:
            self._fail(error)
            raise

    def _count(self, found: Answer | Death) -> None:
        with self._lock:
            if isinstance(found, Death):
                self.deaths += 1
                self._in_a_row += 1
                if self._in_a_row >= HOPELESS:
                    raise RunError(
                        f"the process of the model {found.message}, the last of {HOPELESS} that answered no row"
                    )
            elif found.table is not None and found.table.num_rows:
                self._in_a_row = 0

    def _fail(self, error: RunError) -> None:
        if self._failure is None:
            self._failure = error
