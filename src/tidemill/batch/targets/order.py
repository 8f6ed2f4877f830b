"""Sealed parts handed on in the order of their shards, by a thread of its own, while others are still scored."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from tidemill.batch.ledger import Sealed, disk_refused
from tidemill.batch.plan import Plan
from tidemill.batch.stage import Stage
from tidemill.errors import RunError, SinkError

__all__ = ["InOrder"]


class InOrder:
    """Calls `take` with each part. Starts anew with each execution of a run."""

    def __init__(self, plan: Plan, stage: Stage, take: Callable[[Path], None]) -> None:
        self._plan, self._stage, self._take = plan, stage, take
        self._sealed: dict[int, Sealed] = {}
        self._changed = threading.Condition()
        self._complete = self._stopped = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="tidemill-order")
        self._thread.start()

    def add(self, marker: Sealed) -> None:
        """A shard is sealed; its turn comes when those before it have been taken."""
        with self._changed:
            self._sealed[marker.shard] = marker
            self._changed.notify()

    def finish(self) -> int:
        """Once all shards were added: wait until all are taken; the rows that they hold. Raises SinkError, RunError."""
        with self._changed:
            self._complete = True
            self._changed.notify()
        self._thread.join()
        if isinstance(self._error, RunError):
            raise self._error
        if isinstance(self._error, pa.ArrowException):
            raise SinkError(f"{self._plan.job.sink.uri}: cannot hold a value of this output: {self._error}")
        if isinstance(self._error, OSError):
            raise disk_refused(self._plan.job.sink.uri, self._error) from self._error
        return sum(m.part.rows for m in self._sealed.values())

    def abandon(self) -> None:
        """End the thread, wherever it is."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            for index in range(len(self._plan.shards)):
                marker = self._next(index)
                if marker is not None:
                    self._take(self._stage.fetch("parts", marker.part.name))
        except (RunError, OSError, pa.ArrowException) as error:
            self._error = error

    def _next(self, index: int) -> Sealed | None:
        """The marker of a shard once it is there, or None where nobody waits for it any longer."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._complete or index in self._sealed)
            return None if self._stopped else self._sealed.get(index)
