"""A run as one of a job: on record from its beginning, judged by the gate, told as metrics, and of by hooks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tidemill.batch.blobs import remote
from tidemill.batch.engines.base import Work
from tidemill.batch.job import Job
from tidemill.batch.jobs.gate import Check, Figures, judge
from tidemill.batch.jobs.index import RunIndex, RunRecord, State, now, seen_now, this_process
from tidemill.batch.jobs.telling import tell_end, tell_metrics
from tidemill.batch.manifest import RunManifest, find_manifest
from tidemill.batch.options import Progress, RunReport
from tidemill.batch.places import parse_place
from tidemill.batch.run import cpu_seconds, peak_rss
from tidemill.batch.score import new_run_id, score
from tidemill.batch.targets import GUARANTEES
from tidemill.errors import BudgetExceeded, ConfigError, Held, RunError

__all__ = ["check_gate", "check_guarantee", "identified", "run_job"]

_RECORD_SECONDS = 2.0


def run_job(
    job: Job,
    *,
    index: RunIndex | None = None,
    file: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> RunReport:
    """Make one run of a job; with the run id of an earlier one, go on with that.

    `tell` hears one sentence of each thing beside the run that went wrong: a record, a metric or a hook changes nothing
    of a run. Raises ConfigError for a job that asks for more than its sink promises, Held where the gate failed, and
    what `score` raises.
    """
    index = index or RunIndex()
    job = identified(job)
    run_id = str(job.options.run_id)
    known = _known(index, job, run_id)
    conductor = _Conductor(job, run_id, index, known, file, progress, tell)
    with conductor:
        check_guarantee(job)
        report = score(job.package, job.source, job.sink, job.options, conductor.progress, conductor)
        conductor.done(report)
    return report


def identified(job: Job) -> Job:
    """The job with a run id: that which it has, or a new one."""
    run_id = job.options.run_id or (f"{job.name}-{new_run_id()}" if job.name else new_run_id())
    return msgspec.structs.replace(job, options=msgspec.structs.replace(job.options, run_id=run_id))


def check_guarantee(job: Job) -> None:
    """Raises ConfigError where the sink promises less than the job asks for."""
    if job.guarantee is None:
        return
    given = job.target().guarantee
    if GUARANTEES.index(given) > GUARANTEES.index(job.guarantee):
        raise ConfigError(
            f"guarantee: the job asks for {job.guarantee!r}, but {parse_place(job.sink).shown} with mode "
            f"{job.options.mode} gives {given!r}; ask for less, or choose another sink"
        )


def check_gate(job: Job, outputs: list[str]) -> None:
    """Raises ConfigError where the gate names an output that is not written."""
    limits = job.gate.max_null_rate
    unknown = sorted(limits.keys() - set(outputs)) if isinstance(limits, dict) else []
    if unknown:
        raise ConfigError(
            f"gate.max_null_rate.{unknown[0]}: the run writes no such output; it writes {', '.join(outputs)}"
        )


def _known(index: RunIndex, job: Job, run_id: str) -> RunRecord | None:
    """The record of an earlier execution. Raises RunError for a run that is under way, or where the id is that of
    another run which still matters.
    """
    try:
        found = index.find(run_id)
    except (RunError, OSError):
        return None
    if found is None:
        return None
    living = seen_now(found).under_way
    if found.output != _output(job):
        if living or found.state == "held":
            raise RunError(
                f"run id {run_id} is that of a run into {found.output}, which is {found.state}; choose another"
            )
        return None
    if living and found.driver is not None and found.driver.alive:
        raise RunError(
            f"run {run_id}: another process is driving this run ({found.driver.pid}); let it finish, or use another "
            "run id"
        )
    return found


def _output(job: Job) -> str:
    return job.target().describe(str(job.options.run_id)).uri


class _Conductor:
    """Keeps the record of one execution, and tells of it from a thread of its own."""

    def __init__(
        self,
        job: Job,
        run_id: str,
        index: RunIndex,
        known: RunRecord | None,
        file: Path | None,
        progress: Callable[[Progress], None] | None,
        tell: Callable[[str], None] | None,
    ) -> None:
        self.job, self.price_per_hour = job.name, job.price_per_hour
        self._job, self._index, self._show, self._tell = job, index, progress, tell
        self._told: set[str] = set()
        self._known = known
        self._lock = threading.Lock()
        self._began, self._cpu = time.monotonic(), cpu_seconds()
        moment = now()
        self._last_done = index.last_done(job.name, but=run_id) if job.name else None
        self._record = RunRecord(
            format=1,
            run_id=run_id,
            job=job.name,
            state="planned",
            package=parse_place(job.package).shown,
            source=parse_place(job.source).shown,
            output=_output(job),
            sink=None if known is None else known.sink,
            stage="" if known is None else known.stage,
            job_file=None if file is None else str(file.resolve()),
            engine=job.options.engine.name,
            driver=this_process(),
            created_at=moment if known is None else known.created_at,
            updated_at=moment,
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="tidemill-record", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._ended.set()
        self._thread.join()
        if error is not None:
            self._failed(error)

    def planned(self, work: Work) -> None:
        plan = work.plan
        check_gate(self._job, [o.name for o in plan.outputs(work.live)])
        stage = work.stage.where if remote(work.stage.where) else str(Path(work.stage.where).absolute())
        self._change(
            state="running", stage=stage, sink=plan.job.sink, total_rows=plan.total_rows, shards=len(plan.shards)
        )
        self._write()

    def progress(self, moment: Progress) -> None:
        fresh = moment.rows_read - moment.resumed_rows
        self._change(
            read=moment.rows_read,
            written=moment.rows_written,
            dead=moment.rows_dead,
            resumed_rows=moment.resumed_rows,
            errors=moment.errors,
            attempts=moment.attempts,
            shards_done=moment.shards_done,
            rows_per_second=round(fresh / moment.seconds, 1) if moment.seconds > 0 else 0.0,
        )
        if self._show is not None:
            self._show(moment)

    def judge(self, manifest: RunManifest) -> tuple[Check, ...]:
        figures = Figures(read=manifest.read, dead=manifest.dead, outputs=manifest.outputs)
        checks = judge(self._job.gate, figures, self._before())
        self._change(
            state="committing",
            read=manifest.read,
            written=manifest.written,
            dead=manifest.dead,
            errors=manifest.errors,
            outputs=manifest.outputs,
            checks=checks,
        )
        self._write()
        return checks

    def done(self, report: RunReport) -> None:
        """The run is published. A run that was found so, and is on record as that, is not told of again."""
        self._finish_ticking()
        known = self._known
        if report.state == "already_done" and known is not None:
            if known.state == "done":
                return
            self._change(**{name: getattr(known, name) for name in ("outputs", "checks", "total_rows")})
        self._change(shards_done=report.shards)
        self._reported(report)
        self._end("done", None)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, Held | BudgetExceeded) and isinstance(error.report, RunReport):
            self._reported(error.report)
        if isinstance(error, Held):
            self._end("held", str(error))
        elif isinstance(error, BudgetExceeded):
            self._end("over_budget", str(error))
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            self._end("cancelled", f"ended by a signal; the same job with the run id {self._record.run_id} goes on")
        else:
            self._end("failed", str(error) or type(error).__name__)

    def _reported(self, report: RunReport) -> None:
        self._change(
            read=report.read,
            written=report.written,
            dead=report.dead,
            errors=report.errors,
            shards=report.shards,
            rows_per_second=report.rows_per_second,
            manifest=report.manifest,
            dead_letters=report.dead_letters,
        )

    def _end(self, state: State, error: str | None) -> None:
        self._change(state=state, error=error, finished_at=now())
        tell_end(self._record, self._index, self._job.hooks, self._job.metrics, self._warn)

    def _before(self) -> Figures | None:
        """The last published run of this job: by the index, or by the manifest of the output that is there now."""
        if not self.job:
            return None
        last = self._last_done
        if last is not None:
            return Figures(read=last.read, dead=last.dead, outputs=last.outputs)
        try:
            kept = find_manifest(self._job.target().describe(self._record.run_id).manifest)
            found = None if kept is None else msgspec.json.decode(kept[1], type=RunManifest)
        except (RunError, OSError, msgspec.DecodeError):
            return None
        if found is None or found.job != self.job or found.state != "done":
            return None
        return Figures(read=found.read, dead=found.dead, outputs=found.outputs)

    def _change(self, **fields: Any) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        price = self._job.price_per_hour
        with self._lock:
            self._record = msgspec.structs.replace(
                self._record,
                updated_at=now(),
                seconds=seconds,
                cpu_seconds=round(cpu_seconds() - self._cpu, 3),
                peak_rss_bytes=peak_rss(),
                cost=None if price is None else round(seconds / 3600 * price, 6),
                **fields,
            )

    def _tick(self) -> None:
        measured = self._began
        while not self._ended.wait(_RECORD_SECONDS):
            self._write()
            if time.monotonic() - measured >= self._job.metrics.every:
                measured = time.monotonic()
                tell_metrics(self._record, self._last_done, self._job.metrics, self._warn)

    def _finish_ticking(self) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        try:
            with self._lock:
                self._index.write(self._record)
        except OSError as error:
            self._warn(f"the run is not on record: {error}")

    def _warn(self, text: str) -> None:
        """Once each: a gateway that is away is away for the whole run."""
        if self._tell is not None and text not in self._told:
            self._told.add(text)
            self._tell(text)
