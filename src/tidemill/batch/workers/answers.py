"""Answers by worker processes: the model's columns go there, the others wait here for the rows that have an answer."""

from __future__ import annotations

import math
import os
import threading
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa

from tidemill.batch.columns import model_columns
from tidemill.batch.options import ScoreOptions
from tidemill.batch.paging import CHUNK_BYTES
from tidemill.batch.plan import Plan
from tidemill.batch.scoring import AHEAD, Scored, Scorer, misread
from tidemill.batch.workers.channel import Begin
from tidemill.batch.workers.limits import Limits
from tidemill.batch.workers.pool import Pool
from tidemill.batch.workers.process import Answer, Unread
from tidemill.errors import InputError
from tidemill.prediction.live import Live
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["Processes", "wants_processes"]

# Of the memory that is free once a process is loaded, where no limit is given: what all of them together may take.
_FREE = 0.9


def wants_processes(live: Live, options: ScoreOptions) -> bool:
    """Whether a run is answered by processes: where threads would wait for each other, and where a limit can only be
    kept by killing.
    """
    return not live.runtime.releases_gil or options.call_timeout is not None or options.worker_memory is not None


class Processes:
    """Use as a context: leaving it ends the processes, whatever they do. Raises RunError if they cannot answer.

    `beside` is how many such sets of processes share the machine's cores and memory.
    """

    ahead = AHEAD

    def __init__(
        self,
        live: Live,
        plan: Plan,
        package: Path,
        options: ScoreOptions,
        workers: int,
        stopping: threading.Event,
        *,
        beside: int = 1,
    ) -> None:
        self._scorer = Scorer(live, plan)
        manifest = live.package.manifest
        self._columns = list(dict.fromkeys(model_columns(manifest.inputs, plan.read_schema.names)))
        begin = Begin(
            package=str(package),
            fingerprint=live.fingerprint,
            outputs=tuple(o.name for o in plan.outputs(live)),
            call_rows=live.call_rows,
            tries=options.transient_tries,
            parent=os.getpid(),
        )
        sharing = workers * beside
        limits = Limits(call_timeout=options.call_timeout, memory=options.worker_memory, share=_FREE / sharing)
        self._pool: Pool[Scored] = Pool(
            begin,
            limits,
            workers,
            min(workers, _chunks(plan)),
            max(1, cpu_budget() // sharing),
            stopping,
            # What may not be asked twice is asked a call at a time, so that no answer is lost with its neighbours.
            at_once=None if manifest.repeatable else live.call_rows,
            divisible=manifest.rows_independent and manifest.repeatable,
        )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    @property
    def deaths(self) -> int:
        """Processes that ended while they answered."""
        return self._pool.deaths

    def submit(self, name: str, first_row: int, batch: pa.RecordBatch, until: float = math.inf) -> Future[Scored]:
        """As Answers. The future raises OutOfTime after `until`, too."""

        def end(found: list[Answer] | Unread) -> Scored:
            if isinstance(found, Unread):
                raise misread(name, first_row + found.start, InputError(str(found), row=found.row))
            tables = [a.table for a in found if a.table is not None]
            problems = [p.at(p.row + a.start) for a in found for p in a.problems]
            return self._scorer.ended(name, first_row, batch, self._joined(tables).columns, problems)

        return self._pool.submit(batch.select(self._columns), until, end)

    def _joined(self, tables: list[pa.RecordBatch]) -> pa.RecordBatch:
        if len(tables) == 1:
            return tables[0]
        rows = pa.Table.from_batches(tables, self._scorer.answer_schema).combine_chunks().to_batches()
        return rows[0] if rows else pa.RecordBatch.from_pylist([], self._scorer.answer_schema)


def _chunks(plan: Plan) -> int:
    """About how many there are, at least."""
    rows = (plan.total_rows or 0) // (plan.chunk_rows or plan.job.chunk_rows)
    return 1 + max(rows, sum(f.snapshot.size for f in plan.files) // CHUNK_BYTES)
