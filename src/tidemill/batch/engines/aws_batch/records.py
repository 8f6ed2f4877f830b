"""What a run on AWS Batch keeps at its root, beside its stage, for containers and for whoever asks after it."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, TypeVar

import msgspec

from tidemill.batch.engines.aws_batch.package import Packed
from tidemill.batch.job import Job
from tidemill.batch.jobs.index import RunRecord
from tidemill.batch.ledger import decode_kept
from tidemill.batch.stage import Stage
from tidemill.batch.stores.objects import Objects
from tidemill.config import Config
from tidemill.errors import NotFound

__all__ = [
    "ORDER",
    "RECORD",
    "Order",
    "Submission",
    "Verdict",
    "attempts_at",
    "last_submission",
    "note_of",
    "read_record",
    "root_of",
    "stage_of",
    "submission_name",
    "verdict_name",
]

T = TypeVar("T")
ORDER = "order.json"
# What became of the run, as the job that commits left it.
RECORD = "record.json"
_BEGUN = "begun"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a run was asked for: its job with run id and stage, how many shards it has, and, for the gate, the last
    published run of the job. It stays when the stage is gone, so that a commit that is begun again can ask the target.
    """

    format: Literal[1]
    run_id: str
    job: Job
    shards: int
    package: Packed
    before: RunRecord | None


class Submission(Config, frozen=True, kw_only=True):
    """One time a run was given to AWS Batch: the shards that were missing then, and the jobs that were made.

    Child i of `size` takes `shards[i::size]`. `score_job` is None where every shard was sealed already; both ids are
    None for the moment between the decision to submit and Batch's answer.
    """

    format: Literal[1]
    number: int
    submitted_at: str
    region: str
    queue: str
    definition: str
    shards: tuple[Annotated[int, msgspec.Meta(ge=0)], ...]
    size: Annotated[int, msgspec.Meta(ge=0)]
    score_job: str | None = None
    commit_job: str | None = None


class Verdict(Config, frozen=True, kw_only=True):
    """What a child found that saw its run to be hopeless: too many rows have failed."""

    format: Literal[1]
    told: str


def submission_name(number: int) -> str:
    """The record of the number-th submission of a run, which counts from 1."""
    return f"submission-{number:03d}.json"


def verdict_name(number: int) -> str:
    """What a child of the number-th submission found, where one did."""
    return f"over-budget-{number:03d}.json"


def note_of(shard: int, attempt: str) -> str:
    """The note of a stage that an attempt at a shard was begun."""
    return f"{_BEGUN}/{shard:05d}-{attempt}"


def attempts_at(stage: str) -> Counter[int]:
    """How often the shards of a stage were begun, in all submissions."""
    names = (e.name.rpartition("/")[2] for e in Objects(stage).list(f"notes/{_BEGUN}"))
    return Counter(int(name.partition("-")[0]) for name in names)


def stage_of(root: str) -> str:
    """Where the run with this root keeps what is sealed."""
    return f"{root}/stage"


def root_of(stage: str) -> str:
    """The root of the run whose stage this is. Raises NotFound where that was made by another engine."""
    root = stage.removesuffix("/stage")
    if root == stage:
        raise NotFound(f"{stage}: is no stage of a run on AWS Batch; `tidemill run show` tells of others")
    return root


def last_submission(root: Stage) -> Submission | None:
    """The latest submission of the run whose root this is, or None where there is none."""
    number = 0
    while root.get(submission_name(number + 1)) is not None:
        number += 1
    return read_record(root, submission_name(number), Submission) if number else None


def read_record(root: Stage, name: str, type_: type[T]) -> T:
    """A record of the run whose root this is. Raises NotFound where there is none, RunError for a damaged one."""
    data = root.get(name)
    if data is None:
        raise NotFound(f"{root.where}: holds no {name}; it is not the root of a run that was submitted to AWS Batch")
    return decode_kept(data, type_, f"{root.where}/{name}")
