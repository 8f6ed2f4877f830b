"""The execution of a plan: what is sealed is kept, the rest is scored, everything is counted, judged, and committed."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

import msgspec
import pyarrow as pa

from tidemill.batch.engines.base import Work, engine
from tidemill.batch.jobs.gate import Check
from tidemill.batch.ledger import Sealed, decode_kept
from tidemill.batch.manifest import RunManifest, checked_manifest
from tidemill.batch.options import RunReport
from tidemill.batch.plan import Plan
from tidemill.batch.stage import HELD, Stage
from tidemill.batch.targets import Publication, Target
from tidemill.batch.targets.letters import place_dead, ready_dead
from tidemill.batch.watch import Watch
from tidemill.config import Config
from tidemill.errors import BudgetExceeded, Held, RunError, first_line

__all__ = ["Observer", "cpu_seconds", "peak_rss", "publish_held", "report", "run_plan"]


class Observer(Protocol):
    """Whoever makes a run as one of a job."""

    job: str
    price_per_hour: float | None

    def planned(self, work: Work) -> None:
        """The plan is settled, and nothing is scored yet. What it raises ends the run."""
        ...

    def judge(self, manifest: RunManifest) -> tuple[Check, ...]:
        """The run is complete: what the gate asks of it. The commit comes next, unless a check failed."""
        ...


class _HeldRun(Config, frozen=True, kw_only=True):
    """What publishing needs beside plan and manifest, so that it needs no package: the Arrow schema (IPC) of rows."""

    format: Literal[1]
    schema: bytes


def run_plan(work: Work, target: Target, observer: Observer | None = None) -> RunReport:
    """Bring a run to its end, and take its stage away. Raises RunError or one of its kinds; the stage then stays."""
    plan, stage, watch = work.plan, work.stage, work.watch
    stage.clean()
    sealed = stage.sealed(plan)
    resumed = len(sealed)
    schema = plan.output_schema(work.live)
    cpu = cpu_seconds()
    publication = target.publication(plan, stage, schema)

    def keep(marker: Sealed) -> None:
        sealed[marker.shard] = marker
        publication.add(marker)

    def manifest(state: Literal["done", "over_budget"]) -> RunManifest:
        markers = [sealed[i] for i in sorted(sealed)]
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = checked_manifest(plan, markers, stage, state=state, finished_at=now, seconds=watch.seconds)
        job, price = ("", None) if observer is None else (observer.job, observer.price_per_hour)
        used = round(cpu_seconds() - cpu, 3)
        return msgspec.structs.replace(
            made,
            job=job,
            cost=None if price is None else round(watch.seconds / 3600 * price, 6),
            attempts=watch.attempts,
            cpu_seconds=used,
            peak_rss_bytes=peak_rss(),
        )

    try:
        for marker in list(sealed.values()):
            watch.resumed(marker.read, marker.errors)
            keep(marker)
        pending = [s for s in plan.shards if s.index not in sealed]
        engine(work.options.engine.name)(work, pending, keep)
        watch.finish()
        record = manifest("done")
        if observer is not None:
            record = msgspec.structs.replace(record, checks=observer.judge(record))
            if not all(c.passed for c in record.checks):
                raise _held(record, schema, stage, watch, resumed)
        record = _commit(record, [sealed[i] for i in sorted(sealed)], stage, publication)
    except BudgetExceeded as error:
        raise _over_budget(error, manifest("over_budget"), stage, watch, resumed) from None
    finally:
        publication.abandon()
    stage.remove()
    return report(
        record, "done", resumed=resumed, seconds=watch.seconds, fresh_rows=watch.fresh_rows, deaths=watch.deaths
    )


def publish_held(stage: Stage, target: Target) -> RunManifest:
    """Publish a run that is held, by the same commit as any, and take its stage away. Safe to repeat after a crash at
    any point.

    Raises RunError where the stage holds no such run, or not all of it any more; nothing is published then.
    """
    data = stage.get("plan.json")
    if data is None:
        raise RunError(f"{stage.where}: holds no run; it was published or discarded already")
    plan = decode_kept(data, Plan, f"{stage.where}/plan.json")
    with stage.held():
        record = target.committed(plan.run_id)
        if record is None:
            held, told = stage.get(HELD), stage.get("manifest.json")
            if held is None or told is None:
                raise RunError(f"run {plan.run_id} is not held: it has not come to its end")
            target.allow()
            schema = _schema(held, f"{stage.where}/{HELD}")
            record = _publish(
                plan, decode_kept(told, RunManifest, f"{stage.where}/manifest.json"), schema, stage, target
            )
        else:
            place_dead(record)
        stage.remove()
    return record


def _schema(held: bytes, name: str) -> pa.Schema:
    try:
        return pa.ipc.read_schema(pa.py_buffer(decode_kept(held, _HeldRun, name).schema))
    except pa.ArrowException as error:
        raise RunError(f"{name}: was damaged ({first_line(error)}); run the job again with this run id") from None


def _publish(plan: Plan, held: RunManifest, schema: pa.Schema, stage: Stage, target: Target) -> RunManifest:
    stage.clean()
    sealed = stage.sealed(plan)
    if len(sealed) < len(plan.shards):
        raise RunError(
            f"run {plan.run_id}: {len(plan.shards) - len(sealed)} of its shards are no longer whole; run the job with "
            "this run id, which scores them again"
        )
    markers = [sealed[i] for i in sorted(sealed)]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    made = checked_manifest(plan, markers, stage, state="done", finished_at=now, seconds=held.seconds)
    kept = {
        name: getattr(held, name) for name in ("job", "checks", "attempts", "cost", "cpu_seconds", "peak_rss_bytes")
    }
    publication = target.publication(plan, stage, schema)
    try:
        for marker in markers:
            publication.add(marker)
        return _commit(msgspec.structs.replace(made, **kept), markers, stage, publication)
    finally:
        publication.abandon()


def _commit(record: RunManifest, markers: Sequence[Sealed], stage: Stage, publication: Publication) -> RunManifest:
    ready_dead(record, markers, stage)
    settled = publication.commit(record, markers)
    place_dead(settled, record.plan)
    return settled


def report(
    manifest: RunManifest,
    state: Literal["done", "already_done", "over_budget", "held"],
    *,
    resumed: int = 0,
    seconds: float = 0.0,
    fresh_rows: int = 0,
    deaths: int = 0,
) -> RunReport:
    """The report of a run whose manifest this is, of which `fresh_rows` were scored in these seconds."""
    plan = manifest.plan
    return RunReport(
        run_id=plan.run_id,
        state=state,
        read=manifest.read,
        written=manifest.written,
        dead=manifest.dead,
        errors=manifest.errors,
        files=len(plan.files),
        shards=len(plan.shards),
        resumed_shards=resumed,
        chunk_rows=plan.chunk_rows or plan.job.chunk_rows,
        call_rows=plan.call_rows or 0,
        quarantined_shards=len(manifest.quarantined),
        worker_deaths=deaths,
        seconds=round(seconds, 3),
        rows_per_second=round(fresh_rows / seconds, 1) if seconds > 0 else 0.0,
        peak_rss_bytes=peak_rss(),
        output=plan.job.sink.uri,
        dead_letters=manifest.dead_letters,
        manifest=plan.job.sink.manifest,
    )


def peak_rss() -> int:
    """The most memory (bytes) that this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _held(record: RunManifest, schema: pa.Schema, stage: Stage, watch: Watch, resumed: int) -> Held:
    """The error for the user, with its report; the stage keeps what publishing needs."""
    record = msgspec.structs.replace(record, state="held")
    stage.put(HELD, msgspec.json.encode(_HeldRun(format=1, schema=schema.serialize().to_pybytes())))
    stage.put("manifest.json", msgspec.json.encode(record))
    told = report(record, "held", resumed=resumed, seconds=watch.seconds, fresh_rows=watch.fresh_rows)
    where = {"manifest": f"{stage.where}/manifest.json"} | (
        {"dead_letters": f"{stage.where}/dead"} if record.dead else {}
    )
    failed = "; ".join(c.told for c in record.checks if not c.passed)
    return Held(
        f"run {record.run_id} is held, nothing is published: {failed}; `tidemill run publish {record.run_id}` or "
        f"`tidemill run discard {record.run_id}` decides",
        report=msgspec.structs.replace(told, **where),
    )


def _over_budget(
    error: BudgetExceeded, manifest: RunManifest, stage: Stage, watch: Watch, resumed: int
) -> BudgetExceeded:
    """The error for the user, with its report: what was read so far, and where the stage keeps it to be looked at."""
    stage.put("manifest.json", msgspec.json.encode(manifest))
    letters = f"{stage.where}/dead"
    read, dead, errors = watch.totals()
    told = msgspec.structs.replace(
        report(manifest, "over_budget", resumed=resumed, seconds=watch.seconds, fresh_rows=watch.fresh_rows),
        read=read,
        written=read - dead,
        dead=dead,
        errors=errors,
        dead_letters=letters,
        manifest=f"{stage.where}/manifest.json",
    )
    return BudgetExceeded(f"{error}; nothing is published; the dead letters are in {letters}", report=told)
