"""The engine of a run that AWS Batch scores: what is left for the process that commits is to see that it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidemill.batch.engines.aws_batch.records import attempts_at
from tidemill.batch.engines.base import Work
from tidemill.batch.ledger import Sealed
from tidemill.batch.plan import Shard
from tidemill.errors import RunError, listing

__all__ = ["run"]


def run(work: Work, shards: Sequence[Shard], sealed: Callable[[Sealed], None]) -> None:
    """Raises RunError that names the shards which the containers have not sealed."""
    del sealed
    for shard, attempts in attempts_at(work.stage.where).items():
        if attempts > 1:
            work.watch.again(shard, attempts)
    if shards:
        raise RunError(
            f"{len(shards)} of {len(work.plan.shards)} shards are not sealed: {listing(str(s.index) for s in shards)}; "
            "`tidemill job submit` gives them to AWS Batch, again with the same run id"
        )
