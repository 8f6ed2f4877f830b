"""What a run of a job would be, before it is one: shards, rows, promise of the sink, and time and cost from a trial."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec

from tidemill.batch.blobs import blob
from tidemill.batch.calls import settled
from tidemill.batch.engines.aws_batch.requests import array_size
from tidemill.batch.engines.local import answering
from tidemill.batch.job import Job
from tidemill.batch.jobs.conduct import check_gate, check_guarantee
from tidemill.batch.options import ScoreOptions
from tidemill.batch.places import compression
from tidemill.batch.plan import Plan
from tidemill.batch.score import prepare
from tidemill.batch.shard import read_piece
from tidemill.batch.sinks import sink
from tidemill.batch.targets import Guarantee
from tidemill.errors import SourceError
from tidemill.prediction.live import Live
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["JobPlan", "Trial", "plan_job"]

_SECONDS = 1.0
_HEAD = 1 << 20


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The first rows of the input, read, scored and written by one worker to a file that was thrown away."""

    rows: int
    dead: int
    seconds: float
    rows_per_second: float


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was not made. What is None cannot be known before the input is copied or read.

    `rows_estimated` tells that the rows were reckoned from the length of the first lines. `seconds` are those of
    `rows` at the trial's rate in each of `workers`, which on a cluster only `workers` of the job tells; `cost` is what
    they come to at the job's price.
    """

    job: str
    package: str
    version: str
    fingerprint: str
    source: str
    origin: dict[str, str]
    format: str | None
    files: int | None
    bytes: int | None
    rows: int | None
    rows_estimated: bool
    shards: int | None
    sink: str
    mode: str
    guarantee: Guarantee
    engine: str
    workers: int | None
    call_rows: int | None
    trial: Trial | None
    seconds: float | None
    cost: float | None


def plan_job(job: Job) -> JobPlan:
    """Look at package, input and sink as a run would, score the first rows for about a second, and write nothing that
    stays. Raises what a run would raise before its first row.
    """
    check_guarantee(job)
    ready = prepare(job.package, job.source, job.sink, job.options)
    live = ready.live
    found = ready.find(None, None)
    plan = None if found is None else ready.plan(found)
    check_gate(
        job, [o.name for o in live.package.manifest.outputs if not job.options.select or o.name in job.options.select]
    )
    rows, estimated, trial = None, False, None
    if plan is not None:
        plan = settled(live, plan)
        trial = _tried(Live(live.package, live.runtime, call_rows=plan.call_rows), plan, job.options)
        rows = plan.total_rows
        if rows is None:
            rows, estimated = _reckoned(plan), True
    workers = _workers(job, None if plan is None else len(plan.shards))
    seconds = None
    if rows is not None and workers is not None and trial is not None and trial.rows_per_second > 0:
        seconds = rows / (trial.rows_per_second * workers)
    price = job.price_per_hour
    return JobPlan(
        job=job.name,
        package=live.package.name,
        version=live.package.version,
        fingerprint=live.fingerprint,
        source=ready.place.shown,
        origin={} if found is None else {"kind": found.origin.kind, **found.origin.read},
        format=None if plan is None else plan.source_format,
        files=None if plan is None else len(plan.files),
        bytes=None if plan is None else sum(f.snapshot.size for f in plan.files),
        rows=rows,
        rows_estimated=estimated and rows is not None,
        shards=None if plan is None else len(plan.shards),
        sink=ready.job.sink.uri,
        mode=job.options.mode,
        guarantee=ready.target.guarantee,
        engine=job.options.engine.name,
        workers=workers,
        call_rows=None if plan is None else plan.call_rows,
        trial=trial,
        seconds=None if seconds is None else round(seconds, 1),
        cost=None if seconds is None or price is None else round(seconds / 3600 * price, 4),
    )


def _workers(job: Job, shards: int | None) -> int | None:
    """How many score at a time; None where only the cluster knows."""
    options = job.options
    table = options.engine.aws_batch
    if options.engine.name == "aws_batch" and table is not None and shards is not None:
        return array_size(shards, table.children) * (options.workers or table.vcpus)
    return options.workers or (cpu_budget() if options.engine.name == "local" else None)


def _tried(live: Live, plan: Plan, options: ScoreOptions) -> Trial | None:
    """Score from the first row on, by whom a run is answered, until a second is over; None where there are no rows."""
    if not plan.shards:
        return None
    format_ = sink(plan.job.sink.format)
    piece = plan.shards[0].pieces[0]
    rows = dead = 0
    answered = answering(live, plan, live.package.directory, options, 1, threading.Event())
    with tempfile.TemporaryDirectory(prefix="tidemill-plan-") as folder, answered as answers:
        path = Path(folder) / f"part{format_.suffix}"
        with closing(format_.open(path, plan.output_schema(live), plan.stamp, passing=plan.job.sink.passing)) as part:
            began = time.perf_counter()
            for first_row, batch in read_piece(plan, piece):
                scored = answers.submit(plan.files[piece.file].name, first_row, batch).result()
                part.write(scored.output)
                rows, dead = rows + scored.read, dead + sum(scored.errors.values())
                seconds = time.perf_counter() - began
                if seconds >= _SECONDS:
                    break
    if not rows:
        return None
    return Trial(rows=rows, dead=dead, seconds=round(seconds, 4), rows_per_second=round(rows / seconds, 1))


def _reckoned(plan: Plan) -> int | None:
    """Rows of text by the mean length of the first lines; None where text is compressed."""
    first = plan.files[0]
    if any(compression(f.name) for f in plan.files):
        return None
    try:
        with blob(plan.root, first.name).open() as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise SourceError(f"{first.name}: cannot be read: {error.strerror}") from None
    lines = head.count(b"\n")
    return round(sum(f.snapshot.size for f in plan.files) / len(head) * lines) if lines else None
