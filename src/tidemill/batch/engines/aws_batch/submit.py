"""Giving a run to AWS Batch: plan and package to where containers find them, then the jobs that score and commit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from tidemill.batch.blobs import remote
from tidemill.batch.engines.aws_batch.client import Aws, asking
from tidemill.batch.engines.aws_batch.hooks import check_hooks
from tidemill.batch.engines.aws_batch.jobs import living, terminate
from tidemill.batch.engines.aws_batch.options import AwsBatchOptions
from tidemill.batch.engines.aws_batch.package import send_package
from tidemill.batch.engines.aws_batch.records import (
    ORDER,
    Order,
    Submission,
    last_submission,
    stage_of,
    submission_name,
)
from tidemill.batch.engines.aws_batch.requests import array_size, commit_job, definition, score_job
from tidemill.batch.engines.base import Work
from tidemill.batch.job import Job
from tidemill.batch.jobs.conduct import check_gate, check_guarantee, identified
from tidemill.batch.jobs.index import RunIndex, RunRecord, now
from tidemill.batch.options import RunReport
from tidemill.batch.places import parse_place
from tidemill.batch.score import begin
from tidemill.batch.stage import Stage, open_stage
from tidemill.errors import ConfigError, RunError

__all__ = ["Submitted", "root_for", "submit"]


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """A run that AWS Batch has: where its root is, its shards, and how it was submitted."""

    run_id: str
    root: str
    shards: int
    submission: Submission


def submit(job: Job, *, index: RunIndex | None = None, file: Path | None = None) -> Submitted | RunReport:
    """Give a run of the job to AWS Batch; with the `run_id` of one that failed or was cancelled, what is missing of it.
    A run that was committed before is only reported. `file` is the job's, for the record of the run.

    Raises ConfigError for a job that containers cannot do, RunError for a run that is still under way or where AWS
    refuses, and what `tidemill.score` raises while a run is planned.
    """
    table = _table(job)
    job = identified(job)
    run_id, where = str(job.options.run_id), root_for(job)
    _check_places(job, where)
    check_hooks(job.hooks, table, where)
    aws = Aws()
    root = open_stage(where)
    before = last_submission(root)
    if before is not None and living(aws, before):
        raise RunError(
            f"run {run_id}: AWS Batch still has it, as job {before.score_job or before.commit_job}; wait for its end, "
            f"or end it by `tidemill run cancel {run_id}`"
        )
    options = msgspec.structs.replace(job.options, run_id=run_id, stage=stage_of(where))
    job = msgspec.structs.replace(job, options=options)
    check_guarantee(job)
    index = index or RunIndex()
    with begin(job.package, job.source, job.sink, options) as run:
        if isinstance(run, RunReport):
            return run
        check_gate(job, [o.name for o in run.work.plan.outputs(run.work.live)])
        last = index.last_done(job.name, but=run_id)
        number = before.number + 1 if before is not None else 1
        submitted = _submit(aws, job, table, root, run.work, number, last)
        index.write(_record(job, run.work, file))
        return submitted


def root_for(job: Job) -> str:
    """Where the root of the job's run is, which has an id. Raises ConfigError for a job of another engine."""
    return f"{_table(job).stage.rstrip('/')}/{job.options.run_id}"


def _table(job: Job) -> AwsBatchOptions:
    table = job.options.engine.aws_batch
    if job.options.engine.name != "aws_batch" or table is None:
        raise ConfigError(
            'engine: expected name = "aws_batch" and a table engine.aws_batch with queue, image and stage'
        )
    return table


