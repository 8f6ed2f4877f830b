"""Being told to leave: a reclaimed host sends SIGTERM, and SIGKILL half a minute later."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType

from tidemill.batch.plan import Shard
from tidemill.batch.watch import GivenUp

__all__ = ["GRACE_SECONDS", "Leaving"]

# ECS waits 30 s (ECS_CONTAINER_STOP_TIMEOUT); the rest is for storing and sealing what is finished.
GRACE_SECONDS = 20.0
# For as long the pace of a shard is watched before it is believed.
PACE_SECONDS = 2.0


class Leaving:
    """Whether this process was told to leave, and which shards are worth finishing before it does."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadline: float | None = None

    def listen(self) -> None:
        """Take SIGTERM as the word to leave."""

        def told(number: int, frame: FrameType | None) -> None:
            self.tell()

        signal.signal(signal.SIGTERM, told)

    def tell(self) -> None:
        """Leave: no shard is begun any more, and only those that will be done in time are finished."""
        if self._deadline is None:
            self._deadline = self._clock() + GRACE_SECONDS

    @property
    def told(self) -> bool:
        """Whether the word has come."""
        return self._deadline is not None

    def noting(self, shard: Shard) -> Callable[[int, Mapping[str, int]], None]:
        """What counts the chunks of a shard that is begun now. It raises GivenUp at the first chunk after which the
        rest of the shard, at the pace it has had, would take longer than there is time; at once if the word has come.
        """
        if self.told:
            raise GivenUp
        rows = [p.rows for p in shard.pieces]
        pace = _Pace(sum(r for r in rows if r is not None) if None not in rows else None, self._clock())

        def note(count: int, errors: Mapping[str, int]) -> None:
            now = self._clock()
            pace.add(count, now)
            if self._deadline is not None and not pace.done_by(self._deadline, now):
                raise GivenUp

        return note


class _Pace:
    """How fast a shard of `total` rows goes, from its first chunk on: what comes before that is opening files."""

    def __init__(self, total: int | None, began: float) -> None:
        self._total, self._began = total, began
        self._read = self._first = 0
        self._first_at = began

    def add(self, rows: int, now: float) -> None:
        if self._read == 0:
            self._first, self._first_at = rows, now
        self._read += rows

    def done_by(self, deadline: float, now: float) -> bool:
        """Whether the rest is worth waiting for. A pace of less than PACE_SECONDS tells nothing yet."""
        if self._total is None:
            return False
        left, fresh, seconds = self._total - self._read, self._read - self._first, now - self._first_at
        if left == 0:
            return True
        if fresh == 0 or seconds < PACE_SECONDS:
            return now + max(PACE_SECONDS, now - self._began) < deadline
        return left * seconds <= fresh * (deadline - now)
