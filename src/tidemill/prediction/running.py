"""Model calls on threads: how long they will still take, and which do not come back. No clock and no loop."""

from __future__ import annotations

from collections.abc import Iterator

from tidemill.prediction.budget import Held
from tidemill.prediction.call import Call

__all__ = ["Running", "Threads"]


class Running:
    """One model call, begun at `started`, which should be over at `due`; `held` are its cores of the CPU budget."""

    __slots__ = ("calls", "due", "held", "rows", "started")

    def __init__(self, calls: list[Call], rows: int, started: float, due: float, held: Held | None) -> None:
        self.calls = calls
        self.rows = rows
        self.started = started
        self.due = due
        self.held = held


class Threads:
    """The model calls that run, of at most `most`. One whose callers have given up keeps its place until it returns."""

    def __init__(self, most: int, hung_after: float) -> None:
        self.most = most
        self._hung_after = hung_after
        self._running: list[Running] = []
        self.last_due = 0.0  # when all that ever began should be over

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[Running]:
        return iter(self._running)

    def add(self, running: Running) -> None:
        """A call began."""
        self._running.append(running)
        self.last_due = max(self.last_due, running.due)

    def remove(self, running: Running) -> None:
        """A call returned."""
        self._running.remove(running)

    @property
    def full(self) -> bool:
        """Whether every thread is in a call."""
        return len(self._running) >= self.most

    @property
    def callers(self) -> Iterator[Call]:
        """Those who wait for a call that runs, and those who did."""
        return (call for running in self._running for call in running.calls)

    def hung(self, now: float) -> list[Running]:
        """Calls that nobody waits for any more and that should have returned `hung_after` ago."""
        late = now - self._hung_after
        return [r for r in self._running if r.due < late and all(c.done for c in r.calls)]

    def overdue(self, now: float, seconds: float) -> bool:
        """Every thread is in a call, and even the last of them should have returned so long ago."""
        return self.full and now > max([r.due for r in self._running]) + seconds

    def remaining(self, now: float) -> tuple[list[float], int]:
        """Seconds that each call will still take, and of how many threads; what hangs, and its thread, left out."""
        if not self._running:
            return [], self.most
        hung = self.hung(now)
        busy = [max(0.0, r.due - now) for r in self._running if r not in hung]
        return busy, self.most - len(hung)
