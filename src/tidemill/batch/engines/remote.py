"""What engines of many machines have in common: a shard on a worker, which is the local engine over that one shard, and
the driver's end, which hears of shards as they end.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from tidemill.batch.engines import local
from tidemill.batch.engines.base import Work
from tidemill.batch.engines.options import EngineOptions
from tidemill.batch.ledger import Sealed
from tidemill.batch.options import ScoreOptions
from tidemill.batch.plan import Plan, Shard
from tidemill.batch.stage import open_stage
from tidemill.batch.watch import Stopped, Watch
from tidemill.errors import RunError, TidemillError
from tidemill.prediction.live import Live

__all__ = ["Errand", "Hearing", "Outcome", "score_there"]

# The marker of a shard, as JSON, or why there is none. An error is a value, not raised: what Tidemill says of an input
# or a disk is said after its own tries, and an engine's retries are for workers that die.
Outcome = bytes | TidemillError


@dataclass(frozen=True)
class Errand:
    """What a worker is told beside the package and the plan (JSON): where the stage is, and the options."""

    stage: str
    options: ScoreOptions

    @classmethod
    def of(cls, work: Work) -> Errand:
        """A worker uses one core, and what is set up once for a run is not its business."""
        options = msgspec.structs.replace(work.options, workers=1, run_timeout=None, engine=EngineOptions())
        return cls(work.stage.where, options)


def score_there(live: Live, plan: bytes, errand: Errand, index: int) -> Outcome:
    """Score a shard of the plan on this machine and seal it in the stage. Whoever else does so meanwhile has other
    names for its files, and the first marker counts.
    """
    whole = _plan(plan)
    shard = whole.shards[index]
    heard: list[Sealed] = []
    work = Work(
        live=live,
        plan=whole,
        stage=open_stage(errand.stage),
        package=live.package.directory,
        options=errand.options,
        watch=Watch(whole.run_id, None, 1, None, None),
        attempt=secrets.token_hex(4),
    )
    try:
        local.run(work, [shard], heard.append)
    except TidemillError as error:
        return error
    return msgspec.json.encode(heard[0])


@lru_cache(maxsize=2)
def _plan(data: bytes) -> Plan:
    return msgspec.json.decode(data, type=Plan)


class Hearing:
    """Hears how shards ended, each of them once whatever is repeated."""

    def __init__(self, work: Work, shards: Sequence[Shard], sealed: Callable[[Sealed], None]) -> None:
        self._sealed = sealed
        self._watch = work.watch
        self._seconds = work.options.run_timeout
        self._open = {s.index for s in shards}

    def hear(self, outcomes: Iterable[Outcome]) -> None:
        """Raises a shard's own error, BudgetExceeded, Stopped where the run is told to stop, and RunError where its
        time is over.
        """
        for outcome in outcomes:
            if isinstance(outcome, TidemillError):
                raise outcome
            marker = msgspec.json.decode(outcome, type=Sealed)
            if marker.shard in self._open:
                self._open.discard(marker.shard)
                self._sealed(marker)
                self._watch.note(marker.read, marker.errors)
                self._watch.sealed()
        if self._watch.stopping.is_set():
            raise Stopped
        if self._seconds is not None and self._open and self._watch.seconds > self._seconds:
            raise RunError(f"not done within run_timeout, {self._seconds:g} s; what is sealed stays: resume the run")

    def finish(self) -> None:
        """Raises RunError where a shard was never heard of."""
        if self._open:
            raise RunError(f"{len(self._open)} shards were not sealed, the first of them {min(self._open)}")
