"""A submitted run from the user's side: how it stands, its end before its time, its logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from tidemill.batch.engines.aws_batch.client import Aws
from tidemill.batch.engines.aws_batch.jobs import (
    BatchStatus,
    LogLine,
    Moment,
    batch_status,
    cancel_jobs,
    living,
    read_logs,
)
from tidemill.batch.engines.aws_batch.records import (
    ORDER,
    RECORD,
    Order,
    Submission,
    Verdict,
    last_submission,
    read_record,
    root_of,
    stage_of,
    verdict_name,
)
from tidemill.batch.jobs.index import RunIndex, RunRecord, State, now
from tidemill.batch.plan import Plan
from tidemill.batch.stage import Stage, open_stage
from tidemill.errors import NotFound, RunError

__all__ = [
    "SubmittedRun",
    "cancel_run",
    "end_hopeless",
    "find_run",
    "how_it_stands",
    "run_logs",
    "run_status",
    "told_end",
]


@dataclass(frozen=True, slots=True)
class SubmittedRun:
    """A run that was given to AWS Batch, by what its root holds."""

    root: Stage
    order: Order
    submission: Submission


def find_run(run: str, index: RunIndex) -> SubmittedRun:
    """The run with this id in the index, or with this root (s3://bucket/prefix/ID). Raises NotFound, RunError."""
    where = run.rstrip("/") if "://" in run else root_of(index.get(run).stage)
    root = open_stage(where)
    order = read_record(root, ORDER, Order)
    submission = last_submission(root)
    if submission is None:
        raise NotFound(f"{where}: the run was planned, but not submitted; `tidemill job submit` does that")
    return SubmittedRun(root, order, submission)


def run_status(run: SubmittedRun, index: RunIndex) -> BatchStatus:
    """How it stands now; the index learns of its end. Raises RunError where AWS does not answer."""
    stage = open_stage(stage_of(run.root.where))
    data = stage.get("plan.json")
    sealed = 0 if data is None else len(stage.sealed(read_record(stage, "plan.json", Plan)))
    return how_it_stands(run, index, sealed)


def how_it_stands(run: SubmittedRun, index: RunIndex, sealed: int) -> BatchStatus:
    """As `run_status`, for who knows how many shards are sealed."""
    aws = Aws(run.submission.region)
    moment = Moment(run_id=run.order.run_id, root=run.root.where, shards=run.order.shards, sealed=sealed)
    found = batch_status(aws, run.submission, moment)
    told = told_end(run)
    if found.state in ("done", "failed", "forgotten") and told is not None:
        found = msgspec.structs.replace(found, state=told.state)
        _learn(index, told)
    elif found.state == "cancelled":
        _end(run, index, "cancelled", "cancelled")
    elif found.state == "failed":
        hopeless = _hopeless(run)
        if hopeless is not None:
            found = msgspec.structs.replace(found, state="over_budget")
            _end(run, index, "over_budget", hopeless)
        else:
            _end(run, index, "failed", "; ".join(f.reason for f in found.failures) or "failed")
    return found


def end_hopeless(run: SubmittedRun, index: RunIndex) -> str | None:
    """Where a child has found that too many rows failed, end the others, too: what it said. Raises RunError."""
    told = _hopeless(run)
    if told is not None:
        cancel_jobs(Aws(run.submission.region), run.submission)
        _end(run, index, "over_budget", told)
    return told


def cancel_run(run: SubmittedRun, index: RunIndex) -> None:
    """End the run's jobs; what is sealed stays, and a new submission goes on. Raises RunError where nothing is under
    way, or AWS does not answer.
    """
    aws = Aws(run.submission.region)
    if not living(aws, run.submission):
        raise RunError(f"run {run.order.run_id}: AWS Batch has ended it already; `tidemill run status` tells how")
    cancel_jobs(aws, run.submission)
    _end(run, index, "cancelled", "cancelled; the same job with the same run id, submitted again, goes on")


def run_logs(run: SubmittedRun, child: int | None) -> Iterator[LogLine]:
    """The log of one child, or without one those of the job that commits and of the children that failed."""
    return read_logs(Aws(run.submission.region), run.submission, child)


def told_end(run: SubmittedRun) -> RunRecord | None:
    """What the job that commits said of the run's end, if it was this submission's."""
    if run.root.get(RECORD) is None:
        return None
    record = read_record(run.root, RECORD, RunRecord)
    return record if record.updated_at >= run.submission.submitted_at else None


def _hopeless(run: SubmittedRun) -> str | None:
    name = verdict_name(run.submission.number)
    return None if run.root.get(name) is None else read_record(run.root, name, Verdict).told


def _learn(index: RunIndex, told: RunRecord) -> None:
    """Take the record over, with what only this machine knows of the run."""
    known = index.find(told.run_id)
    if known is not None and known.state == told.state:
        return
    job_file = None if known is None else known.job_file
    index.write(msgspec.structs.replace(told, driver=None, job_file=job_file))


def _end(run: SubmittedRun, index: RunIndex, state: State, why: str) -> None:
    known = index.find(run.order.run_id)
    if known is not None and known.state not in (state, "done", "held"):
        index.write(msgspec.structs.replace(known, state=state, error=why, updated_at=now(), finished_at=now()))
