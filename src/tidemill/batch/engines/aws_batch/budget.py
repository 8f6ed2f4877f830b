"""The error budget as one child of many sees it: by its own rows, and by what the shards say that are sealed.

A child ends a run only where that is hopeless: where more rows have failed already than the whole run may have. A rate
of its own rows would say little, since bad rows come together.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec

from tidemill.batch.engines.aws_batch.records import Verdict, verdict_name
from tidemill.batch.ledger import Sealed
from tidemill.batch.plan import Plan, Shard
from tidemill.batch.shard import Note
from tidemill.batch.stage import Stage
from tidemill.batch.stores.objects import Objects
from tidemill.errors import BudgetExceeded, RunError

__all__ = ["Budget"]

log = logging.getLogger(__name__)

# A look is two requests, and one more for each shard with dead letters that was not read before.
_LOOK_SECONDS = 60.0
# What the others have is read of so many shards at most: it is one request each, and of those who read there are
# thousands. Rows that were not seen are held to be good.
_MOST_READ = 256
_DEAD = re.compile(r"dead/part-(\d+)-")


class Budget:
    """Judges the run of a plan for one child. Thread-safe.

    `stage` is where the run keeps its shards, `root` where a child that finds it hopeless tells the others of the same
    submission.
    """

    def __init__(self, plan: Plan, stage: str, root: Stage, submission: int) -> None:
        self._plan = plan
        self._most, self._rate = plan.job.max_errors, plan.job.max_error_rate
        self._stage, self._root, self._verdict = Objects(stage), root, verdict_name(submission)
        self._lock = threading.Lock()
        # By shard: rows read, and dead ones by code.
        self._sealed: dict[int, tuple[int, Counter[str]]] = {}
        self._open: dict[int, tuple[int, Counter[str]]] = {}
        self._read = 0
        self._next = 0.0

    def look(self) -> None:
        """See what the other children have. Raises BudgetExceeded where one of them, or this one now, has found the run
        to be hopeless.
        """
        if self._most is None and self._rate is None:
            return
        self._next = time.monotonic() + _LOOK_SECONDS
        try:
            told = self._root.get(self._verdict)
            markers = self._others()
        except RunError as error:
            log.warning("what other children have is not known: %s", error)
            return
        if told is not None:
            raise BudgetExceeded(msgspec.json.decode(told, type=Verdict).told)
        for marker in markers:
            self.sealed(marker)

    def begun(self, shard: Shard, also: Callable[[int, Mapping[str, int]], None]) -> Note:
        """What counts the chunks of a shard that is begun, again or for the first time; `also` hears of them first."""
        with self._lock:
            self._open[shard.index] = 0, Counter()

        def note(rows: int, errors: Mapping[str, int]) -> None:
            also(rows, errors)
            with self._lock:
                read, dead = self._open.get(shard.index, (0, Counter()))
                self._open[shard.index] = read + rows, dead + Counter(errors)
                due = time.monotonic() >= self._next
                if due:
                    self._next = time.monotonic() + _LOOK_SECONDS
            if due:
                self.look()
            if errors:
                self._judge()

        return note

    def sealed(self, marker: Sealed) -> None:
        """Count a shard that is sealed, by whomever. Raises BudgetExceeded."""
        with self._lock:
            self._open.pop(marker.shard, None)
            self._sealed[marker.shard] = marker.read, Counter(marker.errors)
        self._judge()

    def _others(self) -> list[Sealed]:
        """Markers that were not read before, of shards that have dead letters."""
        found = []
        named = (_DEAD.match(e.name) for e in self._stage.list("dead"))
        for shard in sorted({int(m[1]) for m in named if m is not None} - self._sealed.keys()):
            if self._read >= _MOST_READ:
                break
            data = self._stage.get(f"shards/{shard:05d}.json")
            if data is not None:  # else it is not sealed yet
                self._read += 1
                found.append(msgspec.json.decode(data, type=Sealed))
        return found

    def _judge(self) -> None:
        with self._lock:
            codes: Counter[str] = Counter()
            for _, errors in (*self._sealed.values(), *self._open.values()):
                codes.update(errors)
            rows, shards = self._rows(), len(self._sealed) + len(self._open)
        dead = codes.total()
        allowed = None
        if self._most is not None and dead > self._most:
            allowed = f"{self._most} may"
        elif self._rate == 0 and dead:
            allowed = "none may"
        elif self._rate is not None and rows is not None and dead > self._rate * rows:
            allowed = f"{self._rate:.2%} of {'' if self._plan.total_rows is not None else 'about '}{rows} may"
        if allowed is None:
            return
        code, most = codes.most_common(1)[0]
        told = f"{dead} rows failed in {shards} of {len(self._plan.shards)} shards; at most {allowed}; the most common "
        told += f"reason is {code} ({most} rows)"
        self._root.put(self._verdict, msgspec.json.encode(Verdict(format=1, told=told)))
        raise BudgetExceeded(told)

    def _rows(self) -> int | None:
        """Rows of the whole run; where only reading tells, as if all shards were like those that are sealed."""
        if self._plan.total_rows is not None or not self._sealed:
            return self._plan.total_rows
        return sum(rows for rows, _ in self._sealed.values()) * len(self._plan.shards) // len(self._sealed)
