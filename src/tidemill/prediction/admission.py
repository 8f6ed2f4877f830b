"""Whether a call is taken: room, the wait to expect, the deadline. Arithmetic over what waits and runs, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.errors import Overloaded
from tidemill.prediction.call import Call
from tidemill.prediction.limits import BatchLimits
from tidemill.prediction.pace import Pace, begins_in
from tidemill.prediction.queue import Queue

__all__ = ["Admission", "Load"]

# Of the SLO, what waiting and computing may take; the rest is for reading, writing and the unforeseen.
PROMISED = 0.8


@dataclass(frozen=True, slots=True)
class Load:
    """What a call finds. `busy` are the seconds that each running call will still take, of at most `workers`; calls
    have `most` rows at most and lately had `typical`; the queue is served `slowdown` times slower than by its own
    workers alone.
    """

    busy: Sequence[float]
    workers: int
    most: int
    typical: float
    slowdown: float


class Admission:
    """Judges calls of one endpoint. `slo` is the seconds within which 99 % of its answers should be given."""

    def __init__(self, limits: BatchLimits, pace: Pace, slo: float, *, merges: bool) -> None:
        self._limits = limits
        self._pace = pace
        self._slo = slo
        self._merges = merges

    def refusal(self, call: Call, queue: Queue, load: Load, now: float, without: Sequence[Call] = ()) -> str | None:
        """None for a call that may wait; else the reason why not, if the calls `without` waited no longer."""
        limits = self._limits
        count = queue.count - len(without)
        if not count and not load.busy:
            return None  # however long it takes: nobody else waits, and then it is known
        rows = queue.rows - sum([c.rows.n for c in without]) + call.rows.n
        nbytes = queue.nbytes - sum([c.size for c in without]) + call.size
        if count and (rows > limits.max_queue_rows or nbytes > limits.max_queue_bytes):
            return "queue_full"  # one call may wait, whatever its size
        wait, own = self.expected(call, queue, load, without)
        patience = max(PROMISED * self._slo - own, own) if limits.max_wait is None else limits.max_wait
        if wait > patience:
            return "wait"
        ahead, calls = queue.ahead(call)
        if calls < count:
            wait, own = self._times(call, ahead, calls, queue, load)
        return "deadline" if now + wait + own > call.deadline else None

    def expected(self, call: Call, queue: Queue, load: Load, without: Sequence[Call] = ()) -> tuple[float, float]:
        """Seconds until this call begins if it waits behind all others, and that its own (merged) call takes."""
        rows = queue.rows - sum([c.rows.n for c in without])
        return self._times(call, rows, queue.count - len(without), queue, load)

    def _times(self, call: Call, rows: float, calls: float, queue: Queue, load: Load) -> tuple[float, float]:
        pace, n, most = self._pace, call.rows.n, load.most
        if not self._merges:
            own = pace.expected(n)
            each = pace.expected(round(rows / calls)) if calls else own
            return self._begins(load, round(calls), each), own
        full = pace.expected(most)
        groups = int(rows // most)
        if call.kind is not None:
            groups = max(groups, min(round(calls), queue.kinds - 1))
        # While it waits others join it, as many as lately.
        mates = max(rows % most, load.typical - n if load.busy else 0.0)
        return self._begins(load, groups, full), pace.expected(max(n, min(most, round(mates) + n)))

    def _begins(self, load: Load, ahead: int, each: float) -> float:
        return begins_in(load.busy, load.workers, ahead, each * load.slowdown)

    def told(self, reason: str, call: Call, queue: Queue, load: Load, now: float) -> Overloaded:
        """The error of a call that is refused for this reason."""
        wait, own = self.expected(call, queue, load)
        limits = self._limits
        if reason == "queue_full":
            held = (queue.rows, limits.max_queue_rows, "rows")
            if queue.rows + call.rows.n <= limits.max_queue_rows:
                held = (queue.nbytes, limits.max_queue_bytes, "bytes")
            text = f"the queue is full: {held[0]} {held[2]} wait, the limit is {held[1]}"
        else:
            text = f"about {wait * 1e3:.0f} ms of work wait and this call takes {own * 1e3:.0f} ms; "
            if reason == "deadline":
                text += f"its deadline is in {(call.deadline - now) * 1e3:.0f} ms"
            elif limits.max_wait is None:
                text += f"99 % of answers are to be given within {self._slo * 1e3:.0f} ms"
            else:
                text += f"a call may wait for {limits.max_wait * 1e3:.0f} ms"
        return Overloaded(text, retry_after=wait, reason=reason)
