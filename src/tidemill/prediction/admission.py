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

# Of the SLO, what waiting and computing may be expected to take, at most and at least; the rest is for the unforeseen.
PROMISED = 0.8
LEAST_PROMISED = 0.4
# An answer counts as too late after so much of the SLO, for it must be read and written, too; so many may be.
TOLD = 0.95
LATE = 0.005
GAIN = 0.02
# Of the SLO: where no more than this waits, and no more is left of the calls that run, nobody is refused.
LIGHT = 0.1
# After so many answers without a refusal the overload is over.
OVER = 20
# More calls than it has rows are taken out of the queue for one that goes before them, where that is not yet enough.
MORE_DISPLACED = 8


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
        self.promised = PROMISED
        self._light = LIGHT * slo if limits.max_wait is None else min(LIGHT * slo, limits.max_wait / 2)
        self._light_rows = 0
        self._quiet = 0  # answers since the last refusal

    def learn_light(self, most: int) -> None:
        """Know anew how many rows are little work, in calls of `most` rows, if all that waits can be merged."""
        self._light_rows = min(int(self._light / self._pace.expected(most) * most), self._limits.max_queue_rows)

    def is_light(self, call: Call, queue: Queue, last_due: float, now: float) -> bool:
        """Whether there is so little work that a call may be taken without further thought."""
        return (
            queue.rows + call.rows.n <= self._light_rows
            and queue.nbytes + call.size <= self._limits.max_queue_bytes
            and now + self._slo < call.deadline
            and -self._limits.hung_after <= last_due - now <= self._light
        )

    def answered(self, seconds: float) -> None:
        """A call was answered so long after it was queued: promise less until fewer than `LATE` miss the SLO.

        The tracking of a quantile: each that is late takes `GAIN`, each that is not gives a small part of it back; once
        nobody is refused any more, all of it.
        """
        self._quiet += 1
        if seconds > TOLD * self._slo:
            self.promised = max(LEAST_PROMISED, self.promised - GAIN)
        else:
            self.promised = min(PROMISED, self.promised + (GAIN if self._quiet > OVER else GAIN * LATE))

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
        # A model slower than its SLO has a queue of one.
        patience = max(self.promised * self._slo - own, self._pace.expected(call.rows.n))
        if wait > (patience if limits.max_wait is None else limits.max_wait):
            return "wait"
        ahead, calls = queue.ahead(call)
        if calls < count:
            wait, own = self._times(call, ahead, calls, queue, load)
        return "deadline" if now + wait + own > call.deadline else None

    def displaced(self, call: Call, queue: Queue, load: Load, now: float) -> list[Call]:
        """Those who wait and whose places a call takes that is refused otherwise; empty where that would not help."""
        found: list[Call] = []
        rows, size, more = call.rows.n, call.size, MORE_DISPLACED
        for other in queue.displaceable(call):
            found.append(other)
            rows -= other.rows.n
            size -= other.size
            if rows <= 0 and size <= 0:
                if self.refusal(call, queue, load, now, found) is None:
                    return found
                more -= 1
                if not more:
                    break
        return []

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
        """The error of a call that is refused for this reason; it counts as refused."""
        self._quiet = 0
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
