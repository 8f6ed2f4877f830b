"""A run on AWS Batch that somebody waits for: submitted, or joined where it is under way, and told of until its end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from tidemill.batch.engines.aws_batch.client import Aws
from tidemill.batch.engines.aws_batch.jobs import BatchStatus, living
from tidemill.batch.engines.aws_batch.records import attempts_at, last_submission, read_record, stage_of
from tidemill.batch.engines.aws_batch.runs import SubmittedRun, end_hopeless, find_run, how_it_stands, told_end
from tidemill.batch.engines.aws_batch.submit import root_for, submit
from tidemill.batch.job import Job
from tidemill.batch.jobs.conduct import identified
from tidemill.batch.jobs.index import RunIndex, RunRecord, now
from tidemill.batch.jobs.telling import tell_metrics
from tidemill.batch.ledger import Sealed
from tidemill.batch.options import Progress, RunReport
from tidemill.batch.places import parse_place
from tidemill.batch.plan import Plan
from tidemill.batch.run import peak_rss, report
from tidemill.batch.stage import open_stage
from tidemill.batch.stores.objects import Objects
from tidemill.errors import BudgetExceeded, Held, RunError

__all__ = ["run_there"]

# Batch itself takes some seconds to tell of an end.
_LOOK_SECONDS = 10.0
# For so long an AWS that is away is waited for: the run goes on without it being asked.
_PATIENCE = 1800.0


def run_there(
    job: Job,
    *,
    index: RunIndex | None = None,
    file: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> RunReport:
    """Give a run of the job to AWS Batch, and wait for its end; one of this id that is under way already is joined.

    An interrupt ends the waiting, not the run. `tell` hears what went wrong beside it. Raises what `submit` does, Held
    and BudgetExceeded as a run on one machine, and RunError for one that failed, or was cancelled meanwhile.
    """
    index, job = index or RunIndex(), identified(job)
    where = root_for(job)
    if not _under_way(job, where, index):
        submitted = submit(job, index=index, file=file)
        if isinstance(submitted, RunReport):
            return submitted
    run = find_run(where, index)
    waiting = _Waiting(job, run, index, tell or (lambda text: None))
    while True:
        found = waiting.look(progress)
        if found is not None:
            return found
        time.sleep(_LOOK_SECONDS)


def _under_way(job: Job, where: str, index: RunIndex) -> bool:
    """Whether AWS Batch has this very run. One of another job is refused by `submit`."""
    submission = last_submission(open_stage(where))
    if submission is None or not living(Aws(submission.region), submission):
        return False
    options = msgspec.structs.replace(job.options, stage=stage_of(where))
    return find_run(where, index).order.job == msgspec.structs.replace(job, options=options)


class _Waiting:
    """What is seen of a run from outside: the markers of its shards, its jobs at Batch, and the end it was told of."""

    def __init__(self, job: Job, run: SubmittedRun, index: RunIndex, tell: Callable[[str], None]) -> None:
        self._job, self._run, self._index, self._tell = job, run, index, tell
        self._began = self._measured = self._heard = time.monotonic()
        self._away: set[str] = set()
        self._stage = stage_of(run.root.where)
        # Once it has committed, the stage is gone.
        held = open_stage(self._stage)
        self._plan = None if held.get("plan.json") is None else read_record(held, "plan.json", Plan)
        self._objects = Objects(self._stage)
        self._sealed: dict[str, Sealed] = {}
        self._resumed: int | None = None
        self._last_done = index.last_done(job.name, but=run.order.run_id)

    def look(self, progress: Callable[[Progress], None] | None) -> RunReport | None:
        """See how it stands, and tell of it: its report where it is published, None where it goes on."""
        try:
            self._read_markers()
            standing = how_it_stands(self._run, self._index, len(self._sealed))
            end = told_end(self._run)
        except RunError as error:
            if time.monotonic() - self._heard > _PATIENCE:
                raise
            if str(error) not in self._away:
                self._away.add(str(error))
                self._tell(f"how the run stands is not known for now: {error}")
            return None
        self._heard = time.monotonic()
        if end is not None and (end.state == "done" or standing.state in ("failed", "done", "forgotten")):
            return self._ended(end)
        if standing.state == "done":
            return self._published()
        hopeless = end_hopeless(self._run, self._index)
        if hopeless is not None:
            raise BudgetExceeded(f"{hopeless}; nothing is published")
        if standing.state in ("failed", "cancelled", "forgotten"):
            raise self._failed(standing)
        moment = self._moment()
        self._keep(moment)
        if progress is not None:
            progress(moment)
        return None

    def _read_markers(self) -> None:
        """Those that are new. The commit takes them all away, which ends nothing."""
        new = [e.name for e in self._objects.list("shards") if e.name not in self._sealed]
        with ThreadPoolExecutor(8, "tidemill-markers") as pool:
            for name, data in zip(new, pool.map(self._objects.get, new), strict=True):
                if data is not None:
                    self._sealed[name] = msgspec.json.decode(data, type=Sealed)
        if self._resumed is None:
            missing = set(self._run.submission.shards)
            self._resumed = sum(m.read for m in self._sealed.values() if m.shard not in missing)

    def _moment(self) -> Progress:
        markers = self._sealed.values()
        errors: Counter[str] = Counter()
        for marker in markers:
            errors.update(marker.errors)
        read, dead = sum(m.read for m in markers), sum(m.dead_rows for m in markers)
        return Progress(
            run_id=self._run.order.run_id,
            rows_read=read,
            rows_written=read - dead,
            rows_dead=dead,
            total_rows=None if self._plan is None else self._plan.total_rows,
            resumed_rows=self._resumed or 0,
            shards_done=len(self._sealed),
            shards=self._run.order.shards,
            seconds=time.monotonic() - self._began,
            errors=dict(errors),
            attempts={s: n for s, n in attempts_at(self._stage).items() if n > 1},
        )

    def _keep(self, moment: Progress) -> None:
        """On record, and as metrics."""
        record = self._index.find(moment.run_id)
        if record is None or not record.under_way:
            return
        fresh = moment.rows_read - moment.resumed_rows
        price = self._job.price_per_hour
        record = msgspec.structs.replace(
            record,
            updated_at=now(),
            read=moment.rows_read,
            written=moment.rows_written,
            dead=moment.rows_dead,
            resumed_rows=moment.resumed_rows,
            errors=moment.errors,
            attempts=moment.attempts,
            shards_done=moment.shards_done,
            seconds=round(moment.seconds, 3),
            rows_per_second=round(fresh / moment.seconds, 1) if moment.seconds > 0 else 0.0,
            cost=None if price is None else round(moment.seconds / 3600 * price, 6),
        )
        self._index.write(record)
        if time.monotonic() - self._measured >= self._job.metrics.every:
            self._measured = time.monotonic()
            tell_metrics(record, self._last_done, self._job.metrics, self._tell)

    def _ended(self, end: RunRecord) -> RunReport:
        tell_metrics(end, self._last_done, self._job.metrics, self._tell)
        if end.state == "done":
            return self._report(end, "done")
        if end.state == "held":
            raise Held(end.error or "held", report=self._report(end, "held"))
        if end.state == "over_budget":
            raise BudgetExceeded(end.error or "over the error budget", report=self._report(end, "over_budget"))
        raise RunError(f"run {end.run_id}: {end.state}: {end.error}; the same run id goes on with what is missing")

    def _published(self) -> RunReport:
        """Of a run that was committed by a container which was gone before it could say so."""
        job, run_id = self._job, self._run.order.run_id
        found = job.target().committed(run_id)
        if found is None:
            raise RunError(f"run {run_id}: AWS Batch has ended it, but {parse_place(job.sink).shown} does not hold it")
        return report(found, "done", seconds=time.monotonic() - self._began, fresh_rows=found.read)

    def _failed(self, standing: BatchStatus) -> RunError:
        why = "; ".join(
            f"{'the commit' if f.child is None else f'child {f.child}'}: {f.reason}" for f in standing.failures
        )
        run_id, told = standing.run_id, f"{standing.state}: {why}" if why else standing.state
        return RunError(
            f"run {run_id}: {told}; `tidemill run logs {run_id}` shows what was said; the same run id goes on with "
            "what is missing"
        )

    def _report(self, end: RunRecord, state: str) -> RunReport:
        plan, seconds = self._plan, time.monotonic() - self._began
        return msgspec.convert(
            {
                "run_id": end.run_id,
                "state": state,
                "read": end.read,
                "written": end.written,
                "dead": end.dead,
                "errors": end.errors,
                "files": 0 if plan is None else len(plan.files),
                "shards": end.shards,
                "resumed_shards": end.shards - len(self._run.submission.shards),
                "seconds": round(seconds, 3),
                "rows_per_second": round((end.read - (self._resumed or 0)) / seconds, 1) if seconds > 0 else 0.0,
                "peak_rss_bytes": peak_rss(),
                "output": end.output,
                "dead_letters": end.dead_letters,
                "manifest": end.manifest,
                "chunk_rows": self._job.options.chunk_rows if plan is None else plan.chunk_rows,
                "call_rows": 0 if plan is None else plan.call_rows,
            },
            RunReport,
        )