def _submit(
    aws: Aws, job: Job, table: AwsBatchOptions, root: Stage, work: Work, number: int, last: RunRecord | None
) -> Submitted:
    plan, stage = work.plan, work.stage
    if not remote(plan.root):
        raise ConfigError(f"source {plan.job.source}: is read from {plan.root}, which containers do not have")
    sealed = stage.sealed(plan)
    missing = tuple(s.index for s in plan.shards if s.index not in sealed)
    package = send_package(work.live, root)
    order = Order(format=1, run_id=plan.run_id, job=job, shards=len(plan.shards), package=package, before=last)
    root.put(ORDER, msgspec.json.encode(order))
    size = array_size(len(missing), table.children)
    submission = Submission(
        format=1,
        number=number,
        submitted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        region=aws.region,
        queue=table.queue,
        definition=_registered(aws, definition(job.name, table, aws.region)),
        shards=missing,
        size=size,
    )

    def record() -> None:
        # Before there are containers to read it, and again as soon as Batch has named a job.
        root.put(submission_name(number), msgspec.json.encode(submission))

    record()
    given = (plan.run_id, root.where, number, table, submission.definition)
    after: list[str] = []
    if missing:
        after.append(_made(aws, score_job(*given, size)))
        submission = msgspec.structs.replace(submission, score_job=after[0])
        record()
    try:
        commit = _made(aws, commit_job(*given, after))
    except RunError:
        for one in after:
            terminate(aws, one)
        raise
    submission = msgspec.structs.replace(submission, commit_job=commit)
    record()
    return Submitted(run_id=plan.run_id, root=root.where, shards=len(plan.shards), submission=submission)


def _record(job: Job, work: Work, file: Path | None) -> RunRecord:
    """The run as this machine's index knows it."""
    plan, moment = work.plan, now()
    return RunRecord(
        format=1,
        run_id=plan.run_id,
        job=job.name,
        state="running",
        package=job.package,
        source=plan.job.source,
        output=plan.job.sink.uri,
        sink=plan.job.sink,
        stage=work.stage.where,
        job_file=None if file is None else str(file.resolve()),
        engine="aws_batch",
        created_at=plan.created_at,
        updated_at=moment,
        total_rows=plan.total_rows,
        shards=len(plan.shards),
    )


def _registered(aws: Aws, wanted: dict[str, Any]) -> str:
    """The ARN of a job definition, registered now if there is none of its name yet."""
    name = wanted["jobDefinitionName"]
    with asking(f"look for the job definition {name}"):
        found = aws.batch.describe_job_definitions(jobDefinitionName=name, status="ACTIVE")["jobDefinitions"]
    if found:
        return str(max(found, key=lambda d: d["revision"])["jobDefinitionArn"])
    with asking(f"register the job definition {name}"):
        return str(aws.batch.register_job_definition(**wanted)["jobDefinitionArn"])


def _made(aws: Aws, request: dict[str, Any]) -> str:
    with asking(f"submit {request['jobName']} to the queue {request['jobQueue']}"):
        return str(aws.batch.submit_job(**request)["jobId"])


def _check_places(job: Job, root: str) -> None:
    """Containers reach stores and databases only, and what they are told lies open in the run's root. A database that
    is the source is copied into the run's stage by whoever submits: it may be a file of this machine.
    """
    problems: list[str] = []
    for name, text in (("source", job.source), ("sink", job.sink), ("dead_letters", job.options.dead_letters)):
        if text is None:
            continue
        place = parse_place(text)
        if place.secrets:
            instead = "set PGPASSWORD here, where it is copied"
            if name != "source":
                instead = "give it to the containers by engine.aws_batch.secrets (as PGPASSWORD)"
            problems.append(
                f"{name} {place.shown}: holds a password, which would lie open in {root}; leave it out, and {instead}"
            )
        if place.local and not (name == "source" and place.scheme in ("sqlite", "duckdb")):
            problems.append(f"{name} {place.shown}: is on this machine, where containers cannot reach it")
        elif f"{root}/".startswith(f"{place.shown.rstrip('/')}/"):
            problems.append(
                f"{name} {place.shown}: holds engine.aws_batch.stage; choose another prefix for one of them"
            )
    if problems:
        raise ConfigError(problems)
