"""The single file of a run: sealed parts joined in order, while others are still scored."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec
import pyarrow as pa

from tidemill.batch.ledger import PartFile, Sealed, disk_refused, part_file
from tidemill.batch.plan import Plan
from tidemill.batch.sinks import Joiner, sink
from tidemill.batch.stage import Stage
from tidemill.batch.targets.order import InOrder
from tidemill.errors import RunError

__all__ = ["Assembly"]


class Assembly:
    """Joins parts into `work/output` of the stage. Starts anew with each execution of a run."""

    def __init__(self, plan: Plan, stage: Stage, schema: pa.Schema) -> None:
        self._plan = plan
        self._schema = schema
        self._sink = sink(plan.job.sink.format)
        self._joiner: Joiner | None = None
        self.path = stage.work() / "output"
        self._order = InOrder(plan, stage, lambda part: self._opened().add(part))

    def add(self, marker: Sealed) -> None:
        """A shard is sealed; its turn comes when those before it have been joined."""
        self._order.add(marker)

    def finish(self) -> PartFile:
        """Once all shards were added: the durable file and its rows, counted. Raises SinkError, RunError."""
        written = self._order.finish()
        name = Path(self._plan.job.sink.uri).name
        try:
            self._opened().close()
            self._joiner = None
        except OSError as error:
            raise disk_refused(name, error) from error
        header = 1 if self._plan.job.sink.format == "csv" else 0
        found = self._sink.count(self.path) - header
        if found != written:
            raise RunError(f"{name} holds {found} rows, {written} were written; nothing is published")
        return msgspec.structs.replace(part_file(self.path, found), name=name)

    def abandon(self) -> None:
        """End the thread; what it wrote means nothing."""
        self._order.abandon()
        if self._joiner is not None:
            with suppress(OSError, pa.ArrowException):
                self._joiner.close()

    def _opened(self) -> Joiner:
        """By whoever has the first part: a disk that refuses the file is told of as one that refuses its rows."""
        if self._joiner is None:
            self._joiner = self._sink.join(self.path, self._schema, self._plan.stamp)
        return self._joiner
