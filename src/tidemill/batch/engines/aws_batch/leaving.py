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
        total = sum(r for r in rows if r is not None) if None not in rows else None
        began, read = self._clock(), 0

        def note(count: int, errors: Mapping[str, int]) -> None:
            nonlocal read
            read += count
            if self._deadline is None or read == total:
                return
            now = self._clock()
            if total is None or (total - read) * (now - began) > read * (self._deadline - now):
                raise GivenUp

        return note
