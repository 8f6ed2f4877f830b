"""What a person decides of a run: publish it, discard it, cancel it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from tidemill.batch.blobs import remote
from tidemill.batch.job import Job, read_job
from tidemill.batch.jobs.hooks import Hooks
from tidemill.batch.jobs.index import RunIndex, RunRecord, now, seen_now, this_process
from tidemill.batch.jobs.metrics import Metrics
from tidemill.batch.jobs.telling import keep_record, tell_end
from tidemill.batch.ledger import decode_kept
from tidemill.batch.places import parse_place
from tidemill.batch.plan import Plan
from tidemill.batch.run import publish_held
from tidemill.batch.stage import LocalStage, Stage, open_stage
from tidemill.batch.targets import Target, open_target
from tidemill.batch.targets.files import FileTarget, put_back
from tidemill.batch.targets.letters import drop_dead
from tidemill.errors import ConfigError, RunError

__all__ = ["cancel_run", "discard_run", "publish_run"]

_LOOK_SECONDS = 0.1


def publish_run(run_id: str, index: RunIndex, tell: Callable[[str], None]) -> RunRecord:
    """Publish a held run, or finish publishing it; the hooks and metrics of its job file are told. Raises NotFound,
    RunError where it is not held or cannot be.
    """
    before = index.get(run_id)
    if before.state == "done":
        return before
    if seen_now(before).under_way:
        raise RunError(f"run {run_id} is {before.state}; it is not held")
    target, stage = _target(before), _stage(before)
    record = msgspec.structs.replace(before, state="committing", driver=this_process(), updated_at=now())
    keep_record(record, index, tell)
    try:
        manifest = publish_held(stage, target) if _plan(before, stage) else target.committed(run_id)
        if manifest is None:
            raise RunError(f"run {run_id}: {before.stage} holds it no more, and {before.output} does not have it")
    except BaseException as error:
        told = str(error) or type(error).__name__
        keep_record(msgspec.structs.replace(before, updated_at=now(), error=told), index, tell)
        raise
    record = msgspec.structs.replace(
        record,
        state="done",
        error=None,
        updated_at=now(),
        finished_at=now(),
        manifest=manifest.plan.job.sink.manifest,
        dead_letters=manifest.dead_letters,
        outputs=manifest.outputs,
    )
    return _told(record, index, tell)


def discard_run(run_id: str, index: RunIndex, tell: Callable[[str], None]) -> RunRecord:
    """Give a run up; the hooks and metrics of its job file are told. Raises NotFound, RunError for one that is
    published or under way.
    """
    record = seen_now(index.get(run_id))
    if record.state == "done":
        raise RunError(f"run {run_id} is published; there is nothing to discard")
    if record.under_way:
        raise RunError(f"run {run_id} is {record.state}; `tidemill run cancel {run_id}` ends it")
    target, stage = _target(record), _stage(record)
    if target.committed(run_id) is not None:
        raise RunError(f"run {run_id} is published already; `tidemill run publish {run_id}` puts that on record")
    plan = _plan(record, stage)
    if plan is not None:
        with stage.held():
            if isinstance(target, FileTarget) and isinstance(stage, LocalStage):
                put_back(stage.path, target.path)
                target.forget(run_id)
            drop_dead(plan)
            stage.remove()
    record = msgspec.structs.replace(
        record,
        state="cancelled",
        error="discarded",
        dead_letters=None,
        manifest="",
        updated_at=now(),
        finished_at=now(),
    )
    return _told(record, index, tell)


def cancel_run(run_id: str, index: RunIndex, wait: float) -> RunRecord:
    """End a run's driver by SIGTERM, and wait for that. Raises NotFound, RunError where it is not to be had."""
    record = seen_now(index.get(run_id))
    if not record.under_way:
        raise RunError(f"run {run_id} is {record.state}; nothing is under way")
    if record.driver is None or record.driver.alive is None:
        where = "unknown" if record.driver is None else record.driver.host
        raise RunError(f"run {run_id}: its driver is elsewhere ({where}); cancel it there")
    os.kill(record.driver.pid, signal.SIGTERM)
    until = time.monotonic() + wait
    # The process is another's child: its end can be seen, not waited for.
    while record.driver.alive:
        if not time.monotonic() < until:  # also for a wait that is no number
            raise RunError(f"run {run_id}: was told to end, and has not within {wait:g} s; look at it again later")
        time.sleep(_LOOK_SECONDS)
    return seen_now(index.get(run_id))


def _told(record: RunRecord, index: RunIndex, tell: Callable[[str], None]) -> RunRecord:
    job = _job(record)
    hooks, metrics = (job.hooks, job.metrics) if job is not None else (Hooks(), Metrics())
    return tell_end(record, index, hooks, metrics, tell)


def _job(record: RunRecord) -> Job | None:
    """The job of a run, by its file as it is now; None where that is no longer its file."""
    if record.job_file is None:
        return None
    try:
        job = read_job(record.job_file)
    except ConfigError:
        return None
    return job if job.name == record.job else None


def _stage(record: RunRecord) -> Stage:
    if not record.stage:
        raise RunError(f"run {record.run_id}: has no stage; it ended before its plan was made")
    return open_stage(record.stage)


def _plan(record: RunRecord, stage: Stage) -> Plan | None:
    """The plan of this run, if the stage still has it. Raises RunError where it is another's."""
    data = stage.get("plan.json") if remote(record.stage) or Path(record.stage).is_dir() else None
    if data is None:
        return None
    plan = decode_kept(data, Plan, f"{record.stage}/plan.json")
    if plan.run_id != record.run_id:
        raise RunError(f"run {record.run_id}: {record.stage} holds run {plan.run_id}")
    return plan


def _target(record: RunRecord) -> Target:
    """The run's target. Its password is in no record: the job file says it, or the environment."""
    sink = record.sink
    if sink is None:
        raise RunError(f"run {record.run_id}: ended before its plan was made")
    job = _job(record)
    if job is not None:
        with suppress(ConfigError):  # the file has changed since; the run has not
            target = open_target(parse_place(job.sink), sink.mode, sink.key)
            if target.describe(record.run_id).uri == sink.uri:
                return target
    slash = "/" if sink.directory and not parse_place(sink.uri).scheme else ""
    return open_target(parse_place(sink.uri + slash), sink.mode, sink.key)
