"""The Spark engine: each shard is a task of one job. Tasks read and write files themselves; Spark sees no row."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa

from tidemill.batch.engines.base import Work
from tidemill.batch.engines.options import SparkOptions
from tidemill.batch.engines.remote import Errand, Hearing, Outcome, score_there
from tidemill.batch.engines.spark_parcel import arrived, ship
from tidemill.batch.ledger import Sealed
from tidemill.batch.parcel import Parcel
from tidemill.batch.plan import Shard
from tidemill.errors import MissingExtra, RunError

if TYPE_CHECKING:
    from pyspark import Accumulator, Broadcast
    from pyspark.sql import SparkSession

__all__ = ["run"]

Outcomes = list[Outcome]

# Spark tells of a task's end on a thread of its own; how late that is noticed here, seconds.
_NOTICE = 0.05
# Attempts that lost are killed at once, and their Python workers some seconds later.
_LOSERS_SECONDS = 30.0


def run(work: Work, shards: Sequence[Shard], sealed: Callable[[Sealed], None]) -> None:
    """Score the shards as tasks of one Spark job; `sealed` hears of each as its task ends.

    Speculation and retries may have a shard scored by several at once: the first that seals it counts. The first
    error ends the job and is raised; so is an interrupt. Raises RunError where Spark itself gives up.
    """
    if not shards:
        return
    errand = Errand.of(work)
    hearing = Hearing(work, errand, shards, sealed)
    with _session(work.options.engine.spark) as session:
        job = _Job(work, errand, session, shards)
        try:
            while job.running():
                hearing.hear(job.outcomes())
            hearing.hear(job.outcomes())
            job.finish()
        finally:
            job.cancel()
    hearing.finish()


class _Job:
    """The job, on a thread of its own: an action blocks."""

    def __init__(self, work: Work, errand: Errand, session: SparkSession, shards: Sequence[Shard]) -> None:
        from pyspark import InheritableThread
        from pyspark.accumulators import AddingAccumulatorParam

        self._context = session.sparkContext
        self._group = f"tidemill-{work.plan.run_id}-{secrets.token_hex(4)}"
        self._gathered: Accumulator[Outcomes] = self._context.accumulator([], AddingAccumulatorParam([]))
        self._told = 0
        self._error: Exception | None = None
        tasks = len(shards)
        plan = self._context.broadcast(msgspec.json.encode(work.plan))
        indices = tuple(s.index for s in shards)
        task = partial(_score, ship(session, work.live), plan, errand, indices, self._gathered)

        def act() -> None:
            self._context.setJobGroup(self._group, f"tidemill run {work.plan.run_id}", interruptOnCancel=True)
            try:
                session.range(0, tasks, 1, tasks).mapInArrow(task, "id long").collect()
            except Exception as error:  # noqa: BLE001 - it is raised by `finish`
                self._error = error

        self._thread = InheritableThread(target=act, name="tidemill-spark", daemon=True)
        self._thread.start()

    def running(self) -> bool:
        """Whether the job goes on, a moment later."""
        self._thread.join(_NOTICE)
        return self._thread.is_alive()

    def outcomes(self) -> Outcomes:
        """Of the tasks that ended since the last time. Spark adds them up, those of a task that failed left out."""
        new = self._gathered.value[self._told :]
        self._told += len(new)
        return new

    def finish(self) -> None:
        """After the end: wait until attempts that came second are gone. Raises RunError where the job failed."""
        if self._error is not None:
            raise RunError(f"Spark gave up: {_told(self._error)}") from self._error
        until = time.monotonic() + _LOSERS_SECONDS
        while self._attempts() and time.monotonic() < until:
            time.sleep(_NOTICE)

    def cancel(self) -> None:
        """End what still runs."""
        if self._thread.is_alive():
            self._context.cancelJobGroup(self._group)
            self._thread.join(_LOSERS_SECONDS)

    def _attempts(self) -> int:
        tracker = self._context.statusTracker()
        jobs = [tracker.getJobInfo(i) for i in tracker.getJobIdsForGroup(self._group)]
        stages = [tracker.getStageInfo(i) for job in jobs if job is not None for i in job.stageIds]
        return sum(s.numActiveTasks for s in stages if s is not None)


def _score(
    parcel: Parcel,
    plan: Broadcast[bytes],
    errand: Errand,
    indices: Sequence[int],
    gathered: Accumulator[Outcomes],
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    """What a Python worker does with its partition, which is the number of one shard."""
    live = arrived(parcel)
    for batch in batches:
        for place in batch.column(0).to_pylist():
            gathered.add([score_there(live, plan.value, errand, indices[place])])
        yield batch.slice(0, 0)


@contextmanager
def _session(options: SparkOptions) -> Iterator[SparkSession]:
    """The session that is active in this process, or one of our own for as long as it is needed."""
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise MissingExtra(f"engine spark (module {error.name})", "spark") from None
    active = SparkSession.getActiveSession()
    if active is not None:
        yield active
        return
    conf = {"spark.ui.showConsoleProgress": "false"}
    if options.master.startswith("local"):
        # This machine alone: no other is to reach what Spark listens on, and its Python is ours.
        conf |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.ui.enabled": "false"}
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("tidemill").master(options.master)
    for name, value in (conf | options.conf).items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except (PySparkException, Py4JError, RuntimeError) as error:
        raise RunError(f"Spark at {options.master} cannot be started: {_told(error)}") from error
    try:
        yield session
    finally:
        session.stop()


def _told(error: Exception) -> str:
    """What Spark says, without the frames of two languages: the last line of a Python traceback, else the first."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    for i, line in enumerate(lines):
        if line.startswith("Traceback"):
            return next((text for text in lines[i + 1 :] if text[:1].strip()), line)
    return next((line for line in lines if "Job aborted" in line), lines[0])
