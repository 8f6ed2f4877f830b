"""A child of the array job: scores its share of a run's shards into the stage, each under a name of its own."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from dataclasses import dataclass

import msgspec

from tidemill.batch.engines.aws_batch.budget import Budget
from tidemill.batch.engines.aws_batch.leaving import Leaving
from tidemill.batch.engines.aws_batch.package import fetch_package
from tidemill.batch.engines.aws_batch.records import (
    ORDER,
    Order,
    Submission,
    note_of,
    read_record,
    stage_of,
    submission_name,
)
from tidemill.batch.engines.base import Work
from tidemill.batch.engines.local import run as run_here
from tidemill.batch.ledger import Sealed
from tidemill.batch.plan import Plan, Shard
from tidemill.batch.shard import Note
from tidemill.batch.stage import open_stage
from tidemill.batch.watch import Watch
from tidemill.errors import RunError

__all__ = ["Seat", "score_share"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seat:
    """Which container this is: Batch's id of the job, the child's number (0 for a plain job) and the attempt."""

    job: str
    index: int
    attempt: int

    def name(self) -> str:
        """A name for the files of this process: also of two that Batch takes for the same attempt."""
        job = "".join(c for c in self.job.partition(":")[0] if c.isalnum())
        return f"{job[:8]}-{self.index}-{self.attempt}-{secrets.token_hex(4)}"


def score_share(where: str, number: int, seat: Seat, leaving: Leaving) -> bool:
    """Score what this child has of the shards of a submission; whether all of it is sealed now, by whomever.

    Shards that are sealed already are left alone, and so is a run that came to its end. Raises BudgetExceeded for a run
    that is hopeless, RunError or another of its kinds, IntegrityError for a package that is not the one that was sent.
    """
    root, stage = open_stage(where), open_stage(stage_of(where))
    order = read_record(root, ORDER, Order)
    submission = read_record(root, submission_name(number), Submission)
    if stage.get("plan.json") is None:
        log.info("run %s has no stage: it was committed or discarded; nothing to do", order.run_id)
        return True
    plan = read_record(stage, "plan.json", Plan)
    if submission.size < 1 or any(i >= len(plan.shards) for i in submission.shards):
        raise RunError(f"{where}/{submission_name(number)}: is not of this run's plan; submit the run again")
    indices = submission.shards[seat.index :: submission.size]
    share = msgspec.structs.replace(plan, shards=tuple(plan.shards[i] for i in indices))
    before = stage.sealed(share)
    pending = [s for s in share.shards if s.index not in before]
    log.info("child %d of %d: %d shards, %d of them sealed", seat.index, submission.size, len(indices), len(before))
    if leaving.told or not pending:
        return not pending
    budget = Budget(plan, stage.where, root, number)
    for marker in before.values():
        budget.sealed(marker)
    budget.look()
    live = fetch_package(order.package, root)
    attempt = seat.name()
    begun: Counter[int] = Counter()

    def noting(shard: Shard) -> Note:
        note = budget.begun(shard, leaving.noting(shard))
        begun[shard.index] += 1
        stage.note(note_of(shard.index, f"{attempt}-{begun[shard.index]}"), b"")
        log.info("shard %d is begun", shard.index)
        return note

    # What the budget of a part of the rows would be, `Budget` knows; the job that commits judges it over all of them.
    watch = Watch(plan.run_id, share.total_rows, len(pending), None, None)
    work = Work(live, plan, stage, live.package.directory, order.job.options, watch, attempt=attempt, noting=noting)

    left = {s.index for s in pending}

    def sealed(marker: Sealed) -> None:
        left.discard(marker.shard)
        log.info("shard %d is sealed: %d rows, %d dead", marker.shard, marker.read, marker.dead_rows)
        budget.sealed(marker)

    run_here(work, pending, sealed)
    if left:
        log.info("told to leave: %d shards are left to the next attempt", len(left))
    return not left
