"""What waits, and which of it is next: priorities, kinds and room as a plain object without clock or loop.

What arrived since the last call is one list; where all of it fits one call no policy is needed. Else it is sorted into
lanes, one a priority. Lanes are served in proportion to their weights, counted in rows (stride scheduling), so that
none waits for ever; within a lane, kinds take turns, and calls of a kind are served in the order in which they came.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from tidemill.prediction.call import Call

__all__ = ["Lane", "Queue"]

# A lane gets so many times what the next lower one gets while both have work.
RATIO = 8
# Left callers' places are swept out once there are this many, and more of them than of others.
SWEEP_GONE = 32


def _passed(lane: Lane) -> float:
    return lane.passed


class Lane:
    """The waiting calls of one priority, by kind. `rows` and `count` are of those that still wait."""

    __slots__ = ("count", "kinds", "passed", "rows", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.passed = 0.0  # rows served ÷ weight: the lane that is behind is next
        self.rows = 0
        self.count = 0
        self.kinds: OrderedDict[object, deque[Call]] = OrderedDict()

    def last_served_first(self) -> Iterator[Call]:
        """Its waiting calls, beginning with the one that would be served last."""
        for calls in reversed(self.kinds.values()):
            yield from (call for call in reversed(calls) if not call.done)


class Queue:
    """Calls that wait for the model. `rows`, `nbytes` and `count` are of those whose callers still wait for them.

    `most` says how many rows a model call that begins with this call may have. With `merges` False each call goes
    alone.
    """

    def __init__(
        self,
        levels: int,
        default: int,
        most: Callable[[Call], int],
        *,
        merges: bool = True,
        preferred: Sequence[int] = (),
    ) -> None:
        self.rows = 0
        self.nbytes = 0
        self.count = 0
        self._soonest = math.inf  # no later than the soonest deadline in the lanes
        self.lanes = [Lane(float(RATIO ** (levels - 1 - i))) for i in range(levels)]
        self._default = default
        self._most = most
        self._merges = merges
        self._preferred = sorted(preferred, reverse=True)
        self._arrivals: list[Call] = []
        self._places = 0  # in the lanes, also of callers who left
        self._gone = 0  # places of callers who left
        self._clock = 0.0

    def __iter__(self) -> Iterator[Call]:
        """Every call that waits, in no particular order."""
        places = chain(self._arrivals, *(calls for lane in self.lanes for calls in lane.kinds.values()))
        return (call for call in places if not call.done)

    @property
    def kinds(self) -> int:
        """How many kinds of calls wait, by lane: those of one kind are one model call, if they fit."""
        self._sort()
        return sum([len(lane.kinds) for lane in self.lanes])

    @property
    def sorted(self) -> bool:
        """Whether some of what waits was left by a call that took what it could."""
        return self._places > 0

    @property
    def soonest(self) -> float:
        """A moment no later than the soonest deadline of those that wait."""
        self._sort()
        return self._soonest

    @property
    def oldest(self) -> float:
        """When the first of those that wait was queued."""
        self._sort()
        heads = [calls[0].queued for lane in self.lanes for calls in lane.kinds.values()]
        return min(heads, default=math.inf)

    def push(self, call: Call) -> None:
        """Let a call wait."""
        call.waits_in = self
        self.rows += call.rows.n
        self.nbytes += call.size
        self.count += 1
        self._arrivals.append(call)

    def lane(self, priority: int) -> Lane:
        """Where calls of this priority wait: 0 is the default, more than there are levels the lowest."""
        return self.lanes[min(priority or self._default, len(self.lanes)) - 1]

    def forget(self, call: Call) -> None:
        """A call that waits no longer does (`done`): it counts no more, and soon holds no memory."""
        self._sort()
        self._gone += 1
        self._uncount(self.lane(call.priority), call)
        if self._gone > SWEEP_GONE and self._gone * 2 > self._places:
            for lane in self.lanes:
                kept = ((kind, deque([c for c in calls if not c.done])) for kind, calls in lane.kinds.items())
                lane.kinds = OrderedDict([(kind, calls) for kind, calls in kept if calls])
            self._places -= self._gone
            self._gone = 0

    def expired(self, now: float) -> list[Call]:
        """Calls whose deadline has passed; the soonest of the others is known then."""
        self._sort()
        late = [call for call in self if call.deadline <= now]
        self._soonest = min([call.deadline for call in self if call.deadline > now], default=math.inf)
        return late

    def close(self) -> list[Call]:
        """Everything that waited; nothing does any more, and whoever the queue was for is let go."""
        self._sort()
        calls = list(self)
        for call in calls:
            self._uncount(self.lane(call.priority), call)
        self._most = _nothing
        return calls

    # -- room ----------------------------------------------------------------------------------------------

    def ahead(self, arriving: Call) -> tuple[float, float]:
        """Rows and calls that are served before this one would be: its own lane's, and meanwhile the others' shares."""
        self._sort()
        own = self.lane(arriving.priority)
        if own.count == self.count:
            return float(self.rows), float(self.count)
        until = (own.rows + max(1, arriving.rows.n)) / own.weight
        rows, calls = float(own.rows), float(own.count)
        for lane in self.lanes:
            if lane is not own and lane.count:
                part = min(1.0, until * lane.weight / max(1, lane.rows))
                rows += part * lane.rows
                calls += part * lane.count
        return rows, calls

    def displaceable(self, arriving: Call) -> Iterator[Call]:
        """Calls that wait and may make room for this one, in the order in which they should.

        A full queue is shared by its lanes in proportion to their weights: who has less than its share takes from
        those who have more, the lowest first. The last call of a lane stays, so that each has one that will be served.
        """
        self._sort()
        own = self.lane(arriving.priority)
        lanes = [lane for lane in self.lanes if lane.count or lane is own]
        fair = self.rows / sum([lane.weight for lane in lanes], 0.0)
        if own.count and own.rows + arriving.rows.n > own.weight * fair:
            return
        for lane in reversed(lanes):
            if lane is own:
                continue
            left, over = lane.count, lane.rows - lane.weight * fair
            for call in lane.last_served_first():
                if left <= 1 or over <= 0:
                    break
                yield call
                left -= 1
                over -= call.rows.n

    # -- what is next --------------------------------------------------------------------------------------

    def take(self, now: float) -> tuple[list[Call], int, Sequence[Call]]:
        """Calls that form one model call, how many rows that is, and calls that are late: all wait no longer."""
        arrivals = self._arrivals
        if arrivals and not self._places and self._are_one_call(arrivals):
            if len(arrivals) == 1:
                soonest = arrivals[0].deadline
            else:
                soonest = min([call.deadline for call in arrivals])
            if now < soonest:
                rows = self.rows
                for call in arrivals:
                    call.waits_in = None
                self._arrivals = []
                self.rows = self.nbytes = self.count = 0
                return arrivals, rows, ()
        self._sort()
        return self._take_sorted(now)

    def _are_one_call(self, arrivals: list[Call]) -> bool:
        if len(arrivals) == 1:
            return True
        first = arrivals[0]
        return self._merges and not self._preferred and first.kind is None and self.rows <= self._most(first)

    def _take_sorted(self, now: float) -> tuple[list[Call], int, Sequence[Call]]:
        late: list[Call] = []
        group: list[Call] = []
        rows = 0
        waiting = [lane for lane in self.lanes if lane.count]
        while waiting and not group:
            lane = min(waiting, key=_passed)
            self._clock = lane.passed
            kind = next(iter(lane.kinds))
            lane.kinds.move_to_end(kind)
            first = self._first(lane, kind, now, late)
            if first is None:
                waiting = [lane for lane in self.lanes if lane.count]
                continue
            group.append(first)
            rows = first.rows.n
            self._served(lane, kind, first)
        if group and self._merges:
            rows = self._fill(group, rows, now, late)
        return group, rows, late

    def _fill(self, group: list[Call], rows: int, now: float, late: list[Call]) -> int:
        """Add what may be in one model call with the first of the group, lanes by turns; the rows of the group then."""
        kind = group[0].kind
        most = self._most(group[0])
        if self._preferred:
            ready = rows + sum([c.rows.n for lane in self.lanes for c in lane.kinds.get(kind, ()) if not c.done])
            most = next((size for size in self._preferred if size <= min(ready, most)), most)
        lanes = [lane for lane in self.lanes if kind in lane.kinds]
        while lanes:
            lane = lanes[0] if len(lanes) == 1 else min(lanes, key=_passed)
            call = self._first(lane, kind, now, late)
            if call is None or rows + call.rows.n > most:
                lanes.remove(lane)
                continue
            group.append(call)
            rows += call.rows.n
            self._served(lane, kind, call)
        return rows

    def _first(self, lane: Lane, kind: object, now: float, late: list[Call]) -> Call | None:
        """The call of this kind that is next in its lane; those before it that are late or gone fall out."""
        calls = lane.kinds.get(kind)
        while calls:
            call = calls[0]
            if not call.done and now < call.deadline:
                return call
            if call.done:
                calls.popleft()
                self._places -= 1
                self._gone -= 1
            else:
                self._leave(lane, kind, call)
                late.append(call)
        lane.kinds.pop(kind, None)
        return None

    def _served(self, lane: Lane, kind: object, call: Call) -> None:
        lane.passed += max(1, call.rows.n) / lane.weight
        self._leave(lane, kind, call)

    def _leave(self, lane: Lane, kind: object, call: Call) -> None:
        """The first of its kind waits no longer."""
        calls = lane.kinds[kind]
        calls.popleft()
        if not calls:
            del lane.kinds[kind]
        self._places -= 1
        self._uncount(lane, call)

    def _uncount(self, lane: Lane, call: Call) -> None:
        call.waits_in = None
        self.rows -= call.rows.n
        self.nbytes -= call.size
        self.count -= 1
        lane.rows -= call.rows.n
        lane.count -= 1
        if not lane.count:
            left = sum([len(calls) for calls in lane.kinds.values()])
            self._places -= left
            self._gone -= left
            lane.kinds.clear()

    def _sort(self) -> None:
        """Put what arrived into the lanes. None of it is done: who leaves is forgotten at once."""
        for call in self._arrivals:
            lane = self.lane(call.priority)
            if not lane.count:
                # What was not used while nothing waited is not owed later.
                lane.passed = max(lane.passed, self._clock)
            calls = lane.kinds.get(call.kind)
            if calls is None:
                lane.kinds[call.kind] = deque((call,))
            else:
                calls.append(call)
            lane.rows += call.rows.n
            lane.count += 1
            self._places += 1
            self._soonest = min(self._soonest, call.deadline)
        self._arrivals.clear()


def _nothing(_: Call) -> int:
    return 0
