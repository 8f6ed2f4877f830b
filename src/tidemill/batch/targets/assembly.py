"""The single file of a run: sealed parts joined in order, by a thread of its own, while others are still scored."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import pyarrow as pa

from tidemill.batch.ledger import PartFile, Sealed, disk_refused, part_file
from tidemill.batch.plan import Plan
from tidemill.batch.sinks import sink
from tidemill.batch.stage import Stage
from tidemill.errors import RunError

__all__ = ["Assembly"]


class Assembly:
    """Joins parts into `work/output` of the stage. Starts anew with each execution of a run."""

    def __init__(self, plan: Plan, stage: Stage, schema: pa.Schema) -> None:
        self._plan = plan
        self._stage = stage
        self._schema = schema
        self._sink = sink(plan.job.sink.format)
        self._sealed: dict[int, Sealed] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._error: OSError | RunError | None = None
        self.path = stage.work() / "output"
        self._thread = threading.Thread(target=self._join, name="tidemill-join")
        self._thread.start()

    def add(self, marker: Sealed) -> None:
        """A shard is sealed; its turn comes when those before it have been joined."""
        with self._changed:
            self._sealed[marker.shard] = marker
            self._changed.notify()

    def finish(self) -> PartFile:
        """Once all shards were added: the durable file and its rows, counted. Raises SinkError, RunError."""
        self._thread.join()
        name = Path(self._plan.job.sink.uri).name
        if isinstance(self._error, RunError):  # a part that is not what was sealed
            raise self._error
        if self._error is not None:
            raise disk_refused(name, self._error) from self._error
        written = sum(m.part.rows for m in self._sealed.values())
        header = 1 if self._plan.job.sink.format == "csv" else 0
        found = self._sink.count(self.path) - header
        if found != written:
            raise RunError(f"{name} holds {found} rows, {written} were written; nothing is published")
        return msgspec.structs.replace(part_file(self.path, found), name=name)

    def abandon(self) -> None:
        """End the thread; what it wrote means nothing."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _join(self) -> None:
        try:
            joiner = self._sink.join(self.path, self._schema, self._plan.stamp)
            try:
                for index in range(len(self._plan.shards)):
                    marker = self._next(index)
                    if marker is None:
                        break
                    joiner.add(self._stage.fetch("parts", marker.part.name))
            except (OSError, RunError):
                with suppress(OSError):
                    joiner.close()
                raise
            joiner.close()
        except (OSError, RunError) as error:
            self._error = error

    def _next(self, index: int) -> Sealed | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or index in self._sealed)
            return None if self._stopped else self._sealed[index]
