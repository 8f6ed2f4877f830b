"""What engines of many machines have in common: a shard on a worker, which is the local engine over that one shard, and
the driver's end, which hears of shards as they go on and as they end.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from tidemill.batch.blobs import remote
from tidemill.batch.engines import local
from tidemill.batch.engines.base import Work
from tidemill.batch.engines.options import EngineOptions
from tidemill.batch.ledger import Sealed
from tidemill.batch.options import ScoreOptions
from tidemill.batch.plan import Plan, Shard
from tidemill.batch.shard import Note
from tidemill.batch.stage import Stage, open_stage
from tidemill.batch.watch import Stopped, Watch
from tidemill.errors import RunError, TidemillError
from tidemill.prediction.live import Live
from tidemill.runtimes.cpu import cpu_budget

__all__ = ["Errand", "Hearing", "Outcome", "score_there"]

# How often a worker notes how far it is, and the driver looks, seconds: in a directory, and in a store, where each of
# both is a request.
_NOTED, _NOTED_IN_STORES = 1.0, 10.0

# How a shard ended (`_Ended` as JSON), or why it did not. An error is a value, not raised: what Tidemill says of an
# input or a disk is said after its own tries, and an engine's retries are for workers that die.
Outcome = bytes | TidemillError


class _Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How one attempt at a shard stands: how often it was begun there, and what was read since then."""

    shard: int
    attempt: str
    tries: int
    rows: int
    errors: dict[str, int]


class _Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed shard, how the attempt stood then, and the processes that ended while they answered it."""

    marker: Sealed
    standing: _Standing
    deaths: int


@dataclass(frozen=True)
class Errand:
    """What a worker is told beside the package and the plan (JSON): where the stage is, the directory of its notes, and
    the options.
    """

    stage: str
    notes: str
    options: ScoreOptions

    @classmethod
    def of(cls, work: Work) -> Errand:
        """A worker uses one core, and what is set up once for a run is not its business."""
        options = msgspec.structs.replace(work.options, workers=1, run_timeout=None, engine=EngineOptions())
        return cls(work.stage.where, secrets.token_hex(4), options)

    @property
    def seconds(self) -> float:
        """How often is told how a shard stands."""
        return _NOTED_IN_STORES if remote(self.stage) else _NOTED


def score_there(live: Live, plan: bytes, errand: Errand, index: int) -> Outcome:
    """Score a shard of the plan on this machine and seal it in the stage. Whoever else does so meanwhile has other
    names for its files, and the first marker counts.
    """
    whole = _plan(plan)
    shard = whole.shards[index]
    heard: list[Sealed] = []
    stage = open_stage(errand.stage)
    telling = _Telling(stage, errand, index, secrets.token_hex(4))
    work = Work(
        live=live,
        plan=whole,
        stage=stage,
        package=live.package.directory,
        options=errand.options,
        watch=Watch(whole.run_id, None, 1, None, None),
        attempt=telling.attempt,
        noting=telling.begin,
        # An engine has a task of one core on each.
        beside=cpu_budget(),
    )
    try:
        local.run(work, [shard], heard.append)
    except TidemillError as error:
        return error
    return msgspec.json.encode(_Ended(marker=heard[0], standing=telling.standing, deaths=work.watch.deaths))


@lru_cache(maxsize=2)
def _plan(data: bytes) -> Plan:
    return msgspec.json.decode(data, type=Plan)


class _Telling:
    """Notes how an attempt at a shard stands: when it is begun, and then now and then."""

    def __init__(self, stage: Stage, errand: Errand, index: int, attempt: str) -> None:
        self._stage, self._errand = stage, errand
        self.attempt = attempt
        self.standing = _Standing(shard=index, attempt=attempt, tries=0, rows=0, errors={})
        self._next = 0.0

    def begin(self, shard: Shard) -> Note:
        self.standing = msgspec.structs.replace(self.standing, tries=self.standing.tries + 1, rows=0, errors={})
        self._tell()
        return self._note

    def _note(self, rows: int, errors: Mapping[str, int]) -> None:
        was = self.standing
        added = dict(Counter(was.errors) + Counter(errors)) if errors else was.errors
        self.standing = msgspec.structs.replace(was, rows=was.rows + rows, errors=added)
        if time.monotonic() >= self._next:
            self._tell()

    def _tell(self) -> None:
        self._next = time.monotonic() + self._errand.seconds
        self._stage.note(f"{self._errand.notes}/{self.attempt}", msgspec.json.encode(self.standing))


class Hearing:
    """Hears how shards go on and how they end, each of them once whatever is repeated."""

    def __init__(self, work: Work, errand: Errand, shards: Sequence[Shard], sealed: Callable[[Sealed], None]) -> None:
        self._sealed = sealed
        self._stage = work.stage
        self._errand = errand
        self._watch = work.watch
        self._seconds = work.options.run_timeout
        self._open = {s.index for s in shards}
        # By shard, the attempts at it, and what the watch has been told of its rows.
        self._attempts: dict[int, dict[str, _Standing]] = {i: {} for i in self._open}
        self._told: dict[int, tuple[int, dict[str, int]]] = {}
        self._next = 0.0

    def hear(self, outcomes: Iterable[Outcome]) -> None:
        """Raises a shard's own error, BudgetExceeded, Stopped where the run is told to stop, and RunError where its
        time is over.
        """
        for outcome in outcomes:
            if isinstance(outcome, TidemillError):
                raise outcome
            self._ended(msgspec.json.decode(outcome, type=_Ended))
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._errand.seconds
            self._look()
        if self._watch.stopping.is_set():
            raise Stopped
        if self._seconds is not None and self._open and self._watch.seconds > self._seconds:
            raise RunError(f"not done within run_timeout, {self._seconds:g} s; what is sealed stays: resume the run")

    def finish(self) -> None:
        """Raises RunError where a shard was never heard of."""
        self._look()
        if self._open:
            raise RunError(f"{len(self._open)} shards were not sealed, the first of them {min(self._open)}")

    def _ended(self, ended: _Ended) -> None:
        marker = ended.marker
        self._watch.deaths += ended.deaths
        self._attempted(ended.standing)
        if marker.shard in self._open:
            self._open.discard(marker.shard)
            self._sealed(marker)
            self._count(marker.shard, marker.read, marker.errors)
            self._watch.sealed()

    def _look(self) -> None:
        """At what workers have noted: the attempt at a shard that is furthest tells how far that is."""
        for data in self._stage.notes(self._errand.notes).values():
            with suppress(msgspec.DecodeError):
                self._attempted(msgspec.json.decode(data, type=_Standing))
        for shard in self._open:
            furthest = max(self._attempts[shard].values(), key=lambda s: s.rows, default=None)
            if furthest is not None and furthest.rows:
                self._count(shard, furthest.rows, furthest.errors)

    def _attempted(self, standing: _Standing) -> None:
        attempts = self._attempts.get(standing.shard)
        if attempts is None:
            return
        known = attempts.get(standing.attempt)
        # A disk that others share may show a note late.
        if known is not None and (standing.tries, standing.rows) <= (known.tries, known.rows):
            return
        attempts[standing.attempt] = standing
        tries = sum(s.tries for s in attempts.values())
        if tries > 1:
            self._watch.again(standing.shard, tries)

    def _count(self, shard: int, rows: int, errors: dict[str, int]) -> None:
        if self._told.get(shard) == (rows, errors):
            return
        self._watch.take_back(*self._told.get(shard, (0, {})))
        self._told[shard] = rows, errors
        self._watch.note(rows, errors)
