"""The jobs of a submitted run: how they stand, their end before its time, and their logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from tidemill.batch.engines.aws_batch.client import Aws, asking
from tidemill.batch.engines.aws_batch.records import Submission
from tidemill.errors import NotFound

__all__ = [
    "BatchStatus",
    "FailedJob",
    "LogLine",
    "Moment",
    "batch_status",
    "cancel_jobs",
    "living",
    "read_logs",
    "terminate",
]

CANCELLED = "cancelled by tidemill"
LOG_GROUP = "/aws/batch/job"
OVER = ("SUCCEEDED", "FAILED")
SHOWN_FAILURES = 10

# A job, an attempt or a line of a log as AWS tells of it.
Described = dict[str, Any]


class FailedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A child, or the job that commits (`child` is None), that failed; `exit_code` is None where it never ran."""

    child: int | None
    exit_code: int | None
    reason: str


class BatchStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a run on AWS Batch stands; `held` and `over_budget` are what a container said.

    `children` counts those of the scoring job by Batch's states, `commit` is the state of the job that commits; Batch
    forgets both some days after their end: then there are none. `seconds_left` is an estimate from the shards sealed
    since the submission, None before the first.
    """

    run_id: str
    state: Literal[
        "submitted", "running", "committing", "done", "failed", "cancelled", "held", "over_budget", "forgotten"
    ]
    root: str
    submission: int
    submitted_at: str
    children: dict[str, int]
    commit: str | None
    shards: int
    sealed: int
    seconds_left: float | None
    failures: tuple[FailedJob, ...]


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of one attempt's log."""

    child: int | None
    attempt: int
    at: str
    text: str


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage says of its run: all its shards, and those that are sealed."""

    run_id: str
    root: str
    shards: int
    sealed: int


def batch_status(aws: Aws, submission: Submission, moment: Moment) -> BatchStatus:
    """How the jobs of a submission stand. Raises RunError where AWS does not answer."""
    found = _described(aws, [i for i in (submission.score_job, submission.commit_job) if i is not None])
    score, commit = found.get(submission.score_job or ""), found.get(submission.commit_job or "")
    failures = tuple(_failures(aws, submission, score, commit))
    state = _state(submission, score, commit)
    done = moment.shards if state == "done" else moment.sealed
    return BatchStatus(
        run_id=moment.run_id,
        state=state,
        root=moment.root,
        submission=submission.number,
        submitted_at=submission.submitted_at,
        children=_by_state(score),
        commit=commit["status"] if commit is not None else None,
        shards=moment.shards,
        sealed=done,
        seconds_left=_seconds_left(submission, moment) if state == "running" else None,
        failures=failures[:SHOWN_FAILURES],
    )


def living(aws: Aws, submission: Submission) -> bool:
    """Whether a job of the submission has not come to its end. Raises RunError where AWS does not answer."""
    found = _described(aws, [i for i in (submission.score_job, submission.commit_job) if i is not None])
    return any(_status(job) not in OVER for job in found.values())


def cancel_jobs(aws: Aws, submission: Submission) -> None:
    """End the jobs of a submission. Raises RunError where AWS does not answer.

    What commits goes first. Children get SIGTERM, and seal or give up what they have in hand; jobs that were
    terminated are not retried.
    """
    for job in (submission.commit_job, submission.score_job):
        if job is not None:
            terminate(aws, job)


def terminate(aws: Aws, job: str) -> None:
    """End a job, and the children of an array with it. Raises RunError where AWS does not answer."""
    with asking(f"terminate job {job}"):
        aws.batch.terminate_job(jobId=job, reason=CANCELLED)


def read_logs(aws: Aws, submission: Submission, child: int | None) -> Iterator[LogLine]:
    """The logs of one child, or without one of the job that commits and of the first failed children; every attempt,
    each from its beginning. Raises NotFound for a child that there is not, RunError where AWS does not answer.
    """
    for one, job in _wanted(aws, submission, child):
        for number, attempt in enumerate(_attempts(job), 1):
            stream = attempt.get("logStreamName")
            if stream is None:
                continue
            for event in _events(aws, stream):
                at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC).isoformat(timespec="milliseconds")
                yield LogLine(child=one, attempt=number, at=at, text=event["message"].rstrip("\n"))


def _wanted(aws: Aws, submission: Submission, child: int | None) -> list[tuple[int | None, Described]]:
    if child is None:
        failed = _failed_children(aws, submission)[:SHOWN_FAILURES]
        ids: dict[str, int | None] = {job["jobId"]: _index(job) for job in failed}
        if submission.commit_job is not None:
            ids[submission.commit_job] = None
    elif submission.score_job is not None and 0 <= child < submission.size:
        ids = {submission.score_job if submission.size == 1 else f"{submission.score_job}:{child}": child}
    else:
        raise NotFound(f"child {child}: submission {submission.number} has {submission.size}, counted from 0")
    found = _described(aws, list(ids))
    if not found and child is not None:
        raise NotFound(f"child {child}: AWS Batch has forgotten it; its log may still be in {LOG_GROUP}")
    return [(ids[i], job) for i, job in found.items()]


def _attempts(job: Described) -> list[Described]:
    """The container of each attempt, the one that runs now last."""
    ended = [a["container"] for a in job.get("attempts", ()) if "container" in a]
    now = job.get("container", {})
    streams = [c.get("logStreamName") for c in ended]
    return ended if now.get("logStreamName") in (None, *streams) else [*ended, now]


def _events(aws: Aws, stream: str) -> Iterator[Described]:
    """A log from its beginning. The last page is told by the token that does not change."""
    asked: dict[str, Any] = {"logGroupName": LOG_GROUP, "logStreamName": stream, "startFromHead": True}
    while True:
        with asking(f"read the log {stream}"):
            page = aws.logs.get_log_events(**asked)
        yield from page["events"]
        if page["nextForwardToken"] == asked.get("nextToken"):
            return
        asked["nextToken"] = page["nextForwardToken"]


def _described(aws: Aws, ids: Sequence[str]) -> dict[str, Described]:
    """The jobs that Batch still knows, a hundred a request."""
    found: dict[str, Described] = {}
    for first in range(0, len(ids), 100):
        with asking("describe jobs"):
            answer = aws.batch.describe_jobs(jobs=list(ids[first : first + 100]))
        found.update({job["jobId"]: job for job in answer["jobs"]})
    return found


def _failed_children(aws: Aws, submission: Submission) -> list[Described]:
    if submission.score_job is None or submission.size == 1:
        return []
    found: list[Described] = []
    asked: dict[str, Any] = {"arrayJobId": submission.score_job, "jobStatus": "FAILED"}
    while True:
        with asking("list the failed children"):
            page = aws.batch.list_jobs(**asked)
        found += page["jobSummaryList"]
        if page.get("nextToken") is None or len(found) >= SHOWN_FAILURES:
            return found
        asked["nextToken"] = page["nextToken"]


def _failures(
    aws: Aws, submission: Submission, score: Described | None, commit: Described | None
) -> Iterator[FailedJob]:
    children = _failed_children(aws, submission)
    if score is not None and _status(score) == "FAILED" and not children:
        children = [score]
    for job in children:
        yield _failure(_index(job), job)
    if commit is not None and commit["status"] == "FAILED":
        yield _failure(None, commit)


def _failure(child: int | None, job: Described) -> FailedJob:
    container = job.get("container", {})
    reason = container.get("reason") or job.get("statusReason") or "no reason was given"
    return FailedJob(child=child, exit_code=container.get("exitCode"), reason=reason)


def _index(job: Described) -> int:
    """The number of a child: an array's children are named PARENT:NUMBER, a plain job is child 0."""
    return int(job["jobId"].partition(":")[2] or 0)


def _by_state(score: Described | None) -> dict[str, int]:
    if score is None:
        return {}
    summary: dict[str, int] = score.get("arrayProperties", {}).get("statusSummary", {})
    counts = {state: count for state, count in summary.items() if count}
    return counts or {score["status"]: 1}


def _status(job: Described) -> str:
    """The state of a job; of an array whose children have all ended, what they come to, which Batch tells later."""
    states = _by_state(job).keys()
    if states <= set(OVER):
        return "FAILED" if "FAILED" in states else "SUCCEEDED"
    return str(job["status"])


def _state(
    submission: Submission, score: Described | None, commit: Described | None
) -> Literal["submitted", "running", "committing", "done", "failed", "cancelled", "forgotten"]:
    known = [job for job in (score, commit) if job is not None]
    if not known:
        return "forgotten"
    if commit is not None and commit["status"] == "SUCCEEDED":
        return "done"
    if any(_status(job) == "FAILED" for job in known):
        cancelled = any(job.get("statusReason") == CANCELLED for job in known)
        return "cancelled" if cancelled else "failed"
    if commit is not None and commit["status"] in ("STARTING", "RUNNING"):
        return "committing"
    running = _by_state(score).keys() & {"STARTING", "RUNNING", "SUCCEEDED"}
    return "running" if running else "submitted"


def _seconds_left(submission: Submission, moment: Moment) -> float | None:
    """From the shards that were sealed since the submission, as if the others went on like them."""
    missing = moment.shards - moment.sealed
    fresh = len(submission.shards) - missing
    if fresh <= 0:
        return None
    began = datetime.fromisoformat(submission.submitted_at)
    return round((datetime.now(UTC) - began).total_seconds() * missing / fresh, 1)
